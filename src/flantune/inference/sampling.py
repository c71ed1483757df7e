"""Tokens drawn by counter: seed, sample and place make a uniform number, the number picks a token off the
probabilities in the order of ids. Nothing else in the batch has a say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flantune.inference.likeliest import down_to
from flantune.inference.logits import Logits
from flantune.inference.requests import Sampling

_STEP = np.uint64(0x9E3779B97F4A7C15)  # of SplitMix64, as are the numbers of `_mixed`
_LIKELY = 1_024  # tokens that hold top_p's share nearly always; all are sorted where they do not


class Draw(NamedTuple):
    """Which draw of a request: how, of which sample, at which place of its text."""

    sampling: Sampling
    sample: int
    place: int


def uniforms(draws: Sequence[Draw]) -> npt.NDArray[np.float64]:
    """One number in (0, 1) for each, by SplitMix64's finaliser (Steele, Lea and Flood 2014) over the three counters."""
    # A seed is any integer: its low 64 bits count.
    seeds = np.array([d.sampling.seed & 0xFFFFFFFFFFFFFFFF for d in draws], dtype=np.uint64)
    state = _mixed(seeds + _STEP)
    for counter in ([d.sample for d in draws], [d.place for d in draws]):
        state = _mixed(state + _STEP * (np.array(counter, dtype=np.uint64) + np.uint64(1)))
    return ((state >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mixed(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def next_tokens(logits: Logits, draws: Sequence[Draw], vocabulary: int) -> list[int]:
    """The next token of each row, of the first `vocabulary`: the likeliest, or the one drawn."""
    told = [0] * len(draws)
    kinds: dict[tuple[float, int | None, float | None], list[int]] = {}
    for row, (sampling, _, _) in enumerate(draws):
        kind = (sampling.temperature, sampling.top_k, sampling.top_p) if sampling.temperature else (0.0, None, None)
        kinds.setdefault(kind, []).append(row)
    for (temperature, top_k, top_p), rows in kinds.items():
        chosen = logits if len(rows) == len(draws) else logits.of(rows)
        if temperature == 0:
            tokens = chosen.largest(1, vocabulary)[0][:, 0]
        else:
            numbers = torch.from_numpy(uniforms([draws[r] for r in rows]))
            tokens = draw_tokens(chosen, vocabulary, temperature, top_k, top_p, numbers)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            told[row] = token
    return told


def draw_tokens(
    logits: Logits, vocabulary: int, temperature: float, top_k: int | None, top_p: float | None, numbers: Tensor
) -> Tensor:
    """Of each row, the first of `vocabulary` tokens whose cumulative probability exceeds its number.

    In float64. `top_k` first, then `top_p` of what is left; among equally likely tokens the lower id is kept. The
    numbers are uniform in (0, 1), (rows,). Returns ids, int64 (rows,).
    """
    ids = None
    if top_k is None or top_k >= vocabulary:
        values = logits.whole(vocabulary)
    else:
        ids, values = logits.largest(top_k, vocabulary)
    scaled = values.double() / temperature
    # Not a softmax: its float32 sum would have a say, and the sum is needed for the number anyway.
    weights = torch.exp(scaled - scaled.amax(1, keepdim=True))
    if top_p is not None and top_p < 1:
        weights = weights * _nucleus(weights, top_p)
    reached = weights.cumsum(1)
    places = torch.searchsorted(reached, (numbers.to(reached.device) * reached[:, -1])[:, None], right=True)[:, 0]
    last = (weights > 0).long().mul_(torch.arange(weights.shape[1], device=weights.device)).amax(1)
    places = torch.minimum(places, last)  # a number so near 1 that its product rounds up to the sum
    return places if ids is None else ids.gather(1, places[:, None])[:, 0]


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """The fewest likeliest tokens of each row whose weights reach the share `top_p` of the sum; bool."""
    share = weights.sum(1, keepdim=True) * top_p
    likely = weights.topk(min(_LIKELY, weights.shape[1]), dim=1).values
    reached = likely.cumsum(1)
    if bool((reached[:, -1:] < share).any()) and likely.shape[1] < weights.shape[1]:
        likely = weights.sort(1, descending=True).values
        reached = likely.cumsum(1)
    count = (reached < share).sum(1, keepdim=True).add_(1).clamp_(max=likely.shape[1])
    return down_to(weights, likely.gather(1, count - 1), count)
