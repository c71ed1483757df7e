"""Which places of the stream a block holds: so many each, and a block of its own where a phase begins.

    block of 4,096      0           1           2      |    3           4           5
    places              0 ........................ 10,000 ...............................     a phase begins at 10,000

No row holds examples of two phases, and the steps of a phase are its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence


class BlockSpans:
    """`starts`: the places at which phases begin, ascending, the first one's 0 left out."""

    def __init__(self, size: int, starts: Sequence[int] = ()) -> None:
        self.size = size
        self._starts = [0, *starts]
        self.first_blocks = [0]  # of each phase
        for start, stop in zip(self._starts, starts, strict=False):
            self.first_blocks.append(self.first_blocks[-1] - (start - stop) // size)  # rounded up

    def span(self, block: int) -> tuple[int, int]:
        """[start, stop) of a block's places."""
        phase = self.phase(block)
        start = self._starts[phase] + (block - self.first_blocks[phase]) * self.size
        stops = self._starts[phase + 1 : phase + 2]
        return start, min([start + self.size, *stops])

    def phase(self, block: int) -> int:
        """Number of the phase that a block is in, from 0."""
        return bisect_right(self.first_blocks, block) - 1

    def block_of(self, place: int) -> int:
        phase = bisect_right(self._starts, place) - 1
        return self.first_blocks[phase] + (place - self._starts[phase]) // self.size
