"""A curriculum: stretches of the stream whose parts have other weights, and what the whole run has of each leaf.

index      0 ........ 11,800 ........ 25,300        a phase's leaves cut [0, 2**64) anew; places, occurrences and
phase      |    1    |       2      | (the run ends) row orders go on: a row comes again when its task is through
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

from flantune.errors import RecipeError
from flantune.mixtures.counted import Measured, leaf_mean
from flantune.mixtures.weights import WHOLE, Leaf, cut_interval
from flantune.recipe import Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Examples from `first` on, up to `stop`; of the last phase `stop` is where the run is expected to end, and only
    shares are computed from it. `asked`: the leaves as weighed, `leaves`: as drawn, which differ where the weights
    count packed examples or tokens."""

    first: int
    stop: int
    asked: tuple[Leaf, ...]
    leaves: tuple[Leaf, ...]

    @property
    def examples(self) -> int:
        return self.stop - self.first

    def mean(self, measured: Measured, count: Count) -> Fraction:
        """Of what is counted, a draw."""
        yielded = ((leaf.stop - leaf.start) * leaf_mean(leaf, measured, count) for leaf in self.leaves)
        return sum(yielded, start=Fraction(0)) / WHOLE


def check_ends(ends: Sequence[int], phases: int) -> None:
    """Raises RecipeError where `phases` phases cannot end at those indices."""
    if not ends:
        raise RecipeError(
            "mixture.phases: where a phase ends in examples hangs on how many fill a packed row, so on a tokenizer and "
            "the data; there is none here. Without 'phases' none is needed."
        )
    if len(ends) != phases or ends[0] < 1 or any(b <= a for a, b in pairwise(ends)):
        raise RecipeError(f"mixture.phases: {phases} phases cannot end at examples {', '.join(map(str, ends))}.")


def phase_at(phases: Sequence[Phase], index: int) -> int:
    """Number of the phase that example `index` stands in, from 0."""
    return bisect_right([phase.first for phase in phases], index) - 1


def pooled(phases: Sequence[Sequence[Leaf]], amounts: Sequence[int | Fraction]) -> tuple[Leaf, ...]:
    """Every leaf once, its interval as wide as its share of the whole run, where phase p has `amounts[p]` of it."""
    widths: dict[tuple[str, str], Fraction] = {}
    first: dict[tuple[str, str], Leaf] = {}
    for leaves, amount in zip(phases, amounts, strict=True):
        for leaf in leaves:
            name = leaf.path, leaf.task
            first.setdefault(name, leaf)
            widths[name] = widths.get(name, Fraction(0)) + Fraction(amount) * (leaf.stop - leaf.start)
    bounds = cut_interval(0, WHOLE, list(widths.values()))
    return tuple(
        replace(first[name], start=a, stop=b) for name, a, b in zip(widths, bounds[:-1], bounds[1:], strict=True)
    )
