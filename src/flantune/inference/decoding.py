"""One batch of prompts inside a model, ready to be asked for next tokens. The families differ only here.

    start(prompts) -> logits of the first target token      advance(tokens) -> logits after each of them
    select(rows)   -> keep, drop or repeat rows, their cached keys and values with them

Generation keeps the rows still unfinished; scoring repeats a prompt once per option. Either way a prompt is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from flantune.models.masks import open_diagonal, same_segment, within_window
from flantune.types import Tokens

PAD = 0  # never attended to and never scored, so its value cannot matter


class Decoding(Protocol):
    def __init__(self, model: Any) -> None: ...

    def start(self, prompts: Sequence[Tokens]) -> Tensor:
        """Read the prompts. Returns float32 logits (rows, vocabulary) of the first target token."""
        ...

    def advance(self, tokens: Tensor) -> Tensor:
        """Append tokens (rows, k). Returns float32 logits (rows, k, vocabulary), each of the token that follows."""
        ...

    def select(self, rows: Tensor) -> None:
        """Row i becomes what row `rows[i]` was; rows may be left out or repeated."""
        ...


class EncoderDecoder:
    """The encoder runs once; a decoder row holds its own self-attention cache and its prompt's cross-attention."""

    def __init__(self, model: Any) -> None:
        self.model = model
        start = model.config.decoder_start_token_id
        self.start_id = PAD if start is None else start  # T5 starts from id 0
        self.encoded: Any = None
        self.mask: Tensor | None = None
        self.cache: Any = None

    def start(self, prompts: Sequence[Tokens]) -> Tensor:
        ids, self.mask = pad_right(prompts, self.model.device)
        self.encoded = self.model.get_encoder()(input_ids=ids, attention_mask=self.mask, return_dict=True)
        self.cache = None
        return self.advance(torch.full((len(prompts), 1), self.start_id, device=self.model.device))[:, -1]

    def advance(self, tokens: Tensor) -> Tensor:
        out = self.model(
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=tokens,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = out.past_key_values
        return out.logits.float()

    def select(self, rows: Tensor) -> None:
        assert self.mask is not None
        self.mask = self.mask[rows]
        self.encoded.last_hidden_state = self.encoded.last_hidden_state[rows]
        self.cache.batch_select_indices(rows)


class Causal:
    """Prompts are padded on the left, so that every row's next token stands in the same column."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.mask: Tensor | None = None
        self.cache: Any = None

    def start(self, prompts: Sequence[Tokens]) -> Tensor:
        ids, self.mask = pad_left(prompts, self.model.device)
        # Positions count the row's own tokens: rotary angles must not depend on how much padding stands before.
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        out = self.model(
            input_ids=ids,
            attention_mask=self._prompt_mask(self.mask, positions),
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
        )
        self.cache = out.past_key_values
        return out.logits[:, -1].float()

    def _prompt_mask(self, mask: Tensor, positions: Tensor) -> Any:
        return mask

    def advance(self, tokens: Tensor) -> Tensor:
        assert self.mask is not None
        seen = self.mask.sum(-1, keepdim=True)
        positions = seen + torch.arange(tokens.shape[1], device=tokens.device)
        self.mask = torch.cat([self.mask, torch.ones_like(tokens)], dim=1)
        out = self.model(
            input_ids=tokens,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache = out.past_key_values
        return out.logits.float()

    def select(self, rows: Tensor) -> None:
        assert self.mask is not None
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)


class PrefixLM(Causal):
    """As `Causal`, but a prompt's tokens see each other both ways, as in training. What follows sees all before it."""

    def _prompt_mask(self, mask: Tensor, positions: Tensor) -> Any:
        both_ways = open_diagonal(same_segment(mask, mask))
        return within_window(both_ways, self.model.config, positions)


def pad_right(sequences: Sequence[Tokens], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both int64 (rows, longest), on `device`."""
    return _pad(sequences, device, left=False)


def pad_left(sequences: Sequence[Tokens], device: torch.device | str) -> tuple[Tensor, Tensor]:
    return _pad(sequences, device, left=True)


def _pad(sequences: Sequence[Tokens], device: torch.device | str, *, left: bool) -> tuple[Tensor, Tensor]:
    width = max((len(s) for s in sequences), default=0)
    ids = np.full((len(sequences), width), PAD, dtype=np.int64)
    mask = np.zeros((len(sequences), width), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        place = slice(width - len(sequence), width) if left else slice(0, len(sequence))
        ids[row, place], mask[row, place] = sequence, 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)
