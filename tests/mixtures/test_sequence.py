from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise
from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from flantune.mixtures import sequence
from flantune.mixtures.sequence import (
    GOLDEN,
    choose,
    count_before,
    distinct_choices,
    floor_sum,
    keyed_word,
    mix,
    mix_words,
    name_key,
    permute,
    shuffled_places,
)

WHOLE = 2**64
words = st.integers(0, WHOLE - 1)


def words_of(*values: int) -> sequence.Words:
    return np.array(values, dtype=np.uint64)


def permutation(size: int, key: int) -> list[int]:
    sizes, keys = np.full(size, size, dtype=np.uint64), np.full(size, key, dtype=np.uint64)
    return permute(np.arange(size, dtype=np.uint64), sizes, keys).tolist()


@given(st.integers(0, 40), st.integers(1, 50), st.integers(0, 200), st.integers(0, 200))
def test_a_floor_sum_is_the_sum_of_the_floors(n: int, m: int, a: int, b: int) -> None:
    assert floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))


@settings(deadline=None)
@given(words, st.integers(0, 400), st.lists(words, max_size=6))
def test_counting_without_walking_equals_walking(offset: int, place: int, inner: list[int]) -> None:
    bounds = [0, *sorted(inner), WHOLE]
    turns = [(offset + k * GOLDEN) % WHOLE for k in range(place)]
    walked = [sum(a <= u < b for u in turns) for a, b in pairwise(bounds)]
    assert count_before(offset, place, bounds) == walked


@settings(deadline=None, max_examples=60)
@given(words, st.integers(0, 2**40), st.integers(1, 200_000), words, words)
def test_any_window_holds_its_share_up_to_a_logarithm(offset: int, start: int, length: int, a: int, b: int) -> None:
    a, b = sorted((a, b))
    bounds = [0, a, b, WHOLE]
    first, last = count_before(offset, start, bounds)[1], count_before(offset, start + length, bounds)[1]
    assert abs(last - first - length * (b - a) / WHOLE) <= 2 + log2(length)


@given(st.lists(words, min_size=1, max_size=20))
def test_words_are_mixed_alike_one_by_one_and_in_arrays(values: list[int]) -> None:
    assert mix_words(words_of(*values)).tolist() == [mix(v) for v in values]


def test_mixing_is_splitmix64() -> None:
    # First outputs of splitmix64 seeded with 1234567, as published with the generator.
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [keyed_word(1234567, i) for i in range(3)] == outputs


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 5003])
def test_every_row_is_met_once_whatever_the_size(size: int) -> None:
    for key in (0, 1, WHOLE - 1, mix(7)):
        assert sorted(permutation(size, key)) == list(range(size))


def test_rows_of_tasks_of_unlike_sizes_are_permuted_together_as_alone() -> None:
    together = permute(words_of(3, 0, 999, 2), words_of(5, 1, 1000, 5), words_of(9, 8, 7, 9)).tolist()
    assert together == [permutation(5, 9)[3], 0, permutation(1000, 7)[999], permutation(5, 9)[2]]


def test_each_row_is_first_about_equally_often() -> None:
    for size in (3, 5, 7, 33):
        n = 8000
        zeros, sizes = np.zeros(n, dtype=np.uint64), np.full(n, size, dtype=np.uint64)
        firsts = Counter(permute(zeros, sizes, mix_words(np.arange(n, dtype=np.uint64))).tolist())
        assert chisquare([firsts[r] for r in range(size)]).pvalue > 1e-4


def test_neighbouring_rows_of_the_file_do_not_stay_neighbours() -> None:
    order = permutation(1000, 12345)
    assert sum(abs(a - b) == 1 for a, b in pairwise(order)) < 12  # 2 expected by chance


def test_a_block_is_shuffled_within_itself() -> None:
    places = shuffled_places(5, 3, 1024).tolist()
    assert sorted(places) == list(range(3072, 4096)) and places != sorted(places)
    assert places != (shuffled_places(5, 4, 1024) - np.uint64(1024)).tolist()
    assert places != shuffled_places(6, 3, 1024).tolist()


@given(words, st.integers(0, 60))
def test_distinct_choices_are_all_of_them_once(key: int, n: int) -> None:
    assert sorted(distinct_choices(key, n)) == list(range(n))


def test_distinct_choices_of_a_huge_number_cost_only_what_is_taken() -> None:
    taken = list(islice(distinct_choices(3, 10**15), 50))
    assert len(set(taken)) == 50 and max(taken) > 10**14


def test_choices_are_uniform() -> None:
    counts = Counter(choose(mix(99), c, 7) for c in range(7000))
    assert chisquare([counts[i] for i in range(7)]).pvalue > 1e-4
    pairs = Counter(tuple(islice(distinct_choices(mix(k), 4), 2)) for k in range(6000))
    assert len(pairs) == 12 and chisquare(list(pairs.values())).pvalue > 1e-4


def test_keys_differ_where_names_do_however_they_are_joined() -> None:
    keys = {name_key(*names) for names in [("a", "b"), ("a:b",), ("a", "b", 1), ("a", "b:1"), ("a\\", "b"), ("a\\:b",)]}
    assert len(keys) == 6
