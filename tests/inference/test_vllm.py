"""vLLM's backend against a stand-in with vLLM's documented names, which asks our own engine's tiny model."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from flantune.errors import RecipeError
from flantune.inference import Engine, GenerateRequest, Sampling, ScoreRequest
from flantune.inference import vllm as backend
from flantune.tokens.tokenizer import Tokenizer


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: list[str] | None = None
    max_tokens: int | None = 16
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        assert self.n == 1 or self.temperature > 0


@dataclass
class TokensPrompt:
    prompt_token_ids: list[int]


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None


@dataclass
class Completion:
    index: int
    text: str
    token_ids: list[int]


@dataclass
class Output:
    outputs: list[Completion]
    prompt_logprobs: list[dict[int, Logprob] | None] | None


@dataclass
class LLM:
    model: Any
    tokenizer: Any
    seen: list[tuple[list[TokensPrompt], Any]] = field(default_factory=list)

    def generate(self, prompts: list[TokensPrompt], params: Any, *, use_tqdm: bool = True) -> list[Output]:
        assert not use_tqdm
        self.seen.append((prompts, params))
        every = params if isinstance(params, list) else [params] * len(prompts)
        return [self._one(p.prompt_token_ids, s) for p, s in zip(prompts, every, strict=True)]

    @torch.inference_mode()
    def _one(self, ids: list[int], params: SamplingParams) -> Output:
        told = None
        if params.prompt_logprobs is not None:
            logs = torch.log_softmax(self.model(torch.tensor([ids])).logits[0].float(), -1)
            told = [None, *({t: Logprob(float(logs[i, t]))} for i, t in enumerate(ids[1:]))]
        new: list[int] = []
        for _ in range(params.max_tokens or 0):
            new.append(int(self.model(torch.tensor([ids + new])).logits[0, -1, : self.tokenizer.vocab_size].argmax()))
            if new[-1] == self.tokenizer.eos_id:
                break
        text = self.tokenizer.decode(new)
        drawn = [Completion(n, text if params.temperature == 0 else f"{text}{n}", new) for n in range(params.n)]
        return Output(drawn[::-1], told)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, llama: LlamaForCausalLM, tokenizer: Tokenizer) -> list[LLM]:
    made: list[LLM] = []

    def open_llm(*, model: str, tokenizer: str, dtype: str, enable_prefix_caching: bool) -> LLM:
        assert model == tokenizer == "folder" and enable_prefix_caching
        made.append(LLM(llama, words))
        return made[-1]

    words = tokenizer
    module = ModuleType("vllm")
    vars(module).update(LLM=open_llm, SamplingParams=SamplingParams, TokensPrompt=TokensPrompt, __version__="0.0")
    monkeypatch.setitem(sys.modules, "vllm", module)
    return made


PROMPTS = ["The ferry left at nine and", "Question: how many jars? Answer:", "Q: yes or no?" * 30]


@pytest.mark.parametrize("prompt_eos", [False, True])
def test_texts_and_scores_are_those_of_our_engine(
    fake: list[LLM], llama: LlamaForCausalLM, tokenizer: Tokenizer, prompt_eos: bool
):
    ours = Engine(llama, tokenizer, "causal", 40, 4000, prompt_eos=prompt_eos)
    other = backend.VLLM("folder", tokenizer, "f", max_inputs=40, prompt_eos=prompt_eos)
    told = [GenerateRequest(prompt=p, max_new_tokens=6) for p in PROMPTS]
    scored = [ScoreRequest(prompt=p, options=(" (A)", " nine jars", " no")) for p in PROMPTS]
    first, second = ({g.index: (g.texts, g.truncated) for g in b.generate(told)} for b in (ours, other))
    assert first == second and [first[i][1] for i in range(3)] == [False, False, True]
    expected, got = ({s.index: s for s in b.score(scored)} for b in (ours, other))
    for index in range(3):
        assert got[index].scores == pytest.approx(expected[index].scores, abs=1e-4)
        assert got[index].truncated == expected[index].truncated
    assert other.fits(PROMPTS[0]) and not other.fits(PROMPTS[2])


def test_samples_come_in_their_order_and_what_was_asked_reaches_vllm(fake: list[LLM], tokenizer: Tokenizer):
    other = backend.VLLM("folder", tokenizer, "f", max_inputs=40, prompt_eos=False)
    request = GenerateRequest(
        prompt="The kiln",
        max_new_tokens=3,
        samples=3,
        stop=("\n",),
        sampling=Sampling(temperature=0.7, top_k=5, seed=2),
    )
    (told,) = other.generate([request])
    assert [t[-1] for t in told.texts] == ["0", "1", "2"] and told.new_tokens >= 3
    ((_, (params,)),) = fake[0].seen
    assert (params.n, params.temperature, params.top_k, params.top_p, params.seed) == (3, 0.7, 5, 1.0, 2)
    assert (params.stop, params.max_tokens) == (["\n"], 3)
    assert {"backend": "vllm", "model": "f", "version": "0.0"}.items() <= other.identity.items()


def test_many_requests_are_several_calls_so_that_answers_reach_the_disk(
    fake: list[LLM], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(backend, "AT_ONCE", 2)
    other = backend.VLLM("folder", tokenizer, "f", max_inputs=40, prompt_eos=False)
    requests = [GenerateRequest(prompt=f"jar {n}", max_new_tokens=1) for n in range(5)]
    answers = other.generate(requests)
    next(answers)
    assert len(fake[0].seen) == 1
    assert [a.index for a in answers] == [1, 2, 3, 4] and len(fake[0].seen) == 3


def test_without_vllm_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(RecipeError, match="pip install vllm"):
        backend.VLLM("folder", tokenizer, "f", max_inputs=40, prompt_eos=False)
