"""Scoring with encoder-decoders: every prompt encoded once, all its options read in the decoder over that.

A bidirectional encoder's states depend on the whole prompt, so prompts share nothing. What is saved: one pass of the
encoder for all options, all padding, and the decoder's tokens: options of one token are all read off the first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import EncoderDecoderCache

from flantune.inference.asked import asking
from flantune.inference.beginnings import begin_alike
from flantune.inference.crossing import Absorbed, attend_states
from flantune.inference.encoder import Encoder
from flantune.inference.memory import Budget, out_of_memory
from flantune.inference.output import log_probabilities
from flantune.inference.rows import Longest
from flantune.inference.scoring import Totals
from flantune.inference.waves import Scoring
from flantune.models.attention import READY
from flantune.models.encdec import start_id
from flantune.models.layout import Attending, PackedLayout
from flantune.types import Tokens

# The decoder reads the rows of so many tokens of prompts together, and of so many of the encoder's batches at most: for
# the row of one prompt it would go through all of its weights.
_DECODED, _BATCHES = 8_192, 8


def score_encoded(
    model: Any, prompts: Sequence[Tokens], options: Sequence[Sequence[Tokens]], budget: Budget
) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Index and sums of every request, as they are complete."""
    first_option = np.cumsum([0, *(len(given) for given in options)])
    totals, encoder = Totals(options), Encoder(model, [len(p) for p in prompts])
    order, shared = _reading_order(prompts)
    at = 0
    while at < len(order):
        more = 0 if budget.shrunk else min(_DECODED, _BATCHES * budget.tokens)
        end, tokens = _until(order, prompts, at, max(budget.tokens, more))
        batch = order[at:end]
        with out_of_memory(model.device) as error:
            states = _encoded(encoder, [prompts[r] for r in batch], [shared[r] for r in batch], budget.tokens)
            values = _read(model, states, [len(prompts[r]) for r in batch], [options[r] for r in batch])
        if error:
            budget.shrink(error[0], tokens if end - at > 1 else 1)
            continue
        numbers = [int(first_option[r]) + j for r in batch for j, o in enumerate(options[r]) for _ in o]
        yield from totals.add(np.array(numbers, dtype=np.int64), values)
        at = end


def _until(order: Sequence[int], prompts: Sequence[Tokens], first: int, budget: int) -> tuple[int, int]:
    """One past the last prompt that is taken with the one at `first`, and their tokens: in the budget, or one alone."""
    end, tokens = first, 0
    while end < len(order) and (end == first or tokens + len(prompts[order[end]]) <= budget):
        tokens += len(prompts[order[end]])
        end += 1
    return end, tokens


def _reading_order(prompts: Sequence[Tokens]) -> tuple[list[int], list[int]]:
    """Those that begin alike together, and the longest first, as far as that leaves it open: if memory ends, then now.
    And of each prompt, how many tokens it begins with as its neighbours do."""
    shared = [0] * len(prompts)
    groups = begin_alike(prompts)
    for common, members in groups:
        members.sort(key=lambda i: (-len(prompts[i]), i))
        for i in members:
            shared[i] = common
    alike = sorted((members for _, members in groups), key=lambda members: (-len(prompts[members[0]]), members[0]))
    return [i for members in alike for i in members], shared


def _read(
    model: Any, states: Tensor, prompts: Sequence[int], options: Sequence[Sequence[Tokens]]
) -> npt.NDArray[np.float64]:
    """Log-probability of every token of every option, in their order. `states` are the encoder's, of prompts of so many
    tokens."""
    lengths = np.array(prompts, dtype=np.int32)
    start = np.array([start_id(model)], dtype=np.int32)
    told: list[Tokens] = []  # what the decoder reads, row by row
    per_prompt: list[int] = []
    places: list[int] = []  # the decoder state that predicts each of `tokens`
    tokens: list[int] = []
    at = 0
    for given in options:
        first, starts = at, {}  # every row begins alike: any option's first token is read off the first
        for option in _rows(given):
            told.append(np.concatenate([start, option[:-1]]))
            starts[option.tobytes()] = at
            at += len(option)
        for option in given:
            own = starts.get(option.tobytes(), first)
            places += [first, *range(own + 1, own + len(option))]
            tokens += option.tolist()
        per_prompt.append(at - first)
    decoded = decode(model, told, states, np.array(per_prompt, dtype=np.int32), lengths)
    return log_probabilities(model, decoded, np.array(places, dtype=np.int64), np.array(tokens, dtype=np.int64))


