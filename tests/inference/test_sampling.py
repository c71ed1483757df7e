"""Draws against a second, slow implementation, and against the distribution they are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flantune.inference.likeliest import likeliest
from flantune.inference.logits import Given
from flantune.inference.requests import GREEDY, Sampling
from flantune.inference.sampling import Draw, draw_tokens, next_tokens, uniforms


def one_uniform(seed: int, sample: int, place: int) -> float:
    """SplitMix64 in plain integers."""
    mask, step = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mixed(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    state = mixed(((seed & mask) + step) & mask)
    for counter in (sample, place):
        state = mixed((state + step * (counter + 1)) & mask)
    return ((state >> 11) + 0.5) / 2**53


def slow_draw(logits: list[float], temperature: float, top_k: int | None, top_p: float | None, number: float) -> int:
    weights = np.exp((np.array(logits) - max(logits)) / temperature)
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:top_k]
    if top_p is not None and top_p < 1:
        whole, reached, kept = sum(weights[i] for i in order), 0.0, []
        for i in order:
            if reached >= top_p * whole:
                break
            kept.append(i)
            reached += weights[i]
        order = kept
    whole, reached = sum(weights[i] for i in order), 0.0
    for i in sorted(order):
        reached += weights[i]
        if reached > number * whole:
            return i
    return max(order)


@given(st.integers(-(2**70), 2**70), st.integers(0, 10_000), st.integers(0, 100_000))
def test_numbers_are_splitmix64_of_seed_sample_and_place(seed: int, sample: int, place: int):
    draw = Draw(Sampling(temperature=1, seed=seed), sample, place)
    assert uniforms([draw]).tolist() == [one_uniform(seed, sample, place)]


def test_numbers_are_uniform_and_neighbours_independent():
    numbers = uniforms([Draw(Sampling(temperature=1, seed=7), s, p) for s in range(100) for p in range(100)])
    counts = np.histogram(numbers, 20, (0, 1))[0]
    assert ((counts - 500) ** 2 / 500).sum() < 44  # chi-squared, 19 degrees of freedom, p = 0.001
    table = numbers.reshape(100, 100)
    for a, b in ((table[1:], table[:-1]), (table[:, 1:], table[:, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.04


# Half steps, so that equal logits happen and no sum is decided by rounding alone.
LOGITS = st.lists(st.integers(-12, 12).map(lambda i: i / 2), min_size=1, max_size=30)


@given(
    LOGITS,
    st.sampled_from([0.3, 0.7, 1.0, 2.0]),
    st.none() | st.integers(1, 35),
    st.none() | st.sampled_from([0.05, 0.313, 0.77, 0.951, 1.0]),
    st.integers(0, 999),
)
def test_a_token_is_the_one_that_its_number_picks_off_the_kept_probabilities(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None, place: int
):
    number = one_uniform(3, 1, place)
    rows = Given(torch.tensor([logits, logits]))
    numbers = torch.tensor([number, number], dtype=torch.float64)
    got = draw_tokens(rows, len(logits), temperature, top_k, top_p, numbers)
    assert got.tolist() == [slow_draw(logits, temperature, top_k, top_p, number)] * 2


@given(st.integers(1, 3_000), st.integers(1, 60), st.integers(1, 9), st.integers(0, 99))
def test_the_likeliest_of_long_rows_are_those_of_a_stable_sort(n: int, count: int, levels: int, seed: int):
    values = torch.randint(0, levels * levels, (3, n), generator=torch.Generator().manual_seed(seed)).float()
    values[1, : n // 2] = float("-inf")
    count = min(count, n)
    got = likeliest(values, count)
    for row, places in zip(values.numpy(), got.tolist(), strict=True):
        assert places == sorted(np.argsort(-row, kind="stable")[:count].tolist())


def test_a_flat_distribution_is_sorted_whole_where_the_likeliest_do_not_reach_the_share():
    logits = Given(torch.zeros(1, 5_001))
    numbers = torch.tensor([0.999999], dtype=torch.float64)
    assert draw_tokens(logits, 5_000, 1.0, None, 0.6, numbers).tolist() == [2_999]


def test_draws_follow_the_distribution():
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    draws = [Draw(Sampling(temperature=0.8, seed=11), s, 0) for s in range(20_000)]
    told = np.bincount(next_tokens(Given(logits.expand(20_000, 4)), draws, 4), minlength=4)
    expected = torch.softmax(logits.double() / 0.8, 0).numpy() * 20_000
    assert ((told - expected) ** 2 / expected).sum() < 16.3  # 3 degrees of freedom, p = 0.001


def test_rows_of_different_kinds_in_a_batch_are_what_they_are_alone():
    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    kinds = [GREEDY, Sampling(temperature=0.7, top_k=5, seed=1), Sampling(temperature=1.3, top_p=0.8, seed=2)]
    draws = [Draw(kinds[i % 3], i, 2 * i) for i in range(5)]
    together = next_tokens(Given(logits), draws, 45)
    assert together == [next_tokens(Given(logits[i : i + 1]), [draws[i]], 45)[0] for i in range(5)]
    assert together[0] == int(logits[0, :45].argmax()) and together[3] == int(logits[3, :45].argmax())


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_that_means_nothing_is_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match="expected"):
        Sampling(**wrong)  # type: ignore[arg-type]
