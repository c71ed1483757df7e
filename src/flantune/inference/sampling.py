"""Tokens drawn by counter: seed, sample and place make a uniform number, the number picks a token off the
probabilities in the order of ids. Nothing else in the batch has a say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flantune.inference.requests import Sampling

_STEP = np.uint64(0x9E3779B97F4A7C15)  # of SplitMix64, as are the numbers of `_mixed`
_RUN = 32  # numbers of a row that are looked at by their largest
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


def next_tokens(logits: Tensor, draws: Sequence[Draw]) -> list[int]:
    """The next token of each row of logits (rows, vocabulary): the likeliest, or the one drawn."""
    told = [0] * len(draws)
    kinds: dict[tuple[float, int | None, float | None], list[int]] = {}
    for row, (sampling, _, _) in enumerate(draws):
        kind = (sampling.temperature, sampling.top_k, sampling.top_p) if sampling.temperature else (0.0, None, None)
        kinds.setdefault(kind, []).append(row)
    for (temperature, top_k, top_p), rows in kinds.items():
        chosen = logits if len(rows) == len(draws) else logits[torch.tensor(rows, device=logits.device)]
        if temperature == 0:
            tokens = chosen.argmax(-1)
        else:
            numbers = torch.from_numpy(uniforms([draws[r] for r in rows])).to(logits.device)
            tokens = draw_tokens(chosen, temperature, top_k, top_p, numbers)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            told[row] = token
    return told


def draw_tokens(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, numbers: Tensor) -> Tensor:
    """Of each row of logits (rows, vocabulary), the first token whose cumulative probability exceeds its number.

    In float64. `top_k` first, then `top_p` of what is left; among equally likely tokens the lower id is kept. The
    numbers are uniform in (0, 1), (rows,). Returns ids, int64 (rows,).
    """
    ids = None
    if top_k is not None and top_k < logits.shape[1]:
        ids = likeliest(logits, top_k)
        logits = logits.gather(1, ids)
    scaled = logits.double() / temperature
    # Not a softmax: its float32 sum would have a say, and the sum is needed for the number anyway.
    weights = torch.exp(scaled - scaled.amax(1, keepdim=True))
    if top_p is not None and top_p < 1:
        weights = weights * _nucleus(weights, top_p)
    reached = weights.cumsum(1)
    places = torch.searchsorted(reached, (numbers * reached[:, -1])[:, None], right=True)[:, 0]
    last = (weights > 0).long().mul_(torch.arange(weights.shape[1], device=weights.device)).amax(1)
    places = torch.minimum(places, last)  # a number so near 1 that its product rounds up to the sum
    return places if ids is None else ids.gather(1, places[:, None])[:, 0]


def likeliest(values: Tensor, count: int) -> Tensor:
    """Places of the `count` largest of each row of (rows, n), ascending; of equals the first. int64 (rows, count).

    A long row is looked at in runs: what is among the `count` largest stands in one of the `count` runs with the
    largest maxima, of equal ones the first.
    """
    runs = values.shape[1] // _RUN
    if runs <= 2 * count:
        least = values.topk(count, dim=1).values[:, -1:]
        kept = _down_to(values, least, torch.full_like(least, count, dtype=torch.int64))
        return kept.nonzero()[:, 1].view(-1, count)
    in_runs = values[:, : runs * _RUN].unflatten(1, (runs, _RUN))
    chosen = likeliest(in_runs.amax(2), count)[:, :, None]
    places = (chosen * _RUN + torch.arange(_RUN, device=values.device)).flatten(1)
    rest = torch.arange(runs * _RUN, values.shape[1], device=values.device).expand(len(values), -1)
    places = torch.cat([places, rest], 1)
    return places.gather(1, likeliest(values.gather(1, places), count))


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """The fewest likeliest tokens of each row whose weights reach the share `top_p` of the sum; bool."""
    share = weights.sum(1, keepdim=True) * top_p
    likely = weights.topk(min(_LIKELY, weights.shape[1]), dim=1).values
    reached = likely.cumsum(1)
    if bool((reached[:, -1:] < share).any()) and likely.shape[1] < weights.shape[1]:
        likely = weights.sort(1, descending=True).values
        reached = likely.cumsum(1)
    count = (reached < share).sum(1, keepdim=True).add_(1).clamp_(max=likely.shape[1])
    return _down_to(weights, likely.gather(1, count - 1), count)


def _down_to(values: Tensor, least: Tensor, count: Tensor) -> Tensor:
    """The `count` largest of each row, `least` being the smallest of them; of equals the first. bool."""
    above, equal = values > least, values == least
    left = count - above.sum(1, keepdim=True)
    return above | (equal & (equal.cumsum(1) <= left))
