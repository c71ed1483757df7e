"""Scores of a study's runs over the same items, and what chance may have done to them.

Two things vary: which items (and held-out tasks) were asked, and which seeds were trained. Items and tasks are
resampled together for all runs, and seeds together for all arms, so that differences between arms are paired in both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from flantune.errors import StateError
from flantune.evals.results import MISSING, REFUSED
from flantune.evals.statistics import LEVEL, RESAMPLES, keyed_generator, wilson

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
AT_ONCE = 200  # resamples: of 10,000 items, 16 MB


@dataclass(frozen=True, slots=True)
class ItemScores:
    """Strict scores of one run in one setting: an output without a readable answer counts 0. Unanswered items are not
    among them."""

    tasks: tuple[str, ...]  # of each item
    ids: tuple[str, ...]
    scores: Floats
    sampled_tasks: bool


@lru_cache(maxsize=512)
def read_scores(path: Path) -> Mapping[str, ItemScores]:
    """By setting, from an items.parquet."""
    try:
        table = pq.read_table(path, columns=["setting", "task", "id", "score", "reason", "sampled_tasks"])
    except (OSError, pa.ArrowException) as e:
        raise StateError(f"{path}: not a readable items.parquet: {e}.") from None
    columns = table.to_pydict()
    by_setting: dict[str, list[int]] = {}
    for place, (setting, reason) in enumerate(zip(columns["setting"], columns["reason"], strict=True)):
        if reason != MISSING and not reason.startswith(REFUSED):
            by_setting.setdefault(setting, []).append(place)
    return {
        setting: ItemScores(
            tasks=tuple(columns["task"][k] for k in places),
            ids=tuple(columns["id"][k] for k in places),
            scores=np.array([columns["score"][k] or 0.0 for k in places]),
            sampled_tasks=columns["sampled_tasks"][places[0]],
        )
        for setting, places in by_setting.items()
    }


@dataclass(frozen=True, slots=True)
class Together:
    """Scores of several runs over the items that all of them answered. `scores` (runs, items)."""

    tasks: tuple[str, ...]
    ids: tuple[str, ...]
    scores: Floats
    sampled_tasks: bool

    @property
    def means(self) -> Floats:
        """Of each run: the plain mean over tasks of the tasks' means."""
        return self.scores @ _plain_weights(self.tasks)

    def of_tasks(self, tasks: Sequence[str]) -> Together:
        """The items of some tasks alone."""
        kept = [k for k, task in enumerate(self.tasks) if task in set(tasks)]
        names, ids = tuple(self.tasks[k] for k in kept), tuple(self.ids[k] for k in kept)
        return Together(names, ids, self.scores[:, kept], self.sampled_tasks)


def _plain_weights(tasks: Sequence[str]) -> Floats:
    """Of each item, so that tasks weigh alike."""
    sizes = Counter(tasks)
    return np.array([1 / (sizes[task] * len(sizes)) for task in tasks])


def together(runs: Sequence[ItemScores]) -> Together:
    """Raises StateError where the runs share no item."""
    shared = set(runs[0].ids).intersection(*(run.ids for run in runs[1:]))
    if not shared:
        raise StateError("the runs of this study share no evaluated item; they were not asked the same.")
    first = [(task, item) for task, item in zip(runs[0].tasks, runs[0].ids, strict=True) if item in shared]
    rows = []
    for run in runs:
        known = dict(zip(run.ids, run.scores, strict=True))
        rows.append([known[item] for _, item in first])
    return Together(
        tuple(task for task, _ in first), tuple(item for _, item in first), np.array(rows), runs[0].sampled_tasks
    )


def resampled_means(runs: Together, *key: object, resamples: int = RESAMPLES) -> Floats:
    """(resamples, runs): each run's score over resampled items, the same resample for all runs.

    Items are drawn within tasks; where tasks are a sample themselves (three or more), tasks are drawn first.
    """
    tasks = sorted(set(runs.tasks))
    generator = keyed_generator(*key, "items")
    times = np.ones((resamples, len(tasks)), dtype=np.int64)
    if runs.sampled_tasks and len(tasks) >= 3:
        times = generator.multinomial(len(tasks), np.full(len(tasks), 1 / len(tasks)), size=resamples)
    places = np.array([tasks.index(task) for task in runs.tasks])
    means = np.zeros((resamples, len(runs.scores)))
    for t in range(len(tasks)):
        own = runs.scores[:, places == t]
        size = own.shape[1]
        for start in range(0, resamples, AT_ONCE):
            some = slice(start, start + AT_ONCE)
            # A task drawn k times contributes k independent resamples of its items.
            counts = generator.multinomial(size * times[some, t], np.full(size, 1 / size))
            means[some] += counts @ own.T / size
    return means / len(tasks)


@dataclass(frozen=True, slots=True)
class Arm:
    """Runs that differ in their seed alone: places among the runs, by seed. A base model is one run without a seed."""

    name: str
    runs: Mapping[int | None, int]


