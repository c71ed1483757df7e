"""Who may look at whom in a packed row: boolean (B, 1, queries, keys), True is "may look" (spec 4.1 to 4.3).

Segments count from 1; 0 is padding. Attention inside a segment is all that keeps packed examples apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from flantune.models.layout import flat_index
from flantune.types import Tokens


def same_segment(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Both not padding and of the same segment; no causality. (B, Q), (B, K) -> (B, 1, Q, K)."""
    allowed = (queries[:, :, None] == keys[:, None, :]) & (keys[:, None, :] > 0)
    return allowed[:, None]


def causal_same_segment(segments: torch.Tensor) -> torch.Tensor:
    """`same_segment` with itself, and not later. (B, L) -> (B, 1, L, L)."""
    length = segments.shape[1]
    ahead = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return same_segment(segments, segments) & ahead


def open_diagonal(mask: torch.Tensor) -> torch.Tensor:
    """Let every position see itself. Padding otherwise sees nothing, and the softmax of nothing is NaN in some kernels.

    Nothing that counts changes: no segment looks at padding, and padding carries no loss.
    """
    return mask | torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)


def causal_or_prefix(segments: torch.Tensor, in_inputs: torch.Tensor) -> torch.Tensor:
    """`causal_same_segment`, and both ways among the inputs of a segment (spec 4.3). (B, L) twice -> (B, 1, L, L)."""
    among_inputs = in_inputs[:, :, None] & in_inputs[:, None, :]
    return causal_same_segment(segments) | (same_segment(segments, segments) & among_inputs[:, None])


def within_window(mask: torch.Tensor, config: Any, positions: torch.Tensor) -> torch.Tensor | dict[str, torch.Tensor]:
    """What a model's layers are to be handed: a 4-D mask replaces their own sliding window, so it must be in it.

    A model whose layers differ in kind takes one mask for each. positions (B, L), restarting per example.
    """
    window = getattr(config, "sliding_window", None)
    if window is None:
        return mask
    near = (positions[:, :, None] - positions[:, None, :]).abs() < window
    if getattr(config, "layer_types", None) is None:
        return mask & near[:, None]
    return {"full_attention": mask, "sliding_attention": mask & near[:, None]}


class Flat:
    """A batch's tokens end to end, without padding: rows (B, L, ...) to (1, tokens, ...) and back."""

    def __init__(self, lengths: Sequence[Tokens], like: torch.Tensor) -> None:
        """`lengths` of each row's examples; `like` any tensor of the batch, (B, L)."""
        self.shape = like.shape
        self.index = torch.from_numpy(flat_index(lengths, like.shape[1])).to(like.device)

    def tokens(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.flatten(0, 1).index_select(0, self.index)[None]

    def rows(self, tokens: torch.Tensor) -> torch.Tensor:
        """0 in padding."""
        empty = tokens.new_zeros(self.shape[0] * self.shape[1], *tokens.shape[2:])
        return empty.index_copy(0, self.index, tokens[0]).unflatten(0, self.shape)
