"""The proof that packing changes nothing: on a given model, packed rows against the same examples one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from flantune.errors import ModelError
from flantune.models.family import Family, family_of
from flantune.types import Packed

# Of what float32 rounding leaves (about 1e-6 on small models); examples that see each other differ by 1e-2 and more.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingCheck:
    """How far packed is from one at a time. All differences are relative: to the largest logit, to the loss, and for
    gradients, of each parameter, to its norm (the worst parameter counts, and is named)."""

    examples: int
    rows: int
    logits: float
    loss: float
    gradient: float
    worst_parameter: str


def check_packing(
    model: PreTrainedModel, rows: Sequence[Packed], *, family: Family | None = None, tolerance: float = TOLERANCE
) -> PackingCheck:
    """Logits, loss and gradients of `rows` packed, against the stock model on each of their examples alone.

    Without dropout, in the model's own precision; gradients and mode are left as they were found. Raises ModelError
    above `tolerance`, or where no row holds two examples: that would prove nothing.
    """
    family = family or family_of(model)
    if not any(len(row.inputs_lengths) > 1 for row in rows):
        raise ModelError("check packing: expected a row with at least two examples, got none; nothing would be proved.")
    was_training, kept = model.training, [p.grad for p in model.parameters()]
    model.eval()
    try:
        packed_logits, packed_loss, packed_gradients = _packed(model, family, rows)
        alone_logits, alone_loss, alone_gradients = _one_at_a_time(model, family, rows)
    finally:
        model.train(was_training)
        for parameter, found in zip(model.parameters(), kept, strict=True):
            parameter.grad = found
    worst, gradient = _worst_gradient(packed_gradients, alone_gradients)
    check = PackingCheck(
        examples=sum(len(row.inputs_lengths) for row in rows),
        rows=len(rows),
        logits=_relative((packed_logits - alone_logits).abs().max(), alone_logits.abs().max()),
        loss=abs(packed_loss - alone_loss) / abs(alone_loss),
        gradient=gradient,
        worst_parameter=worst,
    )
    # Written so that a NaN fails too.
    if not (check.logits <= tolerance and check.loss <= tolerance and check.gradient <= tolerance):
        raise ModelError(
            f"{type(model).__name__}: packed examples see each other, or stand at wrong positions: expected relative "
            f"differences to one at a time of at most {tolerance:g}, got logits {check.logits:.2g}, loss "
            f"{check.loss:.2g}, gradient {check.gradient:.2g} ({worst}). Train with tokens.packing: none."
        )
    return check


def examples_of(row: Packed) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and targets of each example of a packed row, int64."""
    inputs = np.split(row.inputs, np.cumsum(row.inputs_lengths)[:-1])
    targets = np.split(row.targets, np.cumsum(row.targets_lengths)[:-1])
    for one, other in zip(inputs, targets, strict=True):
        yield torch.from_numpy(one.astype(np.int64)), torch.from_numpy(other.astype(np.int64))


def _packed(
    model: PreTrainedModel, family: Family, rows: Sequence[Packed]
) -> tuple[torch.Tensor, float, dict[str, torch.Tensor]]:
    device = next(model.parameters()).device
    lengths = max(len(r.inputs) for r in rows), max(len(r.targets) for r in rows)
    # Padding is part of what must not matter: "full" to a little more than the longest row.
    batch = family.collate(model, rows, lengths[0] + 3, lengths[1] + 3, pad_to="full").to(device)
    with torch.no_grad():
        hidden = family.hidden(model, batch)[batch.loss_weights > 0]
        logits = model.get_output_embeddings()(hidden)
    model.zero_grad()
    sums = family.loss(model, batch)
    sums.total.backward()
    return logits.float(), float(sums.loss_sum.detach()), _gradients(model)


def _one_at_a_time(
    model: PreTrainedModel, family: Family, rows: Sequence[Packed]
) -> tuple[torch.Tensor, float, dict[str, torch.Tensor]]:
    device = next(model.parameters()).device
    model.zero_grad()
    logits, total = [], 0.0
    for inputs, targets in (example for row in rows for example in examples_of(row)):
        own = family.unpacked_logits(model, inputs.to(device), targets.to(device)).float()
        labels = targets[len(targets) - len(own) :].to(device)
        loss = functional.cross_entropy(own, labels, reduction="sum")
        loss.backward()
        logits.append(own.detach())
        total += float(loss.detach())
    return torch.cat(logits), total, _gradients(model)


def _gradients(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def _worst_gradient(packed: dict[str, torch.Tensor], alone: dict[str, torch.Tensor]) -> tuple[str, float]:
    if packed.keys() != alone.keys():
        return min(packed.keys() ^ alone.keys()), float("inf")
    # A parameter whose gradient is all but zero is measured against a tenth of the whole one instead: attention
    # over a single token has no gradient at all but rounding.
    floor = torch.nn.utils.get_total_norm(alone.values()) * 0.1
    differences = {
        name: _relative((packed[name] - alone[name]).norm(), torch.maximum(alone[name].norm(), floor)) for name in alone
    }
    worst = max(differences, key=lambda name: (differences[name] != differences[name], differences[name]))
    return worst, differences[worst]


def _relative(difference: torch.Tensor, scale: torch.Tensor) -> float:
    return float(difference / scale)
