"""The engine's attention inside transformers' modules, which know it by a name and hand it their queries and keys."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from flantune.errors import ModelError
from flantune.inference.products import ReadsMany
from flantune.inference.waves import Attends, Scoring
from flantune.models.attention import READY

ASKED = "flantune_asked"  # the name under which transformers knows this attention


def asked_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Attends | None = None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface."""
    if packed is None or s_aux is not None:
        what = "attention sinks, which this engine does not compute" if s_aux is not None else "no layout of its batch"
        raise ModelError(f"{type(module).__name__}: expected a layout that attends, got {what}.")
    kind = query.device.type
    # Rotated queries and keys come in float32 also where the rest is in half precision.
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else value.dtype
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scoring = Scoring(float(scale), sliding_window, softcap, position_bias)
    return packed.attend(module, query.to(dtype), key.to(dtype), value.to(dtype), scoring), None


@contextmanager
def asking(model: Any) -> Iterator[None]:
    """The model attends as `packed` says inside the block, as before after it. Weights and modules are untouched."""
    configs = _configs(model)
    before = [(config, config._attn_implementation) for config in configs]
    try:
        for config in configs:
            config._attn_implementation = ASKED
        yield
    finally:
        for config, name in before:
            config._attn_implementation = name


def read_through_modules(model: Any, ids: Tensor, positions: Tensor, layout: Attends) -> Tensor:
    """ids and positions (T,) of a decoder -> last hidden states (T, hidden)."""
    with asking(model), ReadsMany():
        states: Tensor = model.base_model(
            input_ids=ids[None],
            attention_mask=READY.to(ids.device),
            position_ids=positions[None],
            use_cache=False,
            packed=layout,
        ).last_hidden_state[0]
    return states


_KNOWN: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()


def _configs(model: Any) -> list[Any]:
    """Of the model and the models inside it. Found once: to look takes about as long as a step of a small decoder."""
    known = _KNOWN.get(model)
    if known is None or all(config is not model.config for config in known):
        known = list({id(m.config): m.config for m in model.modules() if isinstance(m, PreTrainedModel)}.values())
        _KNOWN[model] = known
    return known


AttentionInterface.register(ASKED, asked_attention)
AttentionMaskInterface.register(ASKED, sdpa_mask)
