"""Which mixture to try next, and which is best, over surfaces fitted to small runs. Nothing here trains.

A goal: raise the mean of the targets' changes from the base as far as it goes, no guard falling by more than its
tolerance. Next mixtures are proposed by Optuna's Gaussian process with the guards as constraints; the mixture that is
taken in the end is the best one the surfaces know, with room for what they do not.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from flantune.errors import RecipeError
from flantune.studies.balance_limits import Floats, Limits, spread_weights
from flantune.studies.surface import Surface, fit_surface


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """`targets`: ability -> its weight in the mean; `guards`: ability -> how far it may fall, a score difference."""

    targets: Mapping[str, float]
    guards: Mapping[str, float]

    @property
    def abilities(self) -> tuple[str, ...]:
        return (*self.targets, *self.guards)

    def gain(self, changes: Mapping[str, float]) -> float:
        return sum(w * changes[a] for a, w in self.targets.items()) / sum(self.targets.values())

    def slack(self, changes: Mapping[str, float]) -> float:
        """Of the guard nearest to its tolerance; below 0 it fell further. Without guards, 1."""
        return min((changes[a] + tolerance for a, tolerance in self.guards.items()), default=1.0)


@dataclass(frozen=True, slots=True)
class Tried:
    """A mixture and the change of every ability from the base that it gave."""

    weights: tuple[float, ...]
    changes: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The mixture to take, what the surfaces expect of it, and whether any mixture looks as if it kept the guards.

    `possible`: "yes" where the mixture keeps every guard with `room` to spare, "no" where no mixture keeps them even
    with two standard deviations in its favour, else "undecided".
    """

    weights: Floats
    expected: Mapping[str, float]
    doubt: Mapping[str, float]
    possible: Literal["yes", "no", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Surfaces:
    """A surface per ability, of small runs or, where there were any, of full ones."""

    by_ability: Mapping[str, Surface]
    limits: Limits

    def predict(self, weights: Floats) -> tuple[dict[str, Floats], dict[str, Floats]]:
        """Mean change and its standard deviation at each of the mixtures, by ability."""
        means, doubts, seen = {}, {}, self.limits.exposed(weights)
        for ability, surface in self.by_ability.items():
            means[ability], doubts[ability] = surface.predict(seen)
        return means, doubts


def fit_surfaces(tried: Sequence[Tried], goal: Goal, limits: Limits, full: Sequence[Tried] = ()) -> Surfaces:
    """`tried`: small runs; `full`: full ones, which correct what small ones say. Surfaces are over the examples seen of
    each source, `limits.exposed`; a source of an ability's name is its own."""
    seen, seen_in_full = (limits.exposed([t.weights for t in runs]) if runs else np.empty(0) for runs in (tried, full))

    def fitted(ability: str) -> Surface:
        of_small, of_full = ([t.changes[ability] for t in runs] for runs in (tried, full))
        names = [source.name for source in limits.sources] * limits.phases
        own = [place for place, name in enumerate(names) if name == ability]
        return fit_surface(seen, of_small, seen_in_full, of_full, own)

    return Surfaces(by_ability={a: fitted(a) for a in goal.abilities}, limits=limits)


# ---- the next mixture to try ---------------------------------------------------------------------------------------


def propose(tried: Sequence[Tried], goal: Goal, limits: Limits, seed: int) -> Floats:
    """The next mixture for a small run: the same for the same runs before it and the same seed.

    Optuna sees mixtures as logits between the least share and 1, of each phase; where it asks for one that the limits
    do not allow, the nearest that is allowed is tried, and told as such. Raises RecipeError where Optuna is not
    installed.
    """
    optuna = _optuna()
    names = [f"logit {i}" for i in range(limits.phases * len(limits.sources))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.GPSampler(seed=seed + len(tried), n_startup_trials=0, deterministic_objective=False)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for one in tried:
            study.enqueue_trial(dict(zip(names, _logits(np.array(one.weights), limits.phases), strict=True)))
            trial = study.ask()
            for name in names:
                trial.suggest_float(name, 0.0, 1.0)
            for ability, tolerance in goal.guards.items():  # kept where the number is at most 0
                trial.set_constraint(ability, -(one.changes[ability] + tolerance))
            study.tell(trial, goal.gain(one.changes))
        trial = study.ask()
        asked = np.exp(_SPAN * np.array([trial.suggest_float(name, 0.0, 1.0) for name in names]))
    found = limits.nearest(limits.shares(asked))
    if _far(found, tried, limits.phases):
        return found
    # What was tried already says little new: the most promising of the mixtures that stand apart from all tried.
    apart = [w for w in _candidates(limits, tried, seed + 7919 * len(tried)) if _far(w, tried, limits.phases)]
    if not apart:
        return found
    means, doubts = fit_surfaces(tried, goal, limits).predict(np.array(apart))
    optimistic = {a: means[a] + doubts[a] for a in means}
    return apart[_ranked(optimistic, goal)[0]]


_SPAN = float(np.log(100.0))  # a share may be a hundredth of another
_APART = 0.03  # half the sum of differences of shares


def _logits(weights: Floats, phases: int) -> list[float]:
    parted = weights.reshape(phases, -1)
    logs = np.log(np.maximum(parted / parted.max(axis=1, keepdims=True), np.exp(-_SPAN))) / _SPAN + 1.0
    return [float(min(1.0, max(0.0, v))) for v in logs.ravel()]


def _far(weights: Floats, tried: Sequence[Tried], phases: int) -> bool:
    return all(np.abs(weights - np.array(t.weights)).sum() / (2 * phases) > _APART for t in tried)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise RecipeError("study balance needs Optuna: pip install 'flantune[search]'.") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


# ---- the mixture to take -------------------------------------------------------------------------------------------


def best_mixture(
    surfaces: Surfaces,
    goal: Goal,
    limits: Limits,
    *,
    room: Mapping[str, float] | None = None,
    tried: Sequence[Tried] = (),
    apart: Sequence[Tried] = (),
    seed: int = 0,
    caution: float = 1.0,
) -> Choice:
    """The allowed mixture with the most gain that is expected to be confirmed: its gain after `caution` standard
    deviations, so that what was seen is preferred to what is only expected to be as good, times the probability that
    every guard's interval then lies above its tolerance. `room` is half such an interval, by ability. It is none of
    `apart`.
    """
    ranking = _Ranking(surfaces, goal, room or {}, caution)
    first = found = _candidates(limits, tried, seed)
    for round in range(_ROUNDS):
        kept = found[ranking.order(found)[:_KEPT]]
        steps = np.exp(np.random.default_rng([seed, round]).normal(0, 0.6 / 2**round, (24, kept.shape[1])))
        found = np.concatenate([kept, limits.nearest_all((kept[:, None, :] * steps).reshape(-1, kept.shape[1]))])
    seen = np.concatenate([first, found])
    order = ranking.order(seen)
    best = seen[next((i for i in order if _far(seen[i], apart, limits.phases)), order[0])]
    means, doubts = surfaces.predict(best[None, :])
    expected, doubt = {a: float(m[0]) for a, m in means.items()}, {a: float(d[0]) for a, d in doubts.items()}
    least = {a: expected[a] - caution * doubt[a] - ranking.room.get(a, 0.0) for a in expected}
    possible: Literal["yes", "no", "undecided"] = "yes" if goal.slack(least) >= 0 else "undecided"
    if possible == "undecided" and not _any_may_keep(surfaces, goal, seen):
        possible = "no"
    return Choice(weights=best, expected=expected, doubt=doubt, possible=possible)


_ROUNDS, _KEPT, _SPREAD = 5, 16, 1024
_GUARDS = 2.0  # how much a guard's probability weighs beside the gain: one that fell is worse than nothing gained
_SURE = 1e-4  # a score difference: surer than that nothing is


def _candidates(limits: Limits, tried: Sequence[Tried], seed: int) -> Floats:
    k, phases = len(limits.sources), limits.phases
    known = np.array([t.weights for t in tried]).reshape(-1, phases * k)
    spread = spread_weights(_SPREAD, k, seed, phases)
    if phases > 1:  # chance never gives phases that are alike
        spread = np.concatenate([spread[: _SPREAD // 2], np.tile(spread_weights(_SPREAD // 2, k, seed), (1, phases))])
    return np.concatenate([known[limits.allowed(known)], limits.nearest_all(spread)])


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Which mixtures to prefer: those with the most gain that will be confirmed, the expected gain times the
    square of the probability that every guard's interval will lie above its tolerance. So neither is bought at any
    price."""

    surfaces: Surfaces
    goal: Goal
    room: Mapping[str, float]
    caution: float

    def order(self, weights: Floats) -> list[int]:
        """Places, best first."""
        means, doubts = self.surfaces.predict(weights)
        gain = _weighed(means, self.goal) - self.caution * self._doubt_of_gain(doubts)
        kept: Floats = np.zeros(len(weights))  # logarithm of the probability
        for guard, tolerance in self.goal.guards.items():
            room = self.room.get(guard, 0.0)
            # The confirmation's mean strays from the truth by a standard error, of which its half interval is 1.96.
            strays = np.maximum(self.caution * np.hypot(doubts[guard], room / 1.96), _SURE)
            kept += stats.norm.logcdf((means[guard] + tolerance - room) / strays)
        # Without gain there is nothing to confirm; then the least loss, and the guards all the same.
        worth = np.where(gain > 0, np.log(np.maximum(gain, 1e-12)), -1e6 + gain) + _GUARDS * kept
        return [int(i) for i in np.argsort(-worth, kind="stable")]

    def _doubt_of_gain(self, doubts: Mapping[str, Floats]) -> Floats:
        parts = [(w * doubts[a]) ** 2 for a, w in self.goal.targets.items()]
        return np.asarray(np.sqrt(np.sum(parts, axis=0)) / sum(self.goal.targets.values()))


def _weighed(changes: Mapping[str, Floats], goal: Goal) -> Floats:
    """The targets' mean."""
    return np.asarray(sum(w * changes[a] for a, w in goal.targets.items()) / sum(goal.targets.values()))


def _ranked(changes: Mapping[str, Floats], goal: Goal) -> list[int]:
    """Places of those that keep every guard by their gain, then of the others by how little they lack."""
    gain = _weighed(changes, goal)
    lack = -np.min([np.ones_like(gain), *(changes[a] + t for a, t in goal.guards.items())], axis=0)
    return [int(i) for i in np.lexsort((-gain, np.maximum(lack, 0.0)))]


def _any_may_keep(surfaces: Surfaces, goal: Goal, weights: Floats) -> bool:
    """With two standard deviations in its favour. A doubt wider than the spread of all runs there were is the kernel's
    word on where nothing was run, and tells of no mixture that might keep the guards."""
    means, doubts = surfaces.predict(weights)
    spread = {a: surfaces.by_ability[a].fit.spread for a in goal.guards}
    slack = np.min([means[a] + 2 * np.minimum(doubts[a], spread[a]) + t for a, t in goal.guards.items()], axis=0)
    return bool((slack >= 0).any())


# ---- the Pareto picture --------------------------------------------------------------------------------------------


def pareto(rows: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the (gain, slack) pairs that no other pair beats in both, best gain first."""
    order = sorted(range(len(rows)), key=lambda i: (-rows[i][0], -rows[i][1], i))
    kept, most = [], -np.inf
    for i in order:
        if rows[i][1] > most:
            kept.append(i)
            most = rows[i][1]
    return kept
