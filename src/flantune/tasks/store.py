"""Collections read once into memory-mapped Arrow files: one per task, any row at hand without reading the others.

    store/
      store.json        fingerprint, counts, empty tasks, skipped files
      tasks.json        the tasks, their row counts and files
      rejected.jsonl    every row set aside: file, place, field, expected, got
      examples/00000.arrow  ...

A store is written beside its place and renamed whole: a build that was killed leaves nothing that reads as one.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from flantune.errors import DataError, StateError
from flantune.recipe import CollectionSpec
from flantune.sources import VERSION as READERS_VERSION
from flantune.sources import Rejects, TaskRows, collection_files, collection_parts, read_collection, rows_file
from flantune.tasks.catalog import task_from_json, task_to_json
from flantune.types import Example, Task

STORE_VERSION = 1
BATCH_ROWS = 512  # rows per Arrow record batch: what one random access maps, and what a build holds in memory
OPEN_TASKS = 512  # files held open at once; the usual limit of a process is 1,024
RELEASE_EVERY = 128  # examples read before the pages they were read from are given back
RELEASE_VIEWS = 24  # or batches looked into: of many tasks one row each, near a megabyte of pages each

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("fields", pa.string(), nullable=False),  # JSON object, its keys in order
        pa.field("targets", pa.list_(pa.string()), nullable=False),
        pa.field("rationale", pa.string()),
        pa.field("options", pa.list_(pa.string())),
        pa.field("where", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Progress:
    """How far a build is. `files` counts those begun, of `files_total`."""

    task: str
    tasks: int
    files: int
    files_total: int
    examples: int
    rejected: int


# Building ------------------------------------------------------------------------------------------------------------


def build_store(
    collections: Sequence[CollectionSpec],
    folder: Path | str,
    max_rejected: float = 0.01,
    on_progress: Callable[[Progress], None] | None = None,
) -> ExampleStore:
    """Read the collections into `folder` and open it. A store of the same files, specs and readers is left as it is.

    Raises DataError as `read_collection` does, and where nothing was kept at all; then `folder` is as it was.
    """
    folder = Path(folder)
    fingerprint = fingerprint_of(collections, max_rejected)
    if (stored := whole_store(folder)) is not None and stored.fingerprint == fingerprint:
        return stored
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    temporary = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        (temporary / "examples").mkdir(parents=True)
        _write_store(collections, temporary, max_rejected, fingerprint, on_progress)
        _put_in_place(temporary, folder)
    except OSError as e:
        raise StateError(
            f"{folder}: the examples could not be written: {e.strerror or e}. Make room and run it again; "
            "what was begun is gone."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return ExampleStore.open(folder)


def fingerprint_of(collections: Sequence[CollectionSpec], max_rejected: float) -> str:
    """A digest of all that decides a store: specs, every file's name, size and time, and our versions.

    A hub set's files are not ours to see: its spec stands for it.
    """
    digest = hashlib.sha256(f"{STORE_VERSION}:{READERS_VERSION}:{max_rejected!r}".encode())
    for spec in collections:
        digest.update(orjson.dumps(spec.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS))
        for path in collection_files(spec):
            for file in dict.fromkeys((path, rows_file(path))):
                if file.exists():
                    stat = file.stat()
                    digest.update(orjson.dumps([str(file), stat.st_size, stat.st_mtime_ns]))
    return digest.hexdigest()


def whole_store(folder: Path) -> ExampleStore | None:
    """The store at `folder`; None where there is no whole one."""
    try:
        return ExampleStore.open(folder)
    except StateError:
        return None


def _write_store(
    collections: Sequence[CollectionSpec],
    folder: Path,
    max_rejected: float,
    fingerprint: str,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    tasks = 0
    empty: list[dict[str, str]] = []
    seen: dict[str, str] = {}
    examples = files = 0
    files_total = sum(len(collection_parts(spec)) for spec in collections)
    with Rejects(folder / "rejected.jsonl") as rejects, (folder / "tasks.json").open("wb") as listed:
        for spec in collections:
            for rows in read_collection(spec, rejects, max_rejected, seen):
                file = f"examples/{tasks:05d}.arrow"
                task, count = write_task(rows, folder / file)
                files += 1
                examples += count
                if count:
                    entry = {
                        "task": task_to_json(task),
                        "rows": count,
                        "file": file,
                        "bytes": (folder / file).stat().st_size,
                    }
                    # One line each, so that thousands of tasks are never one text in memory.
                    listed.write((b",\n" if tasks else b"[\n") + orjson.dumps(entry))
                    tasks += 1
                else:
                    (folder / file).unlink()
                    empty.append({"task": task.name, "path": task.path, "reason": "no row was kept"})
                if on_progress is not None:
                    done = files + len(rejects.skipped)
                    on_progress(Progress(task.name, tasks, done, files_total, examples, rejects.total_rejected()))
        listed.write(b"\n]")
        summary = {
            "version": STORE_VERSION,
            "fingerprint": fingerprint,
            "tasks": tasks,
            "examples": examples,
            "rows": rejects.total_rows(),
            "rejected": rejects.total_rejected(),
            "malformed": rejects.malformed.total(),
            "reasons": dict(rejects.reasons.most_common()),
            "empty_tasks": empty,
            "skipped_files": rejects.skipped,
        }
    if not tasks:
        raise DataError(
            ", ".join(spec.path for spec in collections),
            field="examples",
            expected="at least one",
            got=0,
            mend=f"Reasons: {summary['reasons'] or summary['skipped_files']}.",
        )
    (folder / "store.json").write_bytes(orjson.dumps(summary, option=orjson.OPT_INDENT_2))


def write_task(rows: TaskRows, file: Path) -> tuple[Task, int]:
    """One task's examples, a batch at a time. Returns the task, now with what its rows were seen to hold."""
    count = 0
    has_rationale = has_options = False
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        batch: list[dict[str, Any]] = []
        for example in rows.examples:
            has_rationale |= example.rationale is not None
            has_options |= example.options is not None
            batch.append(_row(example))
            count += 1
            # Every batch but the last is full, so that a row's batch is known from its number.
            if len(batch) == BATCH_ROWS:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))
                batch = []
        if batch:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))
    return replace(rows.task, has_rationale=has_rationale, has_options=has_options), count


