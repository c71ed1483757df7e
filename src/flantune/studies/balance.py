"""Search the mixture that raises target abilities and lowers no guarded one, then confirm it on fresh seeds.

    design     small runs of mixtures spread over the simplex, the baselines' among them
    search     small runs of mixtures a constrained Bayesian search proposes
    trial      full runs of the best mixtures so far, which correct the surfaces
    confirm    full runs of the mixture taken, and of each baseline, with seeds that nothing was chosen on

Every run is a point of the studies' root: what is done is not done again, and the same command goes on from wherever
it was stopped, since each stage follows from the results of those before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from flantune.errors import RecipeError
from flantune.pipeline.data import Progress, quiet
from flantune.studies.balance_intervals import (
    Change,
    Keeps,
    Scores,
    ability_scores,
    change_of,
    error_of_items,
    kept_all,
    mean_change,
    mean_score,
)
from flantune.studies.balance_limits import Floats, Limits, spread_weights
from flantune.studies.balance_points import limits_of, point_of, weights_of
from flantune.studies.balance_search import Choice, Surfaces, Tried, best_mixture, fit_surfaces, propose
from flantune.studies.balance_settings import Balance, baseline_weights
from flantune.studies.point import Point, PointResult
from flantune.studies.surface import MIN_RUNS, Fit

FOUND = "found"
Run = Callable[[Sequence[Point]], list[PointResult]]


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """A run that was made: its mixture, what it changed, and what it cost in full runs."""

    stage: str
    mixture: str
    weights: tuple[float, ...]
    seed: int
    result: PointResult
    full_runs: float
    changes: Mapping[str, Change] = field(default_factory=dict)  # empty where it failed

    @property
    def tried(self) -> Tried:
        return Tried(self.weights, {a: c.mean for a, c in self.changes.items()})


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """A mixture at full budget over fresh seeds. `gain`: the targets' mean change from the base."""

    name: str
    weights: tuple[float, ...]
    repeated: tuple[float, ...]  # by source
    seeds: int
    changes: Mapping[str, Change]
    scores: Mapping[str, float]
    gain: Change
    keeps: Keeps
    found_gains: Change | None = None  # of the mixture found over this one, in the targets' mean


