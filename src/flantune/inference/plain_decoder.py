"""A decoder of Llama's make (Llama, Mistral, Qwen 2 and 3) read in few calls, and no further than what is asked of it.

What transformers' modules compute is computed here off the same weights: a norm, a rotation, a gate in one or two
passes over memory instead of five. Of the last layer only those tokens are finished whose states somebody wants: of a
prompt that is one, and of a shared beginning none. Copies are made for texts at work alone, so a model trained on
between two questions is asked as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from flantune.inference import norm_loops
from flantune.inference.mapped import MappedDecoder
from flantune.inference.plain_modules import AddNormed, add_normed, all_plain, normed
from flantune.inference.products import Products
from flantune.inference.waves import Attends, Scoring
from flantune.models.layout import Ints

_MAKES = tuple(f"transformers.models.{name}.modeling_{name}" for name in ("llama", "mistral", "qwen2", "qwen3"))
_ROWS = 512  # taken through a layer at once: what they make there is small, and of one size


class AttendsTokens(Attends, Protocol):
    def attend_tokens(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring, wanted: Ints | None = None
    ) -> Tensor:
        """query (T, H, d), key and value (T, KH, d) -> (T, H, d). `wanted`: ascending; the queries are of those tokens
        alone."""
        ...


class Reader:
    """Reads tokens with a decoder: in few calls where it is plain, else through its modules."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._plain = PlainDecoder(model) if is_plain(model) else None

    def states(self, ids: Tensor, positions: Tensor, layout: AttendsTokens, wanted: Ints | None = None) -> Tensor:
        """ids and positions (T,) -> last hidden states (T, hidden), or those of the tokens `wanted`, ascending."""
        if self._plain is not None and not torch.is_autocast_enabled("cpu"):
            return self._plain.states(ids, positions, layout, wanted)
        from flantune.inference.asked import read_through_modules  # which loads transformers

        states = read_through_modules(self.model, ids, positions, layout)
        return states if wanted is None else states.index_select(0, torch.from_numpy(wanted).to(ids.device))

    def step(self, ids: Tensor, positions: Tensor, layout: AttendsTokens) -> Tensor:
        """`states` of a few tokens, one call of many."""
        if self._plain is None or torch.is_autocast_enabled("cpu"):
            return self.states(ids, positions, layout)
        self._plain.products.count_step()
        return self._plain.states(ids, positions, layout, None, add_normed=norm_loops.add_normed)


class PlainDecoder:
    def __init__(self, model: Any) -> None:
        self._base = model.base_model
        self.products = Products()
        self._count = int(self._base.config.num_hidden_layers)
        # Whether a layer's weights are at hand only while it is read.
        self._passing = isinstance(model, MappedDecoder)
        own = () if self._passing else self._base.layers[: self._count]
        self._layers = [_Layer(layer, self.products) for layer in own]

    def states(
        self,
        ids: Tensor,
        positions: Tensor,
        layout: AttendsTokens,
        wanted: Ints | None,
        add_normed: AddNormed = add_normed,
    ) -> Tensor:
        """As `Reader.states`."""
        x: Tensor = self._base.embed_tokens(ids)
        turned = [t[0][:, None] for t in self._base.rotary_emb(x[None], positions[None])]
        for number in range(self._count):
            last = number == self._count - 1
            x = self._layer(number).read(x, turned, layout, wanted if last else None, add_normed)
            if self._passing:
                self._base.let_go()
        return normed(self._base.norm, x)

    def _layer(self, number: int) -> _Layer:
        return _Layer(self._base.layer(number), Products()) if self._passing else self._layers[number]


class _Layer:
    def __init__(self, layer: Any, products: Products) -> None:
        self._layer = layer
        attention, forward = layer.self_attn, layer.mlp
        linears = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
        linears += [forward.gate_proj, forward.up_proj, forward.down_proj]
        activations = {id(forward.gate_proj): forward.act_fn}
        self._product = {id(m): products.of(m.weight, activations.get(id(m))) for m in linears}

    def read(
        self, x: Tensor, turned: Sequence[Tensor], layout: AttendsTokens, wanted: Ints | None, add_normed: AddNormed
    ) -> Tensor:
        """x (T, hidden), which is written over, -> (T or wanted, hidden). `turned`: cosines and sines (T, 1, d)."""
        attention = self._layer.self_attn
        if wanted is None:
            key, value, query = self._told(x, turned, "kvq")
        else:
            key, value = self._told(x, turned, "kv")
            chosen = torch.from_numpy(wanted)
            x, *turned = (t.index_select(0, chosen) for t in (x, *turned))
            (query,) = self._told(x, turned, "q")
        seen = layout.attend_tokens(int(attention.layer_idx), query, key, value, _scoring(attention), wanted)
        del query, key, value
        for rows in _blocks(len(x)):
            self._go_on(x[rows], seen[rows], add_normed)
        return x

    def _told(self, x: Tensor, turned: Sequence[Tensor], kinds: str) -> list[Tensor]:
        """Keys, values, queries of x (T, hidden), as asked for: (T, heads, d) each."""
        made = []
        for rows in _blocks(len(x)):
            told = normed(self._layer.input_layernorm, x[rows])
            around = [t[rows] for t in turned]
            made.append([self._by_head(kind, told, around) for kind in kinds])
        return [several[0] if len(several) == 1 else torch.cat(several) for several in zip(*made, strict=True)]

    def _go_on(self, x: Tensor, seen: Tensor, add_normed: AddNormed) -> None:
        """x (rows, hidden), which is written over, with what attention has seen (rows, heads, d)."""
        attention, forward = self._layer.self_attn, self._layer.mlp
        told = add_normed(self._layer.post_attention_layernorm, x, self._linear(attention.o_proj, seen.flatten(1)))
        inner = self._linear(forward.gate_proj, told).mul_(self._linear(forward.up_proj, told))
        x.add_(self._linear(forward.down_proj, inner))

    def _by_head(self, kind: str, x: Tensor, turned: Sequence[Tensor]) -> Tensor:
        """Queries, keys or values ("q", "k", "v") of normed x (T, hidden): (T, heads, d). Qwen 3 norms all but values
        by head."""
        attention = self._layer.self_attn
        made = self._linear(getattr(attention, f"{kind}_proj"), x).unflatten(1, (-1, attention.head_dim))
        norm = getattr(attention, f"{kind}_norm", None)
        if norm is not None:
            made = normed(norm, made)
        return made if kind == "v" else _rotated(made, *turned)

    def _linear(self, module: Any, x: Tensor) -> Tensor:
        return self._product[id(module)](x, module.bias)


def _blocks(count: int) -> list[slice]:
    """Rows to take at once."""
    return [slice(first, first + _ROWS) for first in range(0, max(1, count), _ROWS)]


def _scoring(attention: Any) -> Scoring:
    # Mistral's window is the configuration's, Qwen's the layer's; Llama has none, whatever its configuration says.
    own = attention.config if type(attention).__module__.endswith("mistral") else attention
    return Scoring(float(attention.scaling), getattr(own, "sliding_window", None))


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) of x (T, heads, d), a head's halves being the pairs' two sides."""
    half = x.shape[2] // 2
    made = x * cosines
    made[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-1)
    made[..., half:].addcmul_(x[..., :half], sines[..., half:])
    return made


def is_plain(model: Any) -> bool:
    """Whether the decoder is of Llama's make, of transformers' own modules in single precision on a CPU, and nothing
    hears of its calls."""
    if isinstance(model, MappedDecoder):
        return True
    base = model.base_model
    return type(base).__module__ in _MAKES and all_plain(model, base.modules(), _MAKES)
