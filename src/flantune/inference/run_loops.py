"""Attention of rows that write to a run of keys that they share, as machine code.

Its keys stay in the cache for all the rows, so that to multiply is all there is to do; torch's fused attention
does that at two thirds of the speed. Read as Python the loops compute the same slowly.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flantune.compiled import compiled
from flantune.inference.row_loops import by_eights, loops_pay
from flantune.inference.vectors import LANES, LEAST, add_weighed, ask, exp

_TILE = 64  # keys looked at together: they stay in the first cache for all queries
_QUERIES = 64  # whose scores are held at once
_FEWEST = 8  # queries, for which there is something to gain
prange = range


def run_pays(queries: Tensor, keys: Tensor) -> bool:
    """Whether `attend_run` is the quicker way for such (KH, Q, d) and (KH, n, d)."""
    _, many, width = queries.shape
    plain = width % LANES == 0 and keys.dtype == queries.dtype
    return many >= _FEWEST and plain and loops_pay(queries, queries.numel() * keys.shape[1])


def attend_run(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """queries (KH, Q, d) that all look at keys and values (KH, n, d), d a multiple of LANES -> (KH, Q, d), log of the
    sum (KH, Q)."""
    groups, many, _ = queries.shape
    asked = by_eights(queries, scale)
    out, total = torch.empty_like(asked), asked.new_empty(asked.shape[:2])
    # Threads have a like share if there are some pieces for each.
    pieces = max(-(-asked.shape[1] // _QUERIES), -(-2 * torch.get_num_threads() // groups))
    share = -(-asked.shape[1] // (8 * pieces)) * 8
    compiled(_attend_run, quick=True, parallel=True)(
        *(t.numpy() for t in (asked, keys.contiguous(), values.contiguous(), out, total)), share
    )
    return out[:, :many], total[:, :many]


def _attend_run(asked: Any, keys: Any, values: Any, out: Any, total: Any, share: int) -> None:
    groups, queries, _ = asked.shape
    pieces = -(-queries // share)
    for place in prange(groups * pieces):
        group, first = place // pieces, place % pieces * share
        last = min(first + share, queries)
        asked_here, out_here = asked[group, first:last], out[group, first:last]
        following = keys[min((place + 1) // pieces, groups - 1)]
        _attend(asked_here, keys[group], values[group], out_here, total[group, first:last], following)


def _attend(asked: Any, keys: Any, values: Any, out: Any, total: Any, following: Any) -> None:
    """Scores stand key by key, the queries side by side: sixteen of them are looked after at once. `following`: the
    keys that come after."""
    queries, width = asked.shape
    count, across = len(keys), -(-queries // LANES) * LANES
    turned = np.zeros((width, across), dtype=np.float32)
    for q in range(queries):
        for w in range(width):
            turned[w, q] = asked[q, w]
        for w in range(width):
            out[q, w] = 0
    scores = np.zeros((count, across), dtype=np.float32)
    whole = count // 8 * 8
    flat_values, flat_following = values.reshape(values.size), following.reshape(following.size)
    for first in range(0, whole, _TILE):
        for q in range(0, across, LANES):
            for i in range(first, min(first + _TILE, whole), 8):
                if q == 0:
                    ask(flat_values, i * width, 8 * width)
                add_weighed(keys[i:], turned[:, q:], scores[i:, q:])
    for i in range(whole, count):
        for w in range(width):
            for q in range(across):
                scores[i, q] += keys[i, w] * turned[w, q]
    sums = _weigh_columns(scores, total)
    by_query = scores.T
    for first in range(0, count, _TILE):
        tile = values[first : min(first + _TILE, count)]
        for q in range(0, queries, 8):
            for w in range(0, width, LANES):
                if q == 0:
                    ask(flat_following, first * width + w * len(tile), LANES * len(tile))
                add_weighed(by_query[q:, first : first + len(tile)], tile[:, w:], out[q:, w:])
    for q in range(queries):
        for w in range(width):
            out[q, w] /= sums[q]


def _weigh_columns(scores: Any, total: Any) -> Any:
    """Scores (keys, queries or more) to weights, in place; their sums, and in `total` the sums' logs."""
    across = scores.shape[1]
    most, sums = np.full(across, LEAST, dtype=np.float32), np.zeros(across, dtype=np.float32)
    for i in range(len(scores)):
        for q in range(across):
            most[q] = max(most[q], scores[i, q])
    for i in range(len(scores)):
        for q in range(across):
            scores[i, q] = exp(scores[i, q] - most[q])
            sums[q] += scores[i, q]
    for q in range(len(total)):
        total[q] = most[q] + math.log(sums[q])
    return sums
