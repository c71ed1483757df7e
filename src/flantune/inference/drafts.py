"""Texts that go round in circles: what they will say next, as they said it before, to be checked many tokens at once.

Greedy texts that do not end by themselves often repeat themselves (Holtzman et al. 2020, arXiv 1904.09751), and they go
on to the limit when the others are done. Where a text has long been saying what it said before, the next few tokens are
guessed so, and the model reads them in one step; what it would not have written itself is taken back. But for rounding,
the time alone changes (Saxena 2023, prompt lookup decoding; Leviathan et al. 2023, arXiv 2211.17192; for greedy and
drawn tokens alike, since a draw here depends on its place alone).
"""

from __future__ import annotations

from collections.abc import Sequence

_ALIKE = 3  # tokens that stood there before too
_SURE = 8  # tokens foreseen one after another before any is guessed; after each miss twice as many
AHEAD = 7  # tokens guessed at most


class Repeats:
    """One text's. `saw` is told of every token."""

    def __init__(self) -> None:
        self._after: dict[tuple[int, ...], int] = {}  # where the token stands that last came after these
        self._foreseen, self._needed = 0, _SURE

    @property
    def are_sure(self) -> bool:
        return self._foreseen >= self._needed

    def saw(self, told: Sequence[int]) -> None:
        """`told` has one token more than before."""
        new = len(told) - 1
        if new < _ALIKE:
            return
        before = tuple(told[new - _ALIKE : new])
        place = self._after.get(before)
        if place is not None and told[place] == told[new]:
            self._foreseen += 1
        else:
            # Sentences of one make with other words in them are foreseen for a while, too.
            self._needed *= 2 if self.are_sure else 1
            self._foreseen = 0
        self._after[before] = new

    def ahead(self, told: Sequence[int], count: int) -> list[int]:
        """What comes after `told` if it goes on as before, `count` tokens at most."""
        place = self._after.get(tuple(told[-_ALIKE:]))
        if place is None:
            return []
        period = told[place:]  # from there on all over again
        return [period[i % len(period)] for i in range(count)]
