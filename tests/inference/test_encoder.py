"""T5's encoder in few calls, against transformers' modules and against double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

from flantune.inference import encoded, encoder, encoder_loops, products
from flantune.inference.encoder import Encoder
from flantune.inference.memory import Budget
from flantune.models.attention import prepare
from flantune.types import Tokens

MAKES: dict[str, tuple[Any, Any, str]] = {
    "relu": (T5ForConditionalGeneration, T5Config, "relu"),
    "gated": (T5ForConditionalGeneration, T5Config, "gated-gelu"),
    "mt5": (MT5ForConditionalGeneration, MT5Config, "gated-gelu"),
}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    made = {}
    for seed, (name, (kind, config, forward)) in enumerate(MAKES.items()):
        torch.manual_seed(seed)
        model = kind(
            config(
                vocab_size=50,
                d_model=24,
                d_kv=16,
                d_ff=40,
                num_layers=3,
                num_heads=3,
                feed_forward_proj=forward,
                relative_attention_num_buckets=8,
                relative_attention_max_distance=16,
                decoder_start_token_id=0,
                tie_word_embeddings=name != "mt5",
            )
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.25).add_(float(parameter.dim() == 1))  # norms' weights about 1, none alike
        made[name] = prepare(model).eval()
    return made


def some_prompts(lengths: list[int]) -> tuple[list[Tokens], Tokens]:
    draw = torch.Generator().manual_seed(sum(lengths))
    prompts = [torch.randint(1, 50, (n,), generator=draw).int().numpy() for n in lengths]
    return prompts, np.array(lengths, dtype=np.int32)


def states_of(model: Any, lengths: list[int], quick_for: list[int] | None = None) -> torch.Tensor:
    with torch.inference_mode():
        return Encoder(model, quick_for or []).states(*some_prompts(lengths))


def through_modules(model: Any, ask: Callable[[], Any]) -> Any:
    """What `ask` says while somebody listens in, so that transformers' modules are called; and that they were."""
    called: list[int] = []
    hook = model.get_encoder().block[-1].layer[1].register_forward_hook(lambda *_: called.append(1))
    try:
        found = ask()
    finally:
        hook.remove()
    assert called
    return found


LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=5)


@settings(max_examples=20)
@given(st.sampled_from(sorted(MAKES)), LENGTHS)
def test_texts_are_made_from_the_modules_own_states(models: dict[str, Any], name: str, lengths: list[int]):
    lengths += lengths[-1:]  # two of one length are one call
    plain = states_of(models[name], lengths)
    assert torch.equal(plain, through_modules(models[name], lambda: states_of(models[name], lengths)))


@settings(max_examples=20)
@given(st.sampled_from(sorted(MAKES)), LENGTHS, st.booleans(), st.integers(0, 2))
def test_quick_states_are_those_of_double_precision(
    models: dict[str, Any], name: str, lengths: list[int], in_loops: bool, packed_at: int
):
    stack = models[name].get_encoder()
    exact = copy.deepcopy(stack).double()
    prompts, counts = some_prompts(lengths)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(products, "COPIES_AFTER", packed_at)
        patch.setattr(products, "_MANY", 1)
        patch.setattr(encoder, "_LONG", 20)
        patch.setattr(encoder_loops, "_MUCH", 0 if in_loops else 1e30)
        quick = Encoder(models[name], lengths)
        found = [quick.states(prompts, counts) for _ in range(2)][-1]
        wanted = [exact(input_ids=torch.from_numpy(p.astype(np.int64))[None]).last_hidden_state[0] for p in prompts]
    torch.testing.assert_close(found.double(), torch.cat(wanted), atol=2e-4, rtol=0)


def test_under_autocast_the_modules_are_asked(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(encoder, "_LONG", 20)
    monkeypatch.setattr(encoder_loops, "_MUCH", 0)
    model, lengths = models["gated"], [9, 30]
    exact = states_of(model, lengths, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = states_of(model, lengths, lengths)
        assert torch.equal(rounded, through_modules(model, lambda: states_of(model, lengths)))
    assert not torch.equal(rounded, exact)


def test_the_decoder_reads_the_rows_of_several_batches_together(
    models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    model = models["relu"]
    prompts, _ = some_prompts([30, 28, 25, 9, 7, 3])
    options = [[np.array([5 + i, 7], dtype=np.int32), np.array([6], dtype=np.int32)] for i in range(6)]
    calls: list[str] = []

    def told(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def tell(*args: Any) -> Any:
            calls.append(name)
            return function(*args)

        return tell

    def scores(budget: Budget) -> list[tuple[float, ...]]:
        calls.clear()
        with torch.inference_mode():
            found = dict(encoded.score_encoded(model, prompts, options, budget))
        return [found[i] for i in range(6)]

    monkeypatch.setattr(Encoder, "states", told("encoder", Encoder.states))
    monkeypatch.setattr(encoded, "decode", told("decoder", encoded.decode))
    one_by_one = scores(Budget(1, 1, shrunk=1))
    assert calls == ["encoder", "decoder"] * 6
    together = scores(Budget(30, 1))
    assert calls == ["encoder"] * 4 + ["decoder"]  # 30; 28; 25; 9 and 7 and 3
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    scores(Budget(30, 1, shrunk=1))  # where memory ran out, each batch by itself
    assert calls == ["encoder", "decoder"] * 4
