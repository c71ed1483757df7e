"""Runs of tokens read together in one flat batch, each behind the runs before it.

A wave is what one call of the model reads: segments end to end, without padding. A segment sees itself and its
ancestors, runs that stand in the same wave or were read before and are kept in a `Store`. No mask is ever as large as
the wave: attention is computed part by part (`parts.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from flantune.inference.parts import attend_part, merge_into
from flantune.models.layout import Attending, Bucket, Ints
from flantune.types import Tokens

_ROOM = 128  # tokens
_LONG = 48  # tokens of a segment: from there on its own call is quicker than a padded batch of several


class Attends(Protocol):
    """What travels through a model as the keyword `packed` and computes attention for the batch it describes."""

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        """query (1, H, T, d), key and value (1, KH, T, d) -> (1, T, H, d)."""
        ...


@dataclass(frozen=True, slots=True)
class Scoring:
    scale: float
    window: int | None = None  # of the layer: keys so many tokens before the query, or more, are not seen
    softcap: float | None = None
    bias: Tensor | None = None  # T5's: (H, 2 * longest - 1) by offset key - query; empty where it has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Tokens to read. `ancestors`: the keys of the runs before it, outermost first, already stored or in this wave."""

    tokens: Tokens
    start: int = 0  # place of the first token in its sequence
    ancestors: tuple[int, ...] = ()
    key: int = -1  # its name where others are below it, else -1
    both_ways: bool = False  # its tokens see each other both ways


class Store:
    """Keys and values of runs that later waves need, by the run's key and the layer: (KH, n, d) each."""

    def __init__(self) -> None:
        self._kept: dict[int, dict[int, tuple[Tensor, Tensor]]] = {}
        self.starts: dict[int, int] = {}

    def __contains__(self, key: int) -> bool:
        return key in self._kept

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._kept))

    def put(self, key: int, start: int, layer: int, keys: Tensor, values: Tensor) -> None:
        self.starts[key] = start
        self._kept.setdefault(key, {})[layer] = (keys, values)

    def get(self, key: int, layer: int) -> tuple[Tensor, Tensor]:
        return self._kept[key][layer]

    def drop(self, key: int, layer: int | None = None) -> None:
        """A run, or what one layer has of it."""
        if layer is not None:
            self._kept[key].pop(layer, None)
            return
        self._kept.pop(key, None)
        self.starts.pop(key, None)


