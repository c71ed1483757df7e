"""Encoder-decoders on packed rows, through the stock transformers modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from flantune.errors import ModelError
from flantune.models.attention import READY
from flantune.models.family import softcap, uses_packed_attention
from flantune.models.layout import Attending, PackedLayout
from flantune.models.loss import LossSum, loss_sums
from flantune.models.masks import Flat, causal_same_segment, same_segment
from flantune.tokens.collate import EncDecBatch, PadTo, collate_encdec
from flantune.types import Packed


class EncDec:
    """T5, mT5, whose positions need no reset: their relative bias depends on offsets, which packing does not change.
    T5Gemma, whose rotary positions restart at every example."""

    name = "encdec"
    one_sided = False
    model_types: tuple[str, ...] = ("t5", "mt5", "t5gemma")

    def collate(
        self,
        model: PreTrainedModel,
        rows: Sequence[Packed],
        inputs_len: int,
        targets_len: int,
        *,
        pad_to: PadTo = "longest",
    ) -> EncDecBatch:
        return collate_encdec(
            rows,
            inputs_len,
            targets_len,
            pad_id=model.config.pad_token_id or 0,
            start_id=start_id(model),
            pad_to=pad_to,
        )

    def hidden(self, model: PreTrainedModel, batch: EncDecBatch) -> torch.Tensor:
        """Decoder states (B, targets_len, d_model), scaled as the output matrix wants them; 0 in padding."""
        if not uses_packed_attention(model):
            return _scaled(model, _dense(model, batch))
        return Flat(batch.target_lengths, batch.target_ids).rows(self._states(model, batch))

    def loss(self, model: PreTrainedModel, batch: EncDecBatch, z_loss: float = 0.0) -> LossSum:
        head, cap = model.get_output_embeddings(), softcap(model)
        if not uses_packed_attention(model):
            return loss_sums(self.hidden(model, batch), head, batch.target_ids, batch.loss_weights, z_loss, cap)
        flat = Flat(batch.target_lengths, batch.target_ids)
        states = self._states(model, batch)
        return loss_sums(states, head, flat.tokens(batch.target_ids), flat.tokens(batch.loss_weights), z_loss, cap)

    def _states(self, model: PreTrainedModel, batch: EncDecBatch) -> torch.Tensor:
        """Of the batch's target tokens end to end, (1, tokens, d_model)."""
        encoder, decoder = model.get_encoder(), model.get_decoder()
        device = batch.input_ids.device
        flat_inputs, flat_targets = (
            Flat(batch.input_lengths, batch.input_ids),
            Flat(batch.target_lengths, batch.target_ids),
        )
        inputs, targets = np.concatenate(batch.input_lengths), np.concatenate(batch.target_lengths)
        encoded = encoder(
            input_ids=flat_inputs.tokens(batch.input_ids),
            attention_mask=READY.to(device),
            **_places(model, flat_inputs.tokens(batch.input_positions)),
            packed=PackedLayout(own=Attending(inputs, device=device)),
        ).last_hidden_state
        decoded = decoder(
            input_ids=flat_targets.tokens(batch.decoder_input_ids),
            attention_mask=READY.to(device),
            **_places(model, flat_targets.tokens(batch.target_positions)),
            encoder_hidden_states=encoded,
            encoder_attention_mask=READY.to(device),
            use_cache=False,
            packed=PackedLayout(
                own=Attending(targets, causal=True, device=device), cross=Attending(targets, inputs, device=device)
            ),
        ).last_hidden_state
        return _scaled(model, decoded)

    def unpacked_logits(self, model: PreTrainedModel, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        shifted = torch.cat([targets.new_tensor([start_id(model)]), targets[:-1]])
        logits: torch.Tensor = model(input_ids=inputs[None], decoder_input_ids=shifted[None], use_cache=False).logits
        return logits[0]


def _places(model: PreTrainedModel, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    """For models that take positions; T5's modules know none."""
    return {"position_ids": positions} if model.config.model_type == "t5gemma" else {}


def _dense(model: PreTrainedModel, batch: EncDecBatch) -> torch.Tensor:
    """Encoder and decoder are called apart because `model(...)` hands one mask to both encoder and cross-attention,
    whose shapes differ here."""
    stock: Any = model
    encoded = stock.encoder(
        input_ids=batch.input_ids, attention_mask=same_segment(batch.input_segments, batch.input_segments)
    ).last_hidden_state
    decoded: torch.Tensor = stock.decoder(
        input_ids=batch.decoder_input_ids,
        attention_mask=causal_same_segment(batch.target_segments),
        encoder_hidden_states=encoded,
        encoder_attention_mask=same_segment(batch.target_segments, batch.input_segments),
        use_cache=False,
    ).last_hidden_state
    return decoded


def _scaled(model: PreTrainedModel, decoded: torch.Tensor) -> torch.Tensor:
    # T5 1.0 and models whose file says that the output matrix is the embedding; mT5 has no such setting.
    if getattr(model.config, "scale_decoder_outputs", False):
        return decoded * model.config.d_model**-0.5
    return decoded


def start_id(model: PreTrainedModel) -> int:
    """The id every target begins with in the decoder's input."""
    config = model.config
    stated = getattr(config, "decoder_start_token_id", None)
    for value in (stated, config.bos_token_id if config.model_type == "t5gemma" else config.pad_token_id):
        if value is not None:
            return int(value)
    raise ModelError(
        f"{type(model).__name__}: expected decoder_start_token_id in config.json, got none, and no pad_token_id either."
    )
