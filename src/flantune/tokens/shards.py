"""Packed rows on disk: Arrow IPC files, memory-mapped, and an index written last.

FOLDER/shard-00000.arrow, shard-00001.arrow, ...   uncompressed; one record batch each; opens with any Arrow library
FOLDER/index.json                                  names, rows, sizes, sha256: a folder without it is not whole
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flantune.errors import RecipeError, StateError
from flantune.types import Packed
from flantune.whole import write_json, write_whole

INDEX = "index.json"
_FORMAT = 1
_MAX_OPEN = 64  # shards kept mapped at once

SCHEMA = pa.schema(
    [
        ("inputs", pa.list_(pa.int32())),
        ("targets", pa.list_(pa.int32())),
        ("inputs_lengths", pa.list_(pa.int32())),
        ("targets_lengths", pa.list_(pa.int32())),
        ("indices", pa.list_(pa.int64())),
        ("tasks", pa.list_(pa.int32())),  # places in the index's list of tasks
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIndex:
    """What `index.json` says. `fingerprint` is the builder's: what the rows were made from."""

    shards: tuple[ShardRecord, ...]
    tasks: tuple[str, ...]
    inputs_len: int
    targets_len: int
    one_sided: bool
    fingerprint: str

    @property
    def rows(self) -> int:
        return sum(s.rows for s in self.shards)


class ShardWriter:
    """Appends rows; every `rows_per_shard` of them become one file, whole or not there at all.

    `done` and `tasks` continue a build: the shards already written and the tasks they number.
    """

    def __init__(
        self,
        folder: Path | str,
        rows_per_shard: int,
        *,
        done: Sequence[ShardRecord] = (),
        tasks: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self.rows_per_shard = rows_per_shard
        self.shards = list(done)
        self._task_ids = {name: i for i, name in enumerate(tasks)}
        self._rows: list[Packed] = []
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self._task_ids)

    @property
    def rows(self) -> int:
        return sum(s.rows for s in self.shards) + len(self._rows)

    def append(self, row: Packed) -> bool:
        """True where this row completed a shard, which is then safely on disk."""
        self._rows.append(row)
        if len(self._rows) < self.rows_per_shard:
            return False
        self.flush()
        return True

    def flush(self) -> None:
        """Write what is waiting as one shard."""
        if not self._rows:
            return
        path = self.folder / f"shard-{len(self.shards):05d}.arrow"
        digest = write_whole(path, self._write_rows)
        self.shards.append(ShardRecord(name=path.name, rows=len(self._rows), bytes=path.stat().st_size, sha256=digest))
        self._rows = []

    def finish(self, *, inputs_len: int, targets_len: int, one_sided: bool, fingerprint: str) -> ShardIndex:
        """Flush and write the index: from here on the folder is whole."""
        self.flush()
        index = ShardIndex(
            shards=tuple(self.shards),
            tasks=self.tasks,
            inputs_len=inputs_len,
            targets_len=targets_len,
            one_sided=one_sided,
            fingerprint=fingerprint,
        )
        write_json(self.folder / INDEX, {"format": _FORMAT, "rows": index.rows, **asdict(index)})
        return index

    def _write_rows(self, file: BinaryIO) -> None:
        task_ids = [
            np.array([self._task_ids.setdefault(t, len(self._task_ids)) for t in row.tasks], dtype=np.int32)
            for row in self._rows
        ]
        columns = {name: [getattr(row, name) for row in self._rows] for name in SCHEMA.names if name != "tasks"}
        columns["tasks"] = task_ids
        arrays = [_list_array(columns[field.name], field.type.value_type) for field in SCHEMA]
        with pa.ipc.new_file(file, SCHEMA) as writer:
            writer.write_batch(pa.record_batch(arrays, schema=SCHEMA))


