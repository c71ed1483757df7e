"""Attention of a whole prompt to itself, both ways, as machine code.

Torch's fused attention multiplies at half of a processor's speed where heads are as narrow as T5's. Here keys and
values are laid out once for all queries, and sums stay in registers. Read as Python the loops compute the same slowly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flantune.compiled import compiled, shared_threads
from flantune.inference.vectors import LANES, LEAST, add_weighed, largest, weigh

_MUCH = 5e11  # additions and multiplications; for fewer it takes longer to load the code than it saves
_QUERIES = 16  # whose scores are held at once: with a head's keys they fit the second cache
prange = range


def prompts_pay(model: Any, lengths: Sequence[int]) -> bool:
    """Whether prompts of so many tokens, asked of this model's encoder, are better looked after here."""
    config = model.config
    work = 4 * config.num_heads * config.d_kv * config.num_layers * sum(n * n for n in lengths)
    plain = model.device.type == "cpu" and model.dtype == torch.float32
    return plain and config.d_kv % LANES == 0 and work >= _MUCH and shared_threads()


@dataclass(frozen=True, slots=True)
class Laid:
    """Keys and values of some tokens as the loops read them: (H, panels, d, LANES), LANES tokens side by side, and
    (H, d / LANES, tokens, LANES)."""

    keys: Tensor
    values: Tensor

    @classmethod
    def out(cls, key: Tensor, value: Tensor) -> Laid:
        """key and value (tokens, H, d), d a multiple of LANES."""
        tokens, heads, width = key.shape
        keys = torch.empty(heads, -(-tokens // LANES), width, LANES)
        values = torch.empty(heads, width // LANES, tokens, LANES)
        compiled(_lay_out, quick=True, parallel=True)(*(t.numpy() for t in (key, value, keys, values)))
        return cls(keys, values)


def attend_prompt(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """query, key and value (tokens, H, d), d a multiple of LANES, bias (H, 2 * longest - 1) by offset key - query,
    longest no less than the tokens -> (tokens, H, d)."""
    return attend_laid(query, Laid.out(key, value), bias)[0]


def attend_laid(query: Tensor, laid: Laid, bias: Tensor, ahead: int = 0) -> tuple[Tensor, Tensor]:
    """Queries (tokens, H, d) look at keys whose first stands `ahead` places after the first query; bias as
    `attend_prompt` says -> (tokens, H, d), log of the sum (tokens, H)."""
    tokens, heads, _ = query.shape
    out, total = torch.empty_like(query), torch.empty(tokens, heads)
    # Threads have a like share if there are some pieces for each.
    pieces = -(-2 * torch.get_num_threads() // heads)
    share = -(-tokens // (_QUERIES * pieces)) * _QUERIES
    arrays = (query, laid.keys, laid.values, bias, out, total)
    compiled(_attend, quick=True, parallel=True)(*(t.numpy() for t in arrays), share, ahead)
    return out, total


def _lay_out(key: Any, value: Any, keys: Any, values: Any) -> None:
    """keys (H, panels, d, LANES), LANES tokens side by side, 0 where the last has no more; values (H, d / LANES,
    tokens, LANES)."""
    count, heads, width = key.shape
    for panel in prange(keys.shape[1]):
        first, last = panel * LANES, min((panel + 1) * LANES, count)
        for head in range(heads):
            if last < first + LANES:
                keys[head, panel] = 0
            for w in range(width):
                for i in range(first, last):
                    keys[head, panel, w, i - first] = key[i, head, w]
            for w in range(width // LANES):
                for i in range(first, last):
                    for lane in range(LANES):
                        values[head, w, i, lane] = value[i, head, w * LANES + lane]


def _attend(query: Any, keys: Any, values: Any, bias: Any, out: Any, total: Any, share: int, ahead: int) -> None:
    count, heads, _ = query.shape
    pieces = -(-count // share)
    for place in prange(heads * pieces):
        head, first = place // pieces, place % pieces * share
        last = min(first + share, count)
        made = (out[:, head], total[:, head])
        _attend_head(query[:, head], keys[head], values[head], bias[head], made, first, last, ahead)


def _attend_head(query: Any, keys: Any, values: Any, bias: Any, made: Any, first: int, last: int, ahead: int) -> None:
    """The queries `first` to `last` in one head."""
    out, total = made
    width, count = query.shape[1], values.shape[1]
    asked = np.zeros((_QUERIES, width), dtype=np.float32)
    weighed = np.empty((_QUERIES, width), dtype=np.float32)
    scores = np.zeros((_QUERIES, len(keys) * LANES), dtype=np.float32)
    for at in range(first, last, _QUERIES):
        queries = min(_QUERIES, last - at)
        for q in range(queries):
            offset = (len(bias) - 1) // 2 + ahead - at - q  # of the first key
            added, line = bias[offset : offset + count], scores[q]
            for i in range(count):
                line[i] = added[i]
            for w in range(width):
                asked[q, w] = query[at + q, w]
        for panel in range(len(keys)):
            for q in range(0, _QUERIES, 8):
                add_weighed(asked[q:], keys[panel], scores[q:, panel * LANES :])
        sums = _weights(scores, count, total[at : at + queries])
        for q in range(_QUERIES):
            for w in range(width):
                weighed[q, w] = 0
        for w in range(len(values)):
            for q in range(0, _QUERIES, 8):
                add_weighed(scores[q:, :count], values[w], weighed[q:, w * LANES :])
        for q in range(queries):
            for w in range(width):
                out[at + q, w] = weighed[q, w] / sums[q]


def _weights(scores: Any, count: int, total: Any) -> Any:
    """Scores to weights, in place; their sums, and in `total` the sums' logs."""
    sums = np.ones(len(scores), dtype=np.float32)
    for q in range(len(total)):
        for i in range(count, scores.shape[1]):
            scores[q, i] = LEAST
        most = largest(scores[q])
        sums[q] = weigh(scores[q], most)
        total[q] = most + math.log(sums[q])
    return sums
