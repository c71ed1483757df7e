"""Prompts that begin alike, in T5's first layer, against each prompt by itself."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration

from flantune.compiled import shared_threads
from flantune.inference import beginnings, encoded, encoder, encoder_loops
from flantune.inference.beginnings import FirstLayer, begin_alike
from flantune.inference.encoder import Encoder
from flantune.inference.memory import Budget
from flantune.inference.vectors import LANES
from flantune.models.attention import prepare
from flantune.types import Tokens


def tokens(numbers: list[int]) -> Tokens:
    return np.array(numbers, dtype=np.int32)


# Endings of one of two long beginnings, or of none.
PROMPTS = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.integers(1, 3), min_size=1, max_size=40)).map(
        lambda told: tokens([[], [5] * 40, [5] * 33 + [6] * 30][told[0]] + told[1])
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=100)
@given(PROMPTS, st.integers(1, 40))
def test_a_group_begins_alike_and_everyone_is_in_one(prompts: list[Tokens], least: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beginnings, "_LEAST", least)
        groups = begin_alike(prompts)
    assert sorted(i for _, members in groups for i in members) == list(range(len(prompts)))
    for shared, members in groups:
        assert shared % LANES == 0 and shared < min(len(prompts[i]) for i in members)
        assert len({prompts[i][:shared].tobytes() for i in members}) == 1
        assert shared == 0 or len(members) > 1
        assert len(members) == 1 or shared >= least // LANES * LANES


def test_few_words_in_common_are_not_worth_it_and_no_group_loses_what_it_shares():
    def groups(*prompts: list[int]) -> list[tuple[int, list[int]]]:
        return begin_alike([tokens(p) for p in prompts])

    assert groups([1] * 127 + [2], [1] * 127 + [3]) == [(0, [0]), (0, [1])]
    assert groups([1] * 128 + [2], [1] * 128 + [3]) == [(128, [0, 1])]
    assert groups([1] * 200, [1] * 200) == [(192, [0, 1])]  # alike to the end: something is left to each
    # The third shares 150 with two that share 400: it would cost them more than it gains.
    assert groups([1] * 400 + [2], [1] * 400 + [3], [1] * 150 + [4]) == [(400, [0, 1]), (0, [2])]


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    shape = {"d_model": 24, "d_kv": 16, "d_ff": 40, "num_layers": 3, "num_heads": 3}
    made = T5ForConditionalGeneration(T5Config(vocab_size=50, decoder_start_token_id=0, **shape))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.25).add_(float(parameter.dim() == 1))
    return prepare(made).eval()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few words are worth sharing, and few are worth the loops."""
    monkeypatch.setattr(beginnings, "_LEAST", 16)
    monkeypatch.setattr(encoder, "_LONG", 20)
    monkeypatch.setattr(encoder_loops, "_MUCH", 0)


def some_prompts() -> list[Tokens]:
    draw = np.random.default_rng(0)
    first, second = draw.integers(1, 50, 52), draw.integers(1, 50, 37)
    ends = [(first, 30), (second, 9), (draw.integers(1, 50, 5), 20), (first, 1), (second, 40), (first, 17)]
    return [np.concatenate([start, draw.integers(1, 50, n)]).astype(np.int32) for start, n in ends]


@pytest.mark.skipif(not shared_threads(), reason="no OpenMP that numba and torch share")
@pytest.mark.usefixtures("short")
class TestFirstLayer:
    def test_states_are_those_of_double_precision(self, model: Any):
        prompts, exact = some_prompts(), copy.deepcopy(model.get_encoder()).double()
        shared = [0] * len(prompts)
        for common, members in begin_alike(prompts):
            for i in members:
                shared[i] = common
        assert shared == [48, 32, 0, 48, 32, 48]
        lengths = tokens([len(p) for p in prompts])
        with torch.inference_mode():
            found = Encoder(model, lengths.tolist()).states(prompts, lengths, shared)
            wanted = [exact(input_ids=torch.from_numpy(p.astype(np.int64))[None]).last_hidden_state[0] for p in prompts]
        torch.testing.assert_close(found.double(), torch.cat(wanted), atol=2e-4, rtol=0)

    @pytest.mark.parametrize("budget", [1, 90, 1_000])
    def test_scores_are_each_prompts_own_and_a_beginning_is_read_once(
        self, model: Any, budget: int, monkeypatch: pytest.MonkeyPatch
    ):
        prompts, options = some_prompts(), [[tokens([5 + i]), tokens([6, 7])] for i in range(6)]
        read: list[int] = []
        project = FirstLayer._project

        def counting(self: FirstLayer, x: torch.Tensor) -> list[torch.Tensor]:
            read.append(len(x))
            return project(self, x)

        monkeypatch.setattr(FirstLayer, "_project", counting)
        with torch.inference_mode():
            together = dict(encoded.score_encoded(model, prompts, options, Budget(budget, 1)))
            assert sorted(n for n in read if n in (48, 32)) == [32, 48]  # no end has as many
            monkeypatch.setattr(encoded, "begin_alike", lambda prompts: [(0, [i]) for i in range(len(prompts))])
            read.clear()
            alone = dict(encoded.score_encoded(model, prompts, options, Budget(budget, 1)))
        assert not read
        np.testing.assert_allclose([together[i] for i in range(6)], [alone[i] for i in range(6)], atol=2e-5)
