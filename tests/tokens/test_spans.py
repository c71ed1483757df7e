"""Blocks and places: every place in one block, in order, and none in two phases'."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.tokens.spans import BlockSpans


@settings(deadline=None)
@given(st.integers(1, 50), st.lists(st.integers(1, 120), max_size=3))
def test_blocks_part_the_places(size: int, lengths: list[int]) -> None:
    starts = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    spans = BlockSpans(size, starts)
    at = 0
    for block in range(60):
        start, stop = spans.span(block)
        assert start == at and start < stop <= start + size
        phase = sum(first <= start for first in starts)
        assert spans.phase(block) == phase
        assert not any(start < first < stop for first in starts)
        assert stop == start + size or stop in starts
        assert all(spans.block_of(place) == block for place in range(start, stop))
        at = stop
    assert [spans.span(first)[0] for first in spans.first_blocks] == [0, *starts]


def test_without_phases_blocks_are_of_one_size() -> None:
    assert [BlockSpans(7).span(b) for b in (0, 1, 10**9)] == [(0, 7), (7, 14), (7 * 10**9, 7 * 10**9 + 7)]
