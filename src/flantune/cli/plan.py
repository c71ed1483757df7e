"""`flantune plan`: what a recipe or a preset costs, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flantune.cli.console import emit, guarded
from flantune.cli.options import DataOpt, JsonOpt, RunsOpt, SetOpt, open_recipe
from flantune.errors import RecipeError

EXAMPLE = "Example: flantune plan recipes/flan-t5-xl.yaml --data DIR --hardware h100:8 --hardware a100"


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE)(plan)


def plan(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe file, YAML.", show_default=False)] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="A preset instead of a recipe: flan-t5-xxl, llama-3.1-8b, ...")
    ] = None,
    hardware: Annotated[
        list[str] | None,
        typer.Option("--hardware", help="NAME:COUNT, or NAME for as few as hold it; 'here' is measured. Repeat it."),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option("--share", min=0.01, max=1.0, help="Of the hardware's peak, instead of what is assumed."),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Do a few steps here, on random rows and weights.")
    ] = False,
    data: DataOpt = None,
    runs: RunsOpt = None,
    change: SetOpt = None,
    json: JsonOpt = False,
) -> None:
    """Parameters, memory by part, operations, hours and devices; nothing is downloaded, read or trained."""
    with guarded():
        if (recipe is None) == (preset is None):
            raise RecipeError("expected a recipe or --preset NAME, one of them.")
        if preset is not None and (change or data or runs):
            raise RecipeError("--set, --data and --runs change a recipe; with --preset there is none.")
        from flantune.pipeline.plan import Job, card_of, make_plan

        card = None
        if recipe is not None:
            chosen = open_recipe(recipe, data, change, runs)
            job, card = Job.of_recipe(chosen), card_of(chosen)
        else:
            job = Job.of_preset(str(preset))
        made = make_plan(job, hardware or (), share=share, card=card, measure=measure)
        emit(json, made.to_json(), text=made.to_text())
