"""Intervals and tests over scores in [0, 1]. Everything random is keyed by names: equal data give equal bytes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
RESAMPLES = 2_000
LEVEL = 0.95
FEW = 8  # items a task: with fewer, resampling within tasks understates how far they vary, with one it sees nothing
FLIPS = 50_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its interval, and the method in words."""

    mean: float
    low: float
    high: float
    method: str


def wilson(mean: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion over n observations; n need not be whole.

    Also holds, only wider than need be, for the mean of any scores in [0, 1]: their variance is at most p(1-p).
    """
    if n <= 0:
        raise ValueError(f"no interval over {n} observations")
    z = float(stats.norm.ppf(0.5 + level / 2))
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def clopper_pearson(wins: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact binomial interval of a proportion."""
    interval = stats.binomtest(wins, n).proportion_ci(confidence_level=level, method="exact")
    return float(interval.low), float(interval.high)


def estimate_mean(by_task: Mapping[str, Sequence[float]], *key: object, sampled_tasks: bool = False) -> Estimate:
    """The plain mean of the tasks' means, and its 95 % interval.

    Tasks fixed (a benchmark's): items vary. Right-or-wrong scores: of one task the exact binomial interval, of several
    Wilson's at the effective size 1 / sum(w^2 / n); others: bootstrap within tasks. Tasks sampled, or of fewer than FEW
    items each, three or more: bootstrap over tasks, and over items within them. A bootstrap of scores all alike would
    claim certainty; Wilson is used for those.
    """
    values = _arrays(by_task)
    mean = float(np.mean([v.mean() for v in values.values()]))
    together = np.concatenate(list(values.values()))
    binary = bool(np.isin(together, (0.0, 1.0)).all())
    all_alike = float(together.min()) == float(together.max())
    over_tasks = sampled_tasks or (_are_few(values) and not binary)
    if over_tasks and len(values) >= 3 and not all_alike:
        low, high = _percentiles(bootstrap_means(values, *key, over_tasks=True))
        return Estimate(mean, low, high, "bootstrap over tasks and items")
    if binary and len(values) == 1:
        low, high = clopper_pearson(int(together.sum()), len(together))
        return Estimate(mean, low, high, "exact binomial")
    if binary or all_alike:
        low, high = wilson(mean, _effective(values))
        return Estimate(mean, low, high, "Wilson")
    low, high = _percentiles(bootstrap_means(values, *key))
    return Estimate(mean, low, high, "bootstrap over items")


def estimate_difference(by_task: Mapping[str, Sequence[float]], *key: object, sampled_tasks: bool = False) -> Estimate:
    """The same for paired differences b - a, in [-1, 1]: bootstrap over items within tasks, or over tasks too. Of
    differences all alike: how many others could have been missed (exact binomial), each as far off as can be."""
    values = _arrays(by_task)
    mean = float(np.mean([v.mean() for v in values.values()]))
    together = np.concatenate(list(values.values()))
    if float(together.min()) == float(together.max()):
        missed = (1 - LEVEL) / 2
        others = 1 - missed ** (1 / _effective(values))
        return Estimate(mean, mean - others * (1 + mean), mean + others * (1 - mean), "exact binomial, all alike")
    over_tasks = len(values) >= 3 and (sampled_tasks or _are_few(values))
    low, high = _percentiles(bootstrap_means(values, *key, over_tasks=over_tasks))
    return Estimate(mean, low, high, f"paired bootstrap over {'tasks and items' if over_tasks else 'items'}")


def sign_flip(by_task: Mapping[str, Sequence[float]], *key: object) -> float:
    """Two-sided p value of the mean of the tasks' mean differences, where each item's difference could as well have had
    the other sign (Fisher's randomisation test). Exact, McNemar's, where all that differ weigh alike; else FLIPS draws.
    """
    values = _arrays(by_task)
    sizes: dict[float, list[int]] = {}  # of the differences in the mean, each with how many rose and fell
    for v in values.values():
        for d in v[v != 0]:
            counts = sizes.setdefault(round(abs(float(d)) / (len(v) * len(values)), 12), [0, 0])
            counts[int(d < 0)] += 1
    if len(sizes) <= 1:
        return mcnemar(*next(iter(sizes.values()), (0, 0)))
    seen = sum(size * (rose - fell) for size, (rose, fell) in sizes.items())
    generator = keyed_generator(*key, "sign flips")
    drawn = np.zeros(FLIPS)
    for size, (rose, fell) in sorted(sizes.items()):
        drawn += size * (2 * generator.binomial(rose + fell, 0.5, size=FLIPS) - (rose + fell))
    return float((1 + (np.abs(drawn) >= abs(seen) - 1e-9).sum()) / (1 + FLIPS))


def bootstrap_means(
    by_task: Mapping[str, Floats], *key: object, over_tasks: bool = False, resamples: int = RESAMPLES
) -> Floats:
    """Resampled means of task means, (resamples,). `over_tasks`: tasks are drawn with replacement first.

    Every task draws from a generator keyed by its own name: more tasks leave its resamples as they were.
    """
    tasks = sorted(by_task)
    times = np.ones((resamples, len(tasks)), dtype=np.int64)
    if over_tasks:
        drawn = keyed_generator(*key, "tasks").integers(len(tasks), size=(resamples, len(tasks)))
        times = np.stack([(drawn == t).sum(axis=1) for t in range(len(tasks))], axis=1)
    total = np.zeros(resamples)
    for t, task in enumerate(tasks):
        generator = keyed_generator(*key, "items", task)
        # A task drawn k times contributes k independent resamples of its items.
        for again in range(int(times[:, t].max())):
            total += np.where(times[:, t] > again, _resampled(by_task[task], generator, resamples), 0.0)
    return total / len(tasks)


def _resampled(values: Floats, generator: np.random.Generator, resamples: int) -> Floats:
    """Means of resamples of `values`, drawn as counts of the distinct values: one multinomial, whatever the number."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) == 1:
        return np.full(resamples, distinct[0])
    means = generator.multinomial(len(values), counts / len(values), size=resamples) @ distinct / len(values)
    return np.asarray(means, dtype=np.float64)


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided exact p value of the sign test on discordant pairs; 1 where there are none."""
    return 1.0 if wins + losses == 0 else float(stats.binomtest(wins, wins + losses, 0.5).pvalue)


def keyed_generator(*key: object) -> np.random.Generator:
    digest = hashlib.blake2b(":".join(str(k) for k in key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def _effective(values: Mapping[str, Floats]) -> float:
    """So many items of one task would tell as much."""
    return len(values) ** 2 / sum(1 / len(v) for v in values.values())


def _are_few(values: Mapping[str, Floats]) -> bool:
    return sum(map(len, values.values())) < FEW * len(values)


def _arrays(by_task: Mapping[str, Sequence[float]]) -> dict[str, Floats]:
    values = {task: np.asarray(v, dtype=np.float64) for task, v in by_task.items()}
    if not values or any(len(v) == 0 for v in values.values()):
        raise ValueError("every task needs at least one score")
    return values


def _percentiles(means: Floats, level: float = LEVEL) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
