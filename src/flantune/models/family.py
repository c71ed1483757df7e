"""Kinds of model: how a packed batch becomes a loss. The list of them is `families()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from flantune.errors import ModelError
from flantune.models.loss import LossSum
from flantune.tokens.collate import PackedBatch, PadTo
from flantune.types import LookAhead, Packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of transformers' own, the one path on which a 4-D boolean mask means what it says: `eager` and `flex_attention` of
# 5.23 add the booleans to the scores, silently. Slow on packed rows; the reference that ours is tested against.
DENSE = "sdpa"


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
    from flantune.models.causal import Causal, PrefixLM
    from flantune.models.encdec import EncDec

    return (EncDec(), Causal(), PrefixLM())


def family_of(model: PreTrainedModel, attention: LookAhead = "causal") -> Family:
    """`attention` chooses between the two ways to train a decoder; an encoder-decoder has one."""
    return family_of_type(model.config.model_type, where=type(model).__name__, attention=attention)


def family_of_type(model_type: str, where: str = "model", attention: LookAhead = "causal") -> Family:
    """Raises ModelError for an architecture on which packing has not been proved."""
    for family in families():
        if model_type in family.model_types and (not family.one_sided or family.name == attention):
            return family
    known = ", ".join(dict.fromkeys(t for f in families() for t in f.model_types))
    raise ModelError(f"{where}: expected an architecture of {known}; got '{model_type}'.")


def uses_packed_attention(model: PreTrainedModel) -> bool:
    """Whether a batch goes through our attention; if not, through dense masks over the rows, on transformers' SDPA.

    Raises ModelError for any other attention: it would mix packed examples.
    """
    from flantune.models.attention import PACKED, is_prepared

    if is_prepared(model):
        return True
    found = model.config._attn_implementation
    if found != DENSE:
        raise ModelError(
            f"{type(model).__name__}: expected attention '{PACKED}' or '{DENSE}', got '{found}', which would mix "
            "packed examples. Call flantune.models.attention.prepare(model)."
        )
    return False


def softcap(model: PreTrainedModel) -> float | None:
    """What the model does to its logits after the output matrix: Gemma 2 caps them."""
    config = getattr(model.config, "decoder", model.config)  # T5Gemma's stacks have configurations of their own
    cap = getattr(config, "final_logit_softcapping", None)
    return None if cap is None else float(cap)
