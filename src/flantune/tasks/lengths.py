"""How long a store's examples are, without reading their words: from the offsets of the Arrow columns."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flantune.errors import StateError
from flantune.tasks.store import ExampleStore

Side = Literal["fields", "targets"]


def text_lengths(store: ExampleStore, task: str, side: Side) -> npt.NDArray[np.int64]:
    """(rows,) UTF-8 bytes of each example's fields (as stored, names included), or of its rationale and its targets'
    mean. A measure to rank rows by: tokens go with bytes."""
    path = store.folder / store._files[task]
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
            return _fields(table) if side == "fields" else _targets(table)
    except (OSError, pa.ArrowException) as e:
        raise StateError(f"{path}: cannot be read: {e}. Build the store again.") from None


def _fields(table: pa.Table) -> npt.NDArray[np.int64]:
    return _lengths(table["fields"])


def _targets(table: pa.Table) -> npt.NDArray[np.int64]:
    counts = pc.list_value_length(table["targets"]).to_numpy().astype(np.int64)
    flat = _lengths(pc.list_flatten(table["targets"]))
    sums = np.add.reduceat(flat, np.cumsum(counts) - counts) if len(flat) else counts  # no example is without a target
    rationale = _lengths(pc.fill_null(table["rationale"], ""))
    return (sums // counts + rationale).astype(np.int64)


def _lengths(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return pc.binary_length(column).to_numpy().astype(np.int64)
