"""The largest logits by way of rough ones, against all logits sorted; and engines that write so, against those that do
not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flantune.compiled import shared_threads
from flantune.inference import GenerateRequest, Sampling, screen, screen_loops
from flantune.inference.engine import Engine
from flantune.inference.likeliest import largest
from flantune.inference.screen import Screen

from .families import PROMPTS

pytestmark = pytest.mark.skipif(
    not (shared_threads() and torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="no OpenMP that numba and torch share, or no products in bfloat16",
)


@pytest.fixture(autouse=True)
def screened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor, and however small the matrix."""
    monkeypatch.setattr(screen, "_WORTH", 0)
    monkeypatch.setattr(screen, "rough_products_are_quick", lambda: True)


def screen_of(weight: Tensor, count: int = 1) -> Screen:
    made = Screen(weight)
    asked = [made.takes(count, len(weight)) for _ in range(5)]
    assert asked == [False] * 3 + [True] * 2
    return made


def whole_numbers(draw: torch.Generator, *shape: int, most: int) -> Tensor:
    """Products of them have no rounding, so equal logits are equal however they are summed."""
    return torch.randint(-most, most + 1, shape, generator=draw).float()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(300, 2_000),
    st.integers(1, 80),
    st.integers(1, 30),
    st.sampled_from([1, 2, 5, 40]),
    st.integers(0, 70),
    st.sampled_from([1, 7, 200]),
    st.booleans(),
)
def test_the_largest_are_those_of_all_logits(
    vocabulary: int, width: int, rows: int, count: int, past: int, most: int, turned: bool
):
    draw = torch.Generator().manual_seed(vocabulary)
    count = min(count, vocabulary // (8 * screen_loops.RUN))
    weight = whole_numbers(draw, vocabulary + past, width, most=most)
    weight = weight.t().contiguous().t() if turned else weight
    # Halves of what bfloat16 has room for: everything is rounded.
    states = whole_numbers(draw, rows, width, most=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screen, "_WORTH", 0)
        patch.setattr(screen, "rough_products_are_quick", lambda: True)
        made = screen_of(weight, count)
    ids, logits, missing = made.largest(states, count, vocabulary)
    wanted = states.double() @ weight[:vocabulary].double().T
    found = np.setdiff1d(np.arange(rows), missing.numpy())
    for row in found:
        order = np.argsort(-wanted[row].numpy(), kind="stable")[:count]
        assert ids[row].tolist() == sorted(order.tolist())
        assert torch.equal(logits[row].double(), wanted[row, ids[row]])
    if width >= 16 and most > 1:
        assert len(missing) <= rows // 4


def test_rough_logits_that_put_others_first_do_not_mislead():
    """The likeliest token of every row is so by what bfloat16 has no room for."""
    weight = torch.full((2_048, 4), 1.0)
    weight[7::64] = 1 + 2**-12
    weight[1_999] = 1 + 2**-11
    states = torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1], [300, 0, 1, 2]])
    assert (states.bfloat16() @ weight.bfloat16().T).float().argmax(1).tolist() == [0, 0, 0]
    # All tokens are so near each other that all would have to be looked at; then 148 of them; then 58.
    assert screen_of(weight).largest(states, 1, 2_048)[2].tolist() == [0, 1, 2]
    weight[:1_900] = 0.5
    assert screen_of(weight).largest(states[[0, 2]], 1, 2_048)[2].tolist() == [0, 1]
    weight[:1_990] = 0.5
    ids, _, missing = screen_of(weight).largest(states[[0, 2]], 1, 2_048)
    assert not len(missing) and ids[:, 0].tolist() == [1_999, 1_999]


