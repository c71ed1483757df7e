"""Examples to rows: whole examples end to end, none split, each exactly once.

A block of the stream is packed on its own, so its rows are a function of the block: that is the bounded buffer, and
what lets a build resume, or share out its blocks, and end in the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from flantune.compiled import compiled
from flantune.errors import DataError
from flantune.types import Encoded, Packed

VERSION = 2  # raised when equal examples would give other rows

Packing = Literal["best_fit", "next_fit", "none"]
Lengths = npt.NDArray[np.int64]


def pack_examples(
    examples: Sequence[Encoded],
    inputs_len: int,
    targets_len: int,
    algorithm: Packing = "best_fit",
    *,
    one_sided: bool = False,
) -> list[Packed]:
    """Pack one block of the stream. A row keeps the stream's order.

    inputs [7 8 1] [9 1], targets [3 1] [4 1], lengths 6 and 5 give one row:
        inputs 7 8 1 9 1   inputs_lengths 3 2      targets 3 1 4 1   targets_lengths 2 2

    Two-sided (encoder-decoder): a row holds at most `inputs_len` input and `targets_len` target tokens. `one_sided`
    (decoder-only, spec 4.2): one test, inputs and targets together at most `inputs_len + targets_len`.
    Rows of `best_fit` come so that any run of them has about the block's share of each mixture, in examples, input
    tokens and target tokens (`mixed_order`); those of `next_fit` and `none` in the stream's order.
    Raises DataError where one example fits no row.
    """
    if not examples:
        return []
    inputs = np.array([len(e.inputs) for e in examples], dtype=np.int64)
    targets = np.array([len(e.targets) for e in examples], dtype=np.int64)
    places = [e.index for e in examples]
    if one_sided:
        rows = _assign(inputs + targets, np.zeros_like(targets), inputs_len + targets_len, 0, algorithm, places)
    else:
        rows = _assign(inputs, targets, inputs_len, targets_len, algorithm, places)
    if algorithm == "best_fit":
        number = {name: i for i, name in enumerate(dict.fromkeys(e.mixture for e in examples))}
        rows = mixed_order(rows, inputs, targets, np.array([number[e.mixture] for e in examples], dtype=np.int64))
    order = np.argsort(rows, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(rows[order])) + 1)
    return [_join([examples[i] for i in group]) for group in groups]


def assign_rows(
    inputs: Lengths, targets: Lengths, inputs_len: int, targets_len: int, algorithm: Packing = "best_fit"
) -> Lengths:
    """The row of each example, (n,) int64, numbered from 0 in the order `pack_examples` gives one mixture's rows.

    One-sided packing is `targets` and `targets_len` of 0. Raises DataError where one example fits no row.
    """
    inputs, targets = np.asarray(inputs, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    rows = _assign(inputs, targets, inputs_len, targets_len, algorithm, range(len(inputs)))
    return mixed_order(rows, inputs, targets) if algorithm == "best_fit" else rows


def mixed_order(rows: Lengths, inputs: Lengths, targets: Lengths, mixtures: Lengths | None = None) -> Lengths:
    """The same rows renumbered, so that every run of them is about as the whole. All (n,), rows 0 ... R-1.

    Ordered by its first example, a row of many short examples comes early and one long example late (rank correlation
    of place and length 0.3 to 0.4). Instead the rows are halved, and each half again: rows of like weight in pairs, one
    of a pair to each half, so as to keep the halves' sums together. What is summed, for each mixture (numbers from 0):
    examples, input tokens, target tokens, each on the scale of its spread. Ties keep the stream's order.
    """
    if len(rows) == 0:
        return rows
    rows = compiled(_number_by_first)(rows)
    mixtures = np.zeros_like(rows) if mixtures is None else mixtures
    num_mixtures = int(mixtures.max()) + 1
    sums = np.zeros((int(rows.max()) + 1, num_mixtures, 3), dtype=np.int64)
    np.add.at(sums, (rows, mixtures), np.stack([np.ones_like(inputs), inputs, targets], axis=1))
    features = standardised(sums.reshape(len(sums), -1))
    heaviest_first = np.argsort(-compiled(_squared_norms)(features), kind="stable")
    order = compiled(_halve)(features, heaviest_first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place[rows]


def standardised(sums: Lengths) -> npt.NDArray[np.float64]:
    """Columns with mean 0 and standard deviation 1; a column without spread is 0.

    The moments are exact sums of integers, so that no machine rounds them another way and orders the rows otherwise.
    """
    num = len(sums)
    total, squares = sums.sum(axis=0), (sums * sums).sum(axis=0)
    spread = np.sqrt(np.maximum(squares / num - (total / num) ** 2, 0.0))
    spread[sums.min(axis=0) == sums.max(axis=0)] = np.inf
    return np.ascontiguousarray((sums - total / num) / spread)


def _assign(
    inputs: Lengths,
    targets: Lengths,
    inputs_len: int,
    targets_len: int,
    algorithm: Packing,
    places: Sequence[int],
) -> Lengths:
    """Rows numbered in the order they were made; `places` name the examples in an error."""
    if len(inputs) == 0 or algorithm == "none":
        _require_fit(inputs, targets, inputs_len, targets_len, places)
        return np.arange(len(inputs), dtype=np.int64)
    _require_fit(inputs, targets, inputs_len, targets_len, places)
    if algorithm == "next_fit":
        rows: Lengths = compiled(_next_fit)(inputs, targets, inputs_len, targets_len)
        return rows
    # By target length, then input length, then the later example: the earliest of a kind is taken first.
    order = np.lexsort((-np.arange(len(inputs)), inputs, targets))
    ordered = targets[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    stops = np.r_[starts[1:], len(order)]
    rows = np.empty_like(order)
    rows[order] = compiled(_best_fit)(inputs[order], ordered[starts], starts, stops, inputs_len, targets_len)
    return rows


def _require_fit(inputs: Lengths, targets: Lengths, inputs_len: int, targets_len: int, places: Sequence[int]) -> None:
    if len(inputs) == 0:
        return
    one_sided = targets_len == 0
    for side, lengths, limit in (("inputs", inputs, inputs_len), ("targets", targets, targets_len)):
        worst = int(lengths.argmax())
        if lengths[worst] > limit:
            raise DataError(
                f"stream index {places[worst]}",
                field=side if not one_sided else "inputs + targets",
                expected=f"at most {limit} tokens",
                got=int(lengths[worst]),
                mend="Encode with lengths no longer than the row's.",
            )


def _join(examples: Sequence[Encoded]) -> Packed:
    return Packed(
        inputs=np.concatenate([e.inputs for e in examples]).astype(np.int32, copy=False),
        targets=np.concatenate([e.targets for e in examples]).astype(np.int32, copy=False),
        inputs_lengths=np.array([len(e.inputs) for e in examples], dtype=np.int32),
        targets_lengths=np.array([len(e.targets) for e in examples], dtype=np.int32),
        indices=np.array([e.index for e in examples], dtype=np.int64),
        tasks=tuple(e.task for e in examples),
    )


# Compiled by numba: plain loops over arrays ---------------------------------------------------------------------------


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


def _best_fit(
    inputs: Lengths, targets: Lengths, starts: Lengths, stops: Lengths, inputs_len: int, targets_len: int
) -> Lengths:
    """Fill one row after another, each time with the example that leaves the least room, until none fits.

    Room left is counted as (inputs left / inputs_len)^2 + (targets left / targets_len)^2, the norm-based greedy of
    Panigrahy et al. 2011 ("Heuristics for vector bin packing"); with one side that is first-fit decreasing. Ties go to
    the longer targets, then the longer inputs, then the earlier example.

    inputs (n,) grouped by target length: group g has targets of targets[g] tokens and its inputs at starts[g] ...
    stops[g] - 1, shortest first; groups go up. Of a group the longest inputs that fit are best, so a step looks at one
    candidate for each target length, not at each example, and stops where the targets alone leave more room than the
    best found. Candidates only move down while a row fills.
    """
    n = len(inputs)
    rows = np.empty(n, dtype=np.int64)
    # Position p of 1 ... n stands for example p - 1; those taken are leapt over: below[p] <= p, equal while p is left.
    below = np.arange(n + 1)
    start, stop, length, candidate = starts.copy(), stops.copy(), targets.copy(), stops.copy()
    num_groups = len(starts)
    scale_inputs, scale_targets = float(max(targets_len, 1)), float(max(inputs_len, 1))  # both sides over one divisor
    left, row = n, 0
    while left > 0:
        kept = 0
        for g in range(num_groups):  # a new row begins: what is used up goes, the longest left is each one's candidate
            p = _last_left(below, stop[g])
            if p > start[g]:
                start[kept], length[kept], stop[kept], candidate[kept] = start[g], length[g], p, p
                kept += 1
        num_groups = kept
        room_inputs, room_targets = inputs_len, targets_len
        while True:
            best, best_room = -1, np.inf
            for g in range(num_groups - 1, -1, -1):
                if length[g] > room_targets:
                    continue
                targets_room = (scale_targets * (room_targets - length[g])) ** 2
                if targets_room >= best_room:
                    break
                p = candidate[g]
                if p > start[g] and (below[p] != p or inputs[p - 1] > room_inputs):
                    fitting = _last_fitting(inputs, start[g], p, room_inputs)
                    p = max(_last_left(below, fitting), start[g])  # a path may lead on into shorter targets
                    candidate[g] = p
                if p <= start[g]:
                    continue
                room = targets_room + (scale_inputs * (room_inputs - inputs[p - 1])) ** 2
                if room < best_room:
                    best, best_room = g, room
            if best < 0:
                break
            p = candidate[best]
            rows[p - 1] = row
            below[p] = p - 1
            room_inputs -= inputs[p - 1]
            room_targets -= length[best]
            left -= 1
        row += 1
    return rows


def _last_left(below: Lengths, p: int) -> int:
    """The last position up to p that is not taken; the way there is halved for the next search."""
    while below[p] != p:
        below[p] = below[below[p]]
        p = below[p]
    return p


def _last_fitting(inputs: Lengths, low: int, high: int, room: int) -> int:
    """The last position in low + 1 ... high whose inputs fit; low where none do."""
    while low < high:
        middle = (low + high + 1) // 2
        if inputs[middle - 1] <= room:
            low = middle
        else:
            high = middle - 1
    return low


def _number_by_first(rows: Lengths) -> Lengths:
    """Rows numbered again, from 0, in the order of their first examples."""
    number = np.full(rows.max() + 1, -1, dtype=np.int64)
    out = np.empty_like(rows)
    count = 0
    for i in range(len(rows)):
        if number[rows[i]] < 0:
            number[rows[i]] = count
            count += 1
        out[i] = number[rows[i]]
    return out


def _squared_norms(features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # One after the other: numpy's own sum adds in an order that depends on the machine.
    norms = np.zeros(len(features))
    for i in range(features.shape[0]):
        for k in range(features.shape[1]):
            norms[i] += features[i, k] * features[i, k]
    return norms


def _halve(features: npt.NDArray[np.float64], order: Lengths) -> Lengths:
    """`mixed_order`'s halving: (R, d) features of the rows and the rows heaviest first -> the rows in their order."""
    order = order.copy()
    spare = np.empty_like(order)
    balance = np.empty(features.shape[1])
    lows, highs = [0], [len(order)]
    while len(lows) > 0:
        low, high = lows.pop(), highs.pop()
        if high - low < 2:
            continue
        half = (high - low + 1) // 2
        balance[:] = 0.0
        for pair in range(half):
            one = order[low + 2 * pair]
            if low + 2 * pair + 1 == high:
                spare[low + pair] = one
                break
            other = order[low + 2 * pair + 1]
            tilt = 0.0
            for k in range(len(balance)):
                tilt += balance[k] * (features[one, k] - features[other, k])
            if tilt > 0.0 or (tilt == 0.0 and one > other):
                one, other = other, one
            for k in range(len(balance)):
                balance[k] += features[one, k] - features[other, k]
            spare[low + pair] = one
            spare[low + half + pair] = other
        order[low:high] = spare[low:high]  # either half still heaviest first
        lows.append(low)
        highs.append(low + half)
        lows.append(low + half)
        highs.append(high)
    return order
