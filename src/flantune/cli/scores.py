"""`flantune score` and `compare`, and how scores are put on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from flantune.cli.console import emit, guarded
from flantune.cli.options import JsonOpt
from flantune.errors import RecipeError

if TYPE_CHECKING:
    from flantune.evals import AbilityRow, PairedRow

EXIT_DROPPED = 3
Mode = Literal["direct", "cot"]
ReadingName = Literal["strict", "default", "loose"]
ReadingOpt = Annotated[
    str,
    typer.Option("--reading", help="How answers are read: strict (the source's published rule), default, or loose."),
]
LeaksOpt = Annotated[
    Path | None,
    typer.Option("--leaks", help="Marks of leaked items: the --output of flantune tasks contamination."),
]
SHOWN_UNREAD = 3


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: flantune compare runs/demo/evals/base runs/demo/evals/tuned --fail-on-drop")(compare)
    app.command(epilog="Example: flantune score gsm8k outputs.jsonl --mode cot --data DIR")(score)


def compare(
    a: Annotated[Path, typer.Argument(help="An evaluation's folder or its items.parquet.")],
    b: Annotated[Path, typer.Argument(help="Another evaluation of the same items.")],
    by_task: Annotated[bool, typer.Option("--by-task", help="Every task too, what changed most first.")] = False,
    fail_on_drop: Annotated[
        bool,
        typer.Option("--fail-on-drop", help="Leave with 3 where something surely fell, or B lacks what A has, for CI."),
    ] = False,
    json: JsonOpt = False,
) -> None:
    """Paired differences, b - a, with 95 % intervals; p values are corrected for how many were looked at."""
    dropped: list[str] = []
    only_a: list[str] = []
    with guarded():
        from dataclasses import asdict

        from flantune.evals import by_change, compare_abilities, compare_groups
        from flantune.evals import compare as compare_items
        from flantune.evals.compare import only_one_has

        files = [p / "items.parquet" if p.is_dir() else p for p in (a, b)]
        for file in files:
            if not file.exists():
                raise RecipeError(f"{file}: no such file; a finished evaluation writes it.")
        rows, groups, abilities = compare_items(*files), compare_groups(*files), compare_abilities(*files)
        only_a, only_b = only_one_has(*files)
        wholes = [r for r in rows if r.task is None]
        tasks = by_change([r for r in rows if r.task is not None])
        dropped = [_name(r) for r in (*wholes, *groups) if r.fell_surely]
        unseen = [f"only {a} has {', '.join(only_a)}"] if only_a else []
        unseen += [f"only {b} has {', '.join(only_b)}"] if only_b else []
        result = {
            "rows": [asdict(r) for r in (wholes if not by_task else [*wholes, *tasks])],
            "groups": [asdict(r) for r in groups],
            "abilities": [asdict(r) for r in abilities],
            "dropped": dropped,
            "only_a": only_a,
            "only_b": only_b,
        }
        told = _comparison(wholes, groups, abilities, tasks if by_task else [])
        emit(json, result, text="\n".join([told, *([""] if unseen else []), *unseen]))
    if fail_on_drop and (dropped or only_a):
        from flantune.cli.console import err

        if dropped:
            err.print(f"surely fell: {', '.join(dropped)}", markup=False)
        if only_a:
            err.print(f"not answered by {b}, so not compared: {', '.join(only_a)}", markup=False)
        raise typer.Exit(EXIT_DROPPED)


def _comparison(
    wholes: Sequence[PairedRow],
    groups: Sequence[PairedRow],
    abilities: Sequence[AbilityRow],
    tasks: Sequence[PairedRow],
) -> str:
    lines = [_line(r) for r in wholes]
    if groups:
        lines += ["", "groups of tasks", *map(_line, groups)]
    lines += ["", "by ability (mean of its settings)"]
    lines += [
        f"{r.ability:<48} {r.score_a:.3f} -> {r.score_b:.3f} ({r.difference:+.3f} "
        f"[{r.interval[0]:+.3f}, {r.interval[1]:+.3f}], {len(r.settings)} settings)"
        for r in abilities
    ]
    fell = [_line(r) for r in tasks if r.difference < 0]
    rose = [_line(r) for r in tasks if r.difference > 0]
    if tasks:
        same = len(tasks) - len(fell) - len(rose)
        lines += [
            "",
            f"tasks that fell: {len(fell)}",
            *fell,
            "",
            f"tasks that rose: {len(rose)}",
            *rose,
            "",
            f"alike: {same}",
        ]
    return "\n".join(lines)


def _name(row: PairedRow) -> str:
    return " ".join(filter(None, (row.setting, row.task, row.group)))


def _line(r: PairedRow) -> str:
    sure = " *" if r.fell_surely or r.rose_surely else ""
    unpaired = f", {r.unpaired:,} unpaired" if r.unpaired else ""
    unpaired += f", {r.prompts_differ:,} asked in other words" if r.prompts_differ else ""
    return (
        f"{_name(r):<48} {r.score_a:.3f} -> {r.score_b:.3f} ({r.difference:+.3f} "
        f"[{r.interval[0]:+.3f}, {r.interval[1]:+.3f}], {r.items:,} items, {r.rose:,} rose, {r.fell:,} fell, "
        f"p {r.p_adjusted:.3f}{unpaired}){sure}"
    )


def score(
    benchmark: Annotated[str, typer.Argument(help="A benchmark's name, or the .yaml or .py file of your own.")],
    outputs: Annotated[
        Path, typer.Argument(help="JSON lines with 'output' and 'id' or 'input', or GSM8K's example_model_solutions.")
    ],
    mode: Annotated[str, typer.Option("--mode", help="direct or cot.")] = "direct",
    data: Annotated[Path | None, typer.Option("--data", help="Folder with the benchmark's folder.")] = None,
    path: Annotated[Path | None, typer.Option("--path", help="The benchmark's own file or folder.")] = None,
    split: Annotated[str | None, typer.Option("--split")] = None,
    reading: ReadingOpt = "default",
    leaks: LeaksOpt = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for per-item results.")] = None,
    json: JsonOpt = False,
) -> None:
    """Score outputs that some model wrote elsewhere."""
    with guarded():
        from flantune.evals import as_rows, file_settings, holds_solutions, score_file, score_solutions
        from flantune.recipe import BenchmarkSpec

        if not outputs.exists():
            raise RecipeError(f"{outputs}: no such file.")
        folder = output or outputs.with_name(f"{outputs.name}.scored")
        if benchmark == "gsm8k" and holds_solutions(outputs):
            summary = score_solutions(outputs, folder, checked_reading(reading))
        else:
            spec = BenchmarkSpec(
                name=benchmark,
                path=str(path) if path else None,
                modes=checked_modes(mode),
                split=split,
                reading=checked_reading(reading),
            )
            settings = file_settings(spec, str(data) if data else None, 0)
            if len(settings) != 1:
                raise RecipeError(f"--mode {mode}: one file holds the outputs of one mode; give direct or cot.")
            summary = score_file(settings[0], outputs, folder)
        summary = with_leaks(summary, folder, leaks)
        rows = as_rows(summary)
        labels = summary.get("labels", [])
        told = [f"{m['model']}: {m['agree']:,} of {m['items']:,} labels reproduced" for m in labels]
        emit(json, {"results": rows, "labels": labels, "folder": str(folder)}, text="\n".join([table(rows), *told]))


def checked_modes(text: str | None) -> tuple[Mode, ...]:
    known: dict[str, Mode] = {"direct": "direct", "cot": "cot"}
    for mode in text.split(",") if text else ():
        if mode not in known:
            raise RecipeError(f"--mode {mode}: expected direct or cot.")
    return tuple(known[mode] for mode in text.split(",")) if text else ()


def checked_reading(text: str) -> ReadingName:
    known: dict[str, ReadingName] = {name: name for name in get_args(ReadingName)}
    if text not in known:
        raise RecipeError(f"--reading {text}: expected {', '.join(known)}.")
    return known[text]


def with_leaks(summary: dict[str, Any], folder: Path, leaks: Path | None) -> dict[str, Any]:
    from flantune.evals.leaks import add_clean_scores, read_verdicts

    return summary if leaks is None else add_clean_scores(summary, folder, read_verdicts(leaks))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Scores with their doubts: interval, extraction rate, other readings, named averages, warnings, unread outputs."""
    lines = [f"{'benchmark':<28} {'score':>6}  95 % interval     items  read"]
    for r in rows:
        low, high = r["interval"] or (float("nan"), float("nan"))
        score_text = "–" if r["score"] is None else f"{r['score']:.3f}"
        read = "–" if r["extraction_rate"] is None else f"{r['extraction_rate']:.1%}"
        name = r.get("setting") or f"{r['benchmark']} {r['mode']} {r['shots']}-shot"
        missing = f"  ({r['missing']:,} items have no output)" if r.get("missing") else ""
        lines.append(f"{name:<28} {score_text:>6}  [{low:.3f}, {high:.3f}]  {r['items']:>6,}  {read}{missing}")
        lines += [f"    {line}" for line in _doubts(r)]
    return "\n".join(lines)