def test_rows_of_no_numbers_and_flat_ones_are_left_to_others():
    weight = torch.randn(1_024, 16, generator=torch.Generator().manual_seed(0))
    states = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
    states[1, 3], states[2, 0], states[4] = float("nan"), float("inf"), 0
    ids, _, missing = screen_of(weight).largest(states, 1, 1_024)
    assert missing.tolist() == [1, 2, 4]
    kept = torch.tensor([0, 3, 5])
    assert torch.equal(ids[kept], largest(states[kept] @ weight.T, 1)[0])


def test_a_screen_is_not_set_up_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch):
    weight = torch.randn(1_024, 16)

    def ever(made: Screen, count: int = 1) -> bool:
        return any(made.takes(count, 1_024) for _ in range(9))

    assert ever(Screen(weight), 4) and not ever(Screen(weight), 5)  # of 32 runs, five are too many
    broken = weight.clone()
    broken[3, 3] = float("inf")
    assert not ever(Screen(broken))
    with monkeypatch.context() as patch:
        patch.setattr(screen, "_WORTH", weight.numel() + 1)
        assert not ever(Screen(weight))
    with monkeypatch.context() as patch:
        patch.setattr(screen, "rough_products_are_quick", lambda: False)
        assert not ever(Screen(weight))
    with monkeypatch.context() as patch:
        patch.setattr(screen, "free_memory", lambda device: 20 * 2 * weight.numel() - 20)
        assert not ever(Screen(weight))
        patch.setattr(screen, "free_memory", lambda device: 20 * 2 * weight.numel() + 20)
        assert ever(Screen(weight))
        assert not ever(Screen(weight.t().contiguous().t()))  # whose rows have to be copied, too


def test_a_screen_that_finds_little_is_given_up():
    made = screen_of(torch.ones(1_024, 16))
    assert len(made.largest(torch.ones(255, 16), 1, 1_024)[2]) == 255 and made.takes(1, 1_024)
    made.largest(torch.ones(1, 16), 1, 1_024)
    assert not made.takes(1, 1_024)


def test_the_loops_read_as_python_compute_the_same():
    draw = torch.Generator().manual_seed(5)
    weight, states = torch.randn(1_030, 16, generator=draw), torch.randn(3, 16, generator=draw)
    given: list[tuple[Any, ...]] = []
    find = screen_loops.find
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screen_loops, "find", lambda *a: (given.append(a), find(*a))[1])
        ids, logits, _ = screen_of(weight, 3).largest(states, 3, 1_030)
    rough, states, exact, wrong, in_runs, doubt, count = given[0]
    out = np.zeros((3, 3), dtype=np.int64), np.zeros((3, 3), dtype=np.float32), np.zeros(3, dtype=bool)
    arrays = [t.numpy() for t in (states, exact, *wrong, *in_runs, doubt)]
    screen_loops._find(rough.view(torch.int16).numpy(), *arrays, *out, 4 * count + 64)
    assert out[2].all() and np.array_equal(ids.numpy(), out[0])
    torch.testing.assert_close(logits, torch.from_numpy(out[1]))


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_texts_are_those_of_all_logits(engines: Callable[[str], Engine], name: str, monkeypatch: pytest.MonkeyPatch):
    engine = engines(name)
    sampled = Sampling(temperature=0.9, top_k=1, seed=3)
    requests = [GenerateRequest(prompt=p, max_new_tokens=30) for p in PROMPTS]
    requests.append(GenerateRequest(prompt=PROMPTS[0], max_new_tokens=30, samples=3, sampling=sampled))
    asked: list[int] = []
    judge = Screen._judge
    monkeypatch.setattr(
        Screen, "_judge", lambda self, rows, missing: (asked.append(rows), judge(self, rows, missing))[1]
    )
    told = dict(engine.generate_tokens(requests))
    assert asked
    asked.clear()
    monkeypatch.setattr(screen, "_WORTH", 1 << 40)
    assert dict(engine.generate_tokens(requests)) == told and not asked


def test_it_is_told_by_the_processor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    found = screen.rough_products_are_quick.__wrapped__
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert found() is True
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert found() is False
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert found() is False
