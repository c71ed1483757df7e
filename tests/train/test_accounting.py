"""The loss of a batch is a fact about its examples: nothing of how they are laid out may change it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from flantune.models.check import examples_of
from flantune.models.family import family_of
from flantune.recipe import OptimizerSpec, TrainSpec
from flantune.train.metrics import StepSums
from flantune.train.optimizers import make_optimizer
from flantune.train.step import train_step
from flantune.types import Encoded, Packed
from models.packs import packed_row, tiny_model

NORMALIZERS = ("target_tokens", "examples", "t5x_sum")
# Twelve examples of unlike lengths: a mean of means would not be the mean.
LENGTHS = [(3, 2), (20, 9), (1, 1), (8, 3), (15, 2), (2, 7), (30, 1), (4, 4), (6, 5), (11, 8), (5, 1), (9, 6)]


def examples() -> list[Encoded]:
    row = packed_row(LENGTHS, seed=5)
    return [
        Encoded(inputs=a.numpy().astype(np.int32), targets=b.numpy().astype(np.int32), index=i, task="task")
        for i, (a, b) in enumerate(examples_of(row))
    ]


def laid_out(order: list[int], per_row: int) -> list[Packed]:
    chosen = [examples()[i] for i in order]
    groups = [chosen[at : at + per_row] for at in range(0, len(chosen), per_row)]
    return [
        Packed(
            inputs=np.concatenate([e.inputs for e in group]),
            targets=np.concatenate([e.targets for e in group]),
            inputs_lengths=np.array([len(e.inputs) for e in group], dtype=np.int32),
            targets_lengths=np.array([len(e.targets) for e in group], dtype=np.int32),
            indices=np.array([e.index for e in group], dtype=np.int64),
            tasks=tuple(e.task for e in group),
        )
        for group in groups
    ]


def stepped(family: Any, spec: TrainSpec, rows: list[Packed], micro_rows: int) -> tuple[StepSums, list[torch.Tensor]]:
    """Sums and gradients of one step."""
    model = tiny_model(family, seed=1).train()
    own = family_of(model)
    micros = [own.collate(model, rows[at : at + micro_rows], 128, 64) for at in range(0, len(rows), micro_rows)]
    optimizer = make_optimizer(OptimizerSpec(lr=1e-6), model)
    sums = train_step(model, own, optimizer, micros, spec, 1, 0, "fp32")
    return sums, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("family", ["t5", "llama"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_packing_order_micro_batches_and_accumulation_change_nothing(family: Any, normalizer: Any):
    """Against the slow obvious way: one example to a row, one row to a micro-batch."""
    spec = TrainSpec(loss_normalizer=normalizer, z_loss=1e-3, precision="fp32")
    straight = list(range(len(LENGTHS)))
    told, gradients = stepped(family, spec, laid_out(straight, 1), 1)
    mixed = [7, 2, 11, 0, 5, 9, 1, 10, 4, 8, 3, 6]
    layouts = itertools.product((straight, mixed), (1, 4, 12), (1, 3))
    for order, per_row, micro_rows in list(layouts)[1:]:
        sums, other = stepped(family, spec, laid_out(order, per_row), micro_rows)
        assert sums.loss_sum == pytest.approx(told.loss_sum, rel=1e-6)
        assert sums.z_sum == pytest.approx(told.z_sum, rel=1e-5)
        assert sums.grad_norm == pytest.approx(told.grad_norm, rel=1e-5)
        assert (sums.weight_sum, sums.examples, sums.input_tokens, sums.target_tokens) == (
            told.weight_sum,
            len(LENGTHS),
            sum(a for a, _ in LENGTHS),
            sum(b for _, b in LENGTHS),
        )
        for one, expected in zip(other, gradients, strict=True):
            torch.testing.assert_close(one, expected, rtol=1e-4, atol=2e-6 * float(expected.abs().max() + 1e-3))


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_the_normaliser_is_what_its_name_says(normalizer: Any):
    spec = TrainSpec(loss_normalizer=normalizer, precision="fp32")
    rows = laid_out(list(range(len(LENGTHS))), 4)
    _, summed = stepped("t5", spec.model_copy(update={"loss_normalizer": "t5x_sum"}), rows, 3)
    _, gradients = stepped("t5", spec, rows, 3)
    divisor = {"target_tokens": sum(b for _, b in LENGTHS), "examples": len(LENGTHS), "t5x_sum": 1}[normalizer]
    for one, whole in zip(gradients, summed, strict=True):
        torch.testing.assert_close(one, whole / divisor, rtol=1e-4, atol=1e-6 * float((whole / divisor).abs().max()))


def test_z_loss_is_its_weight_times_the_squared_log_of_the_partition_sum():
    model = tiny_model("t5", seed=1)
    batch = family_of(model).collate(model, laid_out(list(range(12)), 12), 128, 64)
    logits = model.get_output_embeddings()(family_of(model).hidden(model, batch))[batch.loss_weights > 0].double()
    told, _ = stepped("t5", TrainSpec(z_loss=1e-3, precision="fp32"), laid_out(list(range(12)), 12), 1)
    assert told.z_sum == pytest.approx(1e-3 * float(logits.detach().logsumexp(-1).square().sum()), rel=1e-5)


def test_a_target_without_weight_is_in_no_normaliser_of_tokens():
    model = tiny_model("t5", seed=1).train()
    family = family_of(model)
    batch = family.collate(model, laid_out(list(range(12)), 12), 128, 64)
    halved = dataclasses.replace(
        batch, loss_weights=batch.loss_weights * (torch.arange(batch.loss_weights.shape[1]) % 2)
    )
    optimizer = make_optimizer(OptimizerSpec(), model)
    sums = train_step(model, family, optimizer, [halved], TrainSpec(precision="fp32"), 1, 0, "fp32")
    assert sums.weight_sum == float(halved.loss_weights.sum()) < sums.target_tokens
