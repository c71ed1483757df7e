"""Engines over every kind of model, and the slow obvious way: the stock model on one whole sequence at a time, without
cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
)

from flantune.inference import Engine, Sampling
from flantune.inference.engine import FamilyName
from flantune.inference.requests import GREEDY
from flantune.inference.sampling import Draw, uniforms
from flantune.models.encdec import start_id
from flantune.tokens.tokenizer import Tokenizer

HEAD = "Answer the question. " + "The ferry left at nine and the kiln was cold. Question: how many jars? 24.\n\n" * 3
OTHER = "The kiln was cold. " * 6
PROMPTS = (
    HEAD + "Q: yes or no?\nA:",
    HEAD + "Question: how many jars?\nA:",
    HEAD + "Question: how many ferries left at nine?\nA:",
    OTHER + "24",
    OTHER + "yes",
    "Q: no?",
    HEAD + "Q: yes or no?\nA:",  # again
)
OPTIONS = ((" yes", " no"), (" at nine.", " not at all, it never left", " no"))
SAMPLED = Sampling(temperature=0.8, top_k=30, top_p=0.95, seed=5)
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": None,
}


NAMES = (
    "t5",
    "t5gemma, windows and caps",
    "llama",
    "llama prefix",
    "llama, biases",
    "qwen2, a window in some layers",
    "qwen3",
    "mistral, a window",
    "gemma2, windows and caps",
    "gemma3, windows",
)


def opener(tokenizer: Tokenizer, t5: T5ForConditionalGeneration, llama: LlamaForCausalLM) -> Callable[[str], Engine]:
    """A function that gives the engine of each of NAMES."""
    ids = {"vocab_size": tokenizer.vocab_size, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    windowed = {"sliding_window": 24, "max_position_embeddings": 1_024}
    made: dict[str, Engine] = {}

    def spread(model: Any) -> Any:
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.3)
                elif not parameter.any():  # biases
                    parameter.normal_(0, 0.1)
        return model.eval()

    def make(name: str) -> tuple[Any, FamilyName, bool]:
        if name == "t5":
            return t5, "encoder-decoder", True
        if name == "t5gemma, windows and caps":
            stack = SHAPE | ids | windowed | {"bos_token_id": 2, "query_pre_attn_scalar": 8}
            config = T5GemmaConfig(encoder=stack, decoder=stack, tie_word_embeddings=False, **ids)
            return spread(T5GemmaForConditionalGeneration(config)), "encoder-decoder", True
        if name == "llama":
            return llama, "causal", False
        if name == "llama prefix":
            return llama, "prefix", True
        if name == "llama, biases":
            return (
                spread(LlamaForCausalLM(LlamaConfig(**SHAPE, **ids, attention_bias=True, mlp_bias=True))),
                "causal",
                False,
            )
        if name == "qwen2, a window in some layers":
            mixed = {"use_sliding_window": True, "max_window_layers": 1}
            return spread(Qwen2ForCausalLM(Qwen2Config(**SHAPE, **ids, **windowed, **mixed))), "causal", False
        if name == "qwen3":
            return spread(Qwen3ForCausalLM(Qwen3Config(**SHAPE, **ids))), "causal", True
        if name == "mistral, a window":
            return spread(MistralForCausalLM(MistralConfig(**SHAPE, **ids, **windowed))), "causal", False
        if name == "gemma2, windows and caps":
            capped = Gemma2Config(**SHAPE, **ids, **windowed, attn_logit_softcapping=5.0, final_logit_softcapping=8.0)
            return spread(Gemma2ForCausalLM(capped)), "causal", False
        if name == "gemma3, windows":
            return spread(Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, **ids, **windowed))), "causal", False
        raise AssertionError(name)

    def engine(name: str) -> Engine:
        if name not in made:
            model, family, eos = make(name)
            made[name] = Engine(model, tokenizer, family, 512, prompt_eos=eos)
        made[name].batch_tokens = None
        return made[name]

    return engine


def ids_of(engine: Engine, prompt: str) -> list[int]:
    return [*engine.tokenizer.encode(prompt).tolist(), *([engine.tokenizer.eos_id] if engine.prompt_eos else [])]


def next_logits(engine: Engine, prompt: list[int], told: Sequence[int]) -> torch.Tensor:
    """Of the token after each of prompt's last and `told`: (1 + len(told), tokenizer's vocabulary)."""
    with torch.inference_mode():
        if engine.family == "encoder-decoder":
            start = torch.tensor([[start_id(engine.model), *told]])
            logits = engine.model(input_ids=torch.tensor([prompt]), decoder_input_ids=start, use_cache=False).logits[0]
        else:
            ids = torch.tensor([[*prompt, *told]])
            mask = None
            if engine.family == "prefix":
                places = torch.arange(ids.shape[1])
                mask = ((places[None, :] <= places[:, None]) | (places[None, :] < len(prompt)))[None, None]
            logits = engine.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, len(prompt) - 1 :]
    return logits[:, : engine.vocab_size]


def write_slowly(engine: Engine, prompt: str, new: int, sampling: Sampling = GREEDY, sample: int = 0) -> list[int]:
    told: list[int] = []
    ids = ids_of(engine, prompt)
    while len(told) < new and (not told or told[-1] not in engine.eos_ids):
        logits = next_logits(engine, ids, told)[-1]
        if sampling.temperature == 0:
            told.append(int(logits.argmax()))
            continue
        values = logits.numpy().astype(np.float64) / sampling.temperature
        order = np.argsort(-values, kind="stable")[: sampling.top_k]
        weights = np.exp(values[order] - values[order[0]])
        before = np.cumsum(weights) - weights
        kept = np.sort(order[before < (sampling.top_p or 1.0) * weights.sum()])
        weights = np.exp(values[kept] - values[order[0]])
        number = uniforms([Draw(sampling, sample, len(told))])[0]
        told.append(int(kept[np.searchsorted(np.cumsum(weights), number * weights.sum(), side="right")]))
    return told
