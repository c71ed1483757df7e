"""The balance search against response surfaces whose best mixture is known, its limits, intervals and verdicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import RecipeError
from flantune.studies.balance_intervals import (
    Change,
    change_of,
    crossed,
    error_of_items,
    kept_all,
    mean_change,
)
from flantune.studies.balance_limits import Limits, Source, spread_weights
from flantune.studies.balance_search import Goal, Tried, best_mixture, fit_surfaces, pareto, propose
from flantune.studies.surface import SHARE_FLOOR, fit_surface

NAMES = ("facts", "lists", "talk", "code")
GOAL = Goal(targets={"talk": 1.0, "code": 1.0}, guards={"facts": 0.05, "lists": 0.05})


def limits(rows: int = 10**6, repeats: float = 4.0, least: float = 0.0) -> Limits:
    sources = tuple(Source(name=n, rows=rows, inputs=20.0, targets=5.0) for n in NAMES)
    return Limits(sources=sources, slots=(2e5, 1e5), repeats=repeats, least=least)


def response(w: np.ndarray, *, hopeless: bool = False) -> dict[str, float]:
    """Abilities rise with their own source and level off; a guard falls where its source is scarce."""
    own = 1 - np.exp(-np.array([8.0, 10.0, 6.0, 4.0]) * w)
    lost = 0.6 if hopeless else 0.25
    return {"facts": -lost + 0.4 * own[0], "lists": -lost + 0.35 * own[1], "talk": 0.8 * own[2], "code": 0.6 * own[3]}


def known_best(goal: Goal = GOAL) -> float:
    """By looking at a quarter of a million mixtures."""
    w = np.random.default_rng(0).dirichlet(np.ones(4), 250_000)
    own = 1 - np.exp(-np.array([8.0, 10.0, 6.0, 4.0]) * w)
    kept = (-0.25 + 0.4 * own[:, 0] >= -0.05) & (-0.25 + 0.35 * own[:, 1] >= -0.05)
    return float(((0.8 * own[:, 2] + 0.6 * own[:, 3]) / 2)[kept].max())


def tried_at(weights: np.ndarray, noise: float, seed: int, hopeless: bool = False) -> list[Tried]:
    rng = np.random.default_rng(seed)
    return [
        Tried(tuple(map(float, w)), {a: v + rng.normal(0, noise) for a, v in response(w, hopeless=hopeless).items()})
        for w in weights
    ]


class TestSearch:
    def test_it_finds_the_best_mixture_that_keeps_the_guards_within_five_percent(self):
        pytest.importorskip("optuna")
        tried = tried_at(spread_weights(10, 4, 1), 0.01, 1)
        for _ in range(5):
            mixture = propose(tried, GOAL, limits(), 1)
            tried += tried_at(mixture[None, :], 0.01, len(tried))
        choice = best_mixture(fit_surfaces(tried, GOAL, limits()), GOAL, limits(), tried=tried)
        true = response(choice.weights)
        assert choice.possible == "yes"
        assert GOAL.gain(true) >= 0.95 * known_best()
        assert GOAL.slack(true) >= -0.01  # the noise of one run
        assert GOAL.gain(true) > GOAL.gain(response(np.full(4, 0.25)))

    def test_the_same_runs_give_the_same_proposal(self):
        pytest.importorskip("optuna")
        tried = tried_at(spread_weights(6, 4, 3), 0.02, 3)
        assert propose(tried, GOAL, limits(), 5).tolist() == propose(tried, GOAL, limits(), 5).tolist()

    def test_a_proposal_keeps_the_limits_and_stands_apart_from_what_was_tried(self):
        pytest.importorskip("optuna")
        tight = limits(rows=3_000, repeats=1.0)
        tried = tried_at(np.array([tight.nearest(w) for w in spread_weights(6, 4, 3)]), 0.02, 3)
        found = propose(tried, GOAL, tight, 5)
        assert tight.allowed(found)
        assert all(np.abs(found - np.array(t.weights)).sum() / 2 > 0.03 for t in tried)

    def test_where_no_mixture_keeps_the_guards_it_says_so(self):
        tried = tried_at(spread_weights(16, 4, 2), 0.005, 2, hopeless=True)
        assert best_mixture(fit_surfaces(tried, GOAL, limits()), GOAL, limits(), tried=tried).possible == "no"

    def test_guards_that_nothing_threatens_leave_the_best_to_the_targets(self):
        goal = replace(GOAL, guards={"facts": 1.0})
        tried = tried_at(spread_weights(16, 4, 2), 0.005, 2)
        weights = best_mixture(fit_surfaces(tried, goal, limits()), goal, limits(), tried=tried).weights
        assert weights[2] + weights[3] > 0.8

    def test_full_runs_move_the_choice(self):
        tried = tried_at(spread_weights(16, 4, 2), 0.005, 2)
        before = best_mixture(fit_surfaces(tried, GOAL, limits()), GOAL, limits(), tried=tried)
        [full] = tried_at(before.weights[None, :], 0.0, 0)
        lower = Tried(full.weights, {**full.changes, "facts": full.changes["facts"] - 0.05})
        after = best_mixture(fit_surfaces(tried, GOAL, limits(), [lower]), GOAL, limits(), tried=tried)
        assert after.weights[0] > before.weights[0] + 0.02

    def test_a_mixture_that_did_well_in_full_is_taken_where_small_runs_mislead(self):
        """In full, talk needs its source less than small runs show, and code more."""

        def in_full(w: np.ndarray) -> dict[str, float]:
            own = 1 - np.exp(-np.array([20.0, 3.0]) * w[2:])
            return {**response(w), "talk": 0.8 * own[0], "code": 0.9 * own[1]}

        tried = tried_at(spread_weights(12, 4, 3), 0.005, 3)
        full: list[Tried] = []
        for _ in range(4):
            weights = best_mixture(
                fit_surfaces(tried, GOAL, limits(), full), GOAL, limits(), tried=tried, apart=full
            ).weights
            full.append(Tried(tuple(map(float, weights)), in_full(weights)))
        choice = best_mixture(fit_surfaces(tried, GOAL, limits(), full), GOAL, limits(), tried=[*tried, *full])
        kept = [GOAL.gain(t.changes) for t in full if GOAL.slack(t.changes) >= 0]
        assert GOAL.gain(in_full(choice.weights)) > max(kept) - 0.01
        assert GOAL.gain(in_full(choice.weights)) > GOAL.gain(in_full(np.array(full[0].weights)))

    def test_wide_intervals_cost_some_of_the_gain_and_not_all(self):
        tried = tried_at(spread_weights(16, 4, 2), 0.005, 2)
        room = {"facts": 0.12, "lists": 0.12}
        choice = best_mixture(fit_surfaces(tried, GOAL, limits()), GOAL, limits(), tried=tried, room=room)
        true = response(choice.weights)
        assert GOAL.slack(true) >= 0.05 and 0.4 * known_best() < GOAL.gain(true) < 0.95 * known_best()

    def test_the_next_full_run_is_none_of_those_before(self):
        tried = tried_at(spread_weights(16, 4, 2), 0.005, 2)
        [full] = tried_at(
            best_mixture(fit_surfaces(tried, GOAL, limits()), GOAL, limits(), tried=tried).weights[None, :], 0.0, 0
        )
        surfaces = fit_surfaces(tried, GOAL, limits(), [full])
        again = best_mixture(surfaces, GOAL, limits(), tried=[*tried, full])
        other = best_mixture(surfaces, GOAL, limits(), tried=[*tried, full], apart=[full])
        assert np.abs(again.weights - full.weights).sum() / 2 < 0.1
        assert np.abs(other.weights - full.weights).sum() / 2 > 0.03

    def test_room_for_the_confirmations_interval_makes_the_choice_safer(self):
        surfaces = fit_surfaces(tried_at(spread_weights(16, 4, 2), 0.005, 2), GOAL, limits())
        near = best_mixture(surfaces, GOAL, limits())
        safe = best_mixture(surfaces, GOAL, limits(), room={"facts": 0.04, "lists": 0.04})
        assert GOAL.slack(response(safe.weights)) > GOAL.slack(response(near.weights)) + 0.02


class TestSurface:
    def test_full_runs_tell_the_level_however_far_it_lies_and_their_own_neighbourhood(self):
        w = spread_weights(24, 3, 0)
        small = 0.1 * np.log(w + 0.01).sum(axis=1) + np.random.default_rng(0).normal(0, 0.01, 24)
        level, bump = 3.0, 0.02
        full = small[:4] + level + np.array([bump, 0.0, 0.0, 0.0])
        surface = fit_surface(w, small, w[:4], full)
        mean, doubt = surface.predict(w)
        assert np.abs(mean - small - level).max() < 0.05
        assert mean[0] - fit_surface(w, small, w[:4], small[:4] + level).predict(w[:1])[0][0] > bump / 3
        assert doubt[:4].max() < np.median(doubt[4:])  # little where it was seen in full

    def test_few_runs_of_many_sources_say_more_where_it_is_known_which_source_is_meant(self):
        errors = {True: [], False: []}
        for seed in range(12):
            w = spread_weights(9, 6, seed)
            y = 0.3 * np.log(w[:, 4] + 0.02) + np.random.default_rng(seed).normal(0, 0.03, 9)
            new = spread_weights(64, 6, 100 + seed)
            for told in errors:
                mean, _ = fit_surface(w, y, own=[4] if told else []).predict(new)
                errors[told].append(np.abs(mean - 0.3 * np.log(new[:, 4] + 0.02)).mean())
        assert np.mean(errors[True]) < 0.75 * np.mean(errors[False])

    def test_surfaces_corrected_by_full_runs_are_the_joint_gaussian_process(self):
        """Against the posterior written out: covariance of small and full runs in one matrix, no Cholesky."""
        w, rng = spread_weights(9, 3, 5), np.random.default_rng(5)
        y, full = rng.normal(size=6), rng.normal(size=3)
        surface = fit_surface(w[:6], y, w[6:], full)
        logs = np.log(w + SHARE_FLOOR)
        x = (logs - logs[:6].mean(axis=0)) / logs[:6].std(axis=0)

        def smooth(length: float) -> np.ndarray:
            return np.exp(-((x[:, None] - x[None]) ** 2).sum(axis=2) / (2 * 3 * length**2))

        kernels = {
            "linear": lambda: x @ x.T / 3,
            "quadratic": lambda: ((1 + x @ x.T / 3) ** 2 - 1) / 3,
            "smooth": lambda: smooth(surface._length),
        }
        prior = surface._ratio * kernels[surface.fit.kind]() + 10.0
        prior[6:, 6:] += 1e6 + 4.0 * smooth(1.0)[6:, 6:]
        noisy = prior + np.eye(9)
        expected = y.mean() + prior[6:] @ np.linalg.solve(noisy, np.r_[y, full] - y.mean())
        np.testing.assert_allclose(surface.predict(w[6:])[0], expected, atol=1e-6)

    def test_a_response_linear_in_the_logarithms_is_found_exactly(self):
        w = spread_weights(24, 3, 0)
        y = np.log(w + 0.01) @ np.array([0.1, -0.2, 0.05])
        surface = fit_surface(w, y)
        new = spread_weights(64, 3, 9)
        mean, _ = surface.predict(new)
        assert surface.fit.explained > 0.995
        assert np.abs(mean - np.log(new + 0.01) @ np.array([0.1, -0.2, 0.05])).max() < 0.03

    def test_left_out_errors_are_those_of_refitting_without_each_run(self):
        from flantune.studies import surface as module

        w = spread_weights(9, 3, 4)
        y = np.random.default_rng(0).normal(size=9)
        features = np.log(w + 0.01)
        covariance = module._covariance("smooth", features, 1.5, 3.0)
        errors, _ = module._left_out(covariance, y)
        for i in range(9):
            rest = [j for j in range(9) if j != i]
            across = covariance[i, rest]
            predicted = across @ np.linalg.solve(covariance[np.ix_(rest, rest)], y[rest])
            assert errors[i] == pytest.approx(y[i] - predicted, abs=1e-9)

    def test_noise_alone_is_not_explained(self):
        explained = [
            fit_surface(spread_weights(14, 4, s), np.random.default_rng(s).normal(size=14)).fit.explained
            for s in range(20)
        ]
        assert np.mean(explained) < 0.25

    def test_doubt_grows_away_from_the_runs(self):
        near = np.array([[0.4, 0.3, 0.3], [0.3, 0.4, 0.3], [0.3, 0.3, 0.4], [0.35, 0.35, 0.3], [0.32, 0.34, 0.34]])
        surface = fit_surface(near, [0.1, 0.2, 0.3, 0.15, 0.2])
        _, doubt = surface.predict([[1 / 3, 1 / 3, 1 / 3], [0.98, 0.01, 0.01]])
        assert doubt[1] > 2 * doubt[0]

    def test_too_few_runs_are_refused(self):
        with pytest.raises(ValueError, match="at least 4"):
            fit_surface([[0.5, 0.5]] * 3, [0.0, 0.1, 0.2])


weights_of_four = st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4).filter(lambda w: sum(w) > 1e-3)
rows_of_four = st.lists(st.integers(50, 20_000), min_size=4, max_size=4)
lengths_of_four = st.lists(st.tuples(st.floats(2, 200), st.floats(1, 60)), min_size=4, max_size=4)


class TestLimits:
    @settings(max_examples=150, deadline=None)
    @given(weights_of_four, rows_of_four, lengths_of_four, st.floats(0.5, 8.0), st.sampled_from([0.0, 0.01, 0.05]))
    def test_no_source_is_ever_repeated_more_than_it_bears(self, weights, rows, lengths, repeats, least):
        sources = tuple(
            Source(name=str(i), rows=r, inputs=a, targets=b)
            for i, (r, (a, b)) in enumerate(zip(rows, lengths, strict=True))
        )
        bounds = Limits(sources=sources, slots=(2e5, 1e5), repeats=repeats, least=least)
        try:
            found = bounds.nearest(weights)
        except RecipeError as e:
            assert "repeats" in str(e)
            # Nothing that is looked at shows otherwise.
            spread = np.maximum(spread_weights(256, 4, 0), least)
            assert not any(bounds.allowed(w / w.sum()) for w in spread)
            return
        assert found.sum() == pytest.approx(1)
        assert (found >= least - 1e-9).all()
        assert (bounds.repeated(found) <= repeats * (1 + 1e-6)).all()

    @settings(max_examples=60, deadline=None)
    @given(weights_of_four)
    def test_an_allowed_mixture_is_left_as_it_is(self, weights):
        shares = np.array(weights) / sum(weights)
        assert np.allclose(limits().nearest(weights), shares)

    def test_what_a_source_loses_goes_to_the_others_in_proportion(self):
        sources = tuple(
            Source(name=n, rows=r, inputs=10.0, targets=1.0) for n, r in zip("abc", (100, 10**6, 10**6), strict=True)
        )
        bounds = Limits(sources=sources, slots=(1e4, 1e9), repeats=2.0)  # 1,000 draws: a has 200 at most
        assert bounds.nearest([0.5, 0.3, 0.2]).tolist() == pytest.approx([0.2, 0.48, 0.32])

    def test_too_little_data_is_an_error_that_says_what_to_do(self):
        with pytest.raises(RecipeError, match=r"Raise study\.repeats"):
            limits(rows=100, repeats=1.0).nearest([1, 1, 1, 1])

    def test_spread_mixtures_are_mixtures_and_cover_the_simplex(self):
        w = spread_weights(64, 4, 0)
        assert np.allclose(w.sum(axis=1), 1) and (w > 0).all()
        assert np.allclose(w.mean(axis=0), 0.25, atol=0.03)


class TestIntervals:
    def test_the_error_of_items_is_what_the_interval_has_without_its_seeds(self):
        """Seeds that agree leave the items' part alone: 1.96 standard errors of the items' means."""
        rng = np.random.default_rng(4)
        change = rng.normal(size=80)
        before = {"t": {("s", str(i)): 0.0 for i in range(80)}}
        after = [{"t": {("s", str(i)): float(change[i]) for i in range(80)}}] * 3
        expected = 1.96 * change.std(ddof=1) / np.sqrt(80)
        assert error_of_items(before, after) == pytest.approx(expected)
        assert change_of(before, after).error == pytest.approx(expected, rel=0.02)

    def test_coverage_over_seeds_and_items_is_what_it_says(self):
        rng = np.random.default_rng(0)
        hits = 0
        for _ in range(400):
            seeds = rng.normal(0, 0.03, (3, 1))
            tables = [0.1 + seeds + rng.normal(0, 0.3, (1, 40)) + rng.normal(0, 0.3, (3, 40)) for _ in range(3)]
            change = crossed(tables, [1 / 3] * 3)
            hits += change.low <= 0.1 <= change.high
        assert hits / 400 >= 0.92

    def test_the_mean_is_over_tasks_and_then_over_abilities_by_weight(self):
        before = {"t": {("s", "1"): 0.0, ("s", "2"): 0.0}, "u": {("s", "3"): 0.0}}
        after = {"t": {("s", "1"): 1.0, ("s", "2"): 0.0}, "u": {("s", "3"): 1.0}}
        assert change_of(before, [after]).mean == pytest.approx(0.75)
        other = ({"v": {("s", "4"): 1.0}}, [{"v": {("s", "4"): 0.0}}], 3.0)
        assert mean_change([(before, [after], 1.0), other]).mean == pytest.approx((0.75 - 3.0) / 4)

    def test_items_that_one_model_did_not_answer_are_in_no_figure(self):
        before = {"t": {("s", "1"): 0.0, ("s", "2"): 0.0}}
        after = [{"t": {("s", "1"): 1.0, ("s", "2"): 1.0}}, {"t": {("s", "1"): 1.0}}]
        assert change_of(before, after).items == 1

    def test_no_table_shows_certainty(self):
        change = crossed([np.zeros((3, 50))], [1.0])
        assert change.low < 0 < change.high

    @pytest.mark.parametrize(
        ("low", "high", "keeps"), [(-0.04, 0.1, "yes"), (-0.2, -0.06, "no"), (-0.06, 0.02, "undecided")]
    )
    def test_a_guard_is_kept_lost_or_undecided_by_its_whole_interval(self, low, high, keeps):
        change = Change((low + high) / 2, low, high, 10, 3)
        assert change.keeps(0.05) == keeps
        assert kept_all({"a": "yes", "b": change.keeps(0.05)}) == keeps


def test_the_front_is_what_nothing_beats_in_both():
    rows = [(0.1, 0.9), (0.5, 0.5), (0.4, 0.4), (0.9, 0.1), (0.5, 0.6)]
    assert pareto(rows) == [3, 4, 0]
