"""The likeliest tokens of rows, told from rough logits and the exact ones of the few that may be among them, as machine
code. Read as Python the loops compute the same slowly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from flantune.compiled import compiled
from flantune.inference.vectors import ask

RUN = 32  # tokens that are looked at by the largest of them
ROUNDED = np.float32(2**-8)  # of a number, at most, where it is rounded to bfloat16: twice the half unit
_AHEAD = 2  # tokens, whose weights are asked of memory
_NONE = np.float32(-np.inf)
prange = range


def find(
    rough: Tensor,
    states: Tensor,
    weight: Tensor,
    wrong: tuple[Tensor, Tensor],
    wrong_in_runs: tuple[Tensor, Tensor],
    doubt: Tensor,
    count: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row the `count` largest logits, of equals the first: tokens, int64, ascending, and logits, (rows, count)
    each; and whether they were found, (rows,), which needs that not many more could be among them.

    rough (rows, vocabulary or more) bfloat16, states (rows, width), weight (vocabulary, width): a token's logit is
    within doubt[row, 0] wrong[0][token] + doubt[row, 1] wrong[1][token] of the rough one, but for its last rounding;
    `wrong_in_runs` are the largest of RUN tokens. What there is of them past the vocabulary is not looked at.
    """
    rows = len(states)
    ids, logits = torch.zeros(rows, count, dtype=torch.int64), torch.zeros(rows, count)
    found = torch.zeros(rows, dtype=torch.bool)
    arrays = [t.numpy() for t in (states, weight, *wrong, *wrong_in_runs, doubt, ids, logits, found)]
    compiled(_find, quick=True, parallel=True)(rough.view(torch.int16).numpy(), *arrays, 4 * count + 64)
    return ids, logits, found


def _find(
    rough: Any,
    states: Any,
    weight: Any,
    narrowed: Any,
    length: Any,
    narrowed_in_runs: Any,
    length_in_runs: Any,
    doubt: Any,
    ids: Any,
    logits: Any,
    found: Any,
    room: int,
) -> None:
    count = ids.shape[1]
    for row in prange(len(states)):
        seen, first, second = rough[row], doubt[row, 0], doubt[row, 1]
        most = _largest_of_runs(seen, len(weight))
        least = _at_least(most, narrowed_in_runs, length_in_runs, first, second, count)
        likely, many = np.empty(room, dtype=np.int64), 0
        for run in range(len(most)):
            if most[run] + _unsure(most[run], narrowed_in_runs[run], length_in_runs[run], first, second) < least:
                continue
            for token in range(run * RUN, min((run + 1) * RUN, len(weight))):
                value = _widened(seen[token])
                if value + _unsure(value, narrowed[token], length[token], first, second) >= least:
                    if many < room:
                        likely[many] = token
                    many += 1
        found[row] = count <= many and many <= room
        if found[row]:
            _keep_largest(likely[:many], _multiplied(states[row], weight, likely[:many]), ids[row], logits[row])


def _largest_of_runs(seen: Any, vocabulary: int) -> Any:
    most = np.full(-(-vocabulary // RUN), _NONE, dtype=np.float32)
    whole = vocabulary // RUN
    for run in range(whole):
        top = _NONE
        for i in range(RUN):
            top = max(top, _widened(seen[run * RUN + i]))
        most[run] = top
    for token in range(whole * RUN, vocabulary):
        most[whole] = max(most[whole], _widened(seen[token]))
    return most


def _widened(bits: Any) -> Any:
    """A number of bfloat16, given as the int16 of its bits."""
    return np.int32(np.int32(bits) << np.int32(16)).view(np.float32)


def _unsure(value: Any, narrowed: Any, length: Any, first: Any, second: Any) -> Any:
    return ROUNDED * abs(value) + first * narrowed + second * length


def _at_least(most: Any, narrowed: Any, length: Any, first: Any, second: Any, count: int) -> Any:
    """What the `count` largest logits have at the least: as much as so many runs have for certain."""
    sure = np.empty(len(most), dtype=np.float32)
    for run in range(len(most)):
        sure[run] = most[run] - _unsure(most[run], narrowed[run], length[run], first, second)
    return np.partition(sure, len(most) - count)[len(most) - count]


def _multiplied(state: Any, weight: Any, tokens: Any) -> Any:
    flat, width = weight.reshape(weight.size), len(state)
    values = np.empty(len(tokens), dtype=np.float32)
    for i in range(len(tokens)):
        if i + _AHEAD < len(tokens):
            ask(flat, tokens[i + _AHEAD] * width, width)
        total = np.float32(0)
        for w in range(width):
            total += state[w] * weight[tokens[i], w]
        values[i] = total
    return values


def _keep_largest(tokens: Any, values: Any, ids: Any, logits: Any) -> None:
    least = np.partition(values, len(values) - len(ids))[len(values) - len(ids)]
    equal = len(ids)  # to be kept of those that are as much as the least
    for value in values:
        equal -= value > least
    kept = 0
    for i in range(len(tokens)):
        if values[i] < least or (values[i] == least and equal == 0):
            continue
        equal -= values[i] == least
        ids[kept], logits[kept] = tokens[i], values[i]
        kept += 1