def resampled_arms(means: Floats, arms: Sequence[Arm], *key: object) -> Floats:
    """(resamples, arms): each arm's mean over resampled seeds; a seed drawn for one arm is drawn for all.

    The spread over seeds is widened by sqrt(k / (k - 1)): that of resampled means is too narrow by as much.
    """
    seeds = sorted({seed for arm in arms for seed in arm.runs if seed is not None})
    resamples = len(means)
    counts = np.ones((resamples, max(1, len(seeds))))
    if len(seeds) > 1:
        generator = keyed_generator(*key, "seeds")
        counts = generator.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=resamples).astype(float)
    columns = []
    for arm in arms:
        own = means[:, list(arm.runs.values())]
        centre = own.mean(axis=1)
        if len(arm.runs) < 2:
            columns.append(centre)
            continue
        weights = counts[:, [seeds.index(seed) for seed in arm.runs if seed is not None]]
        weights = np.where(weights.sum(axis=1, keepdims=True) > 0, weights, 1.0)
        drawn = (own * weights).sum(axis=1) / weights.sum(axis=1)
        columns.append(centre + (drawn - centre) * np.sqrt(len(arm.runs) / (len(arm.runs) - 1)))
    return np.stack(columns, axis=1)


def bounds(values: Floats, level: float = LEVEL) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmScore:
    """An arm in one setting. `gain` is over the arm it is compared with, paired; None for that arm itself."""

    arm: str
    mean: float
    low: float
    high: float
    by_seed: Mapping[int | None, float]
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None

    @property
    def surely(self) -> int:
        """1 above, -1 below what it is compared with, 0 where the interval of the gain includes none."""
        if self.gain_low is None or self.gain_high is None:
            return 0
        return 1 if self.gain_low > 0 else -1 if self.gain_high < 0 else 0


@dataclass(frozen=True, slots=True)
class Compared:
    """Arms over the same items, and their resamples for what else is asked of them: (resamples, arms).

    `slack`: what a difference that is the same in every resample may yet be off by, where scores are right or wrong: no
    pair that differs was seen, which says that few do and not that none does (Wilson's bound).
    """

    scores: tuple[ArmScore, ...]
    drawn: Floats
    items: int
    tasks: int
    slack: float = 0.0

    def difference(self, a: int, b: int) -> tuple[float, float, float]:
        """b - a, with its paired interval."""
        return self.scores[b].mean - self.scores[a].mean, *paired_bounds(self.drawn, a, b, self.slack)


def paired_bounds(drawn: Floats, a: int, b: int, slack: float) -> tuple[float, float]:
    gains = drawn[:, b] - drawn[:, a]
    low, high = bounds(gains)
    return (low - slack, high + slack) if _alike(gains) else (low, high)


def _alike(values: Floats) -> bool:
    return bool(np.ptp(values) < 1e-12)


def compare_arms(runs: Together, arms: Sequence[Arm], against: int | None, *key: object) -> Compared:
    """Every arm's mean with its interval, and its gain over the arm at place `against`."""
    own = runs.means
    drawn = resampled_arms(resampled_means(runs, *key), arms, *key)
    weights = _plain_weights(runs.tasks)
    effective = float(1 / (weights**2).sum())
    slack = wilson(0.0, effective)[1] if np.isin(runs.scores, (0.0, 1.0)).all() else 0.0
    scores = []
    for place, arm in enumerate(arms):
        by_seed = {seed: float(own[run]) for seed, run in arm.runs.items()}
        mean = float(np.mean(list(by_seed.values())))
        low, high = bounds(drawn[:, place])
        if _alike(drawn[:, place]):  # a bootstrap of scores all alike would claim certainty
            low, high = wilson(mean, effective)
        gains: dict[str, float] = {}
        if against is not None and place != against:
            reference = float(np.mean([own[run] for run in arms[against].runs.values()]))
            gain_low, gain_high = paired_bounds(drawn, against, place, slack)
            gains = {"gain": mean - reference, "gain_low": gain_low, "gain_high": gain_high}
        scores.append(ArmScore(arm=arm.name, mean=mean, low=low, high=high, by_seed=by_seed, **gains))
    return Compared(tuple(scores), drawn, len(runs.ids), len(set(runs.tasks)), slack)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFit:
    """score = intercept + slope * log2(count), least squares over the arms' means."""

    intercept: float
    slope: float
    slope_low: float
    slope_high: float
    r_squared: float | None  # None where the means do not vary
    counts: tuple[int, ...]

    def at(self, count: float) -> float:
        return self.intercept + self.slope * float(np.log2(count))


def fit_log(counts: Sequence[int], means: Sequence[float], drawn: Floats) -> LogFit | None:
    """`drawn` (resamples, counts). None for fewer than three counts: a line through two has no error to speak of. None
    too where all scores are alike in every resample: the error would be 0, which nobody can know."""
    if len(set(counts)) < 3 or np.ptp(drawn) == 0:
        return None
    design = np.stack([np.ones(len(counts)), np.log2(np.asarray(counts, dtype=float))], axis=1)
    solve = np.linalg.pinv(design)
    intercept, slope = solve @ np.asarray(means)
    slopes = drawn @ solve[1]
    residual = np.asarray(means) - design @ np.array([intercept, slope])
    total = float(((np.asarray(means) - np.mean(means)) ** 2).sum())
    low, high = bounds(slopes)
    return LogFit(
        intercept=float(intercept),
        slope=float(slope),
        slope_low=low,
        slope_high=high,
        r_squared=None if total < 1e-18 else 1 - float((residual**2).sum()) / total,
        counts=tuple(counts),
    )


def flattens_after(compared: Compared, places: Sequence[int]) -> int | None:
    """The first of `places` (arms in ascending order of counts) from which on none surely gains over another before it;
    None where the last surely gains over the one before. An unsure step is no end while a later one is sure."""
    for at, here in enumerate(places[:-1]):
        if all(compared.difference(one, later)[1] <= 0 for one, later in combinations(places[at:], 2)):
            return here
    return None
