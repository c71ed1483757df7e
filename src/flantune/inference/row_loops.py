"""Attention of rows that write, a few queries a row over many keys, as machine code.

Such attention reads much and computes little. From memory torch's fused attention does it at a third of the speed that
it has in the cache; these loops ask for what comes next while they compute. Read as Python, without numba, they compute
the same slowly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flantune.compiled import compiled, prefetch, shared_threads
from flantune.models.layout import Ints

_TILE = 16  # states looked at together: with queries and sums of a width of 512 they fit the second cache
_AHEAD = 2 * _TILE  # states between those that are asked of memory and those looked at
_LINE = 16  # numbers that memory gives at once
_WORTH = 1 << 20  # numbers; fewer stay in the processor's cache from layer to layer, where torch is as quick
MOST_QUERIES = 32  # of a row; with more, computing is all there is, and torch's products are as quick
_LEAST = np.float32(-1e30)  # finite, so that there is a difference of two
prange = range


def loops_pay(query: Tensor, numbers: int) -> bool:
    """Whether rows with such a query that look at so many numbers in all are better looked after here."""
    plain = query.device.type == "cpu" and query.dtype == torch.float32
    return plain and numbers >= _WORTH and shared_threads()


def attend_states(asked: Tensor, states: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
    """asked (rows, queries, width), states (rows, n, width), n a multiple of 4 and all of them numbers -> weighed sums
    (rows, queries, width) of the first `lengths` states of each row, which are keys and values of all queries."""
    queries = asked.shape[1]
    asked = functional.pad(asked * scale, (0, 0, 0, -queries % 4)).contiguous()
    out = torch.empty_like(asked)
    compiled(_attend_states, quick=True, parallel=True)(
        asked.numpy(), states.numpy(), np.array(lengths, dtype=np.int64), out.numpy()
    )
    return out[:, :queries]


def attend_own(
    query: Tensor,
    new: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor],
    lengths: Ints,
    scale: float,
    window: int | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A new token of each row: its key and value, `new` (rows, KH, d) each, go behind the `lengths` that are `held`
    (rows or more, KH, room, d) each, and its query (rows, H, d) looks at all of them, or at the last `window`. `bias`
    (H, n) is added, its last column for the new token, the one before for the token before. -> (rows, H, d), log of the
    sum (rows, H)."""
    query = query.contiguous()
    out, total = torch.empty_like(query), query.new_empty(query.shape[:2])
    added = query.new_zeros(query.shape[1], 0) if bias is None else bias.contiguous()
    arrays = [t.numpy() for t in (query, *(t.contiguous() for t in new), *held, added)]
    nearest = int(lengths.max(initial=0)) + 1 if window is None else window
    compiled(_attend_own, quick=True, parallel=True)(*arrays, lengths, scale, nearest, out.numpy(), total.numpy())
    return out, total


def _attend_own(
    query: Any,
    new_keys: Any,
    new_values: Any,
    keys: Any,
    values: Any,
    bias: Any,
    lengths: Any,
    scale: float,
    nearest: int,
    out: Any,
    total: Any,
) -> None:
    rows, groups, _ = new_keys.shape
    for place in prange(rows * groups):
        row, group = place // groups, place % groups
        new = lengths[row]
        _put(new_keys[row, group], keys[row, group, new])
        _put(new_values[row, group], values[row, group, new])
        first = max(0, new + 1 - nearest)
        together = query.shape[1] // groups  # heads that share a key
        for head in range(group * together, (group + 1) * together):
            seen = keys[row, group], values[row, group], first, new + 1
            total[row, head] = _attend_run(query[row, head], *seen, bias[head], scale, out[row, head])


def _put(new: Any, held: Any) -> None:
    for w in range(len(new)):
        held[w] = new[w]


def _attend_run(query: Any, keys: Any, values: Any, first: int, stop: int, bias: Any, scale: float, out: Any) -> float:
    weights = np.empty(stop - first, dtype=np.float32)
    width = len(query)
    largest = _LEAST
    for i in range(first, stop):
        score = np.float32(0)
        for w in range(width):
            score += query[w] * keys[i, w]
        score *= np.float32(scale)
        if len(bias) > 0:
            score += bias[len(bias) - stop + i]
        weights[i - first] = score
        largest = max(largest, score)
    total = np.float32(0)
    for i in range(len(weights)):
        weights[i] = math.exp(weights[i] - largest)
        total += weights[i]
    for w in range(width):
        out[w] = 0
    for i in range(first, stop):
        weight = weights[i - first] / total
        for w in range(width):
            out[w] += weight * values[i, w]
    return float(largest) + math.log(total)


def _attend_states(asked: Any, states: Any, lengths: Any, out: Any) -> None:
    rows, _, _ = states.shape
    for row in prange(rows):
        _attend_row(asked, states, row, lengths[row], out[row])


