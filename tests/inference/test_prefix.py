"""A prefix-LM is asked as it was trained: its prompt sees itself both ways."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from flantune.inference import Engine, GenerateRequest, ScoreRequest
from flantune.models.causal import PrefixLM
from flantune.tokens.tokenizer import Tokenizer

PROMPTS = ("The ferry left at nine.", "Q: yes or no?", "The kiln was cold. " * 6, "24")
OPTIONS = (" yes", " not at all, it never left", " no")


@pytest.fixture
def engine(llama: LlamaForCausalLM, tokenizer: Tokenizer) -> Engine:
    return Engine(llama, tokenizer, "prefix", 256, 300)


def ids(engine: Engine, text: str, eos: bool) -> torch.Tensor:
    tokens = engine.tokenizer.encode_batch([text])[0].tolist()
    return torch.tensor(tokens + [engine.tokenizer.eos_id] * eos)


def test_scores_are_those_of_the_training_mask_one_at_a_time(engine: Engine):
    found = sorted(engine.score([ScoreRequest(prompt=p, options=OPTIONS) for p in PROMPTS]), key=lambda s: s.index)
    causal = Engine(engine.model, engine.tokenizer, "causal", 256, 300)
    other = sorted(causal.score([ScoreRequest(prompt=p, options=OPTIONS) for p in PROMPTS]), key=lambda s: s.index)
    for prompt, got, without in zip(PROMPTS, found, other, strict=True):
        for option, score, one_way in zip(OPTIONS, got.scores, without.scores, strict=True):
            told = ids(engine, option.strip(), False)
            with torch.no_grad():
                logits = PrefixLM().unpacked_logits(engine.model, ids(engine, prompt, True), told)
            expected = torch.log_softmax(logits.double(), -1).gather(-1, told[:, None]).sum()
            assert score == pytest.approx(float(expected), abs=2e-4)
            assert abs(score - one_way) > 1e-2


def test_greedy_texts_are_those_of_the_training_mask_one_token_at_a_time(engine: Engine):
    requests = [GenerateRequest(prompt=p, max_new_tokens=8) for p in PROMPTS]
    found = sorted(engine.generate(requests), key=lambda g: g.index)
    for prompt, got in zip(PROMPTS, found, strict=True):
        told: list[int] = []
        for _ in range(8):
            asked = torch.tensor([*told, 0])  # the last stands for the token to be predicted
            with torch.no_grad():
                logits = PrefixLM().unpacked_logits(engine.model, ids(engine, prompt, True), asked)
            token = int(logits[-1, : engine.vocab_size].argmax())
            if token == engine.tokenizer.eos_id:
                break
            told.append(token)
        assert got.text == engine.tokenizer.decode(told)


def test_an_unknown_family_is_refused(llama: LlamaForCausalLM, tokenizer: Tokenizer):
    with pytest.raises(ValueError, match="expected one of encoder-decoder, causal, prefix, got 'both'"):
        Engine(llama, tokenizer, "both", 256)  # type: ignore[arg-type]
