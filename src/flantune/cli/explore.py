"""`flantune tasks explore`: a collection, and a recipe's stream over it, as a web page of this machine."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flantune.cli.console import ProgressLine, emit, guarded, out
from flantune.cli.options import JsonOpt, LimitOpt, PathsArg, ReaderOpt, RunsOpt, SetOpt, open_recipe
from flantune.errors import RecipeError

if TYPE_CHECKING:
    from flantune.explore.explorer import Explorer


def explore(
    paths: PathsArg = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="A data folder, as in tasks list; with --recipe, its ${data}.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Show this recipe's collections, mixture and stream.")
    ] = None,
    change: SetOpt = None,
    runs: RunsOpt = None,
    reader: ReaderOpt = "auto",
    max_rejected: LimitOpt = 0.01,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="Folder or hub id, for lengths in tokens; the recipe's own.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Keep what is read in this folder; the next start is then at once.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 is any free one.")] = 0,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Show the page in the browser.")] = True,
    json: JsonOpt = False,
) -> None:
    """Look around: search and filter tasks, lengths, rendered examples; with a recipe, its stream. Ends with Ctrl-C."""
    with guarded(), ExitStack() as stack:
        from flantune.explore.serve import can_show_a_browser, open_socket, require_web, serve, terminating

        require_web()
        stack.enter_context(terminating())
        if recipe is not None and (paths or store or tokenizer):
            raise RecipeError(
                "--recipe names its own files, store and tokenizer; leave PATHS, --store, --tokenizer out."
            )
        if recipe is None and (change or runs):
            raise RecipeError("--set and --runs change a recipe; give one with --recipe.")
        listening = stack.enter_context(open_socket(port))  # before the reading, which may take a while
        progress = ProgressLine()
        if recipe is not None:
            explorer = _of_recipe(recipe, data, change, runs, progress)
        else:
            explorer = _of_files(stack, paths, data, reader, max_rejected, tokenizer, store, progress)
        progress.close()

        def ready(address: str) -> None:
            tasks = len(explorer.collection.store.tasks)
            text = f"{tasks:,} tasks to look at: {address}   (Ctrl-C ends it)"
            emit(json, {"address": address, "tasks": tasks}, text=text)
            if open_page and out.is_terminal and can_show_a_browser():
                import webbrowser

                webbrowser.open(address)

        serve(explorer, listening, ready)


def _of_recipe(
    path: Path, data: Path | None, change: list[str] | None, runs: Path | None, progress: ProgressLine
) -> Explorer:
    from flantune.explore.collection import Collection
    from flantune.explore.explorer import Explorer, uses_of
    from flantune.explore.stream import ExampleStream
    from flantune.pipeline.folder import open_run

    chosen = open_recipe(path, data, change, runs)
    stream = ExampleStream(chosen, open_run(chosen), progress)
    collection = Collection(stream.data.store, uses_of(stream), chosen.mixture.wording)
    return Explorer(collection, stream=stream, read_from=tuple(c.path for c in chosen.collections))


def _of_files(
    stack: ExitStack,
    paths: list[Path] | None,
    data: Path | None,
    reader: str,
    max_rejected: float,
    tokenizer: str | None,
    store: Path | None,
    progress: ProgressLine,
) -> Explorer:
    import tempfile

    from flantune.cli.tasks import collection_specs
    from flantune.explore.collection import Collection
    from flantune.explore.explorer import Explorer
    from flantune.tasks import build_store
    from flantune.tokens.tokenizer import load_tokenizer

    specs = collection_specs(paths, data, reader)
    counter = load_tokenizer(tokenizer) if tokenizer is not None else None
    if store is not None and store.exists() and not (store / "store.json").exists():
        # Building replaces the folder whole: it must not be one of the user's.
        raise RecipeError(f"--store {store}: is there already and holds no store of examples. Name a new folder.")
    folder = store or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flantune-explore-"))) / "store"
    opened = build_store(specs, folder, max_rejected, on_progress=lambda p: progress("read", p.files, p.files_total))
    return Explorer(Collection(opened), tokenizer=counter, read_from=tuple(spec.path for spec in specs))


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: flantune tasks explore --data DIR")(explore)
