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

from flantune.compiled import compiled, shared_threads
from flantune.inference.vectors import LANES, LEAST, add_weighed, ask, dots, exp, largest, weigh
from flantune.models.layout import Ints

_TILE = 32  # states looked at together: with queries and sums of a width of 512 they fit the second cache
_AHEAD = 2 * _TILE  # states between those that are asked of memory and those looked at
_WORTH = 1 << 20  # numbers; fewer stay in the processor's cache from layer to layer, where torch is as quick
_MOST_QUERIES = 64  # of a row; with more, computing is all there is, and torch's products are as quick
prange = range


def loops_pay(query: Tensor, numbers: int) -> bool:
    """Whether rows with such a query that look at so many numbers in all are better looked after here."""
    plain = query.device.type == "cpu" and query.dtype == torch.float32
    return plain and numbers >= _WORTH and shared_threads()


def states_pay(asked: Tensor, tokens: int) -> bool:
    """The same of `attend_states`, with `asked` as there; `tokens`: of all rows."""
    _, queries, width = asked.shape
    return queries <= _MOST_QUERIES and width % LANES == 0 and loops_pay(asked, tokens * width)


def keys_pay(query: Tensor, tokens: int) -> bool:
    """The same of `attend_keys`."""
    _, _, heads, width = query.shape
    return width % LANES == 0 and loops_pay(query, 2 * tokens * heads * width)


def attend_states(asked: Tensor, states: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
    """asked (rows, queries, width), states (rows, n, width), n a multiple of 4, the width one of LANES, all of them
    numbers -> weighed sums (rows, queries, width) of the first `lengths` states of each row, which are keys and values
    of all queries."""
    queries = asked.shape[1]
    asked = by_eights(asked, scale)
    out = torch.empty_like(asked)
    compiled(_attend_states, quick=True, parallel=True)(
        asked.numpy(), states.numpy(), np.array(lengths, dtype=np.int64), out.numpy()
    )
    return out[:, :queries]


def attend_keys(query: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int], scale: float) -> Tensor:
    """Several tokens of each row, query (rows, tokens, H, d), that look at its first `lengths` keys and values, (rows,
    n, H * d) each, n a multiple of LANES and d too, -> (rows, tokens, H, d)."""
    tokens = query.shape[1]
    asked = by_eights(query.transpose(1, 2), scale)
    out = torch.empty_like(asked)
    compiled(_attend_keys, quick=True, parallel=True)(
        asked.numpy(), keys.numpy(), values.numpy(), np.array(lengths, dtype=np.int64), out.numpy()
    )
    return out[:, :, :tokens].transpose(1, 2)


def by_eights(queries: Tensor, scale: float) -> Tensor:
    """(..., queries, width), the queries filled up to a multiple of 8; copied only if something changes."""
    scaled = queries if scale == 1 else queries * scale
    missing = -queries.shape[-2] % 8
    return (functional.pad(scaled, (0, 0, 0, missing)) if missing else scaled).contiguous()


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


def _attend_keys(asked: Any, keys: Any, values: Any, lengths: Any, out: Any) -> None:
    for row in prange(len(keys)):
        _attend_row_keys(asked[row], keys, values, row, lengths[row], out[row])


