"""A store without the rows that are duplicates: the same files, those of tasks that lose rows written anew.

It is a store like any other: row numbers, sizes and all that is made from them follow what was kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from flantune.errors import DataError, StateError
from flantune.mixtures.duplicates import find_duplicates
from flantune.mixtures.ngrams import Places
from flantune.recipe import DuplicatesSpec
from flantune.tasks.store import BATCH_ROWS, SCHEMA, ExampleStore
from flantune.whole import atomic_folder

VERSION = 1


def unique_store(
    store: ExampleStore,
    folder: Path,
    spec: DuplicatesSpec,
    train: Collection[str],
    on_progress: Callable[[int, int], None] | None = None,
) -> ExampleStore:
    """The store at `folder` with one row of each group of duplicates, made where it is not there.

    Of the tasks in `train`, rows that an earlier one has go, and rows that a task outside `train` has. Those outside
    stay whole.
    """
    fingerprint = _fingerprint(store, spec, train)
    try:
        known = ExampleStore.open(folder)
        if known.fingerprint == fingerprint:
            return known
    except StateError:
        pass  # none there yet, or not whole
    folder.parent.mkdir(parents=True, exist_ok=True)
    found = find_duplicates(
        store, near=spec.similarity if spec.drop == "near" else None, on_progress=on_progress, work=folder.parent
    )
    leave_out = found.rows_to_leave_out(train)
    with atomic_folder(folder) as temporary:
        _write(store, temporary, leave_out, fingerprint, spec)
    return ExampleStore.open(folder)


def _fingerprint(store: ExampleStore, spec: DuplicatesSpec, train: Collection[str]) -> str:
    content = [VERSION, store.fingerprint, spec.model_dump(mode="json"), sorted(train)]
    return hashlib.sha256(orjson.dumps(content)).hexdigest()


def _write(
    store: ExampleStore, folder: Path, leave_out: dict[str, Places], fingerprint: str, spec: DuplicatesSpec
) -> None:
    (folder / "examples").mkdir()
    entries: list[dict[str, Any]] = []
    empty = list(store.summary.get("empty_tasks") or ())
    for entry in orjson.loads((store.folder / "tasks.json").read_bytes()):
        name = entry["task"]["name"]
        gone = leave_out.get(name)
        kept = entry["rows"] - (0 if gone is None else len(gone))
        if kept == 0:
            empty.append({"task": name, "path": entry["task"]["path"], "reason": "every row is another task's"})
            continue
        source, target = store.folder / entry["file"], folder / entry["file"]
        if gone is None:
            _link(source, target)
        else:
            _write_without(source, target, gone)
        entries.append({**entry, "rows": kept, "bytes": target.stat().st_size})
    if not entries:
        raise DataError(str(store.folder), field="examples", expected="at least one after duplicates go", got=0)
    dropped = {task: len(rows) for task, rows in leave_out.items()}
    summary = {
        **store.summary,
        "fingerprint": fingerprint,
        "tasks": len(entries),
        "examples": sum(e["rows"] for e in entries),
        "empty_tasks": empty,
        "duplicates": {
            "drop": spec.drop,
            "similarity": spec.similarity if spec.drop == "near" else None,
            "left_out": sum(dropped.values()),
            "tasks": dropped,
        },
    }
    rejected = store.folder / "rejected.jsonl"
    if rejected.exists():
        _link(rejected, folder / rejected.name)
    (folder / "tasks.json").write_bytes(orjson.dumps(entries))
    (folder / "store.json").write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _write_without(source: Path, target: Path, gone: Places) -> None:
    with pa.memory_map(str(source)) as file:
        table = pa.ipc.open_file(file).read_all()
        keep = np.ones(table.num_rows, dtype=np.bool_)
        keep[gone] = False
        kept = table.filter(pa.array(keep)).combine_chunks()
        with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            # Every batch but the last is full: a row's batch is known from its number.
            for batch in kept.to_batches(max_chunksize=BATCH_ROWS):
                writer.write_batch(batch)
