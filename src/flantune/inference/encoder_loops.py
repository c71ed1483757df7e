"""Attention of a whole prompt to itself, both ways, as machine code.

Torch's fused attention multiplies at half of a processor's speed where heads are as narrow as T5's. Here keys and
values are laid out once for all queries, and sums stay in registers. Read as Python the loops compute the same slowly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flantune.compiled import compiled, shared_threads
from flantune.inference.vectors import LANES, LEAST, add_weighed, exp, largest, weigh

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


@dataclass(frozen=True, slots=True)
class Seen:
    """What queries have seen: weighed sums of values (tokens, H, d), and of each the largest score and the sum of
    weights (tokens, H)."""

    sums: Tensor
    most: Tensor
    weights: Tensor

    @classmethod
    def none(cls, query: Tensor, sums: Tensor | None = None) -> Seen:
        """Room for what `look` writes: `sums`, where they are to stand in something larger."""
        tokens, heads, _ = query.shape
        sums = torch.empty_like(query) if sums is None else sums
        return cls(sums, torch.empty(tokens, heads), torch.empty(tokens, heads))

    def copy_into(self, other: Seen) -> None:
        for name in ("sums", "most", "weights"):
            getattr(other, name).copy_(getattr(self, name))


def attend_prompt(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """query, key and value (tokens, H, d), d a multiple of LANES, bias (H, 2 * longest - 1) by offset key - query,
    longest no less than the tokens -> (tokens, H, d)."""
    seen = Seen.none(query)
    look(query, Laid.out(key, value), bias, seen, last=True)
    return seen.sums


def look(
    query: Tensor, laid: Laid, bias: Tensor, seen: Seen, *, ahead: int = 0, again: bool = False, last: bool = False
) -> None:
    """Queries (tokens, H, d) look at the keys too, whose first stands `ahead` places after the first query; bias as
    `attend_prompt` says. `seen` is written: anew, or, `again`, on top of what it holds; the `last` time its sums become
    means."""
    tokens, heads, _ = query.shape
    # Threads have a like share if there are some pieces for each.
    pieces = -(-2 * torch.get_num_threads() // heads)
    share = -(-tokens // (_QUERIES * pieces)) * _QUERIES
    arrays = (query, laid.keys, laid.values, bias, seen.sums, seen.most, seen.weights)
    compiled(_attend, quick=True, parallel=True)(*(t.numpy() for t in arrays), share, ahead, again, last)


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


def _attend(
    query: Any,
    keys: Any,
    values: Any,
    bias: Any,
    sums: Any,
    most: Any,
    weights: Any,
    share: int,
    ahead: int,
    again: bool,
    last: bool,
) -> None:
    count, heads, _ = query.shape
    pieces = -(-count // share)
    for place in prange(heads * pieces):
        head, first = place // pieces, place % pieces * share
        end = min(first + share, count)
        held = (sums[:, head], most[:, head], weights[:, head])
        _attend_head(query[:, head], keys[head], values[head], bias[head], held, first, end, ahead, again, last)


def _attend_head(
    query: Any, keys: Any, values: Any, bias: Any, held: Any, first: int, end: int, ahead: int, again: bool, last: bool
) -> None:
    """The queries `first` to `end` in one head."""
    width, count = query.shape[1], values.shape[1]
    asked = np.zeros((_QUERIES, width), dtype=np.float32)
    made = np.empty((_QUERIES, width), dtype=np.float32)
    scores = np.zeros((_QUERIES, len(keys) * LANES), dtype=np.float32)
    for at in range(first, end, _QUERIES):
        queries = min(_QUERIES, end - at)
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
        _to_weights(scores, made, queries, count, held, at, again)
        for w in range(len(values)):
            for q in range(0, _QUERIES, 8):
                add_weighed(scores[q:, :count], values[w], made[q:, w * LANES :])
        sums, weights = held[0], held[2]
        for q in range(queries):
            parts = weights[at + q] if last else np.float32(1)
            for w in range(width):
                sums[at + q, w] = made[q, w] / parts


def _to_weights(scores: Any, made: Any, queries: int, count: int, held: Any, at: int, again: bool) -> None:
    """Scores to weights, in place; `made` to the sums that the new ones go on, `held` to what is true with them."""
    sums, most, weights = held
    made[:] = 0
    for q in range(queries):
        line = scores[q]
        for i in range(count, len(line)):
            line[i] = LEAST
        top = largest(line)
        if again:
            top = max(top, most[at + q])
        total = weigh(line, top)
        if again:
            kept = exp(most[at + q] - top)
            total += kept * weights[at + q]
            for w in range(made.shape[1]):
                made[q, w] = kept * sums[at + q, w]
        most[at + q], weights[at + q] = top, total
