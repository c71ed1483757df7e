"""One optimizer step over the global batch: the same however it is split into micro-batches and over ranks."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from flantune.errors import FlantuneError, StateError
from flantune.models.family import Family
from flantune.recipe import TrainSpec
from flantune.tokens.collate import EncDecBatch, PackedBatch
from flantune.train.metrics import StepSums
from flantune.train.parallel import ALONE, Objective, Ranks, gradient_norm
from flantune.train.precision import Precision, autocast


class NonFiniteLoss(FlantuneError):
    """The loss or its gradient became infinite or NaN. The weights are those of the step before."""


def train_step(
    model: PreTrainedModel,
    family: Family,
    optimizer: torch.optim.Optimizer,
    micros: Sequence[PackedBatch],
    spec: TrainSpec,
    step: int,
    seed: int,
    precision: Precision,
    *,
    ranks: Ranks = ALONE,
    objective: Objective | None = None,
) -> StepSums:
    """One optimizer step. `micros` are those of the whole batch; rank r of n takes number r, r + n, ... of them.

    The loss is divided by what `spec.loss_normalizer` counts in the whole batch, not in each micro-batch: every target
    token weighs the same however the batch is split (spec 4.4). `objective` is the sharded one where there are ranks.
    """
    began = time.perf_counter()
    objective = objective or Objective(model, family, spec.z_loss)
    device = next(model.parameters()).device
    own = range(ranks.rank, len(micros), ranks.size)
    counted = ranks.sum(count_tokens([micros[m] for m in own]))
    targets, examples, input_tokens, target_tokens = counted
    if targets == 0:
        raise StateError(f"step {step}: expected target tokens in the batch, got none. {_rows(micros)}")
    normaliser = {"target_tokens": targets, "examples": examples, "t5x_sum": 1.0}[spec.loss_normalizer]
    optimizer.zero_grad(set_to_none=True)
    parts = torch.zeros(len(micros), 3, device=device)
    for micro, counts in turns(len(micros), ranks):
        with dropout_seed(seed, step, micro, device), autocast(precision, device):
            total, told = objective(micros[micro].to(device))
        (total / normaliser if counts else total * 0.0).backward()
        if counts:
            parts[micro] = told
    norm = gradient_norm(list(model.parameters()), ranks)
    numbers = torch.cat([parts.flatten(), norm[None]]).tolist()
    summed, grad_norm = ranks.sum(numbers[:-1]), numbers[-1]
    by_micro = [summed[at : at + 3] for at in range(0, len(summed), 3)]
    loss_sum, z_sum, correct = (math.fsum(column) for column in zip(*by_micro, strict=True))
    if not (math.isfinite(loss_sum) and math.isfinite(z_sum) and math.isfinite(grad_norm)):
        _raise_non_finite(by_micro, micros, step, loss_sum, grad_norm)
    optimizer.step()
    return StepSums(
        loss_sum=loss_sum,
        z_sum=z_sum,
        weight_sum=targets,
        correct=correct,
        grad_norm=grad_norm,
        examples=int(examples),
        input_tokens=int(input_tokens),
        target_tokens=int(target_tokens),
        seconds=time.perf_counter() - began,
    )


def turns(micros: int, ranks: Ranks) -> list[tuple[int, bool]]:
    """Which micro-batches a rank runs, and whether they count: as many on every rank, since gathering the weights takes
    all of them. A rank with one fewer than others runs one for nothing."""
    own = list(range(ranks.rank, micros, ranks.size))
    idle = -(-micros // ranks.size) - len(own)
    return [(micro, True) for micro in own] + [(ranks.rank % micros, False)] * idle


@contextmanager
def dropout_seed(seed: int, step: int, micro: int, device: torch.device) -> Iterator[None]:
    """Dropout inside draws from a stream of its own for (seed, step, micro); the global stream is left as it was."""
    digest = hashlib.blake2b(f"dropout:{seed}:{step}:{micro}".encode(), digest_size=8).digest()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(digest, "little"))
        yield


def _raise_non_finite(
    parts: Sequence[Sequence[float]], micros: Sequence[PackedBatch], step: int, loss_sum: float, grad_norm: float
) -> None:
    bad = [batch for part, batch in zip(parts, micros, strict=True) if not all(map(math.isfinite, part))]
    what = f"loss {loss_sum}" if bad else f"gradient norm {grad_norm}"
    raise NonFiniteLoss(
        f"step {step}: expected a finite loss and gradient, got {what}. {_rows(bad or micros)} Lower "
        "train.optimizer.lr, or look at these examples with 'flantune preview --at INDEX'. The last checkpoint is "
        "whole."
    )


def _rows(micros: Sequence[PackedBatch]) -> str:
    indices = sorted(i for batch in micros for row in batch.indices for i in row)
    shown = ", ".join(str(i) for i in indices[:32]) + (f", ... ({len(indices)} in all)" if len(indices) > 32 else "")
    return f"Examples of the stream in it: {shown}."


def count_tokens(micros: Sequence[PackedBatch]) -> list[float]:
    """Loss weight, examples, input tokens and target tokens, padding left out."""
    counts = [0.0, 0.0, 0.0, 0.0]
    for batch in micros:
        if isinstance(batch, EncDecBatch):
            inputs, targets = batch.input_segments > 0, batch.target_segments > 0
        else:
            inputs, targets = batch.in_inputs, (batch.segments > 0) & ~batch.in_inputs
        examples = sum(len(row) for row in batch.indices)
        own = [float(batch.loss_weights.sum()), examples, int(inputs.sum()), int(targets.sum())]
        counts = [total + number for total, number in zip(counts, own, strict=True)]
    return counts
