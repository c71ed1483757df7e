"""Prompts through an encoder of T5's make, end to end in one flat batch: no padding, no mask.

Where the encoder is of transformers' own modules, in single precision on a CPU, what they compute is computed here off
the same weights in fewer passes over memory: the same states to the bit, if the products are torch's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flantune.inference.asked import asking
from flantune.inference.beginnings import FirstLayer
from flantune.inference.encoder_loops import attend_prompt, prompts_pay
from flantune.inference.parts import attend_part
from flantune.inference.plain_modules import normed
from flantune.inference.products import Products
from flantune.inference.rows import Longest
from flantune.inference.t5_step import FeedForward, is_stock, own_products
from flantune.inference.waves import Scoring
from flantune.models.attention import READY, bias_by_offset
from flantune.models.layout import offset_view
from flantune.types import Tokens

_LONG = 128  # tokens: shorter prompts are left to torch, which takes those of one length at once


class Encoder:
    """Encoder states of prompts. T5's attention divides by nothing, so what rounding changes there is more than
    elsewhere: texts, which are to be the stock model's token by token, are made by torch's own products and attention.
    Where log-probabilities are wanted of prompts of the lengths `quick_for`, the quickest ones are taken; they are as
    far from exact ones as torch's, but not the same."""

    def __init__(self, model: Any, quick_for: Sequence[int] = ()) -> None:
        self.model = model
        encoder, quick = model.get_encoder(), len(quick_for) > 0
        self._plain = _PlainEncoder(encoder, Products(as_torch=not quick)) if is_stock(encoder) else None
        self._in_loops = quick and self._plain is not None and prompts_pay(model, quick_for)

    def states(self, prompts: Sequence[Tokens], lengths: Tokens, shared: Sequence[int] = ()) -> Tensor:
        """Those of all prompts end to end, (tokens, d_model). `shared`: of each, how many tokens it begins with as
        others do (`begin_alike`)."""
        ids = torch.from_numpy(np.concatenate(prompts).astype(np.int64)).to(self.model.device)
        if self._plain is not None and not torch.is_autocast_enabled("cpu"):
            return self._plain.states(ids, Encoding(lengths, self._in_loops), shared if self._in_loops else ())
        with asking(self.model):
            states: Tensor = self.model.get_encoder()(
                input_ids=ids[None], attention_mask=READY.to(ids.device), packed=Encoding(lengths)
            ).last_hidden_state[0]
        return states


class Encoding:
    """Attention of every prompt to itself, both ways, those of one length together.

    T5's bias depends on the offset alone. With the queries in reverse it is a view of one short vector, which costs
    nothing to read; a matrix of it would cost as much as the products.
    """

    def __init__(self, lengths: Tokens, in_loops: bool = False) -> None:
        """`in_loops`: by `encoder_loops`, where `prompts_pay` says so."""
        self.own = Longest(int(lengths.max()))
        self.lengths: list[int] = lengths.tolist()
        self._in_loops = in_loops
        self.groups: list[list[int]] = []  # first token, prompts, tokens of each
        first = 0
        for length in self.lengths:
            if self.groups and self.groups[-1][2] == length:
                self.groups[-1][1] += 1
            else:
                self.groups.append([first, 1, length])
            first += length

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        out = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
        offsets = None if scoring.bias is None or not scoring.bias.numel() else scoring.bias.contiguous()
        for first, count, length in self.groups:
            group = [t[0, :, first : first + count * length] for t in (query, key, value)]  # (H, count * length, d)
            if self._in_loops and length >= _LONG and offsets is not None:
                for at in range(0, count * length, length):
                    q, k, v = (t[:, at : at + length].transpose(0, 1) for t in group)
                    out[first + at : first + at + length] = attend_prompt(q, k, v, offsets)
                continue
            q, k, v = (t.unflatten(1, (count, length)).transpose(0, 1) for t in group)
            bias = None
            if offsets is not None:
                bias = offset_view(offsets, self.own.longest, length, length)[None]
            made, _ = attend_part(q.flip(2), k, v, scoring.scale, bias=bias)
            out[first : first + count * length] = made.flip(2).transpose(1, 2).flatten(0, 1)
        return out[None]


class _Block:
    def __init__(self, block: Any, products: Products) -> None:
        own, forward = block.layer
        self.norms = own.layer_norm, forward.layer_norm
        self.own, self.own_out = own_products(own.SelfAttention, products), products.of(own.SelfAttention.o.weight)
        self.forward = FeedForward(forward.DenseReluDense, products)


class _PlainEncoder:
    def __init__(self, encoder: Any, products: Products) -> None:
        self._encoder, self._products = encoder, products
        self._first = encoder.block[0].layer[0].SelfAttention
        self._blocks = [_Block(block, products) for block in encoder.block]
        self._first_layer = FirstLayer(self._blocks[0].norms[0], self._blocks[0].own, self._first.n_heads)

    def states(self, ids: Tensor, layout: Encoding, shared: Sequence[int] = ()) -> Tensor:
        """ids (tokens,) -> (tokens, d_model)"""
        self._products.count_step()
        x: Tensor = self._encoder.embed_tokens(ids)
        bias = bias_by_offset(self._first, layout.own.longest)
        scoring = Scoring(1.0, bias=bias)
        for number, block in enumerate(self._blocks):
            if number == 0 and any(shared):
                seen = self._first_layer.attend(ids, x, layout.lengths, shared, bias.contiguous())
            else:
                told = normed(block.norms[0], x)
                q, k, v = (self._by_head(product(told)) for product in block.own)
                seen = layout.attend(self._first, q, k, v, scoring)[0]
            x += block.own_out(seen.flatten(1))
            x += block.forward(normed(block.norms[1], x))
        return normed(self._encoder.final_layer_norm, x)

    def _by_head(self, x: Tensor) -> Tensor:
        """(tokens, heads * d) -> (1, heads, tokens, d)"""
        return x.unflatten(1, (self._first.n_heads, -1)).transpose(0, 1)[None]
