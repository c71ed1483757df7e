"""Decoders read in few calls, against transformers' modules on the same runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
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
)

from flantune.inference import plain_decoder
from flantune.inference.plain_decoder import Reader, is_plain
from flantune.inference.waves import Segment, Store, Wave

SHAPE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
}
WINDOW = {"sliding_window": 7, "max_position_embeddings": 256}
CONFIGS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True)),
    "llama, stretched": (
        LlamaForCausalLM,
        LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
    ),
    "mistral": (MistralForCausalLM, MistralConfig(**SHAPE, **WINDOW)),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SHAPE, **WINDOW, use_sliding_window=True, max_window_layers=1)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SHAPE)),
}


def random_model(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3).add_(float(parameter.dim() == 1))  # norms' weights about 1, none alike
    return model


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: random_model(kind, config) for name, (kind, config) in CONFIGS.items()}


def read(model: Any, beginning: Segment, segments: list[Segment], wanted: Any) -> tuple[torch.Tensor, dict[int, Any]]:
    """States of the tokens `wanted` of the segments, which stand behind a beginning read before them; what is kept."""
    store, layers = Store(), range(model.config.num_hidden_layers)
    with torch.inference_mode():
        first = Wave([beginning], store, keep=frozenset([beginning.key]))
        reader = Reader(model)
        assert len(reader.states(first.ids, first.positions, first, np.zeros(0, dtype=np.int64))) == 0
        wave = Wave(segments, store, keep=frozenset(s.key for s in segments if s.key > 0))
        states = reader.states(wave.ids, wave.positions, wave, wanted)
    return states, {key: [store.get(key, layer) for layer in layers] for key in store}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(CONFIGS)),
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(1, 60), st.booleans(), st.booleans()), min_size=1, max_size=5),
    st.data(),
)
def test_few_calls_say_of_any_tokens_what_the_modules_say(
    models: dict[str, Any], name: str, begun: int, shapes: list[tuple[int, bool, bool]], data: st.DataObject
):
    draw = np.random.default_rng(begun)
    beginning = Segment(tokens=draw.integers(0, 60, begun).astype(np.int32), key=0)
    segments = [
        Segment(
            tokens=draw.integers(0, 60, n).astype(np.int32),
            start=begun if behind else 0,
            ancestors=(0,) if behind else (),
            both_ways=both_ways,
            key=1 + i if i == 0 else -1,
        )
        for i, (n, behind, both_ways) in enumerate(sorted(shapes, key=lambda s: s[1]))
    ]
    total = sum(len(s.tokens) for s in segments)
    some = data.draw(st.none() | st.sets(st.integers(0, total - 1)))
    wanted = None if some is None else np.array(sorted(some), dtype=np.int64)
    model = models[name]
    states, kept = read(model, beginning, segments, wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_decoder, "is_plain", lambda model: False)
        expected, expected_kept = read(model, beginning, segments, wanted)
    torch.testing.assert_close(states, expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(kept, expected_kept, atol=2e-4, rtol=1e-4)


class TestWhoIsPlain:
    def test_every_model_here_is(self, models: dict[str, Any]) -> None:
        assert all(is_plain(model) for model in models.values())

    def test_another_make_is_not(self) -> None:
        assert not is_plain(random_model(Gemma3ForCausalLM, Gemma3TextConfig(**SHAPE, **WINDOW)))

    def test_whoever_listens_in_hears_the_modules(self, models: dict[str, Any]) -> None:
        model = models["llama"]
        wave = Wave([Segment(tokens=np.arange(5, dtype=np.int32))], Store())
        called: list[int] = []
        hook = model.model.layers[1].mlp.register_forward_hook(lambda *_: called.append(1))
        try:
            assert not is_plain(model)
            with torch.inference_mode():
                Reader(model).states(wave.ids, wave.positions, wave)
            assert called == [1]
        finally:
            hook.remove()
        assert is_plain(model)

    def test_a_module_that_is_called_otherwise_is_not(self, models: dict[str, Any]) -> None:
        model = models["qwen3"]
        layer = model.model.layers[0]
        layer.forward = lambda x: x
        assert not is_plain(model)
        del layer.forward
        assert is_plain(model)

    def test_adapters_and_other_precisions_are_not(self) -> None:
        model = random_model(*CONFIGS["mistral"])
        assert not is_plain(model.double())
        assert not is_plain(model.bfloat16())
        assert is_plain(model.float())
        peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["q_proj"]), model)
        assert not is_plain(model)

    def test_under_autocast_the_modules_say_what_is_rounded(self, models: dict[str, Any]) -> None:
        model, wave = models["qwen2"], Wave([Segment(tokens=np.arange(9, dtype=np.int32))], Store())
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            states = Reader(model).states(wave.ids, wave.positions, wave)
            expected = model.base_model(input_ids=wave.ids[None], use_cache=False).last_hidden_state[0]
        torch.testing.assert_close(states, expected, atol=0.1, rtol=0.1)
        with torch.inference_mode():
            assert not torch.equal(states, Reader(model).states(wave.ids, wave.positions, wave))
