"""T5's decoder in few calls, against transformers' modules on the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration

from flantune.inference import products, writers
from flantune.inference.logits import Asked, OutputMatrix
from flantune.inference.products import Products
from flantune.inference.t5_step import is_stock
from flantune.inference.writers import EncodedWriter
from flantune.models.attention import prepare
from flantune.tokens.tokenizer import Tokenizer
from flantune.types import Tokens

FORWARDS = ("relu", "gated-gelu", "gated-silu")


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    made = {}
    for seed, name in enumerate(FORWARDS):
        torch.manual_seed(seed)
        config = T5Config(
            vocab_size=50,
            d_model=24,
            d_kv=8,
            d_ff=40,
            num_layers=2,
            num_heads=3,
            feed_forward_proj=name,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            decoder_start_token_id=0,
        )
        model = T5ForConditionalGeneration(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.4).add_(float(parameter.dim() == 1))  # norms' weights about 1, none alike
        made[name] = prepare(model).eval()
    return made


@contextmanager
def through_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(writers, "is_stock", lambda stack: False)
        yield


def play(model: Any, prompts: list[Tokens], rows: list[int], moves: list[int]) -> list[torch.Tensor]:
    """Logits of every step, of one token or of several, while rows come and go as `moves` says."""
    writer = EncodedWriter(model, prompts, rows)
    waiting = [p for p, count in enumerate(rows) for _ in range(count)]
    held: list[int] = []
    found = []
    with torch.inference_mode():
        for step, move in enumerate(moves):
            if waiting and (not held or move % 2):
                count = 1 + move % 3
                writer.add(waiting[:count])
                held += waiting[:count]
                waiting = waiting[count:]
            found.append(writer.step([(7 * step + 3 * row) % 50 for row in range(len(held))]).whole(50))
            if move % 3 == 0:
                counts = [1 + (move + row) % 4 for row in range(len(held))]
                found.append(writer.check([[(step + 5 * i) % 50 for i in range(n)] for n in counts]).whole(50))
                writer.keep([1 + (move + row) % n for row, n in enumerate(counts)])
            if move % 5 == 0 and len(held) > 1:
                row = move % len(held)
                writer.drop(row)
                held[row] = held[-1]
                held.pop()
    return found


@settings(max_examples=12)
@given(
    st.sampled_from(FORWARDS),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=4),
    st.lists(st.integers(0, 20), min_size=1, max_size=24),
    st.integers(1, 12),
)
def test_few_calls_say_what_the_modules_say(
    models: dict[str, Any], name: str, shape: list[tuple[int, int]], moves: list[int], packed_at: int
):
    model = models[name]
    draw = torch.Generator().manual_seed(len(moves))
    prompts = [torch.randint(1, 50, (n,), generator=draw).int().numpy() for n, _ in shape]
    rows = [count for _, count in shape]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "COPIES_AFTER", packed_at)
        quick = play(model, prompts, rows, moves)
    with pytest.MonkeyPatch.context() as patch, through_modules(patch):
        patch.setattr(products, "COPIES_AFTER", 0)  # never
        slow = play(model, prompts, rows, moves)
    for a, b in zip(quick, slow, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-5)


def test_whoever_listens_in_hears_the_modules(t5: T5ForConditionalGeneration, tokenizer: Tokenizer):
    prepare(t5)
    prompts = [tokenizer.encode("Q: no?")]
    writer = EncodedWriter(t5, prompts, [1])
    assert is_stock(t5.get_decoder())
    called: list[int] = []
    hook = t5.decoder.block[1].layer[2].register_forward_hook(lambda *_: called.append(1))
    try:
        assert not is_stock(t5.get_decoder())
        listened = EncodedWriter(t5, prompts, [1])
        with torch.inference_mode():
            for w in (writer, listened):
                w.add([0])
                w.step([None])
        assert called == [1]
    finally:
        hook.remove()


def test_a_decoder_that_is_not_stock_is_asked_through_its_modules(models: dict[str, Any]):
    model = models["relu"]
    block = model.get_decoder().block[0].layer[2].DenseReluDense
    plain = block.wi

    class Wrapped(torch.nn.Linear):
        pass

    block.wi = Wrapped(24, 40, bias=False)
    assert not is_stock(model.get_decoder())
    block.wi = torch.nn.Linear(24, 40)
    assert not is_stock(model.get_decoder())
    block.wi = plain
    assert is_stock(model.get_decoder())
    block.forward = lambda x: x
    assert not is_stock(model.get_decoder())
    del block.forward
    assert is_stock(model.get_decoder())
    assert not is_stock(model.double().get_decoder())
    model.float()


def test_under_autocast_the_modules_say_what_is_rounded(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    model, prompts = models["gated-gelu"], [torch.arange(1, 9).int().numpy()]
    exact = play(model, prompts, [2], [1, 1, 1])
    with torch.autocast("cpu", torch.bfloat16):
        quick = play(model, prompts, [2], [1, 1, 1])
        with through_modules(monkeypatch):
            slow = play(model, prompts, [2], [1, 1, 1])
    assert all(torch.equal(a, b) for a, b in zip(quick, slow, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(quick, exact, strict=True))


def test_packed_products_are_those_of_the_weights(models: dict[str, Any]):
    model = models["relu"]
    assert model.lm_head.weight is model.shared.weight
    output, states = OutputMatrix(model), torch.randn(20, 5, 24)
    with torch.inference_mode():
        for state in states:
            logits = output.logits(state)
            torch.testing.assert_close(logits.whole(40), model.lm_head(state)[:, :40], atol=1e-5, rtol=0)
        assert isinstance(logits, Asked) and logits.output._product.is_packed
        called: list[int] = []
        hook = model.lm_head.register_forward_hook(lambda *_: called.append(1))
        output.logits(states[0])
        hook.remove()
    assert called == [1]


def test_weights_are_packed_where_there_is_room_and_much_is_written(monkeypatch: pytest.MonkeyPatch):
    def packed_after(steps: int, free: int) -> list[bool]:
        monkeypatch.setattr(products, "free_memory", lambda device: free)
        held = Products()
        made = [held.of(torch.randn(n, 8).t().contiguous().t()) for n in (4, 6)]  # 320 bytes
        for _ in range(steps):
            held.count_step()
        x = torch.randn(3, 8)
        for product in made:
            torch.testing.assert_close(product(x), x @ product.weight.t(), atol=1e-5, rtol=0)
        return [product.is_packed for product in made]

    assert packed_after(products.COPIES_AFTER, 7_000) == [True, True]
    assert packed_after(products.COPIES_AFTER - 1, 7_000) == [False, False]
    assert packed_after(products.COPIES_AFTER, 6_000) == [False, False]
