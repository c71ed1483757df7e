"""What rows that write have to choose from: the logits of all tokens, or the largest alone, which is less work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from flantune.inference.likeliest import largest
from flantune.inference.output import capped, logits_of
from flantune.inference.products import Products, can_be_packed
from flantune.inference.screen import Screen


class Logits(Protocol):
    """Of some rows."""

    def of(self, rows: list[int]) -> Logits:
        """Of these rows alone."""
        ...

    def whole(self, vocabulary: int) -> Tensor:
        """Of the first `vocabulary` tokens: (rows, vocabulary)."""
        ...

    def largest(self, count: int, vocabulary: int) -> tuple[Tensor, Tensor]:
        """Of the first `vocabulary` tokens the `count` largest, of equals the first: ids, ascending, and logits, (rows,
        count) each."""
        ...


@dataclass(frozen=True, slots=True)
class Given:
    """Those that somebody has made, (rows, vocabulary or more)."""

    made: Tensor

    def of(self, rows: list[int]) -> Given:
        return Given(self.made[torch.tensor(rows, device=self.made.device)])

    def whole(self, vocabulary: int) -> Tensor:
        return self.made[:, :vocabulary]

    def largest(self, count: int, vocabulary: int) -> tuple[Tensor, Tensor]:
        return largest(self.whole(vocabulary), count)


@dataclass(frozen=True, slots=True)
class Asked:
    """Made of hidden states (rows, d_model) as far as somebody asks."""

    states: Tensor
    output: PlainOutput

    def of(self, rows: list[int]) -> Asked:
        return Asked(self.states[torch.tensor(rows)], self.output)

    def whole(self, vocabulary: int) -> Tensor:
        return self.output.whole(self.states)[:, :vocabulary]

    def largest(self, count: int, vocabulary: int) -> tuple[Tensor, Tensor]:
        return self.output.largest(self.states, count, vocabulary)


class OutputMatrix:
    """Logits of hidden states (rows, d_model)."""

    def __init__(self, model: Any) -> None:
        self._model, self._head = model, model.get_output_embeddings()
        plain = type(self._head) is nn.Linear and self._head.bias is None and can_be_packed(self._head.weight)
        self._plain = PlainOutput(model) if plain else None

    def logits(self, states: Tensor) -> Logits:
        heard = bool(self._head._forward_hooks or self._head._forward_pre_hooks)
        if self._plain is None or heard or torch.is_autocast_enabled("cpu"):
            return Given(logits_of(self._model, states))  # made now: the caller looks whether memory runs out
        return Asked(states, self._plain)


class PlainOutput:
    """A matrix and no more, in single precision on a CPU; nobody listens in."""

    def __init__(self, model: Any) -> None:
        self._model, self._products = model, Products()
        weight = model.get_output_embeddings().weight
        self._product, self._screen = self._products.of(weight), Screen(weight)

    def whole(self, states: Tensor) -> Tensor:
        """(rows, vocabulary), as `logits_of` makes them."""
        self._products.count_step()
        return capped(self._model, self._product(states))

    def largest(self, states: Tensor, count: int, vocabulary: int) -> tuple[Tensor, Tensor]:
        if not self._screen.takes(count, vocabulary):
            return largest(self.whole(states)[:, :vocabulary], count)
        ids, logits, missing = self._screen.largest(states, count, vocabulary)
        logits = capped(self._model, logits)
        if len(missing) > 0:
            ids[missing], logits[missing] = largest(self.whole(states[missing])[:, :vocabulary], count)
        return ids, logits
