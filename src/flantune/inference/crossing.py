"""Cross-attention of rows that write, each over its prompt's encoder states as they are: no keys, no values.

A score is q Wk e for every encoder state e. With Wk taken to q's side, and Wv to the far side of the sum, the states
are keys and values of all heads in all layers: nothing is projected, and kept is one vector a token instead of two for
every layer. Of one token a row that is the least to read. Of several it is the most to multiply, and keys and values
are better, if there is room for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flantune.inference import row_loops
from flantune.inference.parts import attend_part
from flantune.inference.vectors import LANES
from flantune.inference.waves import Scoring
from flantune.models.layout import padded_lengths

# A row of its own reads less memory this way and multiplies more: model width / head width times as much. On a CPU that
# is even at about 800 wide, and beyond 1,024 not worth the memory.
WIDEST = {"cpu": 1_024, "cuda": 4_096}


class Absorbed:
    """Wk and Wv of a module of cross-attention, by head: (H, d, d_model) each."""

    def __init__(self, module: Any) -> None:
        heads, width = module.n_heads, module.key_value_proj_dim
        self.of_key, self.of_value = (_matrix(m).unflatten(0, (heads, width)) for m in (module.k, module.v))

    def ask(self, query: Tensor) -> Tensor:
        """(rows, H, d) -> (rows, H, d_model), what is multiplied with encoder states."""
        return torch.bmm(query.transpose(0, 1), self.of_key.to(query.dtype)).transpose(0, 1).contiguous()

    def answer(self, seen: Tensor) -> Tensor:
        """Weighed sums of states (rows, H, d_model) -> (rows, H, d)"""
        return torch.bmm(seen.transpose(0, 1), self.of_value.to(seen.dtype).transpose(1, 2)).transpose(0, 1)


def _matrix(module: Any) -> Tensor:
    """(out, in) of a linear module; a wrapped one (LoRA) is asked what it does to every unit vector."""
    if type(module) is torch.nn.Linear:
        return module.weight
    weight = next(module.parameters())
    made: Tensor = module(torch.eye(module.in_features, dtype=weight.dtype, device=weight.device)).T
    return made


def attend_states(asked: Tensor, states: Tensor, scale: float, hidden: Tensor | None = None) -> Tensor:
    """asked (rows, H, d_model), states (rows, n, d_model) -> weighed sums (rows, H, d_model). `hidden` (rows, n) is
    added to the scores."""
    states = states.to(asked.dtype)[:, None]
    bias = None if hidden is None else hidden[:, None, None]
    return attend_part(asked[:, None], states, states, scale, bias=bias)[0][:, 0]


class _Keys:
    """Keys and values of a layer for the rows of a room, (rows or more, tokens, H * d) each. They are made when asked
    for."""

    def __init__(self, slots: int, tokens: int, absorbed: Absorbed) -> None:
        self._weights = [m.flatten(0, 1) for m in (absorbed.of_key, absorbed.of_value)]
        shape = (slots, -(-tokens // LANES) * LANES, len(self._weights[0]))
        self.both = [m.new_zeros(shape) for m in self._weights]  # padding must be a number
        self.made: set[int] = set()  # places

    def make(self, place: int, states: Tensor) -> None:
        if place not in self.made:
            for held, weight in zip(self.both, self._weights, strict=True):
                torch.mm(states, weight.T, out=held[place, : len(states)])
            self.made.add(place)

    def drop(self, place: int, last: int) -> None:
        self.made.discard(place)
        if last in self.made:
            for held in self.both:
                held[place] = held[last]
            self.made = (self.made - {last}) | {place}


class _Room:
    """States of rows of like length, padded: (rows or more, tokens, d_model)."""

    def __init__(self) -> None:
        self.states: Tensor | None = None
        self.rows: list[int] = []
        self.lengths: list[int] = []
        self._keys: dict[int, _Keys] = {}  # by layer

    def add(self, tokens: int, rows: Sequence[int], states: Sequence[Tensor]) -> None:
        had = len(self.rows)
        if self.states is None or self.states.shape[0] < had + len(rows):
            # Zeros: padding is multiplied before it is hidden, and must be a number.
            grown = states[0].new_zeros(had + len(rows), tokens, states[0].shape[1])
            if self.states is not None:
                grown[:had] = self.states[:had]
            self.states = grown
            self._keys.clear()
        for place, state in enumerate(states, had):
            self.states[place, : len(state)] = state
            self.states[place, len(state) :] = 0
            self.lengths.append(len(state))
        self.rows += rows

    def drop(self, place: int) -> None:
        last = len(self.rows) - 1
        if place != last:
            assert self.states is not None
            self.states[place] = self.states[last]
            self.rows[place], self.lengths[place] = self.rows[last], self.lengths[last]
        for keys in self._keys.values():
            keys.drop(place, last)
        self.rows.pop()
        self.lengths.pop()
        if not self.rows:
            self.states = None
            self._keys.clear()

    def keys_and_values(self, layer: int, absorbed: Absorbed) -> list[Tensor]:
        """Of its rows, (rows, tokens or more, H * d) each."""
        assert self.states is not None
        if layer not in self._keys:
            slots, tokens, _ = self.states.shape
            self._keys[layer] = _Keys(slots, tokens, absorbed)
        held = self._keys[layer]
        for place, length in enumerate(self.lengths):
            held.make(place, self.states[place, :length])
        return [t[: len(self.rows)] for t in held.both]


class Crossing:
    """The states of rows that have a prompt of their own. Rows are numbered as their writer numbers them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._rooms: dict[int, _Room] = {}
        self._plan: list[tuple[_Room, Tensor | None]] | None = None
        # Whoever asks about several tokens of a row says whether keys and values may be kept for it, in every layer.
        self.has_room_for_keys = False
        self.order = torch.zeros(0, dtype=torch.int64, device=device)  # the rows, room by room

    def __len__(self) -> int:
        return sum(len(room.rows) for room in self._rooms.values())

    def add(self, rows: Sequence[int], states: Sequence[Tensor]) -> None:
        """states (n, d_model) each."""
        padded = padded_lengths(np.array([len(s) for s in states], dtype=np.int64)).tolist()
        for tokens in dict.fromkeys(padded):
            chosen = [i for i, n in enumerate(padded) if n == tokens]
            room = self._rooms.setdefault(tokens, _Room())
            room.add(tokens, [rows[i] for i in chosen], [states[i] for i in chosen])
        self._plan = None

    def drop(self, row: int) -> None:
        for room in self._rooms.values():
            if row in room.rows:
                room.drop(room.rows.index(row))
        self._plan = None

    def rename(self, row: int, to: int) -> None:
        for room in self._rooms.values():
            if row in room.rows:
                room.rows[room.rows.index(row)] = to
        self._plan = None

    def attend(self, query: Tensor, layer: int, absorbed: Absorbed, scoring: Scoring) -> Tensor:
        """query (rows, tokens, H, d) of the rows in `order` -> (rows, tokens, H, d)"""
        tokens = query.shape[1]
        if tokens > 1 and self.has_room_for_keys and row_loops.keys_pay(query, self.tokens):
            made = torch.empty_like(query)
            for room, _, chosen in self._by_room():
                keys, values = room.keys_and_values(layer, absorbed)
                made[chosen] = row_loops.attend_keys(query[chosen], keys, values, room.lengths, scoring.scale)
            return made
        asked = absorbed.ask(query.flatten(0, 1)).unflatten(0, (-1, tokens)).flatten(1, 2)
        seen = torch.empty_like(asked)
        by_loops = row_loops.states_pay(asked, self.tokens)
        for room, hidden, chosen in self._by_room():
            assert room.states is not None
            states = room.states[: len(room.rows)]
            if by_loops:
                seen[chosen] = row_loops.attend_states(asked[chosen], states, room.lengths, scoring.scale)
            else:
                seen[chosen] = attend_states(asked[chosen], states[:, : max(room.lengths)], scoring.scale, hidden)
        seen = seen.unflatten(1, (tokens, -1)).flatten(0, 1)
        return absorbed.answer(seen).unflatten(0, (-1, tokens))

    def _by_room(self) -> Iterator[tuple[_Room, Tensor | None, slice]]:
        """Rooms, what hides their padding, and which of the rows in `order` theirs are."""
        first = 0
        for room, hidden in self.planned():
            yield room, hidden, slice(first, first + len(room.rows))
            first += len(room.rows)

    @property
    def tokens(self) -> int:
        return sum(sum(room.lengths) for room in self._rooms.values())

    def planned(self) -> list[tuple[_Room, Tensor | None]]:
        """Rooms that have rows, and what hides their padding; makes `order` with them."""
        if self._plan is None:
            rooms = [room for _, room in sorted(self._rooms.items()) if room.rows]
            self._plan = [(room, self._hidden(room)) for room in rooms]
            rows = [row for room in rooms for row in room.rows]
            self.order = torch.tensor(rows, dtype=torch.int64, device=self.device)
        return self._plan

    def _hidden(self, room: _Room) -> Tensor | None:
        longest = max(room.lengths)
        if min(room.lengths) == longest:
            return None
        lengths = torch.tensor(room.lengths, device=self.device)
        past = torch.arange(longest, device=self.device) >= lengths[:, None]
        return torch.zeros(past.shape, device=self.device).masked_fill_(past, float("-inf"))
