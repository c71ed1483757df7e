from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import gcd

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from flantune.mixtures.row_order import RowOrder, coprime_near
from flantune.mixtures.sequence import mix, mix_words

length_lists = st.lists(st.integers(0, 30), min_size=1, max_size=80)


def epoch(lengths: dict[str, list[int]], task: str, key: int, seed: int = 0) -> list[int]:
    """The rows of one epoch, in order."""
    named = {name: np.array(own, dtype=np.int64) for name, own in lengths.items()}
    names = sorted(named)
    laid = RowOrder(named, seed).laid_out(names)
    size = len(named[task])
    places = np.arange(size, dtype=np.uint64)
    numbers = np.full(size, names.index(task), dtype=np.int64)
    return laid.rows(numbers, places, np.full(size, key, dtype=np.uint64)).tolist()


@settings(deadline=None)
@given(length_lists, length_lists, st.integers(0, 2**64 - 1))
def test_every_row_stands_once_in_an_epoch_and_other_tasks_change_nothing(a: list[int], b: list[int], key: int) -> None:
    rows = epoch({"a": a, "b": b}, "b", key)
    assert sorted(rows) == list(range(len(b)))
    assert rows == epoch({"b": b}, "b", key) == epoch({"a": [1], "b": b, "c": a}, "b", key)


@given(st.floats(-3, 400), st.integers(1, 300))
def test_a_step_is_the_nearest_that_meets_every_rank(value: float, size: int) -> None:
    step = coprime_near(value, size)
    near = min(size, max(1, round(value)))
    fitting = [s for s in range(1, size + 1) if gcd(s, size) == 1]
    assert step in fitting and abs(step - near) == min(abs(s - near) for s in fitting)


def test_every_stretch_holds_the_tasks_mean_length_much_closer_than_chance_does() -> None:
    # Lengths with a heavy tail: a few hundred times the median.
    lengths = np.exp(np.random.default_rng(0).normal(2, 1.5, 4000)).astype(np.int64) + 1

    def spread(order: list[int], width: int) -> float:
        sums = np.cumsum(np.r_[0, lengths[order]])
        return float(np.std((sums[width:] - sums[:-width]) / width))

    ours = epoch({"t": lengths.tolist()}, "t", mix(99))
    chance = np.random.default_rng(1).permutation(4000).tolist()
    for width, share in ((20, 0.8), (100, 0.5), (500, 0.45)):
        assert spread(ours, width) < spread(chance, width) * share


def test_epochs_differ_and_neighbours_in_the_file_do_not_stay_neighbours() -> None:
    same = {"t": [5] * 500}
    one, two = epoch(same, "t", mix(1)), epoch(same, "t", mix(2))
    assert sum(a == b for a, b in zip(one, two, strict=True)) < 10
    assert sum(abs(a - b) == 1 for a, b in pairwise(one)) < 10
    rising = epoch({"t": list(range(500))}, "t", mix(1))
    assert sum(abs(a - b) == 1 for a, b in pairwise(rising)) < 10


def test_each_row_is_first_about_equally_often() -> None:
    size, n = 40, 8000
    order = RowOrder({"t": np.arange(size)}, 3).laid_out(["t"])
    zeros, keys = np.zeros(n, dtype=np.int64), mix_words(np.arange(n, dtype=np.uint64))
    firsts = Counter(order.rows(zeros, zeros.astype(np.uint64), keys).tolist())
    assert chisquare([firsts[r] for r in range(size)]).pvalue > 1e-4


@given(length_lists, st.integers(1, 20))
def test_rows_to_sample_are_spread_over_the_lengths(lengths: list[int], of: int) -> None:
    order = RowOrder({"t": np.array(lengths)}, 0)
    rows = [order.row("t", k, of) for k in range(of)]
    assert [lengths[r] for r in rows] == sorted(lengths[r] for r in rows)
    assert max(Counter(rows).values()) <= -(-of // len(lengths))
