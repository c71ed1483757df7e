"""Decoder-only models on packed rows, through the stock transformers modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from flantune.models.attention import READY
from flantune.models.family import softcap, uses_packed_attention
from flantune.models.layout import Attending, PackedLayout
from flantune.models.loss import LossSum, loss_sums
from flantune.models.masks import (
    Flat,
    causal_or_prefix,
    causal_same_segment,
    open_diagonal,
    within_window,
)
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
        "gemma2",
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
        """Last hidden states, (B, L, hidden); 0 in padding."""
        if not uses_packed_attention(model):
            return self._dense(model, batch)
        return Flat(batch.lengths, batch.input_ids).rows(self._states(model, batch))

    def loss(self, model: PreTrainedModel, batch: CausalBatch, z_loss: float = 0.0) -> LossSum:
        head, cap = model.get_output_embeddings(), softcap(model)
        if not uses_packed_attention(model):
            return loss_sums(self.hidden(model, batch), head, batch.labels, batch.loss_weights, z_loss, cap)
        flat = Flat(batch.lengths, batch.input_ids)
        states = self._states(model, batch)
        return loss_sums(states, head, flat.tokens(batch.labels), flat.tokens(batch.loss_weights), z_loss, cap)

    def attending(self, batch: CausalBatch) -> Attending:
        return Attending(np.concatenate(batch.lengths), causal=True, device=batch.input_ids.device)

    def mask(self, batch: CausalBatch) -> torch.Tensor:
        """The same said densely, (B, 1, L, L)."""
        return causal_same_segment(batch.segments)

    def _states(self, model: PreTrainedModel, batch: CausalBatch) -> torch.Tensor:
        """Of the batch's tokens end to end, (1, tokens, hidden)."""
        stock: Any = model
        flat = Flat(batch.lengths, batch.input_ids)
        made: torch.Tensor = stock.base_model(
            input_ids=flat.tokens(batch.input_ids),
            attention_mask=READY.to(batch.input_ids.device),
            position_ids=flat.tokens(batch.positions),
            use_cache=False,
            packed=PackedLayout(own=self.attending(batch)),
        ).last_hidden_state
        return made

    def _dense(self, model: PreTrainedModel, batch: CausalBatch) -> torch.Tensor:
        """The mask is explicit. Left to itself transformers finds packed rows by their positions only where there is no
        mask and no cache, and an all-ones mask or `use_cache` silently lets the examples see each other."""
        stock: Any = model
        made: torch.Tensor = stock.base_model(
            input_ids=batch.input_ids,
            attention_mask=within_window(open_diagonal(self.mask(batch)), model.config, batch.positions),
            position_ids=batch.positions,
            use_cache=False,
        ).last_hidden_state
        return made

    def unpacked_logits(self, model: PreTrainedModel, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """An example with no inputs starts at its second target: nothing predicts the first."""
        logits: torch.Tensor = model(input_ids=torch.cat([inputs, targets])[None], use_cache=False).logits
        return logits[0, max(0, len(inputs) - 1) : -1]


class PrefixLM(Causal):
    """The same decoders, each example's inputs seeing each other both ways (spec 4.3). No stock causal kernel can."""

    name = "prefix"

    def attending(self, batch: CausalBatch) -> Attending:
        prefix = np.concatenate(batch.input_lengths)
        return Attending(np.concatenate(batch.lengths), prefix=prefix, device=batch.input_ids.device)

    def mask(self, batch: CausalBatch) -> torch.Tensor:
        return causal_or_prefix(batch.segments, batch.in_inputs)

    def unpacked_logits(self, model: PreTrainedModel, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        ids = torch.cat([inputs, targets])[None]
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        mask = causal_or_prefix(torch.ones_like(ids), positions < len(inputs))
        stock: Any = model
        logits: torch.Tensor = stock(
            input_ids=ids,
            attention_mask=within_window(mask, model.config, positions),
            position_ids=positions,
            use_cache=False,
        ).logits
        return logits[0, max(0, len(inputs) - 1) : -1]
