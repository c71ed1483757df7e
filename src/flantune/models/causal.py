"""Decoder-only models on packed rows, through the stock transformers modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from flantune.errors import ModelError
from flantune.models.family import LossSum, loss_sums, require_sdpa
from flantune.models.masks import causal_same_segment, open_diagonal
from flantune.tokens.collate import CausalBatch, PadTo, collate_causal
from flantune.types import Packed


class Causal:
    """Llama, Qwen, Mistral, Gemma and their like: rotary positions that restart at every example, loss on targets."""

    name = "causal"
    one_sided = True
    model_types: tuple[str, ...] = (
        "llama",
        "qwen2",
        "qwen3",
        "mistral",
        "gemma",
        "gemma3_text",
        "olmo2",
        "olmo3",
        "phi3",
        "smollm3",
    )

    def collate(
        self,
        model: PreTrainedModel,
        rows: Sequence[Packed],
        inputs_len: int,
        targets_len: int,
        *,
        pad_to: PadTo = "longest",
    ) -> CausalBatch:
        return collate_causal(rows, inputs_len, targets_len, pad_id=model.config.pad_token_id or 0, pad_to=pad_to)

    def hidden(self, model: PreTrainedModel, batch: CausalBatch) -> torch.Tensor:
        """Last hidden states, (B, L, hidden).

        The mask is explicit. Left to itself transformers finds packed rows by their positions only where there is no
        mask and no cache, and an all-ones mask or `use_cache` silently lets the examples see each other.
        """
        require_sdpa(model)
        _require_plain_logits(model)
        _require_within_window(model, batch)
        stock: Any = model
        return stock.base_model(
            input_ids=batch.input_ids,
            attention_mask=open_diagonal(causal_same_segment(batch.segments)),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state

    def loss(self, model: PreTrainedModel, batch: CausalBatch, z_loss: float = 0.0) -> LossSum:
        head = model.get_output_embeddings()
        return loss_sums(self.hidden(model, batch), head, batch.labels, batch.loss_weights, z_loss)

    def unpacked_logits(self, model: PreTrainedModel, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """An example with no inputs starts at its second target: nothing predicts the first."""
        logits: torch.Tensor = model(input_ids=torch.cat([inputs, targets])[None], use_cache=False).logits
        return logits[0, max(0, len(inputs) - 1) : -1]


def _require_plain_logits(model: PreTrainedModel) -> None:
    """The loss multiplies by the output matrix itself, so nothing may be done to the logits after that."""
    if getattr(model.config, "final_logit_softcapping", None) is not None:
        raise ModelError(f"{type(model).__name__}: expected no final_logit_softcapping in config.json; not supported.")


def _require_within_window(model: PreTrainedModel, batch: CausalBatch) -> None:
    """A 4-D mask replaces a model's own sliding window, so no example may be longer than the window."""
    window = getattr(model.config, "sliding_window", None)
    kinds = getattr(model.config, "layer_types", None)
    if window is None or (kinds is not None and "sliding_attention" not in kinds):
        return
    longest = int(batch.positions.max()) + 1
    if longest > window:
        raise ModelError(
            f"{type(model).__name__}: expected examples of at most {window} tokens, its attention window, got "
            f"{longest}. Lower tokens.inputs_len plus tokens.targets_len to {window}."
        )
