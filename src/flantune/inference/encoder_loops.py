"""Attention of a whole prompt to itself, both ways, as machine code.

Torch's fused attention multiplies at half of a processor's speed where heads are as narrow as T5's. Here keys and
values are laid out once for all queries, and sums stay in registers. Read as Python the loops compute the same slowly.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def attend_prompt(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """query, key and value (tokens, H, d), d a multiple of LANES, bias (H, 2 * longest - 1) by offset key - query,
    longest no less than the tokens -> (tokens, H, d)."""
    tokens, heads, width = query.shape
    panels = -(-tokens // LANES)
    keys = torch.empty(heads, panels, width, LANES)
    values = torch.empty(heads, width // LANES, tokens, LANES)
    out = torch.empty_like(query)
    compiled(_lay_out, quick=True, parallel=True)(*(t.numpy() for t in (key, value, keys, values)))
    # Threads have a like share if there are some pieces for each.
    pieces = -(-2 * torch.get_num_threads() // heads)
    share = -(-tokens // (_QUERIES * pieces)) * _QUERIES
    compiled(_attend, quick=True, parallel=True)(*(t.numpy() for t in (query, keys, values, bias, out)), share)
    return out


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


def _attend(query: Any, keys: Any, values: Any, bias: Any, out: Any, share: int) -> None:
    count, heads, _ = query.shape
    pieces = -(-count // share)
    for place in prange(heads * pieces):
        head, first = place // pieces, place % pieces * share
        last = min(first + share, count)
        _attend_head(query[:, head], keys[head], values[head], bias[head], out[:, head], first, last)


def _attend_head(query: Any, keys: Any, values: Any, bias: Any, out: Any, first: int, last: int) -> None:
    """The queries `first` to `last` in one head."""
    count, width = query.shape
    asked = np.zeros((_QUERIES, width), dtype=np.float32)
    made = np.empty((_QUERIES, width), dtype=np.float32)
    scores = np.zeros((_QUERIES, len(keys) * LANES), dtype=np.float32)
    for at in range(first, last, _QUERIES):
        queries = min(_QUERIES, last - at)
        for q in range(queries):
            offset = (len(bias) - 1) // 2 - at - q  # of the first key
            added, line = bias[offset : offset + count], scores[q]
            for i in range(count):
                line[i] = added[i]
            for w in range(width):
                asked[q, w] = query[at + q, w]
        for panel in range(len(keys)):
            for q in range(0, _QUERIES, 8):
                add_weighed(asked[q:], keys[panel], scores[q:, panel * LANES :])
        sums = _weights(scores, queries, count)
        for q in range(_QUERIES):
            for w in range(width):
                made[q, w] = 0
        for w in range(len(values)):
            for q in range(0, _QUERIES, 8):
                add_weighed(scores[q:, :count], values[w], made[q:, w * LANES :])
        for q in range(queries):
            for w in range(width):
                out[at + q, w] = made[q, w] / sums[q]


def _weights(scores: Any, queries: int, count: int) -> Any:
    """Scores to weights, in place; their sums."""
    sums = np.ones(len(scores), dtype=np.float32)
    for q in range(queries):
        for i in range(count, scores.shape[1]):
            scores[q, i] = LEAST
        sums[q] = weigh(scores[q], largest(scores[q]))
    return sums
