"""The jobs of a study in a process of their own: make and ask a base model, or train and ask a point.

    python -m flantune.studies.work JOB.json       one job; progress as JSON lines on standard output
    python -m flantune.studies.work                jobs as standard input names them: starting costs seconds, once

The process ends when its standard input does, so that none outlives the command that began it.
"""

from __future__ import annotations

import fcntl
import gc
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from flantune.errors import FlantuneError, StateError
from flantune.pipeline.folder import open_run
from flantune.recipe import EvalSpec, ModelSize, ModelSpec, Recipe, SelectionSpec, TokenizerSpec, TrainSpec
from flantune.studies.point import Layout, Point, PointFolder, makes_base
from flantune.whole import write_json

DONE, FAILED, ATTEMPTS, LOG = "done.json", "failed.json", "attempts.json", "log.txt"
Progress = Callable[..., None]


def job_json(kind: str, point: Point, root: Path, threads: int) -> dict[str, Any]:
    """What `job_of` reads again."""
    return {
        "kind": kind,
        "root": str(root),
        "threads": threads,
        "labels": dict(point.labels),
        "recipe": point.recipe.model_dump(mode="json"),
        "base": None if point.base is None else point.base.model_dump(mode="json"),
        "asked_with": point.asked_with,
    }


def job_of(raw: Mapping[str, Any]) -> tuple[str, Point, Path, int]:
    base = None if raw["base"] is None else Recipe.model_validate(raw["base"])
    point = Point(raw["labels"], Recipe.model_validate(raw["recipe"]), base, raw["asked_with"])
    return raw["kind"], point, Path(raw["root"]), raw["threads"]


def do_job(kind: str, point: Point, root: Path, threads: int, progress: Progress) -> dict[str, Any]:
    """What done.json of the job's evaluation holds, made where it is not there. Raises what the stages raise."""
    layout = Layout(root)
    folder = layout.base(point) if kind == "base" else layout.point(point)
    folder.evals.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with locked(folder.root / "lock"), _told(folder, began):
        if kind == "base":
            return _do_base(point, folder, threads, progress)
        return _do_point(point, folder, layout, threads, progress)


@contextmanager
def _told(folder: PointFolder, began: float) -> Iterator[None]:
    """Seconds of every attempt, added up: also of those that failed or were interrupted by an error."""
    try:
        yield
    finally:
        path = folder.evals / ATTEMPTS
        before = orjson.loads(path.read_bytes())["seconds"] if path.exists() else 0.0
        write_json(path, {"seconds": before + time.monotonic() - began})


def _do_base(point: Point, folder: PointFolder, threads: int, progress: Progress) -> dict[str, Any]:
    from flantune.pipeline.training import base_model

    recipe = point.start
    model = recipe.model.init
    if makes_base(recipe):
        own = _placed(_bare(recipe), folder, threads)
        open_run(own)
        with locked(folder.shared / "lock"):
            from flantune.pipeline.data import open_data, open_tokenizer

            open_tokenizer(own, folder, open_data(own, folder, progress))
        model = base_model(own, folder, progress)
        shutil.rmtree(folder.pretrain / "checkpoints", ignore_errors=True)
    asked = _asked(point).model_copy(update={"model": _from(point.recipe, recipe, model)})
    return _ask(asked, folder, "base", model, progress)


def _do_point(point: Point, folder: PointFolder, layout: Layout, threads: int, progress: Progress) -> dict[str, Any]:
    from flantune.pipeline.data import build
    from flantune.pipeline.training import finetune

    start = point.start
    model = str(layout.base(point).base) if makes_base(start) else start.model.init
    recipe = point.recipe.model_copy(update={"model": _from(point.recipe, start, model), "pretrain": None})
    own = _placed(recipe, folder, threads)
    open_run(own)
    if not (folder.root / "train.json").exists():
        # One at a time adds to the texts' tokens that all use, and counts lengths that all know.
        with locked(folder.shared / "lock"):
            build(own, folder, progress)
        _same_data(folder)
    finetune(own, folder, progress)
    shutil.rmtree(folder.root / "checkpoints", ignore_errors=True)  # the model is saved
    _same_data(folder)
    return _ask(_asked(point).model_copy(update=_changes(own)), folder, "tuned", str(folder.model), progress, own)


def _changes(own: Recipe) -> dict[str, Any]:
    return {"model": own.model, "train": own.train, "pretrain": None}


def has_other_data(folder: PointFolder) -> bool:
    """Whether the point was trained on another content of its collections than their store has now."""
    from flantune.tasks import ExampleStore

    mark = _data_mark(folder)
    return mark.exists() and folder.store.exists() and mark.read_text() != ExampleStore.open(folder.store).fingerprint


def _same_data(folder: PointFolder) -> None:
    """The store's fingerprint beside what was trained on it. Raises StateError where the collections have changed."""
    from flantune.tasks import ExampleStore

    mark = _data_mark(folder)
    if not mark.exists():
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(ExampleStore.open(folder.store).fingerprint)
    elif has_other_data(folder):
        raise StateError(
            f"{folder.root}: was built from other files: the collections have changed since. Give another folder with "
            "--root, or remove this one to train the point anew."
        )