def _row(example: Example) -> dict[str, Any]:
    return {
        "id": example.id,
        "fields": orjson.dumps(dict(example.fields)).decode(),
        "targets": list(example.targets),
        "rationale": example.rationale,
        "options": None if example.options is None else list(example.options),
        "where": example.where,
    }


def _put_in_place(temporary: Path, folder: Path) -> None:
    """A folder cannot be replaced by a rename: the old one steps aside first, and is swept if we die in between."""
    if folder.exists():
        aside = folder.with_name(f".{folder.name}.old-{os.getpid()}")
        os.replace(folder, aside)
        os.replace(temporary, folder)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(temporary, folder)


def _sweep(folder: Path) -> None:
    """Remove what builds that were killed left beside `folder`; those of living processes stay."""
    for kind in ("partial", "old"):
        for left in folder.parent.glob(f".{folder.name}.{kind}-*"):
            number = left.name.rpartition("-")[2]
            if number.isdigit() and not _alive(int(number)):
                shutil.rmtree(left, ignore_errors=True)


def _alive(process: int) -> bool:
    if process == os.getpid():
        return False  # a build of our own that is not running any more
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# Reading -------------------------------------------------------------------------------------------------------------


def give_back(mapped: mmap.mmap) -> None:
    """Give the pages of a mapped file back to the system; what is used again comes from its cache or the disk.

    Nothing is lost, written pages included: they stay the file's.
    """
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        mapped.madvise(mmap.MADV_DONTNEED)


