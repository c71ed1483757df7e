"""The commands, joined in one place. Heavy imports wait until a command runs, so that --help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import flantune
from flantune.cli import check, evaluate, plan, preview, study, tasks, train
from flantune.cli.console import ProgressLine, emit, guarded
from flantune.cli.options import (
    DataOpt,
    FreshOpt,
    JsonOpt,
    RayAddressOpt,
    RecipeArg,
    RunsOpt,
    SetOpt,
    chosen_workers,
    open_recipe,
)
from flantune.errors import RecipeError

app = typer.Typer(
    name="flantune",
    help="Instruction finetuning, from task collections to an evaluated model.\n\nStart with: flantune demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(tasks.app, name="tasks", help="What is in a collection: list, show, preview, check, explore.")
app.add_typer(check.app, name="check", help="Proofs on your model before training: packing.")
evaluate.register(app)
preview.register(app)
train.register(app)
plan.register(app)
study.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"flantune {flantune.__version__}")
        raise typer.Exit()


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: flantune run recipes/flan-small-real.yaml --data DIR")
def run(
    recipe: RecipeArg,
    data: DataOpt = None,
    runs: RunsOpt = None,
    change: SetOpt = None,
    fresh: FreshOpt = False,
    json: JsonOpt = False,
) -> None:
    """Read, build, train, evaluate base and tuned, and write the report; what is done already is skipped."""
    with guarded():
        from flantune.pipeline.run import run as run_all

        progress = ProgressLine()
        result = run_all(open_recipe(recipe, data, change, runs), fresh=fresh, progress=progress)
        progress.close()
        emit(json, result.as_json(), text=result.as_text())


@app.command(epilog="Example: flantune demo --runs /tmp/runs")
def demo(
    runs: RunsOpt = None,
    change: SetOpt = None,
    fresh: FreshOpt = False,
    json: JsonOpt = False,
) -> None:
    """The whole pipeline on tasks the package makes itself, from a small base model it ships. Minutes on two cores."""
    with guarded():
        from flantune.cli.demo import demo_recipe
        from flantune.pipeline.run import run as run_all

        progress = ProgressLine()
        result = run_all(demo_recipe(runs, change or []), fresh=fresh, progress=progress)
        progress.close()
        emit(json, result.as_json(), text=result.as_text())


@app.command(epilog="Example: flantune build recipes/flan-small-real.yaml --data DIR")
def build(
    recipe: RecipeArg,
    data: DataOpt = None,
    runs: RunsOpt = None,
    change: SetOpt = None,
    fresh: FreshOpt = False,
    suggest: Annotated[
        bool,
        typer.Option("--suggest", help="Build nothing: show a sample's lengths and the row lengths that fill best."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that make the rows; with --ray, actors.")
    ] = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Make the rows on a Ray cluster: the one there is, or a new one here.")
    ] = False,
    ray_address: RayAddressOpt = None,
    json: JsonOpt = False,
) -> None:
    """Packed shards and their data card."""
    with guarded():
        if suggest:
            _suggest(recipe, data, runs, change, fresh, json)
            return
        from flantune.pipeline.data import build as build_data
        from flantune.pipeline.folder import open_run

        chosen = open_recipe(recipe, data, change, runs)
        folder = open_run(chosen, fresh=fresh)
        progress = ProgressLine()
        card = build_data(chosen, folder, progress, chosen_workers(workers, ray, ray_address))
        progress.close()
        described = card.to_json()
        fill = ", ".join(f"{side} {value:.1%} full" for side, value in card.fill().items() if value is not None)
        emit(
            json,
            described,
            text=f"{card.rows:,} packed rows in {folder.shards} ({fill}); card: {folder.shards}/card.json",
        )


def _suggest(
    recipe: Path, data: Path | None, runs: Path | None, change: list[str] | None, fresh: bool, json: bool
) -> None:
    from flantune.pipeline.suggest import suggest

    if fresh:
        raise RecipeError("--fresh throws a run's folder away and --suggest builds none: give one of them.")
    progress = ProgressLine()
    suggestion = suggest(open_recipe(recipe, data, change, runs), progress)
    progress.close()
    emit(json, suggestion.to_json(), text=suggestion.to_text())


@app.command(epilog="Example: flantune report runs/demo")
def report(
    run_folder: Annotated[Path, typer.Argument(help="A run's or a study's folder.", show_default=False)],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write the page.")] = None,
    json: JsonOpt = False,
) -> None:
    """One self-contained HTML page about a run or a study."""
    with guarded():
        from flantune.reports import is_begun, is_study, write_report, write_study_report

        out = output or run_folder / "report.html"
        if is_begun(run_folder) or is_study(run_folder):
            path = write_study_report(run_folder, out, _so_far(run_folder))
        else:
            path = write_report(run_folder, out)
        emit(json, {"report": str(path)}, text=f"report: {path}")


def _so_far(folder: Path) -> dict[str, Any] | None:
    """What a study that was stopped says by now; None of one that is through."""
    from flantune.studies.study import findings_so_far, stopped

    return findings_so_far(folder).to_json() if stopped(folder) else None


def main(argv: list[str] | None = None) -> Any:
    """Run the command line; usage errors leave with 2."""
    return app(args=argv, prog_name="flantune")
