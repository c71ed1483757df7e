"""Pieces on threads of their own: the same bits as one after the other, and errors that are seen."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from flantune.models import bucketed
from flantune.models.bucketed import Scoring, bucketed_attention
from flantune.models.lanes import each_piece
from flantune.models.layout import Attending

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def the_threads_there_were() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def attend(threads: int) -> list[torch.Tensor]:
    torch.set_num_threads(threads)
    attending = Attending(np.array([60, 7, 33, 60, 12]), causal=False)
    rng = torch.Generator().manual_seed(0)
    inputs = [torch.randn(172, 4, 8, generator=rng).requires_grad_() for _ in range(3)]
    bias = torch.randn(4, 2 * attending.longest - 1, generator=rng).requires_grad_()
    made = bucketed_attention(*inputs, attending, Scoring(scale=1.0, dropout=0.2, seed=5), bias)
    return [made, *torch.autograd.grad(made.square().sum(), [*inputs, bias])]


@pytest.mark.parametrize("piece", [700, 5000])
def test_any_number_of_threads_gives_the_same_bits(piece: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(bucketed._PIECE, "cpu", piece)
    alone = attend(1)
    for threads in (2, 3):
        assert all(torch.equal(a, b) for a, b in zip(alone, attend(threads), strict=True))


def test_each_piece_is_done_once_on_threads_that_divide_no_call_and_the_caller_keeps_its_own():
    torch.set_num_threads(3)
    seen: list[tuple[int, int, str]] = []
    each_piece(range(50), lambda i: seen.append((i, torch.get_num_threads(), threading.current_thread().name)), CPU)
    assert sorted(i for i, _, _ in seen) == list(range(50))
    assert {threads for _, threads, _ in seen} == {1} and torch.get_num_threads() == 3
    assert threading.current_thread().name not in {name for _, _, name in seen}


def test_few_pieces_are_done_by_the_caller():
    torch.set_num_threads(3)
    seen: list[str] = []
    each_piece(range(2), lambda _: seen.append(threading.current_thread().name), CPU)
    assert seen == [threading.current_thread().name] * 2


def test_an_error_of_a_piece_is_raised():
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError):
        each_piece(range(-10, 10), lambda i: 1 // i, CPU)
