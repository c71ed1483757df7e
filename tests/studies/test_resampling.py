"""Statistics of runs over the same items, against closed forms and the slow obvious way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import StateError
from flantune.evals.statistics import wilson
from flantune.studies.resampling import (
    Arm,
    Compared,
    Together,
    bounds,
    compare_arms,
    fit_log,
    flattens_after,
    read_scores,
    resampled_arms,
    resampled_means,
    together,
)

from .grids import SETTING, write_scores


def runs(scores: np.ndarray, sizes: list[int], sampled: bool = False) -> Together:
    tasks = tuple(f"t{t}" for t, size in enumerate(sizes) for _ in range(size))
    return Together(tasks, tuple(f"i{k}" for k in range(len(tasks))), np.asarray(scores, dtype=float), sampled)


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_a_runs_score_is_the_mean_of_its_tasks_means(tasks):
    flat = [v for own in tasks for v in own]
    found = runs(np.array([flat]), [len(own) for own in tasks]).means[0]
    assert found == pytest.approx(np.mean([np.mean(own) for own in tasks]))


def test_scores_are_read_as_strict_ones_and_joined_by_item(tmp_path: Path):
    first = write_scores(tmp_path / "a.parquet", {"x": [1.0, None, 0.0], "y": [0.5]})
    second = write_scores(tmp_path / "b.parquet", {"x": [0.0, 1.0], "y": [1.0]})
    a, b = read_scores(first)[SETTING], read_scores(second)[SETTING]
    assert a.scores.tolist() == [1.0, 0.0, 0.0, 0.5]  # unread: 0
    both = together([a, b])
    assert both.ids == ("x/0", "x/1", "y/0") and both.scores.tolist() == [[1, 0, 0.5], [0, 1, 1]]
    assert both.of_tasks(["y"]).scores.tolist() == [[0.5], [1.0]]
    other = read_scores(write_scores(tmp_path / "c.parquet", {"z": [1.0]}))[SETTING]
    with pytest.raises(StateError, match="share no evaluated item"):
        together([a, other])
    (tmp_path / "d.parquet").write_text("no")
    with pytest.raises(StateError, match="not a readable"):
        read_scores(tmp_path / "d.parquet")


def test_resampled_items_spread_as_the_closed_form_says():
    rng = np.random.default_rng(0)
    sizes = [40, 60]
    world = runs(rng.random((1, 100)), sizes)
    drawn = resampled_means(world, "key")[:, 0]
    parts = [world.scores[0, :40], world.scores[0, 40:]]
    expected = np.sqrt(sum(p.var() / len(p) for p in parts)) / 2
    assert drawn.mean() == pytest.approx(world.means[0], abs=4 * expected / np.sqrt(2000))
    assert drawn.std() == pytest.approx(expected, rel=0.06)


def test_tasks_are_resampled_where_they_stand_for_others():
    levels = np.array([0.1, 0.4, 0.5, 0.9])
    flat = runs(np.repeat(levels, 5)[None], [5] * 4, sampled=True)  # items of a task all alike: tasks vary alone
    drawn = resampled_means(flat, "key")[:, 0]
    assert drawn.std() == pytest.approx(levels.std() / 2, rel=0.06)
    fixed = resampled_means(runs(flat.scores, [5] * 4), "key")[:, 0]
    assert fixed.std() == pytest.approx(0, abs=1e-12)


def test_seeds_spread_by_the_unbiased_variance_of_their_mean():
    by_seed = np.array([0.30, 0.36, 0.45])
    means = np.tile(by_seed, (20_000, 1))  # items do not vary: seeds do
    arms = [Arm("a", {1: 0, 2: 1, 3: 2})]
    drawn = resampled_arms(means, arms, "key")[:, 0]
    assert drawn.mean() == pytest.approx(by_seed.mean(), abs=0.002)
    assert drawn.std() == pytest.approx(np.sqrt(by_seed.var(ddof=1) / 3), rel=0.03)


def test_the_interval_of_several_seeds_and_items_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(100):
        quality = rng.normal(0.5, 0.05, size=5)  # of seeds
        scores = (rng.random((5, 80)) < quality[:, None]).astype(float)
        arm = Arm("a", {k: k for k in range(5)})
        found = compare_arms(runs(scores, [80]), [arm], None, trial).scores[0]
        hits += found.low <= 0.5 <= found.high
    assert 82 <= hits <= 100  # five seeds: somewhat below 95 in 100 is what percentiles of so few give


def test_gains_are_paired_by_item_and_by_seed():
    rng = np.random.default_rng(2)
    base = rng.random((1, 50)) * 0.5
    first = base + rng.normal(0, 0.03, (3, 1))  # seeds differ as a whole
    second = first + 0.25
    together_ = runs(np.concatenate([base, first, second]), [50])
    arms = [Arm("base", {None: 0}), Arm("a", {0: 1, 1: 2, 2: 3}), Arm("b", {0: 4, 1: 5, 2: 6})]
    found = compare_arms(together_, arms, 1, "key")
    assert found.scores[2].gain == pytest.approx(0.25)
    assert found.scores[2].gain_low == pytest.approx(0.25) == found.scores[2].gain_high
    assert found.scores[2].surely == 1 and found.scores[1].gain is None and found.scores[1].surely == 0
    assert found.difference(0, 2)[0] == pytest.approx(second.mean() - base.mean())
    assert found.scores[1].by_seed.keys() == {0, 1, 2}


def test_a_seed_that_failed_in_one_arm_leaves_the_others_paired():
    scores = np.array([[0.2] * 4, [0.4] * 4, [0.5] * 4, [0.6] * 4, [0.9] * 4])
    arms = [Arm("a", {0: 0, 1: 1, 2: 2}), Arm("b", {0: 3, 2: 4})]
    found = compare_arms(runs(scores, [4]), arms, None, "key")
    assert found.scores[0].mean == pytest.approx(1.1 / 3) and found.scores[1].mean == pytest.approx(0.75)
    assert np.isfinite(found.drawn).all()


def test_equal_data_give_equal_intervals():
    world = runs(np.random.default_rng(3).random((2, 30)), [10, 20], True)
    arms = [Arm("a", {None: 0}), Arm("b", {None: 1})]
    assert compare_arms(world, arms, 0, "k").scores == compare_arms(world, arms, 0, "k").scores


@given(st.floats(-0.5, 0.5), st.floats(-0.1, 0.1))
@settings(max_examples=30, deadline=None)
def test_a_fit_finds_the_line_that_is_there(intercept, slope):
    counts = [1, 8, 64, 100]
    means = [intercept + slope * np.log2(c) for c in counts]
    fit = fit_log(counts, means, np.tile(means, (50, 1)))
    assert (fit is None) == (len(set(means)) == 1)  # a line of no slope and no error is none
    if fit is None:
        return
    assert fit.slope == pytest.approx(slope, abs=1e-9) and fit.at(1) == pytest.approx(intercept, abs=1e-9)
    assert (fit.slope_low, fit.slope_high) == pytest.approx((slope, slope), abs=1e-9)
    assert fit.r_squared is None or fit.r_squared == pytest.approx(1)
    assert fit_log(counts[:2], means[:2], np.tile(means[:2], (5, 1))) is None


def test_scores_that_are_all_alike_have_no_line():
    counts = [1, 8, 64]
    assert fit_log(counts, [0.0] * len(counts), np.zeros((5, len(counts)))) is None


def test_the_fits_interval_is_that_of_least_squares_on_every_resample():
    rng = np.random.default_rng(4)
    counts, drawn = [2, 4, 16], rng.normal(0.5, 0.1, (200, 3))
    fit = fit_log(counts, drawn.mean(axis=0).tolist(), drawn)
    slow = [np.polyfit(np.log2(counts), row, 1)[0] for row in drawn]
    assert fit is not None and (fit.slope_low, fit.slope_high) == pytest.approx(bounds(np.array(slow)))


def test_where_the_gain_flattens():
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 0.01, (500, 4))
    rising = np.array([0.1, 0.3, 0.5, 0.501]) + noise
    assert flattens_after(Compared((), rising, 0, 0), []) is None
    scores = compare_arms(runs(np.zeros((4, 3)), [3]), [Arm(str(k), {None: k}) for k in range(4)], None).scores
    assert flattens_after(Compared(scores, rising, 0, 0), [0, 1, 2, 3]) == 2
    steady = np.array([0.1, 0.3, 0.5, 0.7]) + noise
    assert flattens_after(Compared(scores, steady, 0, 0), [0, 1, 2, 3]) is None
    # One small number of tasks that is now good, now bad, hides the first step's gain and ends nothing.
    chancy = steady + np.outer(rng.normal(0, 0.3, 500), [0, 1, 0, 0])
    assert flattens_after(Compared(scores, chancy, 0, 0), [0, 1, 2, 3]) is None


def test_scores_that_are_all_alike_claim_no_certainty():
    zeros = runs(np.zeros((2, 40)), [40])
    found = compare_arms(zeros, [Arm("base", {None: 0}), Arm("a", {0: 1})], 0, "k")
    assert found.scores[1].low == 0 and found.scores[1].high == pytest.approx(wilson(0, 40)[1])
    assert found.scores[1].gain == 0 and found.scores[1].surely == 0
    assert found.difference(0, 1) == pytest.approx((0, -wilson(0, 40)[1], wilson(0, 40)[1]))
