"""Examples to rows: whole examples end to end, none split, each exactly once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from flantune.errors import DataError
from flantune.types import Encoded, Packed

Packing = Literal["best_fit", "next_fit", "none"]
Lengths = npt.NDArray[np.int64]
_Packer = Callable[..., Lengths]


def pack_examples(
    examples: Sequence[Encoded],
    inputs_len: int,
    targets_len: int,
    algorithm: Packing = "best_fit",
    *,
    one_sided: bool = False,
) -> list[Packed]:
    """Pack one block of the stream. Rows come in the order of their first example; a row keeps the stream's order.

    inputs [7 8 1] [9 1], targets [3 1] [4 1], lengths 6 and 5 give one row:
        inputs 7 8 1 9 1   inputs_lengths 3 2      targets 3 1 4 1   targets_lengths 2 2

    Two-sided (encoder-decoder): a row holds at most `inputs_len` input and `targets_len` target tokens. `one_sided`
    (decoder-only, spec 4.2): one test, inputs and targets together at most `inputs_len + targets_len`.
    Raises DataError where one example fits no row.
    """
    if not examples:
        return []
    inputs = np.array([len(e.inputs) for e in examples], dtype=np.int64)
    targets = np.array([len(e.targets) for e in examples], dtype=np.int64)
    if one_sided:
        inputs, targets = inputs + targets, np.zeros_like(targets)
        inputs_len, targets_len = inputs_len + targets_len, 0
    for side, lengths, limit in (("inputs", inputs, inputs_len), ("targets", targets, targets_len)):
        worst = int(lengths.argmax())
        if lengths[worst] > limit:
            raise DataError(
                f"stream index {examples[worst].index}",
                field=side if not one_sided else "inputs + targets",
                expected=f"at most {limit} tokens",
                got=int(lengths[worst]),
                mend="Encode with the lengths that are packed to.",
            )
    rows = assign_rows(inputs, targets, inputs_len, targets_len, algorithm)
    order = np.argsort(rows, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(rows[order])) + 1)
    return [_join([examples[i] for i in group]) for group in groups]


def assign_rows(
    inputs: Lengths, targets: Lengths, inputs_len: int, targets_len: int, algorithm: Packing = "best_fit"
) -> Lengths:
    """The row of each example, (n,) int64, numbered from 0 in the order of the rows' first examples."""
    if algorithm == "none":
        return np.arange(len(inputs), dtype=np.int64)
    if algorithm == "next_fit":
        return _compiled(_next_fit)(inputs, targets, inputs_len, targets_len)
    rows = _compiled(_best_fit)(inputs, targets, inputs_len, targets_len)
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _join(examples: Sequence[Encoded]) -> Packed:
    return Packed(
        inputs=np.concatenate([e.inputs for e in examples]).astype(np.int32, copy=False),
        targets=np.concatenate([e.targets for e in examples]).astype(np.int32, copy=False),
        inputs_lengths=np.array([len(e.inputs) for e in examples], dtype=np.int32),
        targets_lengths=np.array([len(e.targets) for e in examples], dtype=np.int32),
        indices=np.array([e.index for e in examples], dtype=np.int64),
        tasks=tuple(e.task for e in examples),
    )


def _next_fit(inputs: Lengths, targets: Lengths, inputs_len: int, targets_len: int) -> Lengths:
    """seqio's: append to the open row while both sides fit, else close it. No look-back, no sorting (spec 4.1)."""
    rows = np.zeros(len(inputs), dtype=np.int64)
    row, used_inputs, used_targets = 0, 0, 0
    for i in range(len(inputs)):
        if used_inputs + inputs[i] > inputs_len or used_targets + targets[i] > targets_len:
            row, used_inputs, used_targets = row + 1, 0, 0
        rows[i] = row
        used_inputs += inputs[i]
        used_targets += targets[i]
    return rows


def _best_fit(inputs: Lengths, targets: Lengths, inputs_len: int, targets_len: int) -> Lengths:
    """Fill one row after another, each time with the example that best matches the room left on both sides.

    The dot product of an example's size with the room left, both as shares of the row and each side weighted by how
    much of it the block demands (Panigrahy et al. 2011, "Heuristics for vector bin packing"). The side that fills
    first decides the rows needed, so its weight is the larger. O(n^2) in the block; ties go to the earlier example.
    """
    n = len(inputs)
    rows = np.full(n, -1, dtype=np.int64)
    # Share of a row that a token takes, times the demand on its side; a side of length 0 (one-sided) weighs nothing.
    weight_inputs = inputs.sum() / inputs_len / inputs_len / inputs_len if inputs_len > 0 else 0.0
    weight_targets = targets.sum() / targets_len / targets_len / targets_len if targets_len > 0 else 0.0
    left = np.arange(n)
    num_left, row = n, 0
    while num_left > 0:
        room_inputs, room_targets = inputs_len, targets_len
        while True:
            best, best_score = -1, -1.0
            for k in range(num_left):
                i = left[k]
                if inputs[i] <= room_inputs and targets[i] <= room_targets:
                    score = weight_inputs * room_inputs * inputs[i] + weight_targets * room_targets * targets[i]
                    if score > best_score:
                        best, best_score = k, score
            if best < 0:
                break
            i = left[best]
            rows[i] = row
            room_inputs -= inputs[i]
            room_targets -= targets[i]
            num_left -= 1
            for k in range(best, num_left):  # keeps `left` in stream order, so that ties stay with the earlier one
                left[k] = left[k + 1]
        row += 1
    return rows


@cache
def _compiled(function: _Packer) -> _Packer:
    import numba  # here, not above: importing it takes longer than most commands

    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # nowhere to keep the compiled code: a read-only install without a home folder
        return numba.njit(function)
