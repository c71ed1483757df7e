"""Texts made of spans of ids, copied together: trimmed, ended with EOS, end to end."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from flantune.compiled import compiled
from flantune.types import Tokens

Counts = npt.NDArray[np.int64]


def gather(
    ids: Tokens, more: Tokens, places: Counts, counts: Counts, ends: Counts, limits: Counts, eos_id: int
) -> tuple[Tokens, Counts, Counts]:
    """Text t is spans ends[t-1] to ends[t], span s being `counts[s]` ids from `places[s]`, `more` following on `ids`.

    Returns (ids of all texts, each its first `limits[t]` - 1 ids and EOS; where each text ends; how many ids each
    had before it was cut).
    """
    totals = np.diff(np.concatenate([[0], np.cumsum(counts)])[np.concatenate([[0], ends])])
    stops = np.cumsum(np.minimum(totals, limits - 1) + 1)
    out = np.empty(stops[-1] if len(stops) else 0, dtype=np.int32)
    compiled(_copy)(ids, more, places, counts, ends, limits, eos_id, out)
    return out, stops, totals


def _copy(
    ids: Tokens, more: Tokens, places: Counts, counts: Counts, ends: Counts, limits: Counts, eos_id: int, out: Tokens
) -> None:
    at = 0
    span = 0
    for text in range(len(ends)):
        room = limits[text] - 1
        while span < ends[text]:
            count = min(counts[span], room)
            place = places[span]
            if place < len(ids):
                out[at : at + count] = ids[place : place + count]
            else:
                out[at : at + count] = more[place - len(ids) : place - len(ids) + count]
            at += count
            room -= count
            span += 1
        out[at] = eos_id
        at += 1
