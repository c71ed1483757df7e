"""Attention to encoder states as they are, against keys and values made of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Attention

from flantune.compiled import shared_threads
from flantune.inference import row_loops
from flantune.inference.crossing import Absorbed, Crossing
from flantune.inference.vectors import LANES
from flantune.inference.waves import Scoring


def module(seed: int = 0, width: int = 8) -> T5Attention:
    torch.manual_seed(seed)
    made = T5Attention(T5Config(d_model=24, d_kv=width, num_heads=3, is_decoder=True), layer_idx=0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0, 0.4)
    return made.double()


def expected(attention: T5Attention, query: Tensor, states: Tensor) -> Tensor:
    """query (H, d), states (n, d_model) -> (H, d)"""
    keys, values = (m(states).view(len(states), *query.shape) for m in (attention.k, attention.v))
    weights = torch.softmax(torch.einsum("hd,nhd->hn", query, keys) * 0.7, -1)
    return torch.einsum("hn,nhd->hd", weights, values)


def check(attention: T5Attention, crossing: Crossing, held: Sequence[Tensor], close: float = 1e-12) -> None:
    # two tokens of each row
    query = torch.randn(len(held), 2, 3, attention.key_value_proj_dim, dtype=held[0].dtype)
    crossing.planned()
    assert sorted(crossing.order.tolist()) == list(range(len(held)))
    got = crossing.attend(query[crossing.order], 0, Absorbed(attention), Scoring(0.7))
    for place, row in enumerate(crossing.order.tolist()):
        wanted = torch.stack([expected(attention, token, held[row]) for token in query[row]])
        assert torch.allclose(got[place], wanted, atol=close)


@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=4),
    st.lists(st.integers(0, 99), max_size=12),
)
def test_rows_that_come_and_go_look_at_their_own_states(arriving: list[list[int]], leaving: list[int]):
    come_and_go(module(), Crossing(torch.device("cpu")), arriving, leaving)


@pytest.mark.skipif(not shared_threads(), reason="no OpenMP that numba and torch share")
@settings(max_examples=25)
@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=4),
    st.lists(st.integers(0, 99), max_size=12),
)
def test_rows_that_come_and_go_look_at_their_own_keys(arriving: list[list[int]], leaving: list[int]):
    crossing = Crossing(torch.device("cpu"))
    crossing.has_room_for_keys = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_loops, "_WORTH", 0)
        patch.setattr("flantune.inference.crossing.attend_states", None)
        come_and_go(module(width=LANES).float(), crossing, arriving, leaving, 1e-4)


def come_and_go(
    attention: T5Attention,
    crossing: Crossing,
    arriving: list[list[int]],
    leaving: list[int],
    close: float = 1e-12,
) -> None:
    held: list[Tensor] = []
    with torch.inference_mode():
        for lengths in arriving:
            states = [torch.randn(n, 24, dtype=attention.k.weight.dtype) for n in lengths]
            crossing.add(range(len(held), len(held) + len(states)), states)
            held += states
            check(attention, crossing, held, close)
            for number in leaving[:3]:
                if len(held) > 1:
                    row = number % len(held)
                    crossing.drop(row)
                    if row != len(held) - 1:
                        crossing.rename(len(held) - 1, row)
                    held[row] = held[-1]
                    held.pop()
            check(attention, crossing, held, close)


def test_a_wrapped_projection_is_taken_with_what_wraps_it():
    attention = module()

    class Wrapped(torch.nn.Module):
        def __init__(self, inner: torch.nn.Linear) -> None:
            super().__init__()
            self.inner, self.in_features = inner, inner.in_features
            self.more = torch.randn(inner.out_features, inner.in_features, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + x @ self.more.T

    attention.k, attention.v = Wrapped(attention.k), Wrapped(attention.v)
    crossing, states = Crossing(torch.device("cpu")), torch.randn(9, 24, dtype=torch.float64)
    with torch.inference_mode():
        crossing.add([0], [states])
        check(attention, crossing, [states])


@pytest.mark.parametrize("lengths", [[8, 8], [8, 3]])
def test_states_of_one_length_need_no_mask(lengths: list[int]):
    crossing = Crossing(torch.device("cpu"))
    crossing.add([0, 1], [torch.randn(n, 24) for n in lengths])
    assert [hidden is None for _, hidden in crossing.planned()] == [lengths[0] == lengths[1]]
    assert len(crossing) == 2
