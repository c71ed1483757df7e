"""Attention in parts: a token looks at its own run and at each run before it in turn, and the parts are then weighed.

The softmax over all keys is that of the parts, each weighed by its share of the sum of exponentials: exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SCORES = {"cpu": 1 << 22, "cuda": 1 << 28}  # scores held at once where they are held at all, numbers
_NONE = -1e30  # log of the sum where there is nothing to look at; finite, so that two of them can be weighed


def attend_part(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    *,
    causal: bool = False,
    seen: Tensor | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
    may_be_blind: bool = False,
) -> tuple[Tensor, Tensor]:
    """query (B, H, L, d), key and value (B, KH, S, d), H a multiple of KH -> (B, H, L, d), log of the sum (B, H, L).

    `seen` True is "may look", `bias` is added to the scores; both broadcast to (B, H, L, S). `causal`: L = S, no key
    later than the query. `may_be_blind`: some query may see no key; its output is 0 and its weight nothing.
    """
    if query.device.type == "cpu" and softcap is None and not may_be_blind and query.shape[-1] == value.shape[-1]:
        mask = _additive(seen, bias, query)
        made: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
        return made
    if causal:
        ahead = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
        seen = ahead if seen is None else seen & ahead
    rows = max(1, _SCORES.get(query.device.type, 1 << 26) // max(1, query.shape[0] * query.shape[1] * key.shape[2]))
    pieces = [
        _explicit(
            query[:, :, i : i + rows],
            key,
            value,
            scale,
            _lines(seen, i, rows, query.shape[2]),
            _lines(bias, i, rows, query.shape[2]),
            softcap,
        )
        for i in range(0, query.shape[2], rows)
    ]
    return torch.cat([p[0] for p in pieces], 2), torch.cat([p[1] for p in pieces], 2)


def merge_into(out: Tensor, total: Tensor, other: Tensor, other_total: Tensor) -> None:
    """Weigh another part in. out and other (..., d), total and other_total (...): logs of the sums of exponentials."""
    out.lerp_(other.to(out.dtype), torch.sigmoid(other_total - total)[..., None].to(out.dtype))
    torch.logaddexp(total, other_total, out=total)


def _explicit(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    seen: Tensor | None,
    bias: Tensor | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    batch, heads, length, width = query.shape
    groups, keys = key.shape[1], key.shape[2]
    folded = query.reshape(batch, groups, heads // groups * length, width)
    scores = (folded @ key.transpose(2, 3)).view(batch, heads, length, keys)
    scores = (scores if scores.dtype == torch.float64 else scores.float()) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    total = torch.logsumexp(scores, -1).clamp(min=_NONE)
    weights = torch.exp(scores - total[..., None]).to(value.dtype)
    out = weights.view(batch, groups, -1, keys) @ value
    return out.view(batch, heads, length, value.shape[3]), total


def _additive(seen: Tensor | None, bias: Tensor | None, like: Tensor) -> Tensor | None:
    if seen is None:
        return None if bias is None else bias.to(like.dtype)
    hidden = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, float("-inf"))
    return hidden if bias is None else hidden + bias.to(like.dtype)


def _lines(mask: Tensor | None, first: int, rows: int, length: int) -> Tensor | None:
    if mask is None or (mask.shape[-2] == 1 and length != 1):
        return mask
    return mask[..., first : first + rows, :]