def _encoded(encoder: Encoder, prompts: Sequence[Tokens], shared: Sequence[int], budget: int) -> Tensor:
    """The encoder is given `budget` tokens at once."""
    states, at = [], 0
    lengths = np.array([len(p) for p in prompts], dtype=np.int32)
    while at < len(prompts):
        end, _ = _until(range(len(prompts)), prompts, at, budget)
        states.append(encoder.states(prompts[at:end], lengths[at:end], shared[at:end]))
        at = end
    return torch.cat(states)


def _rows(options: Sequence[Tokens]) -> list[Tokens]:
    """The options that need a row of the decoder: those of several tokens, each once; if there are none, any one."""
    longer = {o.tobytes(): o for o in options if len(o) > 1}
    return list(longer.values()) or [options[0][:1]]


def decode(model: Any, told: Sequence[Tokens], states: Tensor, per_prompt: Tokens, lengths: Tokens) -> Tensor:
    """Decoder states (tokens, d_model) of the rows `told` end to end, as the output matrix wants them. `states` are the
    encoder's, (tokens, d_model); a prompt has `per_prompt` tokens of the rows."""
    device = model.device
    given: dict[str, Any]
    if bool((per_prompt == 1).all()):
        given = {"past_key_values": NothingProjected(model), "packed": FirstToken(states, lengths)}
    else:
        own = Attending(np.array([len(row) for row in told], dtype=np.int32), causal=True, device=device)
        given = {"packed": PackedLayout(own=own, cross=Attending(per_prompt, lengths, device=device))}
    with asking(model) if "past_key_values" in given else nullcontext():
        out = model.get_decoder()(
            input_ids=torch.from_numpy(np.concatenate(told).astype(np.int64)).to(device)[None],
            attention_mask=READY.to(device),
            encoder_hidden_states=states[None],
            encoder_attention_mask=READY.to(device),
            use_cache=False,
            **given,
        )
    return scaled(model, out.last_hidden_state[0])


class FirstToken:
    """Attention of one token per prompt, the decoder's first: to itself, and to its prompt's states as they are, which
    saves the projections of every token in every layer: a seventh of all the work."""

    def __init__(self, states: Tensor, lengths: Tokens) -> None:
        """states (tokens, d_model)"""
        self.own = Longest(1)
        self.states = states.split(lengths.tolist())

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        if module.is_causal:
            return value.transpose(1, 2)  # of one token its own value is all there is to see
        absorbed = Absorbed(module)
        asked = absorbed.ask(query[0].transpose(0, 1))  # (prompts, H, d_model)
        seen = [
            attend_states(one[None], states[None], scoring.scale)
            for one, states in zip(asked, self.states, strict=True)
        ]
        return absorbed.answer(torch.cat(seen))[None]


class NothingProjected(EncoderDecoderCache):
    """Tells T5's modules that cross-attention has its keys and values already, so that they project none, and leaves
    those of self-attention as they come. The layout that attends has what it needs."""

    def __init__(self, model: Any) -> None:
        modules = [block.layer[1].EncDecAttention for block in model.get_decoder().block]
        none = torch.zeros(1, modules[0].n_heads, 1, modules[0].key_value_proj_dim, device=model.device)
        layers = {int(m.layer_idx): SimpleNamespace(keys=none, values=none) for m in modules}
        self.is_updated = dict.fromkeys(layers, True)
        self.self_attention_cache: Any = _NothingKept()
        self.cross_attention_cache: Any = SimpleNamespace(layers=layers)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class _NothingKept:
    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return keys, values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


def scaled(model: Any, decoded: Tensor) -> Tensor:
    """T5 1.0, and models whose file says that the output matrix is the embedding, scale what they decode."""
    if getattr(model.config, "scale_decoder_outputs", False):
        return decoded * model.config.d_model**-0.5
    return decoded
