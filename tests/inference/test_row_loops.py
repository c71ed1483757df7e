"""Attention of rows that write as compiled loops, against one softmax and against the loops read as Python."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flantune.compiled import _on_torch_threads, shared_threads
from flantune.inference import row_loops
from flantune.inference.crossing import Absorbed, Crossing
from flantune.inference.vectors import LANES
from flantune.inference.waves import Scoring

pytestmark = pytest.mark.skipif(not shared_threads(), reason="no OpenMP that numba and torch share")


def looked_at(query: Tensor, keys: Tensor, values: Tensor, scale: float, bias: Tensor) -> tuple[Tensor, Tensor]:
    """query (d), keys (n, d), values (n, e), bias (n) in float64 -> (e), log of the sum."""
    scores = keys.double() @ query.double() * scale + bias.double()
    return torch.softmax(scores, 0) @ values.double(), scores.logsumexp(0)


def some_states(lengths: Sequence[int], queries: int, width: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(sum(lengths) + queries)
    asked = torch.randn(len(lengths), queries, width, generator=draw)
    states = torch.randn(len(lengths), -(-max(lengths) // 8) * 8, width, generator=draw)
    return asked, states


@settings(max_examples=40)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=5), st.integers(1, 19), st.integers(1, 5), st.booleans())
def test_states_are_weighed_as_by_one_softmax(lengths: list[int], queries: int, lanes: int, large: bool):
    asked, states = some_states(lengths, queries, lanes * LANES)
    asked = asked * (30 if large else 1)  # the largest score comes late, and one state has all the weight
    got = row_loops.attend_states(asked, states, lengths, 0.5)
    assert got.shape == asked.shape
    for row, length in enumerate(lengths):
        held = states[row, :length]
        for q in range(queries):
            wanted, _ = looked_at(asked[row, q], held, held, 0.5, torch.zeros(length))
            torch.testing.assert_close(got[row, q].double(), wanted, atol=2e-4 if large else 5e-6, rtol=0)


def test_states_past_a_rows_end_weigh_nothing():
    asked, states = some_states([5, 20], 8, 32)
    before = row_loops.attend_states(asked, states, [5, 20], 1.0)
    states[0, 5:], states[1, 20:] = 1e6, -1e6
    assert torch.equal(row_loops.attend_states(asked, states, [5, 20], 1.0), before)


def test_the_loops_read_as_python_compute_the_same():
    asked, states = some_states([3, 21], 8, 32)
    out = np.empty_like(asked.numpy())
    row_loops._attend_states(asked.numpy(), states.numpy(), np.array([3, 21]), out)
    torch.testing.assert_close(row_loops.attend_states(asked, states, [3, 21], 1.0), torch.from_numpy(out))


@settings(max_examples=40)
@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=4),
    st.integers(1, 10),
    st.integers(1, 3),
    st.integers(1, 2),
    st.booleans(),
)
def test_tokens_look_at_the_keys_of_their_row(lengths: list[int], tokens: int, heads: int, lanes: int, large: bool):
    query, keys, values = some_keys(lengths, tokens, heads, lanes * LANES)
    query = query * (30 if large else 1)
    got = row_loops.attend_keys(query, keys, values, lengths, 0.5)
    assert got.shape == query.shape
    for row, length in enumerate(lengths):
        k, v = (t[row, :length].unflatten(1, (heads, -1)) for t in (keys, values))
        for token, head in np.ndindex(tokens, heads):
            wanted, _ = looked_at(query[row, token, head], k[:, head], v[:, head], 0.5, torch.zeros(length))
            torch.testing.assert_close(got[row, token, head].double(), wanted, atol=2e-4 if large else 5e-6, rtol=0)


def some_keys(lengths: Sequence[int], tokens: int, heads: int, width: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(sum(lengths) + tokens)
    room = -(-max(lengths) // LANES) * LANES
    shapes = (len(lengths), tokens, heads, width), *[(len(lengths), room, heads * width)] * 2
    return [torch.randn(shape, generator=draw) for shape in shapes]


def test_keys_past_a_rows_end_weigh_nothing_and_python_says_the_same():
    query, keys, values = some_keys([5, 40], 8, 2, LANES)
    before = row_loops.attend_keys(query, keys, values, [5, 40], 1.0)
    keys[0, 5:], keys[1, 40:], values[0, 5:], values[1, 40:] = 1e6, -1e6, 1e6, 1e6
    assert torch.equal(row_loops.attend_keys(query, keys, values, [5, 40], 1.0), before)
    asked = query.transpose(1, 2).contiguous()
    out = np.empty_like(asked.numpy())
    row_loops._attend_keys(asked.numpy(), keys.numpy(), values.numpy(), np.array([5, 40]), out)
    torch.testing.assert_close(before, torch.from_numpy(out).transpose(1, 2))


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 20),
    st.none() | st.integers(1, 30),
    st.booleans(),
)
def test_a_new_token_sees_its_row_and_itself(
    lengths: list[int], groups: int, together: int, width: int, window: int | None, biased: bool
):
    draw = torch.Generator().manual_seed(sum(lengths))
    rows, longest = len(lengths), max(lengths) + 1
    query = torch.randn(rows, groups * together, width, generator=draw)
    new = torch.randn(2, rows, groups, width, generator=draw)
    held = torch.randn(2, rows + 1, groups, longest + 3, width, generator=draw)
    before = held.clone()
    bias = torch.randn(groups * together, longest, generator=draw) if biased else None
    out, total = row_loops.attend_own(query, (new[0], new[1]), (held[0], held[1]), np.array(lengths), 0.3, window, bias)
    for row, length in enumerate(lengths):
        assert torch.equal(held[:, row, :, length], new[:, row])
        before[:, row, :, length] = new[:, row]
        first = 0 if window is None else max(0, length + 1 - window)
        for head in range(groups * together):
            keys, values = held[:, row, head // together, first : length + 1]
            added = torch.zeros(len(keys)) if bias is None else bias[head, longest - len(keys) :]
            wanted, log_sum = looked_at(query[row, head], keys, values, 0.3, added)
            torch.testing.assert_close(out[row, head].double(), wanted, atol=5e-6, rtol=0)
            torch.testing.assert_close(total[row, head].double(), log_sum, atol=5e-6, rtol=1e-6)
    assert torch.equal(held, before)  # nothing else is written


def test_crossing_is_the_same_with_loops_and_without(monkeypatch: pytest.MonkeyPatch):
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    attention = T5Attention(T5Config(d_model=32, d_kv=8, num_heads=3, is_decoder=True), layer_idx=0)
    crossing = Crossing(torch.device("cpu"))
    query = torch.randn(6, 2, 3, 8)
    with torch.inference_mode():
        monkeypatch.setattr(row_loops, "_WORTH", 0)
        crossing.add(range(6), [torch.randn(n, 32) for n in (9, 17, 33, 17, 50, 2)])
        absorbed = Absorbed(attention)
        by_loops = crossing.attend(query, 0, absorbed, Scoring(0.7))
        monkeypatch.setattr(row_loops, "_WORTH", 1 << 20)
        torch.testing.assert_close(crossing.attend(query, 0, absorbed, Scoring(0.7)), by_loops, atol=1e-5, rtol=0)


def test_other_threads_than_torchs_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    import numba

    monkeypatch.setattr(numba.config, "THREADING_LAYER", "workqueue")
    assert _on_torch_threads.__wrapped__() is None
    monkeypatch.setattr(numba.config, "THREADING_LAYER", "default")
    monkeypatch.setattr(numba, "threading_layer", lambda: "tbb")
    assert _on_torch_threads.__wrapped__() is None


def test_no_more_threads_than_torch_has():
    import numba

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert shared_threads()
        assert numba.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_little_and_other_numbers_are_torchs():
    assert row_loops.loops_pay(torch.zeros(1), 1 << 20)
    assert not row_loops.loops_pay(torch.zeros(1), (1 << 20) - 1)
    assert not row_loops.loops_pay(torch.zeros(1, dtype=torch.float64), 1 << 20)
    assert row_loops.states_pay(torch.zeros(1, 64, LANES), 1 << 20)
    assert not row_loops.states_pay(torch.zeros(1, 65, LANES), 1 << 20)
    assert not row_loops.states_pay(torch.zeros(1, 1, LANES + 1), 1 << 20)
