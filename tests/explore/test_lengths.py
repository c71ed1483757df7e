from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from flantune.explore.lengths import MOST_BINS, histogram
from flantune.explore.views import Histogram


def test_no_length_is_no_histogram_rather_than_zeros() -> None:
    assert histogram([]) == Histogram(bins=(), examples=0)


def test_equal_bins_have_round_widths() -> None:
    found = histogram([3, 4, 9, 50, 112])
    assert [(b.start, b.stop) for b in found.bins][:2] == [(0, 5), (5, 10)]
    assert (found.smallest, found.median, found.p95, found.largest) == (3, 9, 112, 112)


def test_a_long_tail_gets_doubling_bins() -> None:
    assert [(b.start, b.stop, b.count) for b in histogram([0, 1, 1, 3, 40]).bins] == [
        (0, 1, 1), (1, 2, 2), (2, 4, 1), (4, 8, 0), (8, 16, 0), (16, 32, 0), (32, 64, 1),
    ]  # fmt: skip


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=200))
def test_bins_hold_every_length_once_without_gaps(lengths: list[int]) -> None:
    found = histogram(lengths)
    counts = Counter(lengths)
    assert [b.count for b in found.bins] == [
        sum(counts[n] for n in counts if b.start <= n < b.stop) for b in found.bins
    ]
    assert sum(b.count for b in found.bins) == found.examples == len(lengths)
    assert all(a.stop == b.start for a, b in zip(found.bins, found.bins[1:], strict=False))
    assert len(found.bins) <= MOST_BINS and found.bins[0].count and found.bins[-1].count
    ordered = sorted(lengths)
    assert found.median == ordered[(len(ordered) + 1) // 2 - 1]
    assert sum(n <= found.p95 for n in lengths) >= 0.95 * len(lengths) > sum(n < found.p95 for n in lengths)
