"""Texts being written side by side, a token each per step.

Every row has its own keys and values in a `Slab`; what rows share (a prompt's beginning, all of a prompt for its
samples, an encoded prompt) is kept once in a `Store` and looked at by all its rows together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flantune.inference import row_loops
from flantune.inference.crossing import Absorbed, Crossing
from flantune.inference.parts import attend_part, merge_into
from flantune.inference.row_loops import loops_pay
from flantune.inference.run_loops import attend_run, run_pays
from flantune.inference.waves import Scoring, Store
from flantune.models.layout import Ints

_BLOCK = 64  # tokens a slab grows by at least


class Slab:
    """Keys and values of `lengths[row]` tokens for each row, by layer: (slots, KH, room, d). Rows 0 to n - 1 are full,
    in no order that matters."""

    def __init__(self) -> None:
        self.lengths: Ints = np.zeros(0, dtype=np.int64)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def even(self) -> bool:
        """All rows have as many tokens."""
        return bool((self.lengths == self.lengths[:1]).all())

    def add_rows(self, lengths: Sequence[int]) -> int:
        """The number of the first new row. Their keys and values come through `put`."""
        first = len(self.lengths)
        self.lengths = np.concatenate([self.lengths, np.array(lengths, dtype=np.int64)])
        return first

    def cut_rows(self, count: int) -> None:
        """The first `count` rows stay."""
        self.lengths = self.lengths[:count]

    def drop_row(self, row: int) -> None:
        """The last row takes its place."""
        last = len(self.lengths) - 1
        if row != last:
            length = int(self.lengths[last])
            for tensors in self._layers.values():
                for tensor in tensors:
                    tensor[row, :, :length] = tensor[last, :, :length]
            self.lengths[row] = self.lengths[last]
        self.lengths = self.lengths[:last]

    def put(self, layer: int, row: int, keys: Tensor, values: Tensor) -> None:
        """A row's first tokens, (KH, n, d) each."""
        k, v = self._room(layer, keys, values, int(self.lengths.max(initial=0)))
        k[row, :, : keys.shape[1]], v[row, :, : values.shape[1]] = keys, values

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """A token for every row, (rows, KH, d) each, after those it has; `lengths` are moved on by the caller.

        Returns keys and values, (rows, KH, longest, d) each.
        """
        count, longest = len(self.lengths), int(self.lengths.max(initial=0)) + 1
        if self.even:
            k, v = self._room(layer, keys.transpose(0, 1), values.transpose(0, 1), longest)
            k[:count, :, longest - 1], v[:count, :, longest - 1] = keys, values
            return k[:count, :, :longest], v[:count, :, :longest]
        row = torch.arange(count, device=keys.device)
        return self.put_at(layer, row, torch.from_numpy(self.lengths).to(keys.device), longest, keys, values)

    def room_for(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all slots, (slots, KH, room, d) each, with room for a token more of each row. `keys` and
        `values` (rows, KH, d) say what they look like."""
        return self._room(layer, keys.transpose(0, 1), values.transpose(0, 1), int(self.lengths.max(initial=0)) + 1)

    def put_at(
        self, layer: int, row: Tensor, place: Tensor, longest: int, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Tokens, (tokens, KH, d) each, of the rows and at the places given. Returns keys and values of all rows,
        (rows, KH, longest, d) each."""
        k, v = self._room(layer, keys.transpose(0, 1), values.transpose(0, 1), longest)
        k[row, :, place], v[row, :, place] = keys, values
        count = len(self.lengths)
        return k[:count, :, :longest], v[:count, :, :longest]

    def _room(self, layer: int, keys: Tensor, values: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Of at least so many tokens for every row. `keys` (KH, any, d) say what they look like."""
        held = self._layers.get(layer)
        slots, room = len(self.lengths), tokens
        if held is not None:
            had_slots, had_room = held[0].shape[0], held[0].shape[2]
            if slots <= had_slots and room <= had_room:
                return held
            slots = had_slots if slots <= had_slots else max(slots, had_slots * 3 // 2)
            room = had_room if room <= had_room else max(room, had_room * 3 // 2)
        room = -(-room // _BLOCK) * _BLOCK
        made = []
        for i, like in enumerate((keys, values)):
            # Zeros: what lies past a row's end is multiplied before it is masked, and must be a number.
            tensor = like.new_zeros(slots, like.shape[0], room, like.shape[2])
            if held is not None:
                old = held[i]
                tensor[: old.shape[0], :, : old.shape[2]] = old
            made.append(tensor)
        self._layers[layer] = (made[0], made[1])
        return self._layers[layer]


class SlabRow:
    """Where a wave leaves the keys and values of a row's own tokens."""

    def __init__(self, slab: Slab, row: int) -> None:
        self.slab, self.row = slab, row

    def take(self, layer: int, keys: Tensor, values: Tensor) -> None:
        self.slab.put(layer, self.row, keys, values)


@dataclass(frozen=True, slots=True)
class Shared:
    """Rows that look at the same stored run."""

    key: int
    rows: Tensor | slice  # int64 numbers, or a range
    places: Ints  # of the rows' next tokens


def shared_runs(paths: Sequence[Sequence[int]], places: Ints, device: torch.device) -> list[Shared]:
    """Which rows look at which run, from each row's way down."""
    users: dict[int, list[int]] = {}
    for row, path in enumerate(paths):
        for key in path:
            users.setdefault(key, []).append(row)
    found = []
    for key, rows in users.items():
        together = rows[-1] - rows[0] + 1 == len(rows)
        which = slice(rows[0], rows[-1] + 1) if together else torch.tensor(rows, device=device)
        found.append(Shared(key, which, places[rows]))
    return found


@dataclass(frozen=True, slots=True)
class Longest:
    longest: int  # what T5's bias is made for


class Several:
    """New tokens of rows, `counts` of them each, in the order of the rows."""

    def __init__(self, counts: Sequence[int], device: torch.device) -> None:
        self.counts: Ints = np.array(counts, dtype=np.int64)
        self.rows, self.most = len(counts), max(counts)
        self.row: Ints = np.repeat(np.arange(self.rows), self.counts)
        self.ahead: Ints = np.arange(len(self.row)) - np.repeat(np.cumsum(self.counts) - self.counts, self.counts)
        self._flat = torch.from_numpy(self.row * self.most + self.ahead).to(device)

    def padded(self, flat: Tensor) -> Tensor:
        """(tokens, ...) -> (rows, most, ...)"""
        made = flat.new_zeros(self.rows * self.most, *flat.shape[1:])
        return made.index_copy_(0, self._flat, flat).unflatten(0, (self.rows, self.most))

    def flat(self, padded: Tensor) -> Tensor:
        """And back."""
        return padded.flatten(0, 1).index_select(0, self._flat)


class Step:
    """Attention of new tokens, one of each row or `several`: to the row's own tokens, then to the runs it shares with
    others. A new token sees those before it."""

    def __init__(
        self,
        slab: Slab,
        store: Store,
        shared: Sequence[Shared],
        device: torch.device,
        crossing: Crossing | None = None,
        absorbed: Mapping[int, Absorbed] | None = None,
        several: Several | None = None,
    ) -> None:
        """`shared`: for each new token. `crossing` has encoder states of rows that share no run, `absorbed` what each
        layer does with them."""
        self.slab, self.store, self.shared, self.device = slab, store, shared, device
        self.crossing, self.absorbed, self.several = crossing, absorbed or {}, several
        self.lengths = torch.from_numpy(slab.lengths).to(device)
        new: Any = 1 if several is None else several.counts
        self.own = Longest(int((slab.lengths + new).max(initial=0)))
        if several is not None:
            self._row = torch.from_numpy(several.row).to(device)
            self._place = torch.from_numpy(slab.lengths[several.row] + several.ahead).to(device)
        self._masks: dict[Any, Tensor | None] = {}

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        query = query.transpose(1, 2)[0]  # (R, H, d)
        layer = int(module.layer_idx)
        if _is_cross(module):
            return self.attend_encoded(layer, query, scoring)[None]
        key, value = key.transpose(1, 2)[0], value.transpose(1, 2)[0]
        attend = self.attend_own if _is_encoded(module) else self.attend_tokens
        return attend(layer, query, key, value, scoring)[None]

    def attend_tokens(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring, wanted: Ints | None = None
    ) -> Tensor:
        """To the row's own tokens, the new one and what it shares: query (T, H, d), key and value (T, KH, d) ->
        (T, H, d). All tokens are wanted."""
        assert wanted is None
        out, total = self._attend_own(layer, query, key, value, scoring)
        return self._attend_shared(query, out, total, layer, scoring) if self.shared else out

    def attend_own(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """To the row's own tokens and the new one alone: query, key and value (T, H, d) -> (T, H, d)."""
        return self._attend_own(layer, query, key, value, scoring)[0]

    def _attend_own(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        if self.several is not None:
            return self._attend_own_several(self.several, layer, query, key, value, scoring)
        if scoring.softcap is None and loops_pay(query, 2 * key[0].numel() * int(self.slab.lengths.sum())):
            held = self.slab.room_for(layer, key, value)
            bias = None if scoring.bias is None else scoring.bias[:, : self.own.longest]
            return row_loops.attend_own(
                query, (key, value), held, self.slab.lengths, scoring.scale, scoring.window, bias
            )
        k, v = self.slab.append(layer, key, value)
        rows, heads, width = query.shape
        folded = query.view(rows, k.shape[1], -1, width)  # the heads that share a key, below each other
        out, total = attend_part(
            folded, k, v, scoring.scale, bias=self._own_mask(scoring, *folded.shape[1:3]), softcap=scoring.softcap
        )
        return out.reshape(rows, heads, -1), total.reshape(rows, heads)

    def _attend_own_several(
        self, several: Several, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        k, v = self.slab.put_at(layer, self._row, self._place, self.own.longest, key, value)
        query = several.padded(query).unflatten(2, (k.shape[1], -1)).transpose(1, 2)  # (R, KH, tokens, group, d)
        mask = self._own_mask(scoring, k.shape[1], query.shape[3])
        out, total = attend_part(query.flatten(2, 3), k, v, scoring.scale, bias=mask, softcap=scoring.softcap)
        out, total = (t.unflatten(2, (several.most, -1)).transpose(1, 2).flatten(2, 3) for t in (out, total))
        return several.flat(out), several.flat(total)

    def attend_encoded(self, layer: int, query: Tensor, scoring: Scoring) -> Tensor:
        """To the states of each row's prompt: query (T, H, d) -> (T, H, d)."""
        if not self.crossing:
            return self._attend_shared(query, None, None, layer, scoring)
        self.crossing.planned()
        several, order = self.several, self.crossing.order
        by_row = query[:, None] if several is None else several.padded(query)
        made = self.crossing.attend(by_row.index_select(0, order), layer, self.absorbed[layer], scoring)
        out = made.new_empty(len(by_row), *made.shape[1:]).index_copy_(0, order, made)
        out = out[:, 0] if several is None else several.flat(out)
        return self._attend_shared(query, out, None, layer, scoring) if self.shared else out

    def _attend_shared(
        self, query: Tensor, out: Tensor | None, total: Tensor | None, layer: int, scoring: Scoring
    ) -> Tensor:
        """`out` is what the rows have so far, and `total` its weight; None: nothing, a row has one run at most."""
        alone = total is None
        for run in self.shared:
            k, v = self.store.get(run.key, layer)
            seen = self._near(run, k.shape[1], scoring.window)
            asked = query[run.rows]
            count, heads, width = asked.shape
            folded = asked.view(count, k.shape[0], -1, width).transpose(0, 1)  # (KH, n, group, d)
            other, other_total = _look(folded.reshape(k.shape[0], -1, width), k, v, scoring, seen)
            other = other.unflatten(1, (count, -1)).transpose(0, 1).reshape(count, heads, -1)
            if alone:
                out = query.new_empty(query.shape[0], heads, other.shape[2]) if out is None else out
                out[run.rows] = other
                continue
            assert out is not None and total is not None
            other_total = other_total.unflatten(1, (count, -1)).transpose(0, 1).reshape(count, heads)
            if isinstance(run.rows, slice):
                merge_into(out[run.rows], total[run.rows], other, other_total)
                continue
            chosen, chosen_total = out[run.rows], total[run.rows]
            merge_into(chosen, chosen_total, other, other_total)
            out[run.rows], total[run.rows] = chosen, chosen_total
        assert out is not None
        return out

    def _own_mask(self, scoring: Scoring, groups: int, group: int) -> Tensor | None:
        """Added to the scores of a row's own tokens: (R or 1, 1 or KH, 1 or tokens * group, longest). None: nothing."""
        name = ("own", scoring.window, scoring.bias is not None)
        if name in self._masks:
            return self._masks[name]
        bias, longest = scoring.bias, self.own.longest
        if self.several is None and self.slab.even and (scoring.window or longest) >= longest:
            self._masks[name] = None if bias is None else bias[None, :, :longest].unflatten(1, (groups, -1))
        else:
            tokens = 1 if self.several is None else self.several.most
            new = self.lengths[:, None] + torch.arange(tokens, device=self.device)
            back = new[:, :, None] - torch.arange(longest, device=self.device)  # places before the new one
            hidden = back < 0
            if scoring.window is not None:
                hidden = hidden | (back >= scoring.window)
            mask = torch.zeros(hidden.shape, device=self.device).masked_fill_(hidden, float("-inf"))
            mask = mask[:, None, :, None]  # (R, 1, tokens, 1, longest)
            if bias is not None:
                offset = (longest - 1 - back).clamp(min=0, max=longest - 1)
                by_head = bias[:, offset].transpose(0, 1).float()  # (R, H, tokens, longest)
                mask = mask + by_head.unflatten(1, (groups, -1)).transpose(2, 3)
            elif tokens > 1:
                mask = mask.expand(-1, -1, -1, group, -1)
            self._masks[name] = mask.flatten(2, 3)
        return self._masks[name]

    def _near(self, run: Shared, keys: int, window: int | None) -> Tensor | None:
        """(rows, keys) inside the window; None where all are."""
        if window is None:
            return None
        name = ("near", run.key, window)
        if name not in self._masks:
            start = self.store.starts[run.key]
            if int(run.places.max()) - start < window:
                self._masks[name] = None
            else:
                asked = torch.from_numpy(run.places).to(self.device)
                self._masks[name] = asked[:, None] - torch.arange(start, start + keys, device=self.device) < window
        return self._masks[name]


def _look(
    queries: Tensor, keys: Tensor, values: Tensor, scoring: Scoring, seen: Tensor | None
) -> tuple[Tensor, Tensor]:
    """queries (KH, Q, d), keys and values (KH, n, d), what of them may be `seen` (Q / group, n), or all -> (KH, Q, d),
    log of the sum (KH, Q)."""
    if seen is None and scoring.softcap is None and run_pays(queries, keys):
        return attend_run(queries, keys, values, scoring.scale)
    if seen is not None:
        seen = seen.repeat_interleave(queries.shape[1] // len(seen), 0)
    out, total = attend_part(
        queries[None],
        keys[None],
        values[None],
        scoring.scale,
        seen=seen,
        softcap=scoring.softcap,
        may_be_blind=seen is not None,
    )
    return out[0], total[0]


def _is_encoded(module: Any) -> bool:
    """Part of an encoder-decoder's decoder."""
    return bool(getattr(module, "is_decoder", False))


def _is_cross(module: Any) -> bool:
    return _is_encoded(module) and not module.is_causal
