"""What changed from the base to tuned models, by ability, with intervals over seeds and items; and what follows.

Every seed's model answers the same items as the base, so the changes form a table of seeds by items. Both are samples:
other seeds would have trained other models, other items asked other things. The variance of the mean change is that
between seeds and that between items, each divided by how many there are; the little they share is counted twice, which
makes intervals a trifle wide and never narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from flantune.errors import RecipeError
from flantune.evals.results import read_items, was_answered
from flantune.evals.summary import strict

Floats = npt.NDArray[np.float64]
Keeps = Literal["yes", "no", "undecided"]
LEVEL = 0.95
_LEAST_CHANGED = 0.5  # items whose change is thought of as 1 where none changed at all: no table shows certainty


@dataclass(frozen=True, slots=True)
class Change:
    """Of an ability's score, with its 95 % interval. `seeds` 1: the interval is over items alone."""

    mean: float
    low: float
    high: float
    items: int
    seeds: int

    @property
    def error(self) -> float:
        """Half the interval."""
        return (self.high - self.low) / 2

    def keeps(self, tolerance: float) -> Keeps:
        """Whether it fell by less than the tolerance: yes or no where the whole interval says so."""
        return "yes" if self.low >= -tolerance else "no" if self.high < -tolerance else "undecided"

    @property
    def rises(self) -> Keeps:
        return "yes" if self.low > 0 else "no" if self.high <= 0 else "undecided"


Scores = dict[str, dict[tuple[str, str], float]]  # by task, then by setting and item


def ability_scores(items: Path, abilities: Mapping[str, Sequence[str]]) -> dict[str, Scores]:
    """Strict scores of an items.parquet: by ability, task and item. An ability's patterns match "benchmark" or
    "benchmark/task". Raises RecipeError where an ability has no item."""
    found: dict[str, Scores] = {name: {} for name in abilities}
    for row in read_items(items):
        item = row.result.item
        if not was_answered(row):
            continue
        for name, patterns in abilities.items():
            if any(fnmatchcase(item.benchmark, p) or fnmatchcase(f"{item.benchmark}/{item.task}", p) for p in patterns):
                task = f"{row.setting}/{item.task}"
                found[name].setdefault(task, {})[row.setting, item.id] = strict(row)
    empty = [name for name, scores in found.items() if not scores]
    if empty:
        known = sorted({row.result.item.benchmark for row in read_items(items)})
        raise RecipeError(
            f"study.balance: no item of the evaluation tells of '{empty[0]}' ({', '.join(abilities[empty[0]])}). "
            f"Benchmarks asked: {', '.join(known)}."
        )
    return found


def mean_score(scores: Scores) -> float:
    """The mean over tasks of the tasks' means."""
    return float(np.mean([np.mean(list(own.values())) for own in scores.values()]))


Before = Scores | Sequence[Scores]  # of one model for all seeds, or of a model for each seed, paired in order


def change_of(before: Before, after: Sequence[Scores]) -> Change:
    """after - before over the items that all have, a seed for each of `after`."""
    tables = _tables(before, after)
    return crossed(tables, [1 / len(tables)] * len(tables))


def mean_change(sides: Sequence[tuple[Before, Sequence[Scores], float]]) -> Change:
    """The mean of several abilities' changes, each (before, after, weight), with the seeds they share."""
    whole = sum(weight for _, _, weight in sides)
    tables: list[Floats] = []
    shares: list[float] = []
    for before, after, weight in sides:
        own = _tables(before, after)
        tables += own
        shares += [weight / whole / len(own)] * len(own)
    return crossed(tables, shares)


def error_of_items(before: Before, after: Sequence[Scores]) -> float:
    """Of the mean change of so many runs, half the 95 % interval that comes of their items alone."""
    tables = _tables(before, after)
    return 1.96 * float(np.sqrt(_of_items(tables, [1 / len(tables)] * len(tables))))


def _of_items(tables: Sequence[Floats], shares: Sequence[float]) -> float:
    """Variance of the mean of the tables' means that comes of the items."""
    parts = [w**2 * _variance(t.mean(axis=0)) / t.shape[1] for w, t in zip(shares, tables, strict=True)]
    return max(float(sum(parts)), _LEAST_CHANGED / sum(t.shape[1] for t in tables) ** 2)


def _tables(before: Before, after: Sequence[Scores]) -> list[Floats]:
    """Changes by task, (seeds, items)."""
    sides = [before] * len(after) if isinstance(before, dict) else list(before)
    tables = []
    for task in sorted(sides[0]):
        shared = sorted(set.intersection(*(set(s.get(task, {})) for s in (*sides, *after))))
        if shared:
            rows = [[b[task][i] - a[task][i] for i in shared] for a, b in zip(sides, after, strict=True)]
            tables.append(np.array(rows, dtype=np.float64))
    if not tables:
        raise ValueError("no item that all models answered")
    return tables


def crossed(tables: Sequence[Floats], shares: Sequence[float], level: float = LEVEL) -> Change:
    """The mean of the (seeds, items) tables' means, weighed by shares that sum to 1; its interval by Satterthwaite's
    degrees of freedom."""
    seeds, items = len(tables[0]), sum(t.shape[1] for t in tables)
    by_seed = np.sum([w * t.mean(axis=1) for w, t in zip(shares, tables, strict=True)], axis=0)
    mean = float(by_seed.mean())
    of_items = _of_items(tables, shares)
    of_seeds = _variance(by_seed) / seeds
    parts = [(of_items, max(1, items - len(tables)))] + ([(of_seeds, seeds - 1)] if seeds > 1 else [])
    total = sum(v for v, _ in parts)
    freedom = total**2 / sum(v**2 / d for v, d in parts)
    half = float(stats.t.ppf(0.5 + level / 2, freedom)) * float(np.sqrt(total))
    return Change(mean, mean - half, mean + half, items, seeds)


def _variance(values: Floats) -> float:
    """Of one value nothing is known: 0, and the others of its kind have to tell."""
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def kept_all(guards: Mapping[str, Keeps]) -> Keeps:
    """Of all guards together."""
    if "no" in guards.values():
        return "no"
    return "yes" if all(v == "yes" for v in guards.values()) else "undecided"
