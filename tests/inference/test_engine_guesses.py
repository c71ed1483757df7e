"""Tokens that are guessed ahead: the same texts in fewer steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from flantune.compiled import shared_threads
from flantune.inference import Engine, GenerateRequest, drafts, row_loops, run_loops, writers, writing

from .families import NAMES, PROMPTS, SAMPLED, write_slowly


@pytest.mark.parametrize(
    ("name", "loops"),
    [*((name, False) for name in NAMES if not name.startswith("t5gemma")), ("t5", True), ("llama", True)],
)  # T5Gemma is never asked
def test_what_is_guessed_ahead_changes_no_text(
    name: str, loops: bool, engines: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
):
    """All rows guess from their second token on, and mostly wrong."""
    engine = engines(name)
    monkeypatch.setattr(row_loops, "_WORTH", 0 if loops else 1 << 62)
    monkeypatch.setattr(run_loops, "_FEWEST", 1)
    monkeypatch.setattr(drafts, "_ALIKE", 1)
    monkeypatch.setattr(drafts, "_SURE", 0)
    monkeypatch.setattr(writing, "_MANY", 0)
    engine.batch_tokens = 300
    requests = [GenerateRequest(prompt=p, max_new_tokens=5 + 6 * i) for i, p in enumerate(PROMPTS)]
    requests += [GenerateRequest(prompt=p, max_new_tokens=14, samples=3, sampling=SAMPLED) for p in PROMPTS[:4]]
    for i, texts in engine.generate_tokens(requests):
        request = requests[i]
        for sample, told in enumerate(texts):
            assert told == write_slowly(engine, request.prompt, request.max_new_tokens, request.sampling, sample)


@pytest.mark.parametrize("name", ["t5", "gemma2, windows and caps"])
def test_texts_that_go_round_in_circles_take_few_steps(
    name: str, engines: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
):
    engine = engines(name)
    monkeypatch.setattr(engine, "eos_ids", frozenset())
    monkeypatch.setattr(row_loops, "_WORTH", 0)
    looked = 0

    def attend_keys(*given: Any) -> Any:
        nonlocal looked
        looked += 1
        return by_keys(*given)

    by_keys = row_loops.attend_keys
    monkeypatch.setattr(row_loops, "attend_keys", attend_keys)
    requests = [GenerateRequest(prompt=p, max_new_tokens=240) for p in PROMPTS[:4]]
    steps: list[int] = []
    output = writers.OutputMatrix.logits
    monkeypatch.setattr(
        writers.OutputMatrix, "logits", lambda self, states: (steps.append(len(states)), output(self, states))[1]
    )
    told = dict(engine.generate_tokens(requests))
    few = len(steps)
    assert bool(looked) == (name == "t5" and shared_threads())  # encoder states' keys and values, once it is worth them
    steps.clear()
    monkeypatch.setattr(engine, "guesses", False)
    assert dict(engine.generate_tokens(requests)) == told
    assert all(len(texts[0]) == 240 for texts in told.values()) and few < len(steps) / 2


def test_memory_that_ends_with_several_tokens_a_row_is_enough_for_one(
    engines: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
):
    engine = engines("llama")
    requests = [GenerateRequest(prompt=p, max_new_tokens=40) for p in PROMPTS[:4]]
    want = dict(engine.generate_tokens(requests))
    monkeypatch.setattr(drafts, "_SURE", 0)
    monkeypatch.setattr(writing, "_MANY", 0)

    def fail(self: Any, tokens: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(writers.CausalWriter, "check", fail)
    assert dict(engine.generate_tokens(requests)) == want
    assert engine.budget.shrunk == 0
