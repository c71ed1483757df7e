"""Attention in buckets against attention one example at a time, in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.models import bucketed
from flantune.models.bucket_kernels import fused_attention
from flantune.models.bucketed import Scoring, bucketed_attention
from flantune.models.layout import Attending, flat_index, offset_view, padded_lengths, sum_by_offset

D, D_VALUE = 8, 6
EXACT: dict[str, float] = {"rtol": 1e-9, "atol": 1e-12}


def random_tensors(queries: int, keys: int, heads: int, kv_heads: int, dtype: torch.dtype = torch.float64) -> list[Any]:
    made = torch.Generator().manual_seed(queries * 1000 + keys)
    shapes = [(queries, heads, D), (keys, kv_heads, D), (keys, kv_heads, D_VALUE)]
    return [torch.randn(shape, dtype=dtype, generator=made, requires_grad=True) for shape in shapes]


def one_at_a_time(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[tuple[int, int]],
    scoring: Scoring,
    *,
    bias: torch.Tensor | None = None,
    causal: bool = False,
    prefix: list[int] | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """The definition: full score matrices, one example after the other."""
    made, at, at_key = [], 0, 0
    groups = query.shape[1] // key.shape[1]
    for number, (queries, keys) in enumerate(lengths):
        q = query[at : at + queries].transpose(0, 1)
        k, v = (t[at_key : at_key + keys].transpose(0, 1).repeat_interleave(groups, 0) for t in (key, value))
        at, at_key = at + queries, at_key + keys
        if keys == 0:
            made.append(torch.zeros(queries, query.shape[1], D_VALUE, dtype=query.dtype))
            continue
        scores = q @ k.transpose(1, 2) * scoring.scale
        if scoring.softcap is not None:
            scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
        offset = torch.arange(keys)[None] - torch.arange(queries)[:, None]
        if bias is not None:
            scores = scores + bias[:, offset + bias.shape[1] // 2]
        seen = torch.ones(queries, keys, dtype=torch.bool)
        if prefix is not None:
            seen = (offset <= 0) | (torch.arange(keys)[None] < prefix[number])
        elif causal:
            seen = offset <= 0
        if window is not None:
            seen = seen & (offset.abs() < window)
        made.append((torch.softmax(scores.masked_fill(~seen, float("-inf")), -1) @ v).transpose(0, 1))
    return torch.cat(made)


def agree(ours: torch.Tensor, theirs: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, **EXACT)
    weights = torch.randn(ours.shape, dtype=ours.dtype, generator=torch.Generator().manual_seed(0))
    mine = torch.autograd.grad((ours * weights).sum(), inputs)
    reference = torch.autograd.grad((theirs * weights).sum(), inputs, retain_graph=True)
    for one, other in zip(mine, reference, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


lengths_ = st.lists(st.integers(1, 70), min_size=1, max_size=8)
heads_ = st.sampled_from([(2, 2), (4, 2), (3, 1)])
pieces_ = st.sampled_from([1 << 18, 3000, 60])  # the last cuts between heads


@settings(max_examples=25, deadline=None)
@given(lengths=lengths_, heads=heads_, piece=pieces_, causal=st.booleans())
def test_a_learned_bias_by_offset_and_its_gradient(lengths: list[int], heads: Any, piece: int, causal: bool):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bucketed._PIECE, "cpu", piece)
        attending = Attending(np.array(lengths), causal=causal)
        inputs = random_tensors(sum(lengths), sum(lengths), *heads)
        bias = torch.randn(heads[0], 2 * attending.longest - 1, dtype=torch.float64, requires_grad=True)
        hidden = torch.arange(1 - attending.longest, attending.longest) > 0 if causal else torch.zeros(1).bool()
        ours = bucketed_attention(*inputs, attending, Scoring(scale=1.0), bias.masked_fill(hidden, float("-inf")))
        pairs = [(n, n) for n in lengths]
        theirs = one_at_a_time(*inputs, pairs, Scoring(scale=1.0), bias=bias, causal=causal)
        agree(ours, theirs, [*inputs, bias])
        fused = fused_attention(*inputs, attending, Scoring(scale=1.0), bias.masked_fill(hidden, float("-inf")))
        agree(fused, theirs, [*inputs, bias])


@settings(max_examples=40, deadline=None)
@given(
    lengths=lengths_,
    heads=heads_,
    piece=pieces_,
    window=st.sampled_from([None, 1, 7, 40]),
    softcap=st.sampled_from([None, 2.0]),
    prefixes=st.one_of(st.none(), st.lists(st.integers(0, 70), min_size=8, max_size=8)),
)
def test_causal_and_prefix_with_windows_and_caps(
    lengths: list[int], heads: Any, piece: int, window: Any, softcap: Any, prefixes: list[int] | None
):
    prefix = None if prefixes is None else [min(p, n) for p, n in zip(prefixes, lengths, strict=False)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bucketed._PIECE, "cpu", piece)
        attending = Attending(np.array(lengths), causal=True, prefix=None if prefix is None else np.array(prefix))
        inputs = random_tensors(sum(lengths), sum(lengths), *heads)
        scoring = Scoring(scale=0.3, softcap=softcap)
        ours = bucketed_attention(*inputs, attending, scoring, attending.offsets(window, torch.float64))
        pairs = [(n, n) for n in lengths]
        theirs = one_at_a_time(*inputs, pairs, scoring, causal=True, prefix=prefix, window=window)
        agree(ours, theirs, inputs)
        if softcap is None:
            agree(fused_attention(*inputs, attending, scoring, window=window), theirs, inputs)


@settings(max_examples=25, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 70)), min_size=1, max_size=8), piece=pieces_)
def test_cross_attention_where_some_have_nothing_to_look_at(pairs: list[tuple[int, int]], piece: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bucketed._PIECE, "cpu", piece)
        targets, inputs_ = (np.array(side) for side in zip(*pairs, strict=True))
        inputs = random_tensors(int(targets.sum()), int(inputs_.sum()), 2, 2)
        ours = bucketed_attention(*inputs, Attending(targets, inputs_), Scoring(scale=1.0))
        # Products with nothing have no gradient formula of their own in the reference.
        theirs = one_at_a_time(*inputs, pairs, Scoring(scale=1.0)) + 0 * sum(t.sum() for t in inputs)
        agree(ours, theirs, inputs)
        fused = fused_attention(*inputs, Attending(targets, inputs_), Scoring(scale=1.0))
        agree(fused + 0 * sum(t.sum() for t in inputs), theirs, inputs)


@pytest.mark.parametrize("fused", [False, True])
def test_equal_inputs_give_equal_bits(fused: bool):
    lengths = np.random.default_rng(0).integers(1, 200, 20)

    def run() -> list[torch.Tensor]:
        inputs = random_tensors(int(lengths.sum()), int(lengths.sum()), 4, 2, torch.float32)
        attending = Attending(lengths, causal=True)
        scoring = Scoring(scale=0.3, dropout=0.1, seed=5)
        if fused:
            made = fused_attention(*inputs, attending, Scoring(scale=0.3))
        else:
            made = bucketed_attention(*inputs, attending, scoring, attending.offsets(None, torch.float32))
        made.square().sum().backward()
        return [made.detach(), *(t.grad for t in inputs)]

    assert all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))


def test_dropout_keeps_the_same_weights_forward_and_backward():
    """With the mask drawn once from the seed the function is linear in the values: their gradient is its transpose."""
    lengths = np.array([40, 25])
    query, key, value = random_tensors(65, 65, 2, 2)
    attending, scoring = Attending(lengths), Scoring(scale=0.3, dropout=0.4, seed=11)

    def run(values: torch.Tensor) -> torch.Tensor:
        return bucketed_attention(query, key, values, attending, scoring)

    made = run(value)
    weights = torch.randn_like(made)
    gradient = torch.autograd.grad((made * weights).sum(), value)[0]
    other = torch.randn_like(value)
    torch.testing.assert_close((gradient * other).sum(), (run(other) * weights).sum(), **EXACT)
    # And in queries and keys it is the derivative of that same function.
    step, direction = 1e-6, torch.randn_like(query)
    moved = [bucketed_attention(query + s * step * direction, key, value, attending, scoring) for s in (1, -1)]
    slope = torch.autograd.grad((run(value) * weights).sum(), query)[0]
    measured = ((moved[0] - moved[1]) * weights).sum() / (2 * step)
    torch.testing.assert_close((slope * direction).sum(), measured, rtol=1e-6, atol=1e-8)


def test_dropout_changes_the_weights_but_not_their_mean():
    attending, inputs = Attending(np.array([40, 25])), random_tensors(65, 65, 2, 2)
    plain = bucketed_attention(*inputs, attending, Scoring(scale=0.3))
    draws = torch.stack(
        [bucketed_attention(*inputs, attending, Scoring(scale=0.3, dropout=0.4, seed=s)) for s in range(200)]
    )
    spread = draws.std(0) / 200**0.5
    assert ((draws.mean(0) - plain).abs() < 6 * spread).all() and (draws.std(0) > 0).all()


def test_bfloat16_is_near_float64():
    lengths = np.array([40, 25, 7])
    exact = random_tensors(72, 72, 2, 2)
    attending = Attending(lengths, causal=True)

    def run(dtype: torch.dtype) -> list[torch.Tensor]:
        inputs = [t.detach().to(dtype).requires_grad_() for t in exact]
        made = bucketed_attention(*inputs, attending, Scoring(scale=0.3), attending.offsets(None, torch.float32))
        made.float().square().sum().backward()
        return [made.detach().double(), *(t.grad.double() for t in inputs)]

    for low, high in zip(run(torch.bfloat16), run(torch.float64), strict=True):
        assert (low - high).norm() < 0.02 * high.norm()


def test_buckets_hold_little_more_than_the_examples():
    lengths = np.random.default_rng(0).lognormal(5, 1, 5000).astype(np.int64).clip(1, 4096)
    padded = padded_lengths(lengths)
    assert (padded >= lengths).all() and len(np.unique(padded)) < 60
    assert (padded**2).sum() < 1.25 * (lengths**2).sum()
    assert padded_lengths(np.array([0, 1, 5, 20, 70, 300, 700])).tolist() == [0, 8, 8, 24, 80, 320, 768]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 4), st.integers(1, 3))
def test_sums_by_offset_are_the_transpose_of_the_view(queries: int, keys: int, more: int, heads: int):
    longest = max(queries, keys) + more
    offsets = torch.randn(heads, 2 * longest - 1, dtype=torch.float64, requires_grad=True)
    view = offset_view(offsets.detach(), longest, queries, keys)
    row, column = torch.arange(queries - 1, -1, -1)[:, None], torch.arange(keys)[None]
    plain = offsets[:, column - row + longest - 1]
    assert torch.equal(view, plain)
    weights = torch.randn(3, heads, queries, keys, dtype=torch.float64)
    slow = torch.autograd.grad((plain * weights).sum(), offsets)[0]
    torch.testing.assert_close(sum_by_offset(weights, longest), slow)
    with pytest.MonkeyPatch.context() as patch:  # as it is computed on other devices
        patch.setattr(torch.Tensor, "device", torch.device("meta"))
        skewed = sum_by_offset(weights, longest)
    torch.testing.assert_close(skewed, slow)


def test_tokens_of_rows_read_without_their_padding():
    lengths = [np.array([1, 2], dtype=np.int32), np.array([2], dtype=np.int32)]
    assert flat_index(lengths, 4).tolist() == [0, 1, 2, 4, 5]