def _attend_row_keys(asked: Any, keys: Any, values: Any, row: int, length: int, out: Any) -> None:
    """One row's: all scores, then all weighed sums."""
    heads, queries, width = asked.shape
    count = -(-length // LANES) * LANES
    scores = np.empty((heads, queries, count), dtype=np.float32)
    flat_keys, flat_values = keys.reshape(keys.size), values.reshape(values.size)
    across, begins = heads * width, row * keys[0].size
    for first in range(0, count, _TILE):
        tile = keys[row, first : min(first + _TILE, count)]
        ahead = first + _AHEAD
        for i in range(0, len(tile), 4):
            # What comes after the keys are the values, and after them the next row's keys.
            if ahead < count:
                ask(flat_keys, begins + (ahead + i) * across, 4 * across)
            else:
                ask(flat_values, begins + (ahead - count + i) * across, 4 * across)
            for head in range(heads):
                for q in range(0, queries, 4):
                    dots(tile[i:, head * width :], asked[head, q:], scores[head, q:, first + i :])
    total = np.empty((heads, queries), dtype=np.float32)
    for head in range(heads):
        for q in range(queries):
            for i in range(length, count):
                scores[head, q, i] = LEAST
            total[head, q] = weigh(scores[head, q], largest(scores[head, q]))
            for w in range(width):
                out[head, q, w] = 0
    for first in range(0, count, _TILE):
        tile = values[row, first : min(first + _TILE, count)]
        ahead = first + _AHEAD
        for w in range(0, across, LANES):
            if ahead < count:
                ask(flat_values, begins + ahead * across + w * len(tile), LANES * len(tile))
            else:
                ask(flat_keys, begins + keys[0].size + (ahead - count) * across + w * len(tile), LANES * len(tile))
            head, at = w // width, w % width
            for q in range(0, queries, 8):
                add_weighed(scores[head, q:, first : first + len(tile)], tile[:, w:], out[head, q:, at:])
    for head in range(heads):
        for q in range(queries):
            for w in range(width):
                out[head, q, w] /= total[head, q]


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
    rows, groups, width = new_keys.shape
    flat, room = keys.reshape(keys.size), keys.shape[2]
    for place in prange(rows * groups):
        row, group = place // groups, place % groups
        new = lengths[row]
        _put(new_keys[row, group], keys[row, group, new])
        _put(new_values[row, group], values[row, group, new])
        first = max(0, new + 1 - nearest)
        together = query.shape[1] // groups  # heads that share a key
        for head in range(group * together, (group + 1) * together):
            seen = keys[row, group], values[row, group], first, new + 1
            following = flat[min(place + 1, rows * groups - 1) * room * width :]
            total[row, head] = _attend_query(query[row, head], *seen, bias[head], scale, out[row, head], following)


def _put(new: Any, held: Any) -> None:
    for w in range(len(new)):
        held[w] = new[w]


def _attend_query(
    query: Any, keys: Any, values: Any, first: int, stop: int, bias: Any, scale: float, out: Any, following: Any
) -> float:
    """Of one query; `following`: the keys that come after, flat."""
    weights = np.empty(stop - first, dtype=np.float32)
    width = len(query)
    flat = values.reshape(values.size)
    most = LEAST
    for i in range(first, stop):
        score = np.float32(0)
        ask(flat, i * width, width)
        for w in range(width):
            score += query[w] * keys[i, w]
        score *= np.float32(scale)
        if len(bias) > 0:
            score += bias[len(bias) - stop + i]
        weights[i - first] = score
        most = max(most, score)
    total = np.float32(0)
    for i in range(len(weights)):
        weights[i] = exp(weights[i] - most)
        total += weights[i]
    for w in range(width):
        out[w] = 0
    for i in range(first, stop):
        weight = weights[i - first] / total
        ask(following, i * width, width)
        for w in range(width):
            out[w] += weight * values[i, w]
    return float(most) + math.log(total)


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
    most = np.full(queries, LEAST, dtype=np.float32)
    total = np.zeros(queries, dtype=np.float32)
    out[:] = 0
    for first in range(0, length, _TILE):
        count = min(_TILE, -(-(length - first) // 4) * 4)  # by fours; those past the end weigh nothing
        tile = states[row, first : first + count]
        # What comes after the row's last state is the next row's first.
        ahead = first + _AHEAD if first + _AHEAD < length else room + (first + _AHEAD - length) // _TILE * _TILE
        at = (row * room + ahead) * width
        for i in range(0, count, 4):
            at = ask(flat, at, 2 * width)
            for q in range(0, queries, 4):
                dots(tile[i:], own[q:], scores[q:, i:])
        for q in range(queries):
            for i in range(length - first, -(-count // LANES) * LANES):
                scores[q, i] = LEAST
            _weigh_tile(scores[q, : -(-count // LANES) * LANES], most, total, q, out[q])
        for w in range(0, width, LANES):
            at = ask(flat, at, count * LANES // 2)
            for q in range(0, queries, 8):
                add_weighed(scores[q:, :count], tile[:, w:], out[q:, w:])
    for q in range(queries):
        out[q] /= total[q]


def _weigh_tile(scores: Any, most: Any, total: Any, q: int, out: Any) -> None:
    """Scores of a tile to weights, in place; the query's largest score, sum of weights and weighed sum kept up."""
    now = max(most[q], largest(scores))
    if now > most[q]:
        less = math.exp(most[q] - now)
        total[q] *= less
        for w in range(len(out)):
            out[w] *= less
        most[q] = now
    total[q] += weigh(scores, now)