def _data_mark(folder: PointFolder) -> Path:
    return folder.root / "data" / "store.txt"


def _placed(recipe: Recipe, folder: PointFolder, threads: int) -> Recipe:
    """The recipe with the point's folder for its run's."""
    few = min(threads, recipe.train.threads or threads)
    changes: dict[str, Any] = {"runs": str(folder.root.parent), "name": folder.root.name}
    changes["train"] = recipe.train.model_copy(update={"threads": few})
    if recipe.pretrain is not None:
        changes["pretrain"] = recipe.pretrain.model_copy(update={"threads": few})
    return recipe.model_copy(update=changes)


def _bare(recipe: Recipe) -> Recipe:
    """Without what finetuning alone reads: recipes that differ there share the base."""
    model = recipe.model.model_copy(update={"dropout": ModelSpec().dropout, "adapter": None})
    changes = {"model": model, "train": TrainSpec(), "selection": SelectionSpec(), "eval": EvalSpec()}
    return recipe.model_copy(update=changes)


def _from(recipe: Recipe, start: Recipe, model: str) -> ModelSpec:
    """The model section that begins from `model`; a base that was made brings its tokenizer along."""
    tokenizer = TokenizerSpec() if makes_base(start) else start.model.tokenizer
    return recipe.model.model_copy(update={"init": model, "size": ModelSize(), "tokenizer": tokenizer})


def _asked(point: Point) -> Recipe:
    return point.recipe.model_copy(update={"seed": point.asked_with})


def _ask(
    recipe: Recipe,
    folder: PointFolder,
    side: str,
    model: str,
    progress: Progress,
    trained: Recipe | None = None,
) -> dict[str, Any]:
    """done.json: the scores of one side. `recipe` holds the seed that items are drawn with."""
    from flantune.inference.answers import default_path
    from flantune.pipeline.data import Data, make_mixture, open_store
    from flantune.pipeline.evaluation import Side, evaluate_run
    from flantune.studies.scores import composition_of, score_rows, trained_figures
    from flantune.tasks import split_held_out

    done = folder.evals / side / DONE
    if done.exists():
        return dict(orjson.loads(done.read_bytes()))
    began = time.monotonic()
    with locked(folder.shared / "lock"):
        store = open_store(recipe, folder, progress)
    split = split_held_out(store.tasks, recipe.held_out)
    if trained is None:  # a base was shown none of the rows: nothing can have leaked into it from them
        unchecked = recipe.eval.contamination.model_copy(update={"check": False})
        recipe = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"contamination": unchecked})})
        data = Data(store, split, make_mixture(recipe, store, split, "draws"))
    else:
        with locked(folder.shared / "lock"):
            from flantune.pipeline.data import data_of

            data = data_of(trained, folder, store, progress)
    summaries = evaluate_run(recipe, folder, data, [Side(side, model)], progress, store=default_path())
    told: dict[str, Any] = {
        "scores": score_rows(summaries[side], store) if summaries else [],
        "evaluation_seconds": time.monotonic() - began,
    }
    if trained is not None:
        told |= trained_figures(trained, folder)
        told |= composition_of(folder)
    write_json(done, told)
    return told


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Held by one process at a time; others wait. A process that dies lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(serve: bool, path: str = "") -> int:
    """One job's file as the argument; without it, files that standard input names, one after another."""
    if not serve:
        threading.Thread(target=_end_with_parent, args=(None,), daemon=True).start()
        return _do_file(Path(path))
    paths: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_end_with_parent, args=(paths,), daemon=True).start()
    while True:
        code = _do_file(Path(paths.get()))
        _write({"ended": code})
        _let_go()


def _do_file(path: Path) -> int:
    """0 done, 1 failed: failed.json says why, and log.txt what else there is to say."""
    kind, point, root, threads = job_of(orjson.loads(path.read_bytes()))
    folder = Layout(root).base(point) if kind == "base" else Layout(root).point(point)
    failed = folder.evals / FAILED
    folder.evals.mkdir(parents=True, exist_ok=True)
    with (folder.evals / LOG).open("ab") as log:
        os.dup2(log.fileno(), 2)
    import torch

    torch.set_num_threads(threads)
    try:
        do_job(kind, point, root, threads, _say)
    except BaseException as e:
        traceback.print_exc()
        write_json(failed, {"reason": _reason(e), "error": type(e).__name__, "job": kind})
        return 1
    failed.unlink(missing_ok=True)
    return 0


def _let_go() -> None:
    """Of the job's memory, before the next one."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _reason(error: BaseException) -> str:
    if isinstance(error, FlantuneError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "flantune" in f.filename] or list(frames)
    where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {str(error).strip()[:400]}{where}"


def _say(stage: str, done: int, total: int, note: str = "", /) -> None:
    _write({"stage": stage, "done": done, "total": total})


def _write(line: Mapping[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
    sys.stdout.buffer.flush()


def _end_with_parent(paths: queue.SimpleQueue[str] | None) -> None:
    rest = b""
    while got := os.read(0, 65536):
        *lines, rest = (rest + got).split(b"\n")
        if paths is not None:
            for line in lines:
                paths.put(line.decode())
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main(len(sys.argv) < 2, *sys.argv[1:2]))
