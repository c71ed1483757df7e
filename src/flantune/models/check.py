"""The proof that packing changes nothing: on a given model, packed rows against the same examples one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from flantune.errors import ModelError
from flantune.models.attention import PACKED
from flantune.models.family import DENSE, Family, family_of, softcap
from flantune.types import Packed

# Of what float32 rounding leaves (about 1e-6 on small models); examples that see each other differ by 1e-2 and more.
TOLERANCE = 1e-4
EXACT = 1e-7  # of what double precision leaves; some models' norms are in float32 all the same
MIXED = 1e-2  # a gradient's difference from which on rounding is no explanation
CHECKED_TOKENS = 4096  # before a training; more than two packed rows' worth of pairs that must not mix


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingCheck:
    """How far packed is from one at a time. All differences are relative: to the largest logit, to the loss, and for
    gradients, of each parameter, to its norm (the worst parameter counts, and is named)."""

    attention: str  # the path the packed rows went
    examples: int
    rows: int
    logits: float
    loss: float
    gradient: float
    worst_parameter: str

    def agrees(self, tolerance: float = TOLERANCE) -> bool:
        # Written so that a NaN fails too.
        return self.logits <= tolerance and self.loss <= tolerance and self.gradient <= tolerance

    def differs_in_rounding(self, tolerance: float = TOLERANCE) -> bool:
        """Perhaps: only a gradient is off, and not by much."""
        return self.logits <= tolerance and self.loss <= tolerance and tolerance < self.gradient < MIXED


def check_packing(
    model: PreTrainedModel, rows: Sequence[Packed], *, family: Family | None = None, tolerance: float = TOLERANCE
) -> PackingCheck:
    """`measure_packing`, refused with ModelError above `tolerance`.

    In float32 a ReLU within rounding of 0 lets its gradient pass on one side and not on the other (1.5e-3 of a matrix's
    seen, with logits equal to 1e-6). Where logits and loss agree and a gradient is off by less than what examples that
    see each other are, double precision decides, to `EXACT`.
    """
    check = measure_packing(model, rows, family=family)
    if check.differs_in_rounding(tolerance) and all(p.dtype == torch.float32 for p in model.parameters()):
        model.double()
        try:
            check, tolerance = measure_packing(model, rows, family=family), EXACT
        finally:
            model.float()  # the same bits as before
    if not check.agrees(tolerance):
        raise ModelError(
            f"{type(model).__name__}: packed examples see each other, or stand at wrong positions: expected relative "
            f"differences to one at a time of at most {tolerance:g}, got logits {check.logits:.2g}, loss "
            f"{check.loss:.2g}, gradient {check.gradient:.2g} ({check.worst_parameter}). Train with tokens.packing: "
            "none."
        )
    return check


def measure_packing(model: PreTrainedModel, rows: Sequence[Packed], *, family: Family | None = None) -> PackingCheck:
    """Logits, loss and gradients of `rows` packed, against the stock model on each of their examples alone.

    Without dropout, in the model's own precision; gradients and mode are left as they were found. Raises ModelError
    where no row holds two examples: that would prove nothing.
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
    return PackingCheck(
        attention=str(model.config._attn_implementation),
        examples=sum(len(row.inputs_lengths) for row in rows),
        rows=len(rows),
        logits=_relative((packed_logits - alone_logits).abs().max(), alone_logits.abs().max()),
        loss=abs(packed_loss - alone_loss) / abs(alone_loss),
        gradient=gradient,
        worst_parameter=worst,
    )


def measure_paths(model: PreTrainedModel, rows: Sequence[Packed], family: Family) -> list[PackingCheck]:
    """`measure_packing` on every attention that training may use: ours, and, where the model can, transformers' SDPA
    with a dense mask over the row. The model is left as it was."""
    checks, found = [], model.config._attn_implementation
    try:
        for attention in (PACKED, DENSE):
            own = getattr(model.config, "decoder", model.config)
            if attention == DENSE and getattr(own, "attn_logit_softcapping", None) is not None:
                continue  # transformers' SDPA cannot cap scores
            model.set_attn_implementation(attention)
            checks.append(measure_packing(model, rows, family=family))
    finally:
        model.set_attn_implementation(found)
    return checks


def require_packing(model: PreTrainedModel, family: Family, rows: Sequence[Packed]) -> PackingCheck | None:
    """For the start of a training: refuse, with ModelError, rows whose packing would change what is learned.

    Looks at the first examples of the rows, `CHECKED_TOKENS` of them. None where there is nothing to check: no row
    with two examples, so nothing is packed.
    """
    few = first_examples(rows, CHECKED_TOKENS)
    if not any(len(row.inputs_lengths) > 1 for row in few):
        return None
    return check_packing(model, few, family=family)


def first_examples(rows: Sequence[Packed], tokens: int) -> list[Packed]:
    """Each row's first examples, in as many rows as `tokens` are enough for; at least two, whatever they take."""
    kept: list[Packed] = []
    for row in rows:
        sizes = np.cumsum(row.inputs_lengths.astype(np.int64) + row.targets_lengths)
        count = max(int((sizes <= tokens).sum()), 2 if not kept else 0)
        if count == 0:
            break
        kept.append(_first(row, min(count, len(sizes))))
        tokens -= int(sizes[min(count, len(sizes)) - 1])
        if tokens <= 0:
            break
    return kept


def _first(row: Packed, count: int) -> Packed:
    return replace(
        row,
        inputs=row.inputs[: int(row.inputs_lengths[:count].sum())],
        targets=row.targets[: int(row.targets_lengths[:count].sum())],
        inputs_lengths=row.inputs_lengths[:count],
        targets_lengths=row.targets_lengths[:count],
        indices=row.indices[:count],
        tasks=row.tasks[:count],
    )


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
        if (cap := softcap(model)) is not None:
            logits = cap * torch.tanh(logits / cap)
    model.zero_grad()
    sums = family.loss(model, batch)
    sums.total.backward()
    return logits, float(sums.loss_sum.detach()), _gradients(model)


def _one_at_a_time(
    model: PreTrainedModel, family: Family, rows: Sequence[Packed]
) -> tuple[torch.Tensor, float, dict[str, torch.Tensor]]:
    device = next(model.parameters()).device
    model.zero_grad()
    logits, total = [], 0.0
    for inputs, targets in (example for row in rows for example in examples_of(row)):
        own = family.unpacked_logits(model, inputs.to(device), targets.to(device))
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
