"""What a scaling study says: curves over the number of tasks, log-linear fits, and where more tasks stop helping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flantune.studies.findings import Findings, Mark, Panel, Series, Table, interval
from flantune.studies.point import PointResult
from flantune.studies.resampling import LogFit, fit_log, flattens_after
from flantune.studies.told import (
    Cell,
    base_levels,
    cells_of,
    counted,
    gained,
    marks_of,
    paper,
    said,
    table_of,
    tables_about,
)


def scaling_findings(recipe: str, results: Sequence[PointResult], notes: Sequence[str] = ()) -> Findings:
    cells = [_ascending(cell) for cell in cells_of(results)]
    fits = {(cell.model, cell.setting): _fit(cell) for cell in cells}
    panels = [_panel(setting, [c for c in cells if c.setting == setting], fits) for setting in _settings(cells)]
    return Findings(
        study="scaling",
        title="Task scaling",
        recipe=recipe,
        found=tuple(sentence for cell in cells for sentence in _found(cell, fits[cell.model, cell.setting])),
        notes=(*notes, *counted(results)),
        panels=(*panels, *_paper_panels(_settings(cells))),
        tables=(*((_fit_table(cells, fits),) if cells else ()), *map(table_of, cells), *tables_about(results)),
    )


def _settings(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.setting for cell in cells))


def _ascending(cell: Cell) -> Cell:
    """Arms by their number of tasks."""
    order = sorted(range(len(cell.values)), key=lambda k: float(cell.values[k]))
    scores = (cell.base, *(cell.arms[k] for k in order))
    drawn = cell.compared.drawn[:, [0, *(1 + k for k in order)]]
    compared = replace(cell.compared, scores=scores, drawn=drawn)
    return Cell(cell.model, cell.setting, cell.axis, tuple(cell.values[k] for k in order), compared)


def _counts(cell: Cell) -> list[int]:
    return [int(value) for value in cell.values]


def _fit(cell: Cell) -> LogFit | None:
    return fit_log(_counts(cell), [arm.mean for arm in cell.arms], cell.compared.drawn[:, 1:])


def _flat(cell: Cell) -> int | None:
    """The number of tasks from which on no larger one surely gains over a smaller."""
    place = flattens_after(cell.compared, range(1, len(cell.values) + 1))
    return None if place is None else int(cell.values[place - 1])


def _panel(setting: str, cells: Sequence[Cell], fits: dict[tuple[str, str], LogFit | None]) -> Panel:
    series = []
    for cell in cells:
        series.append(Series(name=cell.model or "score", marks=marks_of(cell, numbers=True)))
        fit = fits[cell.model, cell.setting]
        if fit is not None:
            ends = (min(fit.counts), max(fit.counts))
            name = f"{cell.model}, log-linear fit" if cell.model else "log-linear fit"
            series.append(Series(name=name, marks=tuple(Mark(x=n, y=fit.at(n)) for n in ends), reference=True))
    return Panel(
        title=setting,
        group="Held-out quality by number of tasks",
        x_title="tasks trained on",
        y_title="score, %",
        x_scale="log",
        series=tuple(series),
        levels=base_levels(cells),
    )


def _paper_panels(settings: Sequence[str]) -> list[Panel]:
    """The paper's own curves: its average, and the benchmarks that were asked here too."""
    published = paper()["scaling"]
    wanted = {"normalised average": published["curves"]}
    for name, curves in published["scores"].items():
        benchmark, _, mode = name.partition("_")
        if any(s.split("/")[0] == benchmark and (not mode or s.split("/")[1] == mode) for s in settings):
            wanted[name.replace("_", ", ")] = curves
    return [
        Panel(
            title=f"paper: {name}",
            group="The paper's own curves, for reference: other models, tasks and scores than above",
            x_title="tasks trained on",
            y_title=f"{name}, %",
            x_scale="log",
            y_unit="plain",
            series=tuple(
                Series(
                    name=model,
                    marks=tuple(Mark(x=tasks, y=score) for tasks, score in points if tasks > 0),
                    reference=True,
                    source=published["source"],
                )
                for model, points in curves.items()
            ),
            note=f"{published['source']}. Without finetuning: "
            + ", ".join(f"{model} {points[0][1]}" for model, points in curves.items() if points[0][0] == 0)
            + ".",
        )
        for name, curves in wanted.items()
    ]


def _fit_table(cells: Sequence[Cell], fits: dict[tuple[str, str], LogFit | None]) -> Table:
    rows = []
    for cell in cells:
        fit, flat = fits[cell.model, cell.setting], _flat(cell)
        rows.append(
            (
                cell.name,
                None if fit is None else fit.slope,
                None if fit is None else (fit.slope_low, fit.slope_high),
                None if fit is None else fit.r_squared,
                "not within these" if flat is None else f"after {flat:,} tasks",
                *_whole_gain(cell),
            )
        )
    return Table(
        title="Fits: score = a + b log2(tasks)",
        group="Fits",
        columns=("model and setting", "b, per doubling", "95 %", "R²", "flattens", "most over fewest", "95 %"),
        kinds=("text", "signed", "signed_interval", "plain", "text", "signed", "signed_interval"),
        rows=tuple(rows),
        note="Flattens: the first number of tasks from which on no paired gain, of any number over a smaller one, has "
        "an interval above 0. Least squares over the means of at least three numbers of tasks.",
    )


def _whole_gain(cell: Cell) -> tuple[float | None, tuple[float, float] | None]:
    if len(cell.values) < 2:
        return None, None
    gain, low, high = cell.compared.difference(1, len(cell.values))
    return gain, (low, high)


def _found(cell: Cell, fit: LogFit | None) -> list[str]:
    name = cell.name
    first, last = cell.arms[0], cell.arms[-1]
    sentences = [f"{name}: {said(cell.base)} without finetuning, {said(last)} with {last.arm} tasks ({gained(last)})."]
    if len(cell.arms) > 1:
        gain, low, high = cell.compared.difference(1, len(cell.values))
        verdict = "rises" if low > 0 else "falls" if high < 0 else "does not clearly change"
        sentences.append(
            f"{name}: from {first.arm} to {last.arm} tasks the score {verdict}: {100 * gain:+.1f} "
            f"{interval(low, high, signed=True)}. {_beside_the_paper(low > 0)}"
        )
    if fit is not None:
        sure = "" if fit.slope_low > 0 or fit.slope_high < 0 else ", an interval that includes 0"
        sentences.append(
            f"{name}: {100 * fit.slope:+.2f} {interval(fit.slope_low, fit.slope_high, signed=True, digits=2)} for each "
            f"doubling of the tasks{sure}."
        )
    return sentences


def _beside_the_paper(rises: bool) -> str:
    curves = [[point for point in points if point[0] > 0] for points in paper()["scaling"]["curves"].values()]
    rising = sum(points[-1][1] > points[0][1] for points in curves)
    told = f"{rising} of the paper's {len(curves)} models gain from {curves[0][0][0]} to {curves[0][-1][0]:,} tasks"
    return f"As published: {told}." if rises else f"That is not what the paper found: {told}."