class _OpenTask:
    """One task's file, mapped."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.reader = pa.ipc.open_file(pa.py_buffer(self._map))
        except (OSError, ValueError, pa.ArrowException) as e:
            raise StateError(f"{path}: cannot be read: {e}. Build the store again.") from None

    def release(self) -> None:
        give_back(self._map)


class ExampleStore:
    """Tasks and their examples by number. Cheap to open and to hand to another process; not shared by threads."""

    def __init__(self, folder: Path, entries: Iterable[Mapping[str, Any]], summary: Mapping[str, Any]) -> None:
        self.folder = folder
        self.summary = summary  # store.json: fingerprint, rows, rejected, reasons, empty_tasks, skipped_files
        self.tasks: dict[str, Task] = {}
        self._rows: dict[str, int] = {}
        self._files: dict[str, str] = {}
        for entry in entries:
            task = task_from_json(entry["task"])
            self.tasks[task.name] = task
            self._rows[task.name] = entry["rows"]
            self._files[task.name] = entry["file"]
        self._open: OrderedDict[str, _OpenTask] = OrderedDict()
        self._touched: dict[str, _OpenTask] = {}  # read from since pages were last given back
        self._examples_read = self._views = 0

    @classmethod
    def open(cls, folder: Path | str) -> ExampleStore:
        """Raises StateError where `folder` holds no whole store of this version."""
        folder = Path(folder)
        try:
            summary = orjson.loads((folder / "store.json").read_bytes())
            version, tasks = summary["version"], summary["tasks"]
            sizes: list[bool] = []
            store = cls(folder, _whole_entries(folder, sizes), summary)
            whole = len(sizes) == tasks and all(sizes)
        except FileNotFoundError:
            raise StateError(f"{folder}: no store of examples. Build it: flantune build RECIPE.") from None
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as e:
            raise StateError(f"{folder}: a store that cannot be read: {e!r}. Build it again.") from None
        if version != STORE_VERSION:
            raise StateError(f"{folder}: a store of version {version}, expected {STORE_VERSION}. Build it again.")
        if not whole:
            raise StateError(f"{folder}: files of the store were cut or exchanged. Remove it and build it again.")
        return store

    @property
    def fingerprint(self) -> str:
        return str(self.summary["fingerprint"])

    @property
    def sizes(self) -> dict[str, int]:
        return dict(self._rows)

    def size(self, task: str) -> int:
        """The number of the task's examples."""
        self._known(task)
        return self._rows[task]

    def example(self, task: str, row: int) -> Example:
        """The task's example number `row`, from 0."""
        if not 0 <= row < self.size(task):
            raise IndexError(f"task '{task}' has rows 0 to {self._rows[task] - 1}, not {row}")
        batch, place = divmod(row, BATCH_ROWS)
        record = self._batch(task, batch, 1).slice(place, 1).to_pylist()[0]
        return _example(task, row, record)

    def examples(self, task: str) -> Iterator[Example]:
        """All of the task's examples in order."""
        row = 0
        for number in range(-(-self.size(task) // BATCH_ROWS)):
            for record in self._batch(task, number, BATCH_ROWS).to_pylist():
                yield _example(task, row, record)
                row += 1

    def batches(self, task: str, start: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(number of its first row, rows) of the task's record batches from row `start` on, the columns of `SCHEMA`:
        views of the mapped file, for what is to be said of many rows without making Examples of them."""
        size = self.size(task)
        while start < size:
            number, place = divmod(start, BATCH_ROWS)
            try:
                batch = self._batch(task, number, BATCH_ROWS)
            except pa.ArrowException as e:
                path = self.folder / self._files[task]
                raise StateError(f"{path}: cannot be read: {e}. Build the store again.") from None
            yield start, batch.slice(place) if place else batch
            start += batch.num_rows - place

    def read(self, task: str, rows: Sequence[int]) -> list[Example]:
        """The task's examples at `rows`, which ascend: many at once for little more than one."""
        found: list[Example] = []
        at = 0
        while at < len(rows):
            batch = rows[at] // BATCH_ROWS
            end = bisect_left(rows, (batch + 1) * BATCH_ROWS, lo=at)
            places = [row - batch * BATCH_ROWS for row in rows[at:end]]
            records = self._batch(task, batch, len(places)).take(pa.array(places)).to_pylist()
            found += [_example(task, row, record) for row, record in zip(rows[at:end], records, strict=True)]
            at = end
        return found

    def _batch(self, task: str, number: int, examples: int) -> pa.RecordBatch:
        """A view of the mapped file, of which `examples` are about to be read."""
        # A page once read stays in the process as long as the file is mapped, and the kernel maps its neighbours with
        # it: reading at random would end with the whole collection in memory. Pages given back are still in the
        # system's cache, for as long as nobody needs the room.
        if self._examples_read >= RELEASE_EVERY or self._views >= RELEASE_VIEWS:
            for opened in self._touched.values():
                opened.release()
            self._touched.clear()
            self._examples_read = self._views = 0
        self._examples_read += examples
        self._views += 1
        opened = self._touched[task] = self._opened(task)
        return opened.reader.get_batch(number)

    def _opened(self, task: str) -> _OpenTask:
        opened = self._open.get(task)
        if opened is None:
            opened = self._open[task] = _OpenTask(self.folder / self._files[task])
            if len(self._open) > OPEN_TASKS:
                self._touched.pop(self._open.popitem(last=False)[0], None)
        self._open.move_to_end(task)
        return opened

    def _known(self, task: str) -> None:
        if task not in self.tasks:
            raise KeyError(f"no task '{task}' in {self.folder}")

    def __reduce__(self) -> tuple[Callable[[Path], ExampleStore], tuple[Path]]:
        # Another process opens the files itself; mapped memory does not travel.
        return ExampleStore.open, (self.folder,)


def task_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """The entries of a store's tasks.json, one after the other: task, rows, file, bytes."""
    with (folder / "tasks.json").open("rb") as file:
        for line in file:
            line = line.strip()
            if line not in (b"[", b"]"):
                value = orjson.loads(line.removesuffix(b","))
                yield from value if isinstance(value, list) else (value,)  # a list: all tasks on one line


def _whole_entries(folder: Path, sizes: list[bool]) -> Iterator[dict[str, Any]]:
    """The entries, equal texts being one; to `sizes` goes whether each one's file has the size it says."""
    known: dict[str, str] = {}
    for entry in task_entries(folder):
        sizes.append(os.stat(os.path.join(folder, entry["file"])).st_size == entry["bytes"])
        yield _shared(entry, known)


def _shared(value: Any, known: dict[str, str]) -> Any:
    # Thousands of tasks say the same of themselves: sources, licences, definitions, fields, their own names.
    if isinstance(value, str):
        return known.setdefault(value, value)
    if isinstance(value, dict):
        return {key: _shared(v, known) for key, v in value.items()}
    return [_shared(v, known) for v in value] if isinstance(value, list) else value


def _example(task: str, row: int, record: Mapping[str, Any]) -> Example:
    options = record["options"]
    return Example(
        task=task,
        row=row,
        id=record["id"],
        fields=orjson.loads(record["fields"]),
        targets=tuple(record["targets"]),
        rationale=record["rationale"],
        options=None if options is None else tuple(options),
        where=record["where"],
    )
