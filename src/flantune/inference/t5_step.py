"""A step of T5's decoder, a token for every row, in few calls.

For a token of some rows transformers' modules spend on calls, and on Python between them, a good part of the time that
a small model's products take. What they compute is computed here off the same weights, wherever the modules are the
stock ones and nobody listens in (hooks). Nothing is copied, so a model trained on between two questions is asked as it
is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flantune.inference.plain_modules import all_plain
from flantune.inference.rows import Step
from flantune.inference.waves import Scoring

_MAKES = ("transformers.models.t5.", "transformers.models.mt5.")


@dataclass(frozen=True, slots=True)
class _Layer:
    index: int
    norms: tuple[Tensor, Tensor, Tensor]
    own: tuple[Tensor, Tensor, Tensor]  # queries, keys, values; as all matrices here (in, out)
    own_out: Tensor
    cross: Tensor
    cross_out: Tensor
    inner: tuple[Tensor, ...]  # where it is gated, the gate first
    inner_out: Tensor
    activation: Callable[[Tensor], Tensor]


class T5Step:
    def __init__(self, model: Any) -> None:
        decoder = model.get_decoder()
        first = decoder.block[0].layer[0].SelfAttention
        self._embedding, self._norm = decoder.embed_tokens, decoder.final_layer_norm
        self._heads, self._width, self._eps = first.n_heads, first.key_value_proj_dim, self._norm.variance_epsilon
        self._layers = [_layer(block) for block in decoder.block]
        self._first = first
        self._behind = torch.empty(0, 0)

    def states(self, ids: Tensor, layout: Step) -> Tensor:
        """ids (rows,) -> (rows, d_model), before the output matrix; `layout` keeps the keys and values."""
        x: Tensor = self._embedding(ids)
        scoring = Scoring(1.0, bias=self._bias(layout.own.longest))
        for layer in self._layers:
            normed = self._normed(x, layer.norms[0])
            q, k, v = (self._by_head(normed @ matrix) for matrix in layer.own)
            x = torch.addmm(x, layout.attend_own(layer.index, q, k, v, scoring).flatten(1), layer.own_out)
            q = self._by_head(self._normed(x, layer.norms[1]) @ layer.cross)
            x = torch.addmm(x, layout.attend_encoded(layer.index, q, scoring).flatten(1), layer.cross_out)
            normed = self._normed(x, layer.norms[2])
            inner = layer.activation(normed @ layer.inner[0])
            for matrix in layer.inner[1:]:
                inner = inner.mul_(normed @ matrix)
            x = torch.addmm(x, inner, layer.inner_out)
        return self._normed(x, self._norm.weight)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (x.shape[1],), weight, self._eps)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.view(len(x), self._heads, self._width)

    def _bias(self, longest: int) -> Tensor:
        """Of the keys up to the query itself, the last: (H, longest), the beginning of what `Scoring.bias` says."""
        held = self._behind.shape[1]
        if longest > held:
            held = max(longest, 2 * held)
            self._behind = _bias_behind(self._first, held)
        return self._behind[:, held - longest :]


def _layer(block: Any) -> _Layer:
    own, cross, forward = (block.layer[i] for i in range(3))
    inside = forward.DenseReluDense
    gated = hasattr(inside, "wi_0")
    return _Layer(
        index=int(own.SelfAttention.layer_idx),
        norms=(own.layer_norm.weight, cross.layer_norm.weight, forward.layer_norm.weight),
        own=tuple(m.weight.t() for m in (own.SelfAttention.q, own.SelfAttention.k, own.SelfAttention.v)),
        own_out=own.SelfAttention.o.weight.t(),
        cross=cross.EncDecAttention.q.weight.t(),
        cross_out=cross.EncDecAttention.o.weight.t(),
        inner=tuple(m.weight.t() for m in ((inside.wi_0, inside.wi_1) if gated else (inside.wi,))),
        inner_out=inside.wo.weight.t(),
        activation=inside.act,
    )


def _bias_behind(module: Any, count: int) -> Tensor:
    """Of the keys `count` - 1 to 0 places before the query, (H, count)."""
    buckets = module._relative_position_bucket(
        torch.arange(1 - count, 1),
        bidirectional=False,
        num_buckets=module.relative_attention_num_buckets,
        max_distance=module.relative_attention_max_distance,
    )
    made: Tensor = module.relative_attention_bias(buckets).T.contiguous()
    return made


def is_stock(model: Any) -> bool:
    """Whether the decoder is of transformers' own modules in single precision on a CPU, and nobody listens in."""
    modules = list(model.get_decoder().modules())
    biased = any(isinstance(m, nn.Linear) and m.bias is not None for m in modules)
    return not biased and all_plain(model, modules, _MAKES)
