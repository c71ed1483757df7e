"""A step of T5's decoder, a token for every row, in few calls.

For a token of some rows transformers' modules spend on calls, and on Python between them, a good part of the time that
a small model's products take. What they compute is computed here off the same weights, wherever the modules are the
stock ones and nobody listens in (hooks). Copies are made for the texts at work alone, so a model trained on between two
questions is asked as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flantune.inference.norm_loops import add_normed
from flantune.inference.plain_modules import all_plain, normed
from flantune.inference.products import Product, Products
from flantune.inference.rows import Step
from flantune.inference.waves import Scoring
from flantune.models.attention import bias_by_offset

_MAKES = ("transformers.models.t5.", "transformers.models.mt5.")


@dataclass(frozen=True, slots=True)
class _Layer:
    index: int
    norms: tuple[Any, Any, Any]
    own: tuple[Product, ...]  # queries, keys, values
    own_out: Product
    cross: Product
    cross_out: Product
    forward: FeedForward


class T5Step:
    def __init__(self, model: Any) -> None:
        decoder = model.get_decoder()
        first = decoder.block[0].layer[0].SelfAttention
        self._embedding, self._norm = decoder.embed_tokens, decoder.final_layer_norm
        self._heads, self._width = first.n_heads, first.key_value_proj_dim
        self._products = Products()
        self._layers = [_layer(block, self._products) for block in decoder.block]
        self._first = first
        self._behind = torch.empty(0, 0)

    def states(self, ids: Tensor, layout: Step) -> Tensor:
        """ids (rows,) -> (rows, d_model), before the output matrix; `layout` keeps the keys and values."""
        self._products.count_step()
        x: Tensor = self._embedding(ids)
        scoring = Scoring(1.0, bias=self._bias(layout.own.longest))
        told = normed(self._layers[0].norms[0], x)
        following = [*(layer.norms[0] for layer in self._layers[1:]), self._norm]
        for layer, norm in zip(self._layers, following, strict=True):
            q, k, v = (self._by_head(product(told)) for product in layer.own)
            seen = layout.attend_own(layer.index, q, k, v, scoring)
            told = add_normed(layer.norms[1], x, layer.own_out(seen.flatten(1)))
            seen = layout.attend_encoded(layer.index, self._by_head(layer.cross(told)), scoring)
            told = add_normed(layer.norms[2], x, layer.cross_out(seen.flatten(1)))
            told = add_normed(norm, x, layer.forward(told))
        return told

    def _by_head(self, x: Tensor) -> Tensor:
        return x.view(len(x), self._heads, self._width)

    def _bias(self, longest: int) -> Tensor:
        """Of the keys up to the query itself, the last: (H, longest), the beginning of what `Scoring.bias` says."""
        held = self._behind.shape[1]
        if longest > held:
            held = max(longest, 2 * held)
            self._behind = bias_by_offset(self._first, held)[:, :held].contiguous()
        return self._behind[:, held - longest :]


class FeedForward:
    """That of a block of T5's, gated or not."""

    def __init__(self, module: Any, products: Products) -> None:
        first = (module.wi_0, module.wi_1) if hasattr(module, "wi_0") else (module.wi,)
        # Where it is gated, the gate is first.
        self._inner = [products.of(m.weight, None if i else module.act) for i, m in enumerate(first)]
        self._out = products.of(module.wo.weight)

    def __call__(self, x: Tensor) -> Tensor:
        inner = self._inner[0](x)
        for product in self._inner[1:]:
            inner = inner.mul_(product(x))
        return self._out(inner)


def own_products(attention: Any, products: Products) -> tuple[Product, ...]:
    """Of queries, keys and values."""
    return tuple(products.of(m.weight) for m in (attention.q, attention.k, attention.v))


def _layer(block: Any, products: Products) -> _Layer:
    own, cross, forward = (block.layer[i] for i in range(3))
    return _Layer(
        index=int(own.SelfAttention.layer_idx),
        norms=(own.layer_norm, cross.layer_norm, forward.layer_norm),
        own=own_products(own.SelfAttention, products),
        own_out=products.of(own.SelfAttention.o.weight),
        cross=products.of(cross.EncDecAttention.q.weight),
        cross_out=products.of(cross.EncDecAttention.o.weight),
        forward=FeedForward(forward.DenseReluDense, products),
    )


def is_stock(stack: Any) -> bool:
    """Whether an encoder or decoder is of transformers' own modules in single precision on a CPU, and nobody listens
    in."""
    modules = list(stack.modules())
    biased = any(isinstance(m, nn.Linear) and m.bias is not None for m in modules)
    return not biased and all_plain(stack, modules, _MAKES)
