"""`flantune study`: the paper's studies as commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flantune.cli.console import EXIT_FAILED, ProgressLine, emit, err, guarded
from flantune.cli.options import DataOpt, JsonOpt, RecipeArg, SetOpt, parse_change
from flantune.errors import RecipeError

if TYPE_CHECKING:
    from flantune.studies.cost import StudyCost
    from flantune.studies.point import Point, PointResult
    from flantune.studies.settings import Study
    from flantune.studies.study import Done

EXAMPLE = "Example: flantune study scaling recipes/study-niv2-tasks.yaml --data DIR --dry-run"
WHAT = "scaling, cot, formats, objectives, sources or balance."


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE)(study)


def study(
    name: Annotated[str, typer.Argument(help=WHAT, show_default=False)],
    recipe: RecipeArg,
    data: DataOpt = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", help="Folder of all studies' points; RUNS/studies when not given.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Points at a time, 1 here when not given; they share the processors."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option("--ray", help="Points on a Ray cluster: HOST:PORT of its head, 'auto', or 'local'."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it costs and run nothing.")] = False,
    change: SetOpt = None,
    json: JsonOpt = False,
) -> None:
    """A grid of recipes: train and ask every point, and say what the whole shows.

    A point that is done is never run again, by this study or another one under the same root; one that fails is told of
    and tried again by the same command. What is varied stands in the recipe's section 'study': docs/studies.md.
    """
    with guarded():
        from flantune.studies.grids import check_name
        from flantune.studies.settings import load_study

        check_name(name)
        overrides: dict[str, Any] = dict(parse_change(c) for c in change or [])
        if data is not None:
            if not data.exists():
                raise RecipeError(f"--data {data}: no such folder.")
            overrides["vars.data"] = str(data)
        chosen = load_study(recipe, overrides)
        where = root or Path(chosen.recipe.runs) / "studies"
        if name == "balance":
            _balance(chosen, where, workers, ray, dry_run, json)
            return
        _grid(name, chosen, where, workers, ray, dry_run, json)


def _grid(
    name: str, chosen: Study, where: Path, workers: int | None, ray: str | None, dry_run: bool, json: bool
) -> None:
    from flantune.studies.points import cost_of
    from flantune.studies.study import grid_of, open_world, run_study

    progress = ProgressLine()
    grid = grid_of(name, chosen, open_world(chosen, where, progress))
    cost = cost_of(grid.points, where, workers=workers or 1)
    progress.close()
    if _only_told(name, grid.notes, cost, dry_run, json):
        return
    with _resumable(where, progress):
        done = run_study(
            name, chosen, where, grid, workers=workers, ray=ray, progress=progress, on_result=_teller(progress)
        )
    _report(done, json)


def _balance(chosen: Study, where: Path, workers: int | None, ray: str | None, dry_run: bool, json: bool) -> None:
    from flantune.studies.balance import expected_points, full_runs_of
    from flantune.studies.balance_settings import balance_of
    from flantune.studies.points import cost_of
    from flantune.studies.study import run_balance_study

    progress = ProgressLine()
    balance = balance_of(chosen)
    cost = cost_of(expected_points(balance), where, workers=workers or 1)
    flops = {job.name: job.flops for job in cost.jobs}
    stages = full_runs_of(balance, lambda point: flops.get(point.name) or _flops(point, where))
    progress.close()
    notes = ("in full runs: " + ", ".join(f"{name} {runs:.2f}" for name, runs in stages.items()),)
    if _only_told("balance", notes, cost, dry_run, json):
        return
    with _resumable(where, progress):
        done = run_balance_study(
            chosen, where, workers=workers, ray=ray, progress=progress, on_result=_teller(progress)
        )
    _report(done, json)


def _flops(point: Point, where: Path) -> float:
    from flantune.studies.points import cost_of

    return cost_of([point], where, timed=False).jobs[-1].flops


def _only_told(name: str, notes: Sequence[str], cost: StudyCost, dry_run: bool, json: bool) -> bool:
    """Say what it costs; whether that was all."""
    text = "\n".join([*notes, cost.to_text()])
    if dry_run:
        emit(json, {"study": name, "notes": list(notes), **cost.to_json()}, text=text)
    elif cost.left:
        err.print(text, markup=False)
    return dry_run


@contextmanager
def _resumable(where: Path, progress: ProgressLine) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        progress.close()
        err.print(f"points that are done are in {where}/points; the others go on from their last checkpoint.")
        raise
    progress.close()


def _report(done: Done, json: bool) -> None:
    from flantune.reports import write_study_report

    page = write_study_report(done.folder)
    findings = done.findings
    found = [*([findings.verdict] if findings.verdict else []), *findings.found]
    text = "\n".join([*(found or ["no point is done: nothing was found."]), "", *findings.notes])
    text += f"\nstudy:  {done.folder}\nreport: {page}"
    emit(json, {"folder": str(done.folder), "report": str(page), "failed": done.failed, **_json(done)}, text=text)
    if done.failed:
        what = "1 point failed" if done.failed == 1 else f"{done.failed} points failed"
        err.print(f"{what}; the report says why. The same command tries again.")
        raise SystemExit(EXIT_FAILED)


def _teller(progress: ProgressLine) -> Callable[[PointResult], None]:
    def tell(result: PointResult) -> None:
        from flantune.studies.told import told_labels

        progress.close()
        state = "done" if result.done else f"failed: {result.reason}"
        err.print(f"{told_labels(result.labels)}: {state}", markup=False)

    return tell


def _json(done: Done) -> dict[str, Any]:
    return {
        "verdict": done.findings.verdict,
        "found": list(done.findings.found),
        "points": [
            {"labels": dict(r.labels), "folder": str(r.folder), "status": r.status, "reason": r.reason}
            for r in done.results
        ],
    }
