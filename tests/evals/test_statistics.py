from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flantune.evals.statistics import (
    bootstrap_means,
    estimate_difference,
    estimate_mean,
    keyed_generator,
    mcnemar,
    sign_flip,
    wilson,
)


@given(st.integers(0, 60), st.integers(1, 60))
def test_wilson_is_scipys(wins: int, more: int):
    n = wins + more
    expected = stats.binomtest(wins, n).proportion_ci(method="wilson")
    assert wilson(wins / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_one_task_of_right_and_wrong_answers_gets_the_exact_interval_and_several_get_wilsons():
    estimate = estimate_mean({"t": [1.0] * 7 + [0.0] * 13}, "k")
    exact = stats.beta.ppf(0.025, 7, 14), stats.beta.ppf(0.975, 8, 13)  # Clopper and Pearson, in closed form
    assert (estimate.low, estimate.high) == pytest.approx(exact) and estimate.method == "exact binomial"
    assert estimate.mean == pytest.approx(0.35)
    several = estimate_mean({"t": [1.0] * 7 + [0.0] * 13, "u": [1.0] * 7 + [0.0] * 13}, "k")
    assert (several.low, several.high) == pytest.approx(wilson(0.35, 40)) and several.method == "Wilson"


def test_tasks_count_alike_and_unequal_sizes_cost_precision():
    even = estimate_mean({"a": [1.0, 0.0] * 50, "b": [1.0, 0.0] * 50}, "k")
    uneven = estimate_mean({"a": [1.0, 0.0] * 95, "b": [1.0, 0.0] * 5}, "k")
    assert even.mean == uneven.mean == 0.5
    assert uneven.high - uneven.low > even.high - even.low
    assert estimate_mean({"a": [1.0] * 99, "b": [0.0]}, "k").mean == 0.5


def test_scores_all_alike_do_not_claim_certainty():
    for value in (0.0, 1.0, 0.4):
        estimate = estimate_mean({"a": [value] * 10, "b": [value] * 10}, "k")
        assert estimate.low <= value <= estimate.high and estimate.high - estimate.low > 0.1


def test_the_bootstrap_of_a_mean_has_the_standard_error_of_the_mean():
    values = keyed_generator("data").random(400)
    means = bootstrap_means({"t": values}, "k", resamples=4000)
    assert means.mean() == pytest.approx(values.mean(), abs=0.003)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.06)


def test_resampling_tasks_adds_their_spread():
    generator = keyed_generator("tasks")
    tasks = {f"t{i}": (generator.random(50) < p).astype(float) for i, p in enumerate(np.linspace(0.1, 0.9, 16))}
    within = bootstrap_means(tasks, "k").std()
    over = bootstrap_means(tasks, "k", over_tasks=True).std()
    means = np.array([v.mean() for v in tasks.values()])
    expected = np.sqrt(means.var() / 16 + np.mean([v.var() / 50 for v in tasks.values()]) / 16)
    assert over == pytest.approx(expected, rel=0.08)
    assert over > 2 * within


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = 0
    for trial in range(200):
        draws = {f"t{t}": keyed_generator("cover", trial, t).random(30) ** 2 for t in range(4)}
        estimate = estimate_mean(draws, trial)
        covered += estimate.low <= 1 / 3 <= estimate.high
    assert 180 <= covered <= 199


def test_a_paired_difference_is_narrower_than_two_means_and_keeps_its_sign():
    generator = keyed_generator("pairs")
    a = (generator.random(300) < 0.5).astype(float)
    b = np.where(generator.random(300) < 0.1, 1.0, a)
    estimate = estimate_difference({"t": list(b - a)}, "k")
    assert estimate.mean == pytest.approx(float((b - a).mean()))
    assert 0 < estimate.low <= estimate.mean <= estimate.high
    single = estimate_mean({"t": list(a)}, "k")
    assert estimate.high - estimate.low < single.high - single.low


def test_equal_data_and_key_give_equal_numbers_and_another_task_leaves_a_tasks_resamples():
    values = {"a": [0.1, 0.5, 0.9, 0.3], "b": [0.2, 0.8, 0.4]}
    assert estimate_mean(values, "k") == estimate_mean(dict(reversed(values.items())), "k")
    alone = bootstrap_means({"a": np.array(values["a"])}, "k")
    other = bootstrap_means({"b": np.array(values["b"])}, "k")
    both = bootstrap_means({t: np.array(v) for t, v in values.items()}, "k")
    assert np.allclose(both, (alone + other) / 2)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_test_on_the_pairs_that_differ(wins: int, losses: int):
    p = mcnemar(wins, losses)
    assert p == mcnemar(losses, wins) and 0 < p <= 1
    if wins + losses:
        tail = stats.binom.cdf(min(wins, losses), wins + losses, 0.5)
        assert p == pytest.approx(min(1.0, 2 * tail))


def test_no_scores_is_an_error_and_no_zero():
    for empty in ({}, {"t": []}):
        with pytest.raises(ValueError, match="at least one score"):
            estimate_mean(empty, "k")


@given(
    st.lists(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=3), min_size=1, max_size=4)
)
def test_flipped_signs_are_those_of_all_ways_to_flip_them(differences: list[list[float]]):
    by_task = {str(t): own for t, own in enumerate(differences)}
    weighed = [d / len(own) / len(differences) for own in differences for d in own if d]
    seen = abs(sum(weighed))
    ways = [
        abs(sum(s * w for s, w in zip(signs, weighed, strict=True))) for signs in product((1, -1), repeat=len(weighed))
    ]
    exact = sum(way >= seen - 1e-12 for way in ways) / len(ways)
    assert sign_flip(by_task, "test") == pytest.approx(exact, abs=0.02)


def test_a_fall_of_small_tasks_is_seen_beside_a_rise_of_a_large_one():
    """Twelve tasks of ten items fall whole, one of many rises by as many items: the mean over tasks surely fell."""
    by_task = {f"small{t}": [-1.0] * 10 for t in range(12)} | {"large": [1.0] * 120 + [0.0] * 2_000}
    assert mcnemar(120, 120) == 1.0
    assert sign_flip(by_task, "test") < 0.001


def test_differences_all_alike_leave_room_for_what_was_not_seen():
    three = estimate_difference({"a": [-1.0] * 3}, "test")
    assert (three.mean, three.low) == (-1.0, -1.0) and three.high == pytest.approx(-1 + 2 * (1 - 0.025 ** (1 / 3)))
    none = estimate_difference({"a": [0.0] * 1_000}, "test")
    assert none.low == -none.high and none.high == pytest.approx(0.0037, abs=1e-4)


@pytest.mark.parametrize("items", [1, 2, 4])
def test_intervals_of_few_items_a_task_cover_the_truth_about_as_often_as_they_say(items: int):
    draw = np.random.default_rng(items)
    covered = 0
    for trial in range(200):
        by_task = {str(t): draw.choice([-1.0, 0.0, 1.0], p=[0.1, 0.7, 0.2], size=items).tolist() for t in range(30)}
        estimate = estimate_difference(by_task, "test", trial)
        covered += estimate.low <= 0.1 <= estimate.high
    assert covered >= 0.9 * 200
