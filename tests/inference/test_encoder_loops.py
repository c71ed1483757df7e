"""A prompt's attention to itself as compiled loops, against one softmax and against the loops read as Python."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flantune.compiled import shared_threads
from flantune.inference import encoder_loops
from flantune.inference.encoder_loops import Laid
from flantune.inference.parts import merge_into
from flantune.inference.vectors import LANES

pytestmark = pytest.mark.skipif(not shared_threads(), reason="no OpenMP that numba and torch share")


def some_prompt(tokens: int, heads: int, width: int, spare: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys and values (tokens, heads, width), cut out of a longer batch; a bias for `spare` tokens more."""
    draw = torch.Generator().manual_seed(tokens)
    query, key, value = torch.randn(3, tokens + 4, heads, width, generator=draw)[:, 3:-1]
    return query, key, value, torch.randn(heads, 2 * (tokens + spare) - 1, generator=draw)


@settings(max_examples=40)
@given(st.integers(1, 150), st.integers(1, 3), st.integers(1, 3), st.integers(0, 20), st.booleans())
def test_tokens_look_at_their_prompt_as_by_one_softmax(tokens: int, heads: int, lanes: int, spare: int, large: bool):
    query, key, value, bias = some_prompt(tokens, heads, lanes * LANES, spare)
    query = query * (30 if large else 1)
    got = encoder_loops.attend_prompt(query, key, value, bias)
    wanted = by_one_softmax(query.double(), key.double(), value.double(), bias.double())
    sums = torch.einsum("qhd,khd->hqk", query.abs(), key.abs()).max() + bias.abs().max()
    rounding = 2**-23 * float(sums * value.abs().max())
    torch.testing.assert_close(got.double(), wanted, atol=rounding, rtol=0)


def by_one_softmax(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    place = torch.arange(len(query))
    of_offset = bias[:, place[None, :] - place[:, None] + bias.shape[1] // 2]
    scores = torch.einsum("qhd,khd->hqk", query, key) + of_offset
    return torch.einsum("hqk,khd->qhd", torch.softmax(scores, -1), value)


@settings(max_examples=30)
@given(st.integers(2, 90), st.integers(1, 89), st.integers(1, 2), st.booleans())
def test_what_is_seen_in_two_looks_is_what_one_sees(tokens: int, parted: int, lanes: int, large: bool):
    parted = min(parted, tokens - 1)
    query, key, value, bias = some_prompt(tokens, 2, lanes * LANES)
    query = query * (30 if large else 1)
    whole = encoder_loops.attend_prompt(query, key, value, bias)
    looks = [
        encoder_loops.attend_laid(query, Laid.out(key[first:last], value[first:last]), bias, first)
        for first, last in ((0, parted), (parted, tokens))
    ]
    scores = torch.einsum("qhd,khd->hqk", query.abs(), key.abs()).max() + bias.abs().max()
    for (seen, total), other in (looks, looks[::-1]):
        seen, total = seen.clone(), total.clone()
        merge_into(seen, total, *other)
        torch.testing.assert_close(seen, whole, atol=2**-22 * float(scores * value.abs().max()), rtol=0)


def test_the_loops_read_as_python_compute_the_same():
    query, key, value, bias = some_prompt(21, 2, 2 * LANES)
    for first, last in ((0, 21), (5, 21)):
        out, total = np.empty((21, 2, 2 * LANES), dtype=np.float32), np.empty((21, 2), dtype=np.float32)
        panels = -(-(last - first) // LANES)
        keys = np.full((2, panels, 2 * LANES, LANES), np.nan, dtype=np.float32)
        values = np.empty((2, 2, last - first, LANES), dtype=np.float32)
        encoder_loops._lay_out(key[first:last].numpy(), value[first:last].numpy(), keys, values)
        encoder_loops._attend(query.numpy(), keys, values, bias.numpy(), out, total, 16, first)
        got = encoder_loops.attend_laid(query, Laid.out(key[first:last], value[first:last]), bias, first)
        torch.testing.assert_close(got, (torch.from_numpy(out), torch.from_numpy(total)))


def test_more_threads_than_heads_share_the_queries(monkeypatch: pytest.MonkeyPatch):
    prompt = some_prompt(100, 2, LANES)
    whole = encoder_loops.attend_prompt(*prompt)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)  # five pieces of 32 queries: the last is empty
    assert torch.equal(encoder_loops.attend_prompt(*prompt), whole)


def test_what_the_loops_are_for():
    def pays(prompts: int, width: int = 64, dtype: torch.dtype = torch.float32, device: str = "cpu") -> bool:
        config = SimpleNamespace(num_heads=8, d_kv=width, num_layers=6)
        model = SimpleNamespace(config=config, dtype=dtype, device=torch.device(device))
        return encoder_loops.prompts_pay(model, [800] * prompts)

    assert pays(64) and not pays(63)  # 5e11 / (4 * 8 * 64 * 6 * 800 ** 2) = 63.6
    assert not pays(64, 40) and not pays(64, dtype=torch.float64) and not pays(64, device="cuda")