class ShardReader:
    """Random access to the rows of a whole folder. Rows are views of the mapped files: copy before changing one.

    Raises StateError for a folder without index, a missing or truncated shard and, with `verify`, changed bytes.
    """

    def __init__(self, folder: Path | str, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        for shard in self.index.shards:
            check_shard(self.folder, shard, digest=verify)
        self._ends = list(accumulate(s.rows for s in self.index.shards))
        self._open: OrderedDict[int, dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]] = OrderedDict()

    def __len__(self) -> int:
        return self.index.rows

    def row(self, i: int) -> Packed:
        if not 0 <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        shard = bisect_right(self._ends, i)
        at = i - (self._ends[shard] - self.index.shards[shard].rows)
        columns = self._columns(shard)
        cell = {name: values[offsets[at] : offsets[at + 1]] for name, (offsets, values) in columns.items()}
        tasks = tuple(self.index.tasks[t] for t in cell.pop("tasks"))
        return Packed(**cell, tasks=tasks)

    def rows(self, places: Sequence[int] | range) -> Iterator[Packed]:
        return (self.row(i) for i in places)

    def _columns(self, shard: int) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        record = self.index.shards[shard]
        path = self.folder / record.name
        try:
            with pa.memory_map(str(path)) as source:
                batch = pa.ipc.open_file(source).get_batch(0)
        except (OSError, pa.ArrowException) as e:
            raise StateError(f"{path}: not a readable Arrow file: {e}. Delete {self.folder} and build again.") from e
        if batch.schema != SCHEMA or batch.num_rows != record.rows:
            raise StateError(
                f"{path}: expected {record.rows} rows of {SCHEMA.names}, got {batch.num_rows} of {batch.schema.names}. "
                f"Delete {self.folder} and build again."
            )
        columns = {
            name: (batch.column(name).offsets.to_numpy(), batch.column(name).values.to_numpy()) for name in SCHEMA.names
        }
        self._open[shard] = columns
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)
        return columns


def read_index(folder: Path | str) -> ShardIndex:
    path = Path(folder) / INDEX
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StateError(
            f"{folder}: expected packed shards, found no {INDEX}: nothing was built here, or a build did not finish. "
            "Run the build again; it continues where it stopped."
        ) from None
    except (OSError, ValueError) as e:
        raise StateError(f"{path}: cannot be read: {e}. Delete {folder} and build again.") from e
    if not isinstance(raw, dict) or raw.get("format") != _FORMAT:
        got = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
        raise StateError(f"{path}: expected format {_FORMAT}, got {got!r}. Delete {folder} and build again.")
    try:
        return ShardIndex(
            shards=tuple(ShardRecord(**s) for s in raw["shards"]),
            tasks=tuple(raw["tasks"]),
            inputs_len=raw["inputs_len"],
            targets_len=raw["targets_len"],
            one_sided=raw["one_sided"],
            fingerprint=raw["fingerprint"],
        )
    except (KeyError, TypeError) as e:
        raise StateError(f"{path}: not an index of ours ({e!r}). Delete {folder} and build again.") from e


def check_shard(folder: Path, shard: ShardRecord, *, digest: bool) -> None:
    """Raises StateError unless the file is there at its size (and, with `digest`, its sha256)."""
    path, mend = folder / shard.name, f"Delete {folder} and build again."
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise StateError(f"{path}: missing; the folder's own list names it. {mend}") from None
    if size != shard.bytes:
        raise StateError(f"{path}: expected {shard.bytes} bytes, got {size}. {mend}")
    if digest:
        with path.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
        if got != shard.sha256:
            raise StateError(f"{path}: expected sha256 {shard.sha256[:12]}…, got {got[:12]}…. {mend}")


def _list_array(rows: Sequence[npt.NDArray[Any]], value_type: pa.DataType) -> pa.ListArray:
    offsets = np.cumsum([0, *(len(r) for r in rows)], dtype=np.int64)
    if offsets[-1] > np.iinfo(np.int32).max:  # Arrow's list type counts in int32
        raise RecipeError(f"tokens.shard_rows: {len(rows)} rows hold {offsets[-1]} tokens, over 2^31. Make it smaller.")
    values = np.concatenate(rows)
    return pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), pa.array(values, type=value_type))
