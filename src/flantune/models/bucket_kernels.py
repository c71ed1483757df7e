"""torch's fused attention inside the buckets: for models whose scores need nothing that it has not.

On a CPU it takes half to three quarters of the time of the pieces in `bucketed.py`. It drops no attention weights
there, caps no scores, and is slow where a bias is learned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from flantune.models.bucketed import Scoring
from flantune.models.layout import NEVER, Attending, Bucket, Indices


@torch.compiler.disable  # as in bucketed.py
def fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attending: Attending,
    scoring: Scoring,
    offsets: torch.Tensor | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """As `bucketed_attention`; `offsets` only where they are a learned bias. `window` hides keys that far."""
    # Queries of an example and its keys are the same tokens, and stand in order; in cross-attention order is nothing.
    own = attending.queries(1) if attending.is_cross else attending.keys(1)
    slots = [
        _ToSlots.apply(tensor.flatten(1), of).unflatten(1, tensor.shape[1:])
        for tensor, of in ((query, own), (key, attending.keys(1)), (value, attending.keys(1)))
    ]
    made = []
    for bucket in attending.buckets:
        first = bucket.first_query if attending.is_cross else bucket.first_key
        q = slots[0][first : first + bucket.rows * bucket.queries].unflatten(0, (bucket.rows, -1)).transpose(1, 2)
        k, v = (
            s[bucket.first_key :][: bucket.rows * bucket.keys].unflatten(0, (bucket.rows, -1)).transpose(1, 2)
            for s in slots[1:]
        )
        mask = _mask(attending, bucket, window, offsets, q.dtype)
        out = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=scoring.dropout,
            is_causal=mask is None and attending.causal,
            scale=scoring.scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        made.append(out.transpose(1, 2).flatten(0, 1).flatten(1))
    joined = torch.cat(made) if made else query.new_zeros(0, query.shape[1] * value.shape[2])
    back: torch.Tensor = _FromSlots.apply(joined, own)
    return back.unflatten(1, (query.shape[1], value.shape[2]))


def _mask(
    attending: Attending, bucket: Bucket, window: int | None, offsets: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor | None:
    """(rows or 1, heads or 1, queries, keys), added to the scores: 0 or a learned bias, -inf where a query may not
    look; None where there is nothing to say but causality. Where no bias is learned it is made once for all layers:
    of a mask of bools torch makes such a one for each, and keeps them all for the backward pass."""
    kept, name = attending.masks, ("bucket", bucket.first_key, window, None if offsets is not None else dtype)
    if name not in kept:
        seen = _seen(attending, bucket, window)
        if seen is not None and offsets is None:
            seen = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, NEVER)
        kept[name] = seen
    held: torch.Tensor | None = kept[name]
    if offsets is None:
        return held
    place, of_key = _arange(bucket.queries, attending), _arange(bucket.keys, attending)
    bias = offsets[:, of_key[None, :] - place[:, None] + attending.longest - 1][None]
    return bias if held is None else bias.masked_fill(~held, NEVER)


def _seen(attending: Attending, bucket: Bucket, window: int | None) -> torch.Tensor | None:
    if window is not None and window >= attending.longest:
        window = None
    if bucket.last_key is None and window is None:
        return None
    place, of_key = _arange(bucket.queries, attending)[:, None], _arange(bucket.keys, attending)[None, :]
    seen = torch.ones(1, bucket.queries, bucket.keys, dtype=torch.bool, device=attending.device)
    if attending.causal:
        seen = seen & (of_key <= place)
    if bucket.last_key is not None:
        seen = seen & (of_key <= bucket.last_key.flip(1)[:, :, None])  # it is kept for queries in reverse
    if window is not None:
        seen = seen & ((place - of_key).abs() < window)
    return seen[:, None]


def _arange(length: int, attending: Attending) -> torch.Tensor:
    return torch.arange(length, device=attending.device)


class _ToSlots(torch.autograd.Function):
    """(tokens, width) to slots and back: both ways one index_select, no sums and so no order of summing."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, indices: Indices) -> torch.Tensor:
        ctx.indices = indices
        return tokens.index_select(0, indices.take)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _gathered(grad, ctx.indices), None


class _FromSlots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, slots: torch.Tensor, indices: Indices) -> torch.Tensor:
        ctx.indices = indices
        return _gathered(slots, indices)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        # 0 in padding: a query that is not there must not add to its keys' gradients.
        return grad.index_select(0, ctx.indices.take).index_fill_(0, ctx.indices.padding, 0), None


def _gathered(slots: torch.Tensor, indices: Indices) -> torch.Tensor:
    if indices.complete:
        return slots.index_select(0, indices.back)
    return torch.cat([slots, slots.new_zeros(1, slots.shape[1])]).index_select(0, indices.back)
