"""When hidden states meet the output matrix."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.inference.families import OPTIONS, PROMPTS
from tests.tiny import saved_decoder
from transformers import LlamaForCausalLM

from flantune.inference import Engine, ScoreRequest, output, scoring
from flantune.inference.mapped import open_mapped
from flantune.inference.output import waves_at_once
from flantune.inference.waves import Store
from flantune.tokens.tokenizer import Tokenizer

REQUESTS = [ScoreRequest(prompt=p, options=o) for p in PROMPTS for o in OPTIONS]


def a_model(layers: int, vocabulary: int, device: str = "cpu") -> Any:
    """Of so many numbers."""
    head, all_numbers = torch.empty(vocabulary, device="meta"), torch.empty(layers + vocabulary, device="meta")
    return SimpleNamespace(
        device=torch.device(device),
        get_output_embeddings=lambda: SimpleNamespace(weight=head),
        parameters=lambda: [all_numbers],
    )


def test_beside_a_small_model_several_waves_wait_for_it_and_beside_a_large_one_none():
    assert waves_at_once(a_model(23_000_000, 16_000_000), 1_024) == 8
    assert waves_at_once(a_model(1_000_000, 16_000_000), 1_024) == 8
    assert waves_at_once(a_model(970_000_000, 262_000_000), 1_024) == 4
    assert waves_at_once(a_model(6_500_000_000, 131_000_000), 1_024) == 1
    assert waves_at_once(a_model(1_000_000, 16_000_000, "cuda"), 1_024) == 1


def test_off_the_file_as_over_modules(tmp_path: Path):
    model = open_mapped(saved_decoder(tmp_path))
    assert model is not None
    whole = model.whole()
    assert isinstance(whole, LlamaForCausalLM) and output.sizes(model) == output.sizes(whole)


@pytest.mark.parametrize("waves", [1, 3, 100])
def test_answers_are_the_same_however_many_wait(
    waves: int, llama: LlamaForCausalLM, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    calls: list[int] = []
    known = output.log_probabilities

    def counted(model: Any, states: torch.Tensor, *asked: Any) -> Any:
        calls.append(len(states))
        return known(model, states, *asked)

    def scores(size: int) -> dict[int, tuple[float, ...]]:
        monkeypatch.setattr(output, "waves_at_once", lambda model, tokens: size)
        engine = Engine(llama, tokenizer, "causal", 512, 30, prompt_eos=False)
        return {s.index: s.scores for s in engine.score(REQUESTS)}

    expected = scores(1)
    monkeypatch.setattr(output, "log_probabilities", counted)
    found = scores(waves)
    assert found.keys() == expected.keys()
    assert all(found[i] == pytest.approx(expected[i], abs=1e-5) for i in expected)
    assert (len(calls) == 1) == (waves == 100) and sum(calls) > 0


def test_what_no_wave_needs_any_more_is_gone(
    llama: LlamaForCausalLM, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    stores: list[Store] = []

    class Seen(Store):
        def __init__(self) -> None:
            super().__init__()
            stores.append(self)

    monkeypatch.setattr(scoring, "Store", Seen)
    engine = Engine(llama, tokenizer, "causal", 512, 30, prompt_eos=False)
    assert len(list(engine.score(REQUESTS))) == len(REQUESTS)
    assert len(stores) == 1 and list(stores[0]) == [] and not stores[0].starts
