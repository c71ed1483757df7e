"""Tiny random models of both families over a tokenizer trained here. Random weights answer nonsense, but exactly so."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from flantune.inference import Engine, prefix_tree
from flantune.tokens.tokenizer import Tokenizer, train_tokenizer

from .families import opener

# First calls load models and libraries: a limit on one example's time would fail by the machine's mood.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

TEXTS = [
    "The ferry left at nine and the kiln was cold.",
    "Question: how many jars? Answer: 24.\n\nQ: yes or no?",
    "渡轮九点出发。",
] * 20


@pytest.fixture(scope="session", autouse=True)
def quick_collections() -> Iterator[None]:
    """The engine collects garbage whenever memory runs out: what the libraries hold need not be looked through."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def short_runs_are_shared() -> Iterator[None]:
    """While texts are written too: the prompts here are all short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_tree, "STEP_COST", 0)
        yield


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    # Without the space before a text, so that any piece of the vocabulary can be an option of one token.
    return train_tokenizer(TEXTS, 400, Path(tmp_path_factory.mktemp("tokenizer")), prefix_space=False)


@pytest.fixture(scope="session")
def t5(tokenizer: Tokenizer) -> T5ForConditionalGeneration:
    torch.manual_seed(4)
    config = T5Config(
        vocab_size=tokenizer.vocab_size + 12,  # a padded embedding table, as real T5s have
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        decoder_start_token_id=0,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    return _spread(T5ForConditionalGeneration(config))


@pytest.fixture(scope="session")
def llama(tokenizer: Tokenizer) -> LlamaForCausalLM:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_id,
    )
    return _spread(LlamaForCausalLM(config))


@pytest.fixture(scope="module")
def engines(tokenizer: Tokenizer, t5: T5ForConditionalGeneration, llama: LlamaForCausalLM) -> Callable[[str], Engine]:
    return opener(tokenizer, t5, llama)


def _spread(model: torch.nn.Module) -> torch.nn.Module:
    """Larger weights: outputs then depend strongly on the input, and two candidates for the next token never tie."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3)
    return model.eval()
