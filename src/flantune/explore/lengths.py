"""Histograms of lengths: whole numbers, bins of round widths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flantune.explore.views import Bin, Histogram

MOST_BINS = 40
SPREAD = 16  # largest over median from which bins double in width, so that a long tail does not flatten the rest


def histogram(lengths: Sequence[int]) -> Histogram:
    """Bins of equal round width (1, 2 or 5 times a power of ten), or doubling ones (0, 1, 2-3, 4-7, ...) where the
    largest length is more than SPREAD medians. Percentiles are lengths that occur (nearest rank)."""
    if not len(lengths):
        return Histogram(bins=(), examples=0)
    values = np.sort(np.asarray(lengths, dtype=np.int64))
    median, largest = _rank(values, 0.5), int(values[-1])
    edges = _doubling(values) if largest > SPREAD * max(1, median) else _equal(values)
    counts = np.diff(np.searchsorted(values, edges, side="left"))
    return Histogram(
        bins=tuple(
            Bin(start=int(a), stop=int(b), count=int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
        ),
        examples=len(values),
        smallest=int(values[0]),
        median=median,
        p95=_rank(values, 0.95),
        largest=largest,
    )


def _rank(values: np.ndarray, share: float) -> int:
    return int(values[max(0, int(np.ceil(share * len(values))) - 1)])


def _equal(values: np.ndarray) -> list[int]:
    low, high = int(values[0]), int(values[-1])
    width = next(w for w in _round_widths() if high // w - low // w < MOST_BINS)
    return [edge * width for edge in range(low // width, high // width + 2)]


def _round_widths() -> Sequence[int]:
    return [digit * 10**power for power in range(18) for digit in (1, 2, 5)]


def _doubling(values: np.ndarray) -> list[int]:
    low, high = int(values[0]), int(values[-1])
    edges = [0] if low == 0 else [1 << (low.bit_length() - 1)]
    while edges[-1] <= high:
        edges.append(max(1, edges[-1] * 2))
    return edges