def _attend_row(asked: Any, states: Any, row: int, length: int, out: Any) -> None:
    """One row's, tile by tile; what was summed is scaled down whenever a larger score comes."""
    _, room, width = states.shape
    flat = states.reshape(states.size)
    own = asked[row]
    queries = len(own)
    scores = np.empty((queries, _TILE), dtype=np.float32)
    most = np.full(queries, _LEAST, dtype=np.float32)
    total = np.zeros(queries, dtype=np.float32)
    for q in range(queries):
        for w in range(width):
            out[q, w] = 0
    for first in range(0, length, _TILE):
        count = min(_TILE, -(-(length - first) // 4) * 4)  # by fours; those past the end weigh nothing
        tile = states[row, first : first + count]
        # What comes after the row's last state is the next row's first.
        ahead = first + _AHEAD if first + _AHEAD < length else room + (first + _AHEAD - length) // _TILE * _TILE
        at = (row * room + ahead) * width
        share = count * width // (2 * (count // 4) * (queries // 4))
        for i in range(0, count, 4):
            for q in range(0, queries, 4):
                at = _ask(flat, at, share)
                _products(tile, i, own, q, scores)
        for q in range(queries):
            for i in range(length - first, count):
                scores[q, i] = _LEAST
            _weigh(scores[q], count, most, total, q, out[q])
        for i in range(0, count, 4):
            for q in range(0, queries, 4):
                at = _ask(flat, at, share)
                _add(tile, i, scores, q, out)
    for q in range(queries):
        for w in range(width):
            out[q, w] /= total[q]


def _ask(flat: Any, at: int, share: int) -> int:
    stop = min(at + share, len(flat))
    for place in range(at, stop, _LINE):
        prefetch(flat, place)
    return at + share


def _weigh(scores: Any, count: int, most: Any, total: Any, q: int, out: Any) -> None:
    """Scores of a tile to weights, in place; the query's largest score, sum of weights and weighed sum kept up."""
    largest = most[q]
    for i in range(count):
        largest = max(largest, scores[i])
    if largest > most[q]:
        less = math.exp(most[q] - largest)
        total[q] *= less
        for d in range(len(out)):
            out[d] *= less
        most[q] = largest
    for i in range(count):
        scores[i] = math.exp(scores[i] - largest)
        total[q] += scores[i]


def _products(tile: Any, i: int, queries: Any, q: int, scores: Any) -> None:
    """Of four states with four queries: sixteen sums that stay in registers."""
    s0, s1, s2, s3 = tile[i], tile[i + 1], tile[i + 2], tile[i + 3]
    q0, q1, q2, q3 = queries[q], queries[q + 1], queries[q + 2], queries[q + 3]
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = np.float32(0)
    c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = np.float32(0)
    for w in range(tile.shape[1]):
        x0, x1, x2, x3 = s0[w], s1[w], s2[w], s3[w]
        y = q0[w]
        a0, a1, a2, a3 = a0 + x0 * y, a1 + x1 * y, a2 + x2 * y, a3 + x3 * y
        y = q1[w]
        b0, b1, b2, b3 = b0 + x0 * y, b1 + x1 * y, b2 + x2 * y, b3 + x3 * y
        y = q2[w]
        c0, c1, c2, c3 = c0 + x0 * y, c1 + x1 * y, c2 + x2 * y, c3 + x3 * y
        y = q3[w]
        d0, d1, d2, d3 = d0 + x0 * y, d1 + x1 * y, d2 + x2 * y, d3 + x3 * y
    scores[q, i], scores[q, i + 1], scores[q, i + 2], scores[q, i + 3] = a0, a1, a2, a3
    scores[q + 1, i], scores[q + 1, i + 1], scores[q + 1, i + 2], scores[q + 1, i + 3] = b0, b1, b2, b3
    scores[q + 2, i], scores[q + 2, i + 1], scores[q + 2, i + 2], scores[q + 2, i + 3] = c0, c1, c2, c3
    scores[q + 3, i], scores[q + 3, i + 1], scores[q + 3, i + 2], scores[q + 3, i + 3] = d0, d1, d2, d3


def _add(tile: Any, i: int, weights: Any, q: int, out: Any) -> None:
    """Four states, weighed, to the sums of four queries."""
    s0, s1, s2, s3 = tile[i], tile[i + 1], tile[i + 2], tile[i + 3]
    o0, o1, o2, o3 = out[q], out[q + 1], out[q + 2], out[q + 3]
    a0, a1, a2, a3 = weights[q, i], weights[q, i + 1], weights[q, i + 2], weights[q, i + 3]
    b0, b1, b2, b3 = weights[q + 1, i], weights[q + 1, i + 1], weights[q + 1, i + 2], weights[q + 1, i + 3]
    c0, c1, c2, c3 = weights[q + 2, i], weights[q + 2, i + 1], weights[q + 2, i + 2], weights[q + 2, i + 3]
    d0, d1, d2, d3 = weights[q + 3, i], weights[q + 3, i + 1], weights[q + 3, i + 2], weights[q + 3, i + 3]
    for w in range(tile.shape[1]):
        x0, x1, x2, x3 = s0[w], s1[w], s2[w], s3[w]
        o0[w] += x0 * a0 + x1 * a1 + x2 * a2 + x3 * a3
        o1[w] += x0 * b0 + x1 * b1 + x2 * b2 + x3 * b3
        o2[w] += x0 * c0 + x1 * c1 + x2 * c2 + x3 * c3
        o3[w] += x0 * d0 + x1 * d1 + x2 * d2 + x3 * d3
