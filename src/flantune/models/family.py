"""Kinds of model: how a packed batch becomes a loss. The list of them is `families()`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from flantune.errors import ModelError
from flantune.tokens.collate import PackedBatch, PadTo
from flantune.types import Packed

# The one path on which a 4-D boolean mask means what it says: `eager` and `flex_attention` of transformers 5.23 add
# the booleans to the scores, silently.
ATTENTION = "sdpa"

# Above this many numbers, logits are made in pieces and made again in the backward pass: 2**27 is 512 MB in float32.
_LOGITS_AT_ONCE = 1 << 27


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSum:
    """Sums over the target tokens of a batch, not means: the loop divides by the global batch's weight."""

    loss_sum: torch.Tensor  # scalar float32, cross-entropy in nats
    z_sum: torch.Tensor  # scalar float32, z_loss * sum of (log Z)**2
    weight_sum: float  # target tokens
    correct: torch.Tensor  # scalar float32, target tokens whose most likely prediction is right

    @property
    def total(self) -> torch.Tensor:
        """What is differentiated."""
        return self.loss_sum + self.z_sum


class Family(Protocol):
    """One kind of model. `one_sided`: inputs and targets stand in one sequence."""

    name: str
    one_sided: bool
    model_types: tuple[str, ...]  # transformers' names of the architectures the packing proof runs on

    def collate(
        self,
        model: PreTrainedModel,
        rows: Sequence[Packed],
        inputs_len: int,
        targets_len: int,
        *,
        pad_to: PadTo = "longest",
    ) -> PackedBatch:
        """Rows to tensors, with the ids this model pads and starts with."""
        ...

    def hidden(self, model: PreTrainedModel, batch: Any) -> torch.Tensor:
        """What the output matrix is applied to, at every position that predicts. (B, L, d_model)"""
        ...

    def loss(self, model: PreTrainedModel, batch: Any, z_loss: float = 0.0) -> LossSum:
        """The sums over the batch's target tokens."""
        ...

    def unpacked_logits(self, model: PreTrainedModel, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The stock model on one example alone, nothing of ours in between: (m, vocabulary), predicting `targets`."""
        ...


def families() -> tuple[Family, ...]:
    from flantune.models.causal import Causal
    from flantune.models.encdec import EncDec

    return (EncDec(), Causal())


def family_of(model: PreTrainedModel) -> Family:
    return family_of_type(model.config.model_type, where=type(model).__name__)


def family_of_type(model_type: str, where: str = "model") -> Family:
    """Raises ModelError for an architecture on which packing has not been proved."""
    for family in families():
        if model_type in family.model_types:
            return family
    known = ", ".join(t for f in families() for t in f.model_types)
    raise ModelError(f"{where}: expected an architecture of {known}; got '{model_type}'.")


def require_sdpa(model: PreTrainedModel) -> None:
    found = model.config._attn_implementation
    if found != ATTENTION:
        raise ModelError(
            f"{type(model).__name__}: expected attention '{ATTENTION}', got '{found}', which would mix packed "
            f"examples. Call model.set_attn_implementation('{ATTENTION}')."
        )


def loss_sums(
    hidden: torch.Tensor, head: torch.nn.Module, labels: torch.Tensor, weights: torch.Tensor, z_loss: float
) -> LossSum:
    """Cross-entropy of `head(hidden)` against labels, summed with weights; only positions with weight are multiplied.

    hidden (B, L, d), labels and weights (B, L). The softmax is in float32; under autocast the product before it is
    accumulated in float32 and rounded to bf16 once.
    """
    flat_weights = weights.reshape(-1)
    # index_select, not a boolean mask: its backward is an index_add, which is deterministic on a CPU.
    where = flat_weights.nonzero().squeeze(1)
    kept = hidden.flatten(0, 1).index_select(0, where)
    kept_labels, kept_weights = labels.reshape(-1)[where], flat_weights[where]
    rows = max(1, _LOGITS_AT_ONCE // _vocabulary(head))
    if len(where) <= rows:
        loss_sum, squared_log_z, correct = _sums(kept, head, kept_labels, kept_weights)
    else:
        pieces = zip(kept.split(rows), kept_labels.split(rows), kept_weights.split(rows), strict=True)
        made = [checkpoint(_sums, h, head, y, w, use_reentrant=False) for h, y, w in pieces]
        loss_sum, squared_log_z, correct = (torch.stack(part).sum() for part in zip(*made, strict=True))
    return LossSum(
        loss_sum=loss_sum, z_sum=z_loss * squared_log_z, weight_sum=float(kept_weights.sum()), correct=correct.detach()
    )


def _sums(
    hidden: torch.Tensor, head: torch.nn.Module, labels: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits = head(hidden).float()
    log_z = logits.logsumexp(-1)
    of_label = logits.gather(1, labels[:, None]).squeeze(1)
    correct = (logits.argmax(-1) == labels) * weights
    return ((log_z - of_label) * weights).sum(), (log_z.square() * weights).sum(), correct.sum()


def _vocabulary(head: torch.nn.Module) -> int:
    weight = head.weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]
