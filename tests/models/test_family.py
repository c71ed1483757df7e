from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from flantune.errors import ModelError
from flantune.models import family as family_module
from flantune.models.family import family_of, family_of_type
from models.packs import packed_row, random_row, tiny_model

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
    monkeypatch.setattr(family_module, "_LOGITS_AT_ONCE", 96 * 5)  # five positions at a time
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
    with pytest.raises(ModelError, match=r"expected an architecture of t5, mt5, llama.*got 'bert'"):
        family_of_type("bert")


def test_an_example_longer_than_the_attention_window_is_refused():
    model = tiny_model("llama")
    model.config.sliding_window = 16
    family = family_of(model)
    short, long = packed_row([(8, 8), (8, 8)], seed=1), packed_row([(8, 8), (9, 8)], seed=1)
    family.loss(model, family.collate(model, [short], 64, 32))
    with pytest.raises(ModelError, match="at most 16 tokens, its attention window, got 17"):
        family.loss(model, family.collate(model, [long], 64, 32))


def test_logits_that_the_model_would_cap_are_refused():
    model = tiny_model("llama")
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ModelError, match="final_logit_softcapping"):
        family_of(model).loss(model, batch_of(model))