Verdict = Literal["balanced", "not balanced", "undecided", "impossible"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All of a balance study."""

    balance: Balance
    limits: Limits
    base: Mapping[str, float]
    runs: Sequence[OneRun]
    fits: Mapping[str, Fit]
    choice: Choice
    confirmed: Sequence[Confirmed]  # the mixture found first
    verdict: Verdict
    spent: float  # full runs: small ones, trials and confirmation
    spent_on_baselines: float
    notes: tuple[str, ...] = ()

    @property
    def found(self) -> Confirmed:
        return self.confirmed[0]


def full_runs_of(balance: Balance, cost: Callable[[Point], float]) -> dict[str, float]:
    """What each stage costs in full runs, by operations; `cost` tells a point's. Raises RecipeError where the search
    and its confirmation are more than the study may spend."""
    spec, equal = balance.spec, [1.0] * len(balance.sources)
    small, full = (
        cost(point_of(balance, equal, "", "", seed=spec.search_seed, small=small)) for small in (True, False)
    )
    stages = {
        "design": spec.design * small / full,
        "search": spec.search * small / full,
        "trial": float(spec.trials),
        "confirm": float(len(balance.seeds)),
    }
    if (total := sum(stages.values())) > spec.most_full_runs + 1e-9:
        told = ", ".join(f"{name} {runs:.2f}" for name, runs in stages.items())
        raise RecipeError(
            f"study.balance: {told} come to {total:.2f} full runs, more than most_full_runs, {spec.most_full_runs:g}. "
            "Lower design, search, trials or the proxy's steps, or name fewer study.seeds."
        )
    return {**stages, "baselines": float(len(spec.baselines) * len(balance.seeds))}


def expected_points(balance: Balance) -> list[Point]:
    """As many points as the study will run, of mixtures that stand for those it will find: to say the cost before."""
    spec, k = balance.spec, len(balance.sources)
    small = spec.design + spec.search
    full = spec.trials + len(balance.seeds) * (1 + len(spec.baselines))
    stand_ins = spread_weights(small + full, k, spec.search_seed)
    return [
        point_of(balance, w, "expected", i, seed=spec.search_seed, small=i < small) for i, w in enumerate(stand_ins)
    ]


def run_balance(balance: Balance, root: Path, run: Run, progress: Progress = quiet) -> Outcome:
    """`run` makes points and gives their results in order: studies.points.run_points with its settings.

    Raises RecipeError where too few small runs end well to fit a surface, or the confirmation fails.
    """
    study = _Study(balance, limits_of(balance, root, progress), run)
    study.design()
    study.search()
    choice = study.trials()
    return study.confirm(choice)


class _Study:
    """The stages in turn, over the results so far."""

    def __init__(self, balance: Balance, limits: Limits, run: Run) -> None:
        self.balance, self.spec, self.goal = balance, balance.spec, balance.spec.goal
        self.limits, self._run = limits, run
        self.runs: list[OneRun] = []
        self.notes: list[str] = []
        self.base: dict[str, Scores] = {}
        self._scores: dict[str, dict[str, Scores]] = {}  # of a point's name, by ability
        self._full_flops = 0.0
        rows = {s.name: s.rows for s in limits.sources}
        self.baselines = {
            name: np.array(baseline_weights(rule, rows), dtype=np.float64) for name, rule in self.spec.baselines.items()
        }

    # ---- stages ----------------------------------------------------------------------------------------------------

    def design(self) -> None:
        k, phases = len(self.limits.sources), self.limits.phases
        known = [self.limits.nearest(np.tile(w, phases)) for w in self.baselines.values()][: self.spec.design]
        spread = spread_weights(max(1, self.spec.design - len(known)), k, self.spec.search_seed, phases)
        mixtures = [*known, *map(self.limits.nearest, spread)][: self.spec.design]
        self._small("design", mixtures)

    def search(self) -> None:
        left = self.spec.search
        while left > 0:
            proposed: list[Floats] = []
            tried = self._tried()
            for _ in range(min(left, self.spec.at_once)):
                mixture = propose(tried, self.goal, self.limits, self.spec.search_seed)
                proposed.append(mixture)
                # The next proposal of the round sees what is expected of this one.
                means, _ = fit_surfaces(tried, self.goal, self.limits).predict(mixture[None, :])
                tried = [*tried, Tried(tuple(map(float, mixture)), {a: float(m[0]) for a, m in means.items()})]
            self._small("search", proposed)
            left -= len(proposed)

    def trials(self) -> Choice:
        """The mixture to confirm, after full runs of the best ones so far."""
        for number in range(self.spec.trials):
            weights = self._choose(self._full()).weights
            run = self._runs("trial", [(f"trial {number + 1}", weights)], [self.spec.search_seed], small=False)[0]
            if not run.changes:
                self.notes.append(f"trial {number + 1} failed: {run.result.reason}")
                break
        return self._choose()

    def confirm(self, choice: Choice) -> Outcome:
        mixtures = [(FOUND, choice.weights), *self.baselines.items()]
        runs = self._runs("confirm", mixtures, self.balance.seeds, small=False)
        failed = [r for r in runs if not r.changes]
        if lost := [r for r in failed if r.mixture == FOUND]:
            raise RecipeError(
                f"study balance: the mixture found could not be confirmed with seed {lost[0].seed}: "
                f"{lost[0].result.reason} Give the same command again."
            )
        self.notes += [f"{r.mixture} with seed {r.seed} failed: {r.result.reason}" for r in failed]
        confirmed = [c for name, _ in mixtures if (c := self._confirmed(name, runs)) is not None]
        of_search = [r for r in self.runs if r.stage != "confirm" or r.mixture == FOUND]
        return Outcome(
            balance=self.balance,
            limits=self.limits,
            base={a: mean_score(s) for a, s in self.base.items()},
            runs=self.runs,
            fits={a: s.fit for a, s in fit_surfaces(self._tried(), self.goal, self.limits).by_ability.items()},
            choice=choice,
            confirmed=confirmed,
            verdict=verdict_of(confirmed[0], choice),
            spent=sum(r.full_runs for r in of_search),
            spent_on_baselines=sum(r.full_runs for r in self.runs if r not in of_search),
            notes=tuple(self.notes),
        )

    # ---- runs ------------------------------------------------------------------------------------------------------

    def _small(self, stage: str, mixtures: Sequence[Floats]) -> None:
        first = sum(r.stage == stage for r in self.runs)
        named = [(f"{stage} {first + i + 1}", w) for i, w in enumerate(mixtures)]
        for run in self._runs(stage, named, [self.spec.search_seed], small=True):
            if not run.changes:
                self.notes.append(f"{run.mixture} failed: {run.result.reason}")

    def _runs(
        self, stage: str, mixtures: Sequence[tuple[str, Floats]], seeds: Sequence[int], *, small: bool
    ) -> list[OneRun]:
        points = [point_of(self.balance, w, stage, n, seed=s, small=small) for n, w in mixtures for s in seeds]
        made = [self._one(stage, point, result) for point, result in zip(points, self._run(points), strict=True)]
        self.runs += made
        return made

    def _one(self, stage: str, point: Point, result: PointResult) -> OneRun:
        changes: dict[str, Change] = {}
        if result.done and result.items is not None and result.base_items is not None:
            patterns = self.spec.patterns
            self.base = self.base or ability_scores(result.base_items, patterns)
            scores = self._scores[result.name] = ability_scores(result.items, patterns)
            changes = {a: change_of(self.base[a], [scores[a]]) for a in self.goal.abilities}
        seed = point.recipe.seed
        return OneRun(
            stage=stage,
            mixture=str(point.labels["mixture"]),
            weights=tuple(weights_of(point.recipe, self.limits.phases)),
            seed=seed,
            result=result,
            full_runs=self._share(point, result),
            changes=changes,
        )

    def _share(self, point: Point, result: PointResult) -> float:
        """Of a full run, by operations."""
        if not self._full_flops:
            from flantune.studies.cost import cost_of

            full = point_of(self.balance, [1.0] * len(self.limits.sources), "", "", seed=0, small=False)
            self._full_flops = cost_of([full], result.folder.parent.parent, timed=False).jobs[-1].flops
        return result.flops / self._full_flops

    def _tried(self) -> list[Tried]:
        """Of the small runs that ended well."""
        found = [r.tried for r in self.runs if r.stage in ("design", "search") and r.changes]
        if len(found) < MIN_RUNS:
            reasons = "; ".join(self.notes[:3])
            raise RecipeError(f"study balance: {len(found)} small runs ended well, {MIN_RUNS} are needed. {reasons}")
        return found

    # ---- choices ---------------------------------------------------------------------------------------------------

    def _full(self) -> list[Tried]:
        """Of the trials that ended well."""
        return [r.tried for r in self.runs if r.stage == "trial" and r.changes]

    def _choose(self, apart: Sequence[Tried] = ()) -> Choice:
        tried, full = self._tried(), self._full()
        surfaces = fit_surfaces(tried, self.goal, self.limits, full)
        return best_mixture(
            surfaces,
            self.goal,
            self.limits,
            room=self._room(surfaces),
            tried=[*tried, *full],
            apart=apart,
            seed=self.spec.search_seed,
            caution=self.spec.caution,
        )

    def _room(self, surfaces: Surfaces) -> dict[str, float]:
        """By guard, half the interval that its confirmation is expected to have: items as in as many of the last runs,
        and seeds that vary as runs do around the surface."""
        seeds = self.spec.room_seeds or len(self.balance.seeds)
        last = [self._scores[r.result.name] for r in self.runs if r.changes][-seeds:]
        room = {}
        for ability in self.goal.guards:
            of_items = error_of_items(self.base[ability], [scores[ability] for scores in last])
            of_seeds = 1.96 * surfaces.by_ability[ability].fit.noise / np.sqrt(seeds)
            room[ability] = float(np.hypot(of_items, of_seeds))
        return room

    def _confirmed(self, name: str, runs: Sequence[OneRun]) -> Confirmed | None:
        own = [r for r in runs if r.mixture == name and r.changes]
        if not own:
            return None
        scores = {a: [self._scores[r.result.name][a] for r in own] for a in self.goal.abilities}
        changes = {a: change_of(self.base[a], after) for a, after in scores.items()}
        keeps = kept_all({g: changes[g].keeps(t) for g, t in self.goal.guards.items()})
        found = {r.seed: self._scores[r.result.name] for r in runs if r.mixture == FOUND}
        beside = [(self._scores[r.result.name], found[r.seed]) for r in own]
        targets = self.goal.targets.items()
        over = mean_change([([b[a] for b, _ in beside], [f[a] for _, f in beside], w) for a, w in targets])
        return Confirmed(
            name=name,
            weights=own[0].weights,
            repeated=tuple(map(float, self.limits.repeated(own[0].weights))),
            seeds=len(own),
            changes=changes,
            scores={a: float(np.mean([mean_score(s) for s in after])) for a, after in scores.items()},
            gain=mean_change([(self.base[a], scores[a], w) for a, w in targets]),
            keeps=keeps,
            found_gains=None if name == FOUND else over,
        )


def verdict_of(found: Confirmed, choice: Choice) -> Verdict:
    """balanced: every guard surely keeps its tolerance and the targets surely rise. not balanced: a guard surely fell
    further, or the targets surely do not rise; impossible where besides no mixture was expected to keep the guards."""
    if found.keeps == "yes" and found.gain.rises == "yes":
        return "balanced"
    if found.keeps == "no":
        return "impossible" if choice.possible == "no" else "not balanced"
    return "not balanced" if found.gain.rises == "no" else "undecided"
