"""Sums of the loss over target tokens, from hidden states; the logits of a large vocabulary are never whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

# Logits made at once, numbers in float32: 64 MB on a CPU; a GPU wants its products larger.
_LOGITS_AT_ONCE = {"cpu": 1 << 24, "cuda": 1 << 28}


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSum:
    """Sums over the target tokens of a batch, not means: the loop divides by the global batch's weight."""

    total: torch.Tensor  # scalar float32, loss_sum + z_sum: what is differentiated
    loss_sum: torch.Tensor  # scalar float32, cross-entropy in nats; a figure, without a gradient, as the next two are
    z_sum: torch.Tensor  # scalar float32, z_loss * sum of (log Z)**2
    correct: torch.Tensor  # scalar float32, target tokens whose most likely prediction is right
    weight_sum: float  # target tokens


def loss_sums(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    labels: torch.Tensor,
    weights: torch.Tensor,
    z_loss: float,
    softcap: float | None = None,
) -> LossSum:
    """Cross-entropy of `head(hidden)` against labels, summed with weights; only positions with weight are multiplied.

    hidden (B, L, d), labels and weights (B, L). The softmax is in float32; under autocast the product before it is
    accumulated in float32 and rounded to bf16 once. `softcap` caps the logits as Gemma 2 does.
    """
    flat_weights = weights.reshape(-1)
    # index_select, not a boolean mask: its backward is an index_add, which is deterministic on a CPU.
    where = flat_weights.nonzero().squeeze(1)
    kept = hidden.flatten(0, 1).index_select(0, where)
    kept_labels, kept_weights = labels.reshape(-1)[where], flat_weights[where]
    weight = head.weight
    assert isinstance(weight, torch.Tensor)
    rows = max(1, _LOGITS_AT_ONCE.get(kept.device.type, _LOGITS_AT_ONCE["cpu"]) // weight.shape[0])
    if type(head) is torch.nn.Linear and head.bias is None:
        sums = _LossSums.apply(kept, weight, kept_labels, kept_weights, z_loss, softcap, rows)
    else:
        sums = _through_module(kept, head, kept_labels, kept_weights, z_loss, softcap, rows)
    total, loss_sum, z_sum, correct = sums
    return LossSum(
        total=total,
        loss_sum=loss_sum.detach(),
        z_sum=z_sum.detach(),
        correct=correct.detach(),
        weight_sum=float(kept_weights.sum()),
    )


class _LossSums(torch.autograd.Function):
    """The gradient of a piece is made as soon as its logits are there: three products, none of them twice."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        weights: torch.Tensor,
        z_loss: float,
        softcap: float | None,
        rows: int,
    ) -> tuple[torch.Tensor, ...]:
        kind = hidden.device.type
        with_hidden, with_weight = ctx.needs_input_grad[:2]
        type_ = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        sums = torch.zeros(3, dtype=_sum_type(hidden.dtype), device=hidden.device)
        d_hidden = torch.empty_like(hidden) if with_hidden else None
        d_weight = torch.zeros_like(weight) if with_weight else None
        with torch.autocast(kind, enabled=False):
            matrix = weight.detach().to(type_)
            for first in range(0, len(hidden), rows):
                piece = slice(first, first + rows)
                states = hidden[piece].detach().to(type_)
                logits = (states @ matrix.T).to(sums.dtype)
                slope = _cap(logits, softcap)
                log_z = _add(sums, logits, labels[piece], weights[piece])
                if d_hidden is None and d_weight is None:
                    continue
                d_logits = logits.sub_(log_z[:, None]).exp_()
                d_logits *= (weights[piece] * (1 + 2 * z_loss * log_z))[:, None]
                d_logits.scatter_add_(1, labels[piece, None], -weights[piece, None].to(d_logits.dtype))
                if slope is not None:
                    d_logits *= slope
                d_logits = d_logits.to(type_)
                if d_hidden is not None:
                    d_hidden[piece] = d_logits @ matrix
                if d_weight is not None:
                    _add_product(d_weight, d_logits.T, states)
        ctx.gradients = d_hidden, d_weight
        loss_sum, squared, correct = sums.unbind()
        z_sum = z_loss * squared
        ctx.mark_non_differentiable(loss_sum, z_sum, correct)
        return loss_sum + z_sum, loss_sum, z_sum, correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the loss was differentiated a second time; its gradients were handed out the first")
        scaled = tuple(None if g is None else g.mul_(grad) for g in ctx.gradients)  # in place: one may be 2 GB
        ctx.gradients = None
        return (*scaled, None, None, None, None, None)


def _add(sums: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Adds loss, squared log Z and hits; returns log Z."""
    log_z = logits.logsumexp(-1)
    of_label = logits.gather(1, labels[:, None]).squeeze(1)
    hits = logits.argmax(-1) == labels
    sums += torch.stack(
        [((log_z - of_label) * weights).sum(), (log_z.square() * weights).sum(), (hits * weights).sum()]
    )
    return log_z


def _cap(logits: torch.Tensor, softcap: float | None) -> torch.Tensor | None:
    """Caps in place; returns the slope of the capping."""
    if softcap is None:
        return None
    tanh = logits.div_(softcap).tanh_()
    slope = 1 - tanh * tanh
    logits.mul_(softcap)
    return slope


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _sum_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _through_module(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    labels: torch.Tensor,
    weights: torch.Tensor,
    z_loss: float,
    softcap: float | None,
    rows: int,
) -> tuple[torch.Tensor, ...]:
    """For a head that is more than a matrix (a bias, LoRA on it): pieces made again in the backward pass."""

    def sums(h: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = head(h)
        logits = logits.to(_sum_type(logits.dtype))
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        log_z = logits.logsumexp(-1)
        of_label = logits.gather(1, y[:, None]).squeeze(1)
        hits = (logits.argmax(-1) == y) * w
        return ((log_z - of_label) * w).sum(), z_loss * (log_z.square() * w).sum(), hits.sum()

    pieces = zip(hidden.split(rows), labels.split(rows), weights.split(rows), strict=True)
    made = [checkpoint(sums, *piece, use_reentrant=False) for piece in pieces] or [sums(hidden, labels, weights)]
    loss_sum, z_sum, correct = (torch.stack(part).sum() for part in zip(*made, strict=True))
    return loss_sum + z_sum, loss_sum, z_sum, correct
