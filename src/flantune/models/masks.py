"""Who may look at whom in a packed row: boolean (B, 1, queries, keys), True is "may look" (spec 4.1 to 4.3).

Segments count from 1; 0 is padding. Attention inside a segment is all that keeps packed examples apart.
"""

from __future__ import annotations

import torch


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
