"""`flantune train`: one process, or many under torchrun."""

from __future__ import annotations

from typing import Any

import typer

from flantune.cli.console import EXIT_INTERRUPTED, ProgressLine, emit, err, guarded
from flantune.cli.options import DataOpt, FreshOpt, JsonOpt, RecipeArg, RunsOpt, SetOpt, open_recipe


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: flantune train recipes/flan-small-real.yaml --data DIR --set train.steps=100")(train)


def train(
    recipe: RecipeArg,
    data: DataOpt = None,
    runs: RunsOpt = None,
    change: SetOpt = None,
    fresh: FreshOpt = False,
    json: JsonOpt = False,
) -> None:
    """Finetune on the built shards (building and pretraining first where the recipe asks and it is not done).

    Over several GPUs or machines: torchrun --nproc-per-node 8 -m flantune train RECIPE. The run's folder must be on a
    file system that all machines share.
    """
    with guarded():
        from flantune.pipeline.data import build as build_data
        from flantune.pipeline.folder import open_run
        from flantune.pipeline.training import finetune
        from flantune.train.parallel import StoppedElsewhere, open_ranks

        chosen = open_recipe(recipe, data, change, runs)
        with open_ranks() as ranks:
            progress = ProgressLine(quiet=not ranks.main)
            try:
                folder = ranks.tell(ranks.first(lambda: open_run(chosen, fresh=fresh)))
                assert folder is not None
                ranks.first(lambda: build_data(chosen, folder, progress))
                report: dict[str, Any] = finetune(chosen, folder, progress, ranks)
            except StoppedElsewhere:
                raise SystemExit(1) from None  # whoever met the error has told of it
            except KeyboardInterrupt:
                if ranks.main:
                    raise
                raise SystemExit(EXIT_INTERRUPTED) from None
            except Exception:
                if ranks.size > 1:
                    err.print(f"rank {ranks.rank}:")
                raise
            progress.close()
            if ranks.main:
                emit(json, {"model": str(folder.model), **report}, text=f"finished model: {folder.model}")
