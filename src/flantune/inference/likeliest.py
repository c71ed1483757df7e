"""The largest numbers of long rows."""

from __future__ import annotations

import torch
from torch import Tensor

_RUN = 32  # numbers of a row that are looked at by their largest


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Places, ascending, and values of the `count` largest of each row of (rows, n), of equals the first: int64 and
    values, (rows, count) each."""
    places = values.argmax(1, keepdim=True) if count == 1 else likeliest(values, count)
    return places, values.gather(1, places)


def likeliest(values: Tensor, count: int) -> Tensor:
    """Places of the `count` largest of each row of (rows, n), ascending; of equals the first. int64 (rows, count).

    A long row is looked at in runs: what is among the `count` largest stands in one of the `count` runs with the
    largest maxima, of equal ones the first.
    """
    runs = values.shape[1] // _RUN
    if runs <= 2 * count:
        least = values.topk(count, dim=1).values[:, -1:]
        kept = down_to(values, least, torch.full_like(least, count, dtype=torch.int64))
        return kept.nonzero()[:, 1].view(-1, count)
    in_runs = values[:, : runs * _RUN].unflatten(1, (runs, _RUN))
    chosen = likeliest(in_runs.amax(2), count)[:, :, None]
    places = (chosen * _RUN + torch.arange(_RUN, device=values.device)).flatten(1)
    rest = torch.arange(runs * _RUN, values.shape[1], device=values.device).expand(len(values), -1)
    places = torch.cat([places, rest], 1)
    return places.gather(1, likeliest(values.gather(1, places), count))


def down_to(values: Tensor, least: Tensor, count: Tensor) -> Tensor:
    """The `count` largest of each row, `least` being the smallest of them; of equals the first. bool."""
    above, equal = values > least, values == least
    left = count - above.sum(1, keepdim=True)
    return above | (equal & (equal.cumsum(1) <= left))
