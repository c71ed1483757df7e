"""How long a store's examples are, without reading their words: from the offsets of the Arrow columns."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flantune.tasks.store import ExampleStore

Side = Literal["fields", "targets"]


def text_lengths(store: ExampleStore, task: str, side: Side) -> npt.NDArray[np.int64]:
    """(rows,) UTF-8 bytes of each example's fields (as stored, names included), or of its rationale and its targets'
    mean. A measure to rank rows by: tokens go with bytes."""
    lengths = _fields if side == "fields" else _targets
    return np.concatenate([np.zeros(0, np.int64), *(lengths(batch) for _, batch in store.batches(task))])


def _fields(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    return _lengths(batch["fields"])


def _targets(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    counts = _numbers(pc.list_value_length(batch["targets"]))
    flat = _lengths(pc.list_flatten(batch["targets"]))
    sums = np.add.reduceat(flat, np.cumsum(counts) - counts)  # no example is without a target
    return sums // counts + _lengths(pc.fill_null(batch["rationale"], ""))


def _lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    return _numbers(pc.binary_length(column))


def _numbers(column: pa.Array) -> npt.NDArray[np.int64]:
    return column.to_numpy(zero_copy_only=False).astype(np.int64)
