"""Our attention, plugged into transformers' own models: registered under a name, told of the packing by a keyword.

A family calls a model on a flat batch with `packed=PackedLayout(...)`; transformers hands unknown keywords down to the
attention function, also when a layer is run again for activation checkpointing. Without that keyword (generation,
scoring, the reference of the packing check) the same model computes what transformers' SDPA would.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.mt5.modeling_mt5 import MT5Attention
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.t5gemma.modeling_t5gemma import T5GemmaCrossAttention, T5GemmaSelfAttention

from flantune.errors import ModelError
from flantune.models.bucket_kernels import fused_attention
from flantune.models.bucketed import Scoring, bucketed_attention
from flantune.models.dropout import draw_seed, use_hashed_dropout
from flantune.models.layout import NEVER, Attending, PackedLayout

# A mask that says "nothing to make": transformers hands any 4-D mask on as it is; our attention does not look at it.
READY = torch.ones(1, 1, 1, 1, dtype=torch.bool)
PACKED = "flantune_packed"  # the name under which transformers knows our attention
_BIASED = (T5Attention, MT5Attention)
Kernel = Literal["buckets", "fused", "flex"]
_ASKED: list[Kernel] = []  # by `attention_kernel`, the last counts


def prepare(model: PreTrainedModel) -> PreTrainedModel:
    """Give the model our attention and our dropout, in place; weights, names and what it computes stay the same.

    Call it again after modules were added (LoRA): it is idempotent.
    """
    model.set_attn_implementation(PACKED)
    for module in model.modules():
        if isinstance(module, _BIASED) and not getattr(module, "_told_of_offsets", False):
            module.register_forward_pre_hook(_give_offsets, with_kwargs=True)
            module._told_of_offsets = True  # type: ignore[assignment]
    use_hashed_dropout(model)
    return model


@contextmanager
def attention_kernel(name: Kernel) -> Iterator[None]:
    """This kernel inside the block, where it can do what the model needs; the backward pass too must be inside."""
    _ASKED.append(name)
    try:
        yield
    finally:
        _ASKED.pop()


def _kernel(device: str, scoring: Scoring, bias: torch.Tensor | None) -> Kernel:
    """Unless another is asked for: torch's fused attention where scores need neither a bias nor a cap; else ours."""
    asked = _ASKED[-1] if _ASKED else ("buckets" if bias is not None else "fused")
    able = {
        "buckets": True,
        "fused": scoring.softcap is None and (scoring.dropout == 0 or device != "cpu"),
        "flex": scoring.dropout == 0,
    }
    return asked if able[asked] else "buckets"


def is_prepared(model: PreTrainedModel) -> bool:
    return bool(model.config._attn_implementation == PACKED)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: PackedLayout | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (B, heads, L, d) and so on -> (B, L, heads, d)."""
    if packed is None:
        own = {"sliding_window": sliding_window, "dropout": dropout, "scaling": scaling, "position_bias": position_bias}
        return _unpacked(module, query, key, value, attention_mask, softcap, **own, **kwargs), None
    attending = _attending(module, packed)
    if sliding_window is not None and isinstance(module, T5GemmaSelfAttention) and not module.is_causal:
        sliding_window += 1  # transformers lets an encoder see the key at that very distance, a decoder none so far
    offsets = position_bias if isinstance(module, _BIASED) else None
    if offsets is None:
        offsets = attending.offsets(sliding_window, torch.float64 if query.dtype == torch.float64 else torch.float32)
    elif offsets.numel() == 0:
        offsets = None  # T5's cross-attention has no bias
    scoring = Scoring(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=softcap,
        dropout=dropout,
        seed=draw_seed() if dropout > 0 else 0,
    )
    kind = query.device.type
    dtype = (
        torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    )  # rotated ones are float32
    query, key, value = (tensor.to(dtype).transpose(1, 2).flatten(0, 1) for tensor in (query, key, value))
    bias = offsets if isinstance(module, _BIASED) else None
    kernel = _kernel(kind, scoring, bias)
    if kernel == "flex":
        from flantune.models.flex import flex_packed

        return flex_packed(query, key, value, attending, scoring, bias, sliding_window)[None], None
    if kernel == "fused":
        return fused_attention(query, key, value, attending, scoring, bias, sliding_window)[None], None
    return bucketed_attention(query, key, value, attending, scoring, offsets)[None], None


def _unpacked(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    softcap: float | None,
    **kwargs: Any,
) -> torch.Tensor:
    """transformers' own attention, for a batch that is not packed."""
    if attention_mask is not None and attention_mask.shape == READY.shape and query.shape[2] > 1:
        raise ModelError(
            f"{type(module).__name__}: expected the packing of its batch, got none: a layer above lost the keyword "
            "'packed', and the examples would see each other."
        )
    if softcap is not None:
        return _capped(module, query, key, value, attention_mask, kwargs["scaling"], softcap)
    made: torch.Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)[0]
    return made


def _attending(module: torch.nn.Module, packed: PackedLayout) -> Attending:
    crosses = isinstance(module, T5GemmaCrossAttention)
    if crosses or (isinstance(module, _BIASED) and module.is_decoder and not module.is_causal):
        assert packed.cross is not None
        return packed.cross
    return packed.own


def _give_offsets(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """T5 makes its bias in the first layer, (1, heads, L, L) over the whole batch, and hands it on. On a flat batch it
    is told one by offset instead, made from the same table: (heads, 2 * longest - 1), -inf where causality hides."""
    packed = kwargs.get("packed")
    if packed is None or kwargs.get("position_bias") is not None:
        return None
    if not module.has_relative_attention_bias:
        return args, {**kwargs, "position_bias": torch.empty(0, device=module.q.weight.device)}
    return args, {**kwargs, "position_bias": bias_by_offset(module, packed.own.longest)}


def bias_by_offset(module: Any, longest: int) -> torch.Tensor:
    """T5's bias, of the layer that holds its table, by offset key - query: (heads, 2 * longest - 1), -inf where
    causality hides."""
    places = torch.arange(1 - longest, longest, device=module.relative_attention_bias.weight.device)
    bucket = module._relative_position_bucket(
        places,
        bidirectional=not module.is_decoder,
        num_buckets=module.relative_attention_num_buckets,
        max_distance=module.relative_attention_max_distance,
    )
    bias: torch.Tensor = module.relative_attention_bias(bucket).T
    return bias.masked_fill(places > 0, NEVER) if module.is_causal else bias


def _capped(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """Scores capped as Gemma 2 does, which SDPA cannot; for asking, so without dropout."""
    key, value = (repeat_kv(tensor, module.num_key_value_groups) for tensor in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is None and module.is_causal and query.shape[2] > 1:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    kind = torch.float64 if query.dtype == torch.float64 else torch.float32
    weights = torch.softmax(scores, -1, dtype=kind).to(query.dtype)
    return (weights @ value).transpose(1, 2)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
