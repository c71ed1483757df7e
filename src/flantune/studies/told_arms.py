"""What the studies of arms say: CoT, formats, objectives, sources. Each arm against the base or against another arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flantune.studies.findings import Findings, Mark, Panel, Series, Table, interval, joined
from flantune.studies.grids import axis_of
from flantune.studies.point import Label, PointResult
from flantune.studies.told import (
    AXES,
    Cell,
    category_panels,
    cells_of,
    counted,
    gained,
    paper,
    said,
    table_of,
    tables_about,
    told_labels,
)

# Pairs of arms that the CoT study asks about: what the second has over the first.
COT_PAIRS = (
    ("non-CoT only", "both", "adding the reasoning tasks to the others"),
    ("CoT only", "both", "adding the others to the reasoning tasks"),
    ("both, no rationales", "both", "having rationales in the reasoning tasks"),
)


def cot_findings(recipe: str, results: Sequence[PointResult], notes: Sequence[str] = ()) -> Findings:
    cells = cells_of(results)
    pairs = [(cell, *row) for cell in cells for row in _pairs(cell)]
    told = paper()["cot"]
    found = [
        f"{cell.name}: {what} {_verb(low, high)}: {100 * gain:+.1f} {interval(low, high, signed=True)}."
        for cell, what, _, gain, (low, high) in pairs
    ]
    for cell in cells:
        below = [f"{arm.arm} ({gained(arm)})" for arm in cell.arms if arm.surely < 0]
        found.append(
            f"{cell.name}: {joined(below) if below else 'no arm'} {'are' if len(below) > 1 else 'is'} clearly below no "
            f"finetuning, {said(cell.base)}."
        )
    table = Table(
        title="Arm against arm",
        group="Arm against arm",
        columns=("model and setting", "what", "arms", "difference", "95 %"),
        kinds=("text", "text", "text", "signed", "signed_interval"),
        rows=tuple((cell.name, *row) for cell, *row in pairs),
    )
    return Findings(
        study="cot",
        title="Finetuning with and without chains of thought",
        recipe=recipe,
        found=tuple(found),
        notes=(*notes, *counted(results), *(f"Paper ({told['source']}): {said}." for said in told["said"])),
        panels=tuple(category_panels(cells)),
        tables=(*((table,) if pairs else ()), *map(table_of, cells), *tables_about(results)),
    )


def _pairs(cell: Cell) -> list[tuple[str, str, float, tuple[float, float]]]:
    names = [score.arm for score in cell.compared.scores]
    asked = [pair for pair in COT_PAIRS if pair[0] in names and pair[1] in names]
    few = {name: name.removeprefix("non-CoT + ") for name in names if name.startswith("non-CoT + ")}
    asked += [
        ("non-CoT only", name, f"adding {n} reasoning task{'' if n == '1' else 's'} to the others")
        for name, n in few.items()
    ]
    rows = []
    for first, second, what in asked:
        if first in names:
            gain, low, high = cell.compared.difference(names.index(first), names.index(second))
            rows.append((what, f"{second} – {first}", gain, (low, high)))
    return rows


def _verb(low: float, high: float) -> str:
    return "raises the score" if low > 0 else "lowers the score" if high < 0 else "does not clearly change the score"


def formats_findings(recipe: str, results: Sequence[PointResult], notes: Sequence[str] = ()) -> Findings:
    about = "Against the first value of each axis; the axis 'formats' is the recipe as it stands."
    found = _by_axis("formats", "Formats of the prompts", recipe, results, (*notes, about), _methods)
    return replace(found, tables=(*found.tables, *_drawn_formats(results)))


def _drawn_formats(results: Sequence[PointResult]) -> tuple[Table, ...]:
    """What became of the shares that were asked for: few-shot draws that do not fit are dropped."""
    rows = [
        (told_labels(r.labels), name, count, count / sum(r.formats.values()))
        for r in results
        for name, count in sorted(r.formats.items())
    ]
    table = Table(
        title="Formats of the examples that were packed",
        group="Mixtures",
        columns=("point", "format", "examples", "share"),
        kinds=("text", "text", "count", "percent"),
        rows=tuple(rows),
        note="Prompts that no exemplar fits into are dropped after they are drawn: shares may differ from those asked.",
    )
    return (table,) if rows else ()


def objectives_findings(recipe: str, results: Sequence[PointResult], notes: Sequence[str] = ()) -> Findings:
    return _by_axis("objectives", "Objectives", recipe, results, notes, lambda: [])


def sources_findings(recipe: str, results: Sequence[PointResult], notes: Sequence[str] = ()) -> Findings:
    return _by_axis("sources", "Sources of tasks", recipe, results, notes, _sources)


def _by_axis(
    study: str,
    title: str,
    recipe: str,
    results: Sequence[PointResult],
    notes: Sequence[str],
    published: Callable[[], list[Panel]],
) -> Findings:
    """Every arm against the first one of its axis."""
    first: dict[str, Label] = {}
    for r in results:
        axis, value = axis_of(r.labels)
        first.setdefault(axis, value)
    cells = cells_of(results, first)
    found = [
        f"{cell.name}: {AXES.get(cell.axis, cell.axis)} {arm.arm}: {said(arm)}; "
        f"{gained(arm)} against {first[cell.axis]}."
        for cell in cells
        for arm in cell.arms
        if arm.gain is not None and arm.arm != str(first[cell.axis]) and arm.surely
    ]
    unclear = sum(1 for cell in cells for arm in cell.arms if arm.gain is not None and not arm.surely)
    if unclear:
        what = "differences have intervals that include" if unclear > 1 else "difference has an interval that includes"
        found.append(f"{unclear}{' other' if found else ''} {what} 0: see the tables.")
    return Findings(
        study=study,
        title=title,
        recipe=recipe,
        found=tuple(found),
        notes=(*notes, *counted(results)),
        panels=(*category_panels(cells), *published()),
        tables=(*(table_of(cell, f"{first[cell.axis]}") for cell in cells), *tables_about(results)),
    )


def _methods() -> list[Panel]:
    return _published(paper()["methods"], ("mmlu_fs", "bbh_fs", "bbh_cot_fs"), "The Flan Collection's own ablation")


def _sources() -> list[Panel]:
    return _published(paper()["sources"], ("held_in", "cot", "mmlu"), "The Flan Collection's own ablation")


def _published(block: Mapping[str, Any], wanted: Sequence[str], group: str) -> list[Panel]:
    return [
        Panel(
            title=f"paper: {name}",
            group=f"{group}, for reference",
            x_title="",
            y_title=f"{name}, %",
            x_scale="category",
            y_unit="plain",
            series=(
                Series(
                    name="Flan-T5-XL",
                    joined=False,
                    reference=True,
                    source=block["source"],
                    marks=tuple(Mark(x=row, y=values[place]) for row, values in block["rows"].items()),
                ),
            ),
            note=f"{block['source']}.",
        )
        for place, name in enumerate(block["columns"])
        if name in wanted
    ]
