"""The balance search over a curriculum: limits over the whole run, proposals of every phase, and what is left of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.demo.files import write_abilities
from flantune.errors import RecipeError
from flantune.recipe import load_recipe, parse_recipe
from flantune.studies.balance import Outcome, run_balance
from flantune.studies.balance_findings import findings_of, outcome_json, write_balance
from flantune.studies.balance_limits import Limits, Source, shares_of, spread_weights
from flantune.studies.balance_phases import PhasedLimits
from flantune.studies.balance_points import limits_of, weighed, weights_of
from flantune.studies.balance_search import Goal, Tried, best_mixture, fit_surfaces, propose

from .test_balance import PARTS, Runs, study_of

pytest.importorskip("optuna")

K = 3


def sources_of(rows, lengths) -> tuple[Source, ...]:
    return tuple(
        Source(name=str(i), rows=r, inputs=a, targets=b)
        for i, (r, (a, b)) in enumerate(zip(rows, lengths, strict=True))
    )


rows_of_all = st.lists(st.integers(50, 20_000), min_size=K, max_size=K)
lengths_of_all = st.lists(st.tuples(st.floats(2, 200), st.floats(1, 60)), min_size=K, max_size=K)
weights_of_all = st.lists(st.floats(0.01, 1.0), min_size=2 * K, max_size=2 * K)


class TestLimits:
    @settings(max_examples=80, deadline=None)
    @given(weights_of_all, rows_of_all, lengths_of_all, st.floats(0.5, 8.0), st.sampled_from([0.0, 0.01, 0.05]))
    def test_no_source_is_repeated_more_than_it_bears_over_the_run(self, weights, rows, lengths, repeats, least):
        bounds = PhasedLimits(
            sources=sources_of(rows, lengths), slots=(2e5, 1e5), repeats=repeats, least=least, phases=2
        )
        try:
            found = bounds.nearest(weights)
        except RecipeError as e:
            assert "repeats" in str(e)
            spread = np.maximum(spread_weights(256, K, 0, 2), least)
            assert not bounds.allowed(shares_of(spread, 2)).any()
            return
        assert found.reshape(2, K).sum(axis=1) == pytest.approx([1, 1])
        assert (found >= least - 1e-9).all()
        assert (bounds.repeated(found) <= repeats * (1 + 1e-6)).all()

    @settings(max_examples=60, deadline=None)
    @given(weights_of_all, rows_of_all, lengths_of_all)
    def test_repeats_are_those_of_two_halves_of_the_run(self, weights, rows, lengths):
        """The reference: each half as a run of its own."""
        sources = sources_of(rows, lengths)
        whole = PhasedLimits(sources=sources, slots=(2e5, 1e5), repeats=4.0, phases=2)
        half = Limits(sources=sources, slots=(1e5, 5e4), repeats=4.0)
        asked = whole.shares(weights)
        assert whole.repeated(asked) == pytest.approx(half.repeated(asked[:K]) + half.repeated(asked[K:]))
        assert float(whole.draws(asked)) == pytest.approx(float(half.draws(asked[:K]) + half.draws(asked[K:])))

    @settings(max_examples=60, deadline=None)
    @given(weights_of_all, rows_of_all, lengths_of_all, st.floats(0.5, 8.0))
    def test_phases_that_are_alike_are_one_run(self, weights, rows, lengths, repeats):
        sources = sources_of(rows, lengths)
        one = Limits(sources=sources, slots=(2e5, 1e5), repeats=repeats)
        two = PhasedLimits(sources=sources, slots=(2e5, 1e5), repeats=repeats, phases=2)
        asked = shares_of(weights[:K])
        assert two.repeated(np.tile(asked, 2)) == pytest.approx(one.repeated(asked))
        assert bool(two.allowed(np.tile(asked, 2))) == bool(one.allowed(asked))

    def test_what_is_scarce_may_be_kept_for_one_phase(self):
        sources = sources_of((100, 10**6, 10**6), ((10.0, 1.0),) * 3)
        bounds = PhasedLimits(sources=sources, slots=(1e4, 1e9), repeats=2.0, phases=2)  # 500 draws a phase; 200 of it
        late = [0.0, 0.5, 0.5, 0.4, 0.3, 0.3]
        assert bounds.nearest(late) == pytest.approx(late)
        # 0.4 of both phases would be 400: half of each goes, and the others get it in proportion.
        assert bounds.nearest([0.4, 0.3, 0.3, 0.4, 0.45, 0.15]) == pytest.approx(
            [0.2, 0.4, 0.4, 0.2, 0.6, 0.2], abs=1e-4
        )

    def test_the_nearest_of_all_is_allowed_where_scaling_down_finds_none(self):
        """Sources of equal rows that the whole run just suffices for."""
        sources = sources_of((100, 100, 100), ((10.0, 1.0),) * 3)
        bounds = PhasedLimits(sources=sources, slots=(1.0e4, 1e9), repeats=3.34, phases=2)
        found = bounds.nearest([0.9, 0.05, 0.05, 0.9, 0.05, 0.05])
        assert bounds.allowed(found)

    def test_too_little_data_is_an_error_that_says_what_to_do(self):
        bounds = PhasedLimits(
            sources=sources_of((9, 9, 9), ((10.0, 1.0),) * 3), slots=(1e4, 1e9), repeats=1.0, phases=2
        )
        with pytest.raises(RecipeError, match=r"Raise study\.repeats"):
            bounds.nearest([1.0] * 6)


class TestSearch:
    GOAL = Goal(targets={"talk": 1.0}, guards={"facts": 0.05})

    @staticmethod
    def bounds() -> PhasedLimits:
        return PhasedLimits(
            sources=sources_of((10**6,) * 2, ((20.0, 5.0),) * 2), slots=(2e5, 1e5), repeats=4.0, least=0.01, phases=2
        )

    @staticmethod
    def response(w: np.ndarray) -> dict[str, float]:
        """Facts are kept by what came last, talk is learned at any time: the best curriculum ends with facts."""
        return {
            "facts": -0.25 + 0.3 * float(1 - np.exp(-4 * w[2])),
            "talk": 0.4 * float(1 - np.exp(-3 * (w[1] + w[3]) / 2)),
        }

    def tried(self, count: int) -> list[Tried]:
        rng = np.random.default_rng(0)
        return [
            Tried(tuple(map(float, w)), {a: v + rng.normal(0, 0.004) for a, v in self.response(w).items()})
            for w in self.bounds().nearest_all(spread_weights(count, 2, 3, 2))
        ]

    def test_it_finds_the_order_that_one_mixture_cannot_have(self):
        tried = self.tried(24)
        choice = best_mixture(
            fit_surfaces(tried, self.GOAL, self.bounds()), self.GOAL, self.bounds(), tried=tried, caution=0.0
        )
        early, late = choice.weights[:2], choice.weights[2:]
        assert late[0] > early[0] + 0.2
        constant = [self.response(np.array([x, 1 - x] * 2)) for x in np.linspace(0.01, 0.99, 99)]
        best_constant = max(changes["talk"] for changes in constant if changes["facts"] >= -0.05)
        true = self.response(choice.weights)
        assert true["talk"] > best_constant and true["facts"] >= -0.06

    def test_proposals_are_allowed_mixtures_of_every_phase_and_the_same_again(self):
        tried = self.tried(8)
        proposed = propose(tried, self.GOAL, self.bounds(), 0)
        assert self.bounds().allowed(proposed) and proposed.shape == (4,)
        assert propose(tried, self.GOAL, self.bounds(), 0).tolist() == proposed.tolist()

    def test_design_points_of_one_phase_are_those_there_always_were(self):
        assert spread_weights(5, 3, 1000).tolist() == spread_weights(5, 3, 1000, 1).tolist()
        assert spread_weights(5, 3, 1000)[3].round(4).tolist() == [0.1108, 0.3936, 0.4956]
        w = spread_weights(64, 3, 0, 2).reshape(64, 2, 3)
        assert np.allclose(w.sum(axis=2), 1) and np.allclose(w.mean(axis=0), 1 / 3, atol=0.05)


class TestRecipes:
    def recipe(self):
        parts = [{"name": n, "tasks": [f"{n}/*"]} for n in PARTS]
        return parse_recipe({"name": "r", "collections": [{"path": "."}], "mixture": {"parts": parts}})

    def test_weights_of_phases_go_into_a_recipe_and_come_back(self):
        recipe = self.recipe()
        weights = [0.5, 0.3, 0.2, 0.1, 0.2, 0.7]
        made = recipe.model_copy(update={"mixture": weighed(recipe.mixture, weights)})
        assert weights_of(made, 2) == pytest.approx(weights)
        assert [p.until for p in made.mixture.phases] == [0.5, 1.0]
        assert [p.weight for p in made.mixture.parts] == pytest.approx([0.3, 0.25, 0.45])
        assert parse_recipe(made.model_dump(mode="json")) == made

    def test_phases_that_are_alike_are_a_recipe_without_any(self):
        recipe = self.recipe()
        alike = weighed(recipe.mixture, [2.0, 1.0, 1.0, 0.5, 0.25, 0.25])
        assert alike == weighed(recipe.mixture, [2.0, 1.0, 1.0]) and not alike.phases
        assert weights_of(recipe.model_copy(update={"mixture": alike}), 3) == pytest.approx([0.5, 0.25, 0.25] * 3)


class PhasedRuns(Runs):
    """What stands in the second phase counts more for what is guarded; what is to be learned is learned at any time."""

    def changes(self, weights, small):
        both = np.array(weights_twice(weights)).reshape(2, 3)
        facts = 1 - np.exp(-6.0 * (0.2 * both[0, 0] + 0.8 * both[1, 0]))
        talk, programs = (1 - np.exp(-r * both[:, k].mean()) for k, r in ((1, 5.0), (2, 4.0)))
        level = 0.8 if small else 1.0
        return {
            "facts": level * (-self.lost + 2 * self.lost * facts),
            "talk": level * 0.5 * talk,
            "programs": level * 0.4 * programs,
        }


def weights_twice(weights):
    return list(weights) * (2 if len(weights) == 3 else 1)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> tuple[Outcome, PhasedRuns]:
    folder = tmp_path_factory.mktemp("phased")
    world: Path = write_abilities(folder / "abilities")
    runs = PhasedRuns(folder)
    study = study_of(world, folder, phases=2, design=10, search=1, baselines={"uniform": "uniform"})
    return run_balance(study, folder / "root", runs), runs


class TestStudy:
    def test_every_small_run_has_weights_for_both_phases(self, outcome):
        found, runs = outcome
        assert all(len(r.weights) == 6 for r in found.runs)
        phased = [p for p in runs.asked if p.recipe.mixture.phases]
        assert len(phased) >= 10
        # The baselines are plain recipes: other studies' runs of them are these.
        plain = [p for p in runs.asked if not p.recipe.mixture.phases]
        assert {p.labels["mixture"] for p in plain} >= {"uniform"}

    def test_what_it_takes_does_as_well_as_the_best_curriculum_there_is(self, outcome):
        found, runs = outcome
        assert found.verdict == "balanced"
        true = runs.changes(found.found.weights, small=False)
        assert true["facts"] >= -0.05
        best = max(
            np.mean([c["talk"], c["programs"]])
            for w in np.random.default_rng(0).dirichlet(np.ones(3), (20_000, 2))
            if (c := runs.changes(w.ravel(), small=False))["facts"] >= -0.05
        )
        assert np.mean([true["talk"], true["programs"]]) >= 0.9 * best
        assert (found.limits.repeated(found.found.weights) <= 40.0 * 1.01).all()

    def test_the_recipe_it_leaves_has_the_phases(self, outcome, tmp_path):
        found, _ = outcome
        findings = write_balance(found, tmp_path)
        recipe = load_recipe(tmp_path / "best.yaml")
        assert weights_of(recipe, 2) == pytest.approx(found.found.weights, abs=2e-4)
        told = orjson.loads((tmp_path / "balance.json").read_bytes())
        assert list(told["mixture"]) == ["phase 1", "phase 2"] and list(told["mixture"]["phase 1"]) == list(PARTS)
        assert any(line.startswith("Its 2 phases are equally long; phase 1: ") for line in findings.found)

    def test_tables_and_panels_have_what_their_columns_say(self, outcome):
        found, _ = outcome
        findings = findings_of(found)
        for table in findings.tables:
            assert len(table.columns) == len(table.kinds)
            assert all(len(row) == len(table.columns) for row in table.rows)
        panels = [p for p in findings.panels if p.group == "Composition"]
        assert [s.name for s in panels[0].series] == ["phase 1", "phase 2"]
        assert orjson.loads(orjson.dumps(outcome_json(found)))

    def test_limits_are_of_the_phases_asked_for(self, outcome, tmp_path):
        found, _ = outcome
        limits = limits_of(found.balance, tmp_path / "root")
        assert isinstance(limits, PhasedLimits) and limits.phases == 2


def test_a_recipe_with_phases_of_its_own_is_refused(tmp_path):
    world = write_abilities(tmp_path / "abilities")
    study = study_of(world, tmp_path).study
    from dataclasses import replace

    from flantune.studies.balance_settings import balance_of

    raw = study.recipe.model_dump(mode="json")
    raw["mixture"]["phases"] = [{"until": 0.5}, {}]
    with pytest.raises(RecipeError, match=r"leave out mixture\.phases"):
        balance_of(replace(study, recipe=parse_recipe(raw)))
