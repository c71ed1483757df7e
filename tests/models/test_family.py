from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from flantune.errors import ModelError
from flantune.models import loss
from flantune.models.attention import PACKED, prepare
from flantune.models.family import family_of, family_of_type
from models.packs import random_row, tiny_model

ROWS = [random_row(seed) for seed in range(3)]


def batch_of(model: Any) -> Any:
    return family_of(model).collate(model, ROWS, 64, 32)


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_the_loss_is_the_sum_over_target_tokens_of_a_plain_cross_entropy(name: Any):
    model = tiny_model(name)
    family, batch = family_of(model), batch_of(model)
    labels = batch.target_ids if name == "t5" else batch.labels
    logits = model.get_output_embeddings()(family.hidden(model, batch)).double()
    log_p = torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    sums = family.loss(model, batch, z_loss=1e-2)
    torch.testing.assert_close(sums.loss_sum.double(), -(log_p * batch.loss_weights).sum(), rtol=1e-6, atol=0)
    z = (logits.logsumexp(-1).square() * batch.loss_weights).sum() * 1e-2
    torch.testing.assert_close(sums.z_sum.double(), z, rtol=1e-6, atol=0)
    assert sums.weight_sum == sum(len(row.targets) for row in ROWS)
    assert sums.correct == ((logits.argmax(-1) == labels) * batch.loss_weights).sum()
    assert torch.equal(sums.total, sums.loss_sum + sums.z_sum)


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_logits_made_in_pieces_give_the_same_loss_and_gradients(name: Any, monkeypatch: pytest.MonkeyPatch):
    model = tiny_model(name)
    family, batch = family_of(model), batch_of(model)

    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        model.zero_grad()
        total = family.loss(model, batch, z_loss=1e-3).total
        total.backward()
        return total.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    whole_loss, whole = run()
    monkeypatch.setitem(loss._LOGITS_AT_ONCE, "cpu", 96 * 5)  # five positions at a time
    pieces_loss, pieces = run()
    torch.testing.assert_close(pieces_loss, whole_loss, rtol=1e-6, atol=0)
    for one, other in zip(pieces, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_a_batch_without_targets_costs_nothing_and_can_be_differentiated(name: Any):
    model = tiny_model(name)
    family, batch = family_of(model), batch_of(model)
    sums = family.loss(model, dataclasses.replace(batch, loss_weights=torch.zeros_like(batch.loss_weights)))
    sums.total.backward()
    assert (float(sums.loss_sum.detach()), sums.weight_sum) == (0.0, 0.0)


def test_an_unknown_architecture_is_named_with_the_known_ones():
    with pytest.raises(ModelError, match=r"expected an architecture of t5, mt5, t5gemma, llama.*got 'bert'"):
        family_of_type("bert")


def test_a_decoder_is_trained_one_of_two_ways():
    assert [family_of_type("qwen3", attention=a).name for a in ("causal", "prefix")] == ["causal", "prefix"]
    assert family_of_type("t5", attention="prefix").name == "encdec"


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_a_model_asked_without_packing_is_the_stock_one(name: Any):
    """Generation and scoring: padding masks, caches and no masks at all, to the last bit."""
    ours = tiny_model(name)
    stock = copy.deepcopy(ours)
    stock.set_attn_implementation("sdpa")
    ids = torch.randint(3, 96, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    for more in ({}, {"attention_mask": mask}, {"attention_mask": mask, "use_cache": True}):
        extra = {"decoder_input_ids": ids[:, :5]} if name == "t5" else {}
        with torch.no_grad():
            assert torch.equal(ours(ids, **extra, **more).logits, stock(ids, **extra, **more).logits)
    assert prepare(ours).config._attn_implementation == PACKED  # a second time changes nothing


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_activation_checkpointing_gives_the_same_bits_with_dropout(name: Any):
    def run(checkpointing: bool) -> list[torch.Tensor]:
        model = tiny_model(name, dropout=0.3).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(3)
        total = family_of(model).loss(model, batch_of(model)).total
        total.backward()
        return [total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    plain, again, checkpointed = run(False), run(False), run(True)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(plain, again, checkpointed, strict=True))


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_padding_and_order_change_nothing(name: Any):
    model = tiny_model(name).double()
    family = family_of(model)

    def total(rows: list[Any], pad_to: Any) -> torch.Tensor:
        return family.loss(model, family.collate(model, rows, 64, 32, pad_to=pad_to)).loss_sum

    torch.testing.assert_close(total(ROWS, "full"), total(ROWS[::-1], "longest"), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_packed_attention_agrees_with_dense_masks_under_autocast(name: Any):
    ours = tiny_model(name)
    dense = copy.deepcopy(ours)
    dense.set_attn_implementation("sdpa")
    sums = []
    for model in (ours, dense):
        with torch.autocast("cpu", torch.bfloat16):
            made = family_of(model).loss(model, batch_of(model), 1e-3)
        made.total.backward()
        sums.append(made.total.detach())
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(sums[0], sums[1], rtol=5e-3, atol=0)
    grads = [torch.cat([p.grad.flatten() for p in m.parameters() if p.grad is not None]) for m in (ours, dense)]
    assert (grads[0] - grads[1]).norm() < 0.03 * grads[1].norm()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "llama"])
def test_compiled_layers_give_the_same_loss_and_gradients_with_dropout(name: Any):
    """A layer is compiled around our attention and dropout, which draw the same masks."""

    def run(compiled: bool) -> list[torch.Tensor]:
        model = tiny_model(name, dropout=0.2).train()
        for layer in model.modules() if compiled else ():
            if type(layer).__name__ in ("T5Block", "LlamaDecoderLayer"):
                layer.compile(dynamic=True)
        torch.manual_seed(0)
        total = family_of(model).loss(model, batch_of(model)).total
        total.backward()
        return [total.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    for one, other in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