class Sink(Protocol):
    """Where a segment's keys and values go on when the wave is read."""

    def take(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """(KH, n, d) each, views into the batch."""
        ...


@dataclass(frozen=True, slots=True)
class _Part:
    """Queries `first` to `stop` of the flat batch look at the run `key`; `own` is its slice where it stands here."""

    key: int
    first: int
    stop: int
    own: slice | None
    start: int  # place of the run's first token in its sequences


class Wave:
    """`segments` in an order in which the users of each ancestor stand together (a tree's own order does).

    `keep`: keys of runs that go to the store. `spent`: those in the store that nobody asks for after this wave; they go
    layer by layer, and leave their places to what is kept."""

    def __init__(
        self,
        segments: Sequence[Segment],
        store: Store,
        device: torch.device | str = "cpu",
        keep: frozenset[int] = frozenset(),
        sinks: Sequence[Sink | None] | None = None,
        spent: Sequence[int] = (),
    ) -> None:
        self.segments, self.store, self.device, self.keep = segments, store, torch.device(device), keep
        self.spent = spent
        self.sinks = sinks or [None] * len(segments)
        lengths = np.array([len(s.tokens) for s in segments], dtype=np.int32)
        self.ends = np.cumsum(lengths, dtype=np.int64)
        self.firsts = self.ends - lengths
        both = np.array([len(s.tokens) if s.both_ways else 0 for s in segments], dtype=np.int32)
        self.own: Attending | None = None
        if lengths.mean() < _LONG:
            self.own = Attending(lengths, causal=True, prefix=both if both.any() else None, device=self.device)
        self._masks: dict[Any, Tensor | None] = {}
        self.parts = self._find_parts()
        places = np.concatenate([np.arange(s.start, s.start + len(s.tokens)) for s in segments])
        self.positions = torch.from_numpy(places).to(self.device)
        ids = np.concatenate([s.tokens for s in segments]).astype(np.int64)
        self.ids = torch.from_numpy(ids).to(self.device)

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> Tensor:
        query, key, value = (t.transpose(1, 2)[0] for t in (query, key, value))  # (T, heads, d)
        return self.attend_tokens(int(module.layer_idx), query, key, value, scoring)[None]

    def attend_tokens(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring, wanted: Ints | None = None
    ) -> Tensor:
        """query (T, H, d), key and value (T, KH, d) -> (T, H, d). `wanted`: queries are of these tokens alone,
        ascending."""
        if wanted is None:
            out, total = self._attend_own(query, key, value, scoring)
        else:
            out, total = self._attend_wanted(wanted, query, key, value, scoring)
        for part in self.parts:
            chosen, asked = _asked_of(part, wanted)
            if chosen.start == chosen.stop:
                continue
            if part.own is None:
                k, v = self.store.get(part.key, layer)
            else:
                k, v = key[part.own].transpose(0, 1), value[part.own].transpose(0, 1)
            seen = self._near(part, k.shape[1], scoring.window)
            seen = seen if seen is None or asked is None else seen[asked]
            other, other_total = attend_part(
                query[chosen].transpose(0, 1)[None],
                k[None],
                v[None],
                scoring.scale,
                seen=seen,
                softcap=scoring.softcap,
                may_be_blind=seen is not None,
            )
            merge_into(out[chosen], total[chosen], other[0].transpose(0, 1), other_total[0].transpose(0, 1))
        for run in self.spent:
            self.store.drop(run, layer)
        self._hand_on(layer, key, value)
        return out

    def _attend_wanted(
        self, wanted: Ints, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        """Of few tokens, each to its own segment up to itself."""
        out = query.new_empty(*query.shape[:2], value.shape[2])
        total = torch.empty(query.shape[:2], dtype=_sum_type(query.dtype), device=self.device)
        starts, stops = np.searchsorted(wanted, self.firsts), np.searchsorted(wanted, self.ends)
        for i in np.flatnonzero(stops > starts).tolist():
            chosen, own = slice(starts[i], stops[i]), slice(self.firsts[i], self.ends[i])
            back = (wanted[chosen] - self.firsts[i])[:, None] - np.arange(self.ends[i] - self.firsts[i])
            seen = back >= 0 if not self.segments[i].both_ways else np.ones(back.shape, dtype=np.bool_)
            if scoring.window is not None:
                seen &= abs(back) < scoring.window
            q, k, v = (t.transpose(0, 1)[None] for t in (query[chosen], key[own], value[own]))
            mask = None if seen.all() else torch.from_numpy(seen).to(self.device)
            made, sums = attend_part(q, k, v, scoring.scale, seen=mask, softcap=scoring.softcap)
            out[chosen], total[chosen] = made[0].transpose(0, 1), sums[0].transpose(0, 1)
        return out, total

    def _attend_own(self, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
        if self.own is None:
            return self._attend_one_by_one(query, key, value, scoring)
        return self._attend_in_buckets(self.own, query, key, value, scoring)

    def _attend_one_by_one(self, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
        """Long segments fill a call each: nothing is padded and nothing copied."""
        out = query.new_empty(*query.shape[:2], value.shape[2])
        total = torch.empty(query.shape[:2], dtype=_sum_type(query.dtype), device=self.device)
        for segment, first, end in zip(self.segments, self.firsts.tolist(), self.ends.tolist(), strict=True):
            q, k, v = (t[first:end].transpose(0, 1)[None] for t in (query, key, value))
            seen = None
            if scoring.window is not None and end - first > scoring.window:
                place = torch.arange(end - first, device=self.device)
                back = place[:, None] - place[None, :]
                seen = back.abs() < scoring.window if segment.both_ways else (back >= 0) & (back < scoring.window)
            causal = seen is None and not segment.both_ways
            made, sums = attend_part(q, k, v, scoring.scale, causal=causal, seen=seen, softcap=scoring.softcap)
            out[first:end], total[first:end] = made[0].transpose(0, 1), sums[0].transpose(0, 1)
        return out, total

    def _attend_in_buckets(
        self, own: Attending, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> tuple[Tensor, Tensor]:
        slots = own.keys(1)  # queries stand in the order of the keys
        q, k, v = (t.flatten(1).index_select(0, slots.take).unflatten(1, t.shape[1:]) for t in (query, key, value))
        outs, totals = [], []
        for bucket in own.buckets:
            chosen = slice(bucket.first_key, bucket.first_key + bucket.rows * bucket.keys)
            seen = self._seen(own, bucket, scoring.window)
            rows = [t[chosen].unflatten(0, (bucket.rows, -1)).transpose(1, 2) for t in (q, k, v)]
            out, total = attend_part(
                rows[0],
                rows[1],
                rows[2],
                scoring.scale,
                causal=seen is None,
                seen=seen,
                softcap=scoring.softcap,
            )
            outs.append(out.transpose(1, 2).flatten(0, 1))
            totals.append(total.transpose(1, 2).flatten(0, 1))
        out, total = torch.cat(outs), torch.cat(totals)
        return (
            out.flatten(1).index_select(0, slots.back).unflatten(1, out.shape[1:]),
            total.index_select(0, slots.back),
        )

    def _seen(self, own: Attending, bucket: Bucket, window: int | None) -> Tensor | None:
        """(rows or 1, 1, queries, keys); None: causality says all."""
        if window is not None and window >= bucket.keys:
            window = None
        if bucket.last_key is None and window is None:
            return None
        name = ("asked", bucket.first_key, window)
        if name not in own.masks:
            place = torch.arange(bucket.keys, device=self.device)
            if bucket.last_key is None:
                seen = (place[None, :] <= place[:, None])[None]
            else:
                seen = place <= bucket.last_key.flip(1)[:, :, None]  # it is kept for queries in reverse
            if window is not None:
                seen = seen & ((place[:, None] - place[None, :]).abs() < window)
            own.masks[name] = seen[:, None]
        kept: Tensor = own.masks[name]
        return kept

    def _near(self, part: _Part, keys: int, window: int | None) -> Tensor | None:
        """(queries, keys) inside the window; None where all are."""
        if window is None:
            return None
        name = ("near", part.key, part.first, window)
        if name not in self._masks:
            asked = self.positions[part.first : part.stop]
            if int(asked.max()) - part.start < window:
                self._masks[name] = None
            else:
                places = torch.arange(part.start, part.start + keys, device=self.device)
                self._masks[name] = asked[:, None] - places[None, :] < window
        return self._masks[name]

    def _hand_on(self, layer: int, key: Tensor, value: Tensor) -> None:
        for i, (segment, sink) in enumerate(zip(self.segments, self.sinks, strict=True)):
            if sink is None and segment.key not in self.keep:
                continue
            k, v = (t[self.firsts[i] : self.ends[i]].transpose(0, 1) for t in (key, value))
            if sink is not None:
                sink.take(layer, k, v)
            if segment.key in self.keep:
                self.store.put(segment.key, segment.start, layer, _copied(k), _copied(v))

    def _find_parts(self) -> list[_Part]:
        here = {s.key: i for i, s in enumerate(self.segments) if s.key >= 0}
        ranges: dict[int, list[int]] = {}
        for i, segment in enumerate(self.segments):
            for ancestor in segment.ancestors:
                found = ranges.setdefault(ancestor, [i, i])
                if i > found[1] + 1:
                    raise AssertionError("the users of a run must stand together")
                found[1] = i
        parts = []
        for ancestor, (first, last) in ranges.items():
            at = here.get(ancestor)
            own = None if at is None else slice(int(self.firsts[at]), int(self.ends[at]))
            start = self.store.starts[ancestor] if at is None else self.segments[at].start
            parts.append(_Part(ancestor, int(self.firsts[first]), int(self.ends[last]), own, start))
        return parts


def _asked_of(part: _Part, wanted: Ints | None) -> tuple[slice, Tensor | None]:
    """Which queries look at a part, and their places among all that could; None: they are all."""
    if wanted is None:
        return slice(part.first, part.stop), None
    chosen = slice(*np.searchsorted(wanted, [part.first, part.stop]).tolist())
    return chosen, torch.from_numpy(wanted[chosen] - part.first)


def _copied(x: Tensor) -> Tensor:
    """x (KH, n, d), with room behind each head's tokens: memory that one run leaves then fits the next one of about its
    length."""
    room = -(-x.shape[1] // _ROOM) * _ROOM
    made = x.new_empty(x.shape[0], room, x.shape[2])[:, : x.shape[1]]
    return made.copy_(x)


def _sum_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