def _named(averages: dict[str, float | None]) -> str:
    """A dash where tasks of the group are missing."""
    return ", ".join(f"{name} {'–' if value is None else f'{100 * value:.2f}'}" for name, value in averages.items())


def _doubts(r: dict[str, Any]) -> list[str]:
    lines = []
    if averages := r.get("averages", {}):
        lines.append(_named(averages))
    if readings := r.get("readings"):
        moved = [
            f"{name} {100 * f['score']:.2f} (read {f['extraction_rate']:.1%})"
            for name, f in readings.items()
            if f["score"] is not None
        ]
        lines.append(f"by reading: {', '.join(moved)}")
        if averages:
            lines.append(f"read strictly: {_named(readings['strict']['averages'])}")
    if samples := r.get("samples"):
        agreement = "–" if samples["agreement"] is None else f"{samples['agreement']:.1%}"
        lines.append(
            f"by {samples['select']}: {samples['drawn']:,} samples, {samples['extraction_rate']:.1%} of them read, "
            f"agreement {agreement}, one sample alone {100 * samples['score_of_one']:.2f}"
        )
    if clean := r.get("clean"):
        low, high = clean["interval"] or (float("nan"), float("nan"))
        score_text = "–" if clean["score"] is None else f"{clean['score']:.3f} [{low:.3f}, {high:.3f}]"
        counts = ", ".join(f"{count:,} {verdict}" for verdict, count in clean["verdicts"].items())
        lines.append(f"without leaked items: {score_text} over {clean['items']:,} ({counts})")
    for warning in r.get("warnings", ()):
        lines.append(f"warning: {warning}")
    if r.get("warnings"):
        lines += [f"unread {u['id']}: ...{u['output'][-100:]!r}" for u in r.get("unread", ())[:SHOWN_UNREAD]]
    return lines
