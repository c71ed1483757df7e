"""Attention in parts against one softmax over all keys."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flantune.inference.parts import attend_part, merge_into


def reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    added: torch.Tensor | float = 0.0,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    group = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(group, 1).double() for t in (key, value))
    scores = query.double() @ key.transpose(2, 3) * scale
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    scores = scores + added
    return torch.softmax(scores, -1) @ value, torch.logsumexp(scores, -1)


@given(
    st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)
)
def test_two_parts_weighed_are_one_softmax(batch: int, groups: int, group: int, length: int, first: int, second: int):
    draw = torch.Generator().manual_seed(first * 41 + second)
    q = torch.randn(batch, groups * group, length, 8, generator=draw)
    k, v = (torch.randn(batch, groups, first + second, 8, generator=draw) for _ in range(2))
    a = attend_part(q, k[:, :, :first], v[:, :, :first], 0.3)
    b = attend_part(q, k[:, :, first:], v[:, :, first:], 0.3)
    merge_into(*a, *b)
    out, total = a
    want, want_total = reference(q, k, v, 0.3)
    torch.testing.assert_close(out.double(), want, atol=2e-6, rtol=0)
    torch.testing.assert_close(total.double(), want_total, atol=2e-6, rtol=0)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("blind", [False, True])
def test_masks_biases_caps_and_long_queries_in_pieces(
    softcap: float | None, blind: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("flantune.inference.parts._SCORES", {"cpu": 500})
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 30, 8), torch.randn(2, 2, 30, 8), torch.randn(2, 2, 30, 8)
    bias = torch.randn(1, 4, 30, 30)
    seen = torch.rand(2, 1, 30, 30) > 0.4
    seen |= torch.eye(30, dtype=torch.bool)
    added = bias.masked_fill(~seen, float("-inf"))
    out, total = attend_part(q, k, v, 0.5, seen=seen, bias=bias, softcap=softcap, may_be_blind=blind)
    want, want_total = reference(q, k, v, 0.5, added, softcap)
    torch.testing.assert_close(out.double(), want, atol=2e-6, rtol=0)
    torch.testing.assert_close(total.double(), want_total, atol=2e-6, rtol=0)
    ahead = torch.zeros(30, 30).masked_fill(~torch.ones(30, 30, dtype=torch.bool).tril(), float("-inf"))
    out, _ = attend_part(q, k, v, 0.5, causal=True, softcap=softcap, may_be_blind=blind)
    torch.testing.assert_close(out.double(), reference(q, k, v, 0.5, ahead, softcap)[0], atol=2e-6, rtol=0)


def test_what_a_query_cannot_see_weighs_nothing():
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    seen = torch.tensor([True, False, True])[:, None].expand(3, 5)
    out, total = attend_part(q, k, v, 0.5, seen=seen, may_be_blind=True)
    assert bool((out[:, :, 1] == 0).all())
    other = attend_part(q, k[:, :, :2] * 2, v[:, :, :2], 0.5)
    blind, low = out.clone(), total.clone()
    merge_into(blind, low, out, total)
    assert bool(torch.isfinite(blind).all()) and float(low[0, 0, 1]) < -1e29
    merge_into(out, total, *other)
    torch.testing.assert_close(out[:, :, 1], other[0][:, :, 1])
