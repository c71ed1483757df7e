"""Where the examples of a batch stand, so that attention can be computed example by example.

A batch is flattened: the tokens of all its examples end to end, no padding, (1, tokens). Examples of like length are
then laid beside each other in buckets, padded to the bucket's length, and attention runs inside the buckets: its cost
is that of the examples, whatever the length of the packed rows they came in.

    examples 0 0 0 | 1 1 1 1 1 | 2 2      buckets of 4: 0 0 0 - / 2 2 - -      of 8: 1 1 1 1 1 - - -

Inside a bucket the queries stand in reverse order. The offset of query row r and key column c is then a function of
r + c, so that a bias or mask by offset is a view of a vector (`offset_view`), never a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flantune.types import Tokens

Ints = npt.NDArray[np.int64]
NEVER = float("-inf")  # a score that softmax makes exactly 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """`rows` examples, padded to `queries` and `keys` tokens. The first is slot `first_query` of all query slots."""

    rows: int
    queries: int
    keys: int
    first_query: int
    first_key: int
    # (rows, queries or 1) int64: the last key that each query may see; None: nothing but offsets decides.
    last_key: torch.Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Indices:
    """From rows of (tokens * heads, d) to slots, ordered by bucket, example, head, place; and back. All int64."""

    take: torch.Tensor  # (slots * heads,) which row stands in each slot; in padding row 0
    padding: torch.Tensor  # slots that are padding
    back: torch.Tensor  # (tokens * heads,) the slot of each row; where it has none, the number of slots
    complete: bool  # every row has a slot


class Attending:
    """One pattern of attention over a flat batch: every example's queries to the same example's keys.

    `causal`: no key later than the query (the caller's offsets say so, see `offsets`). `prefix` (k,): the tokens at
    each example's start that see each other both ways; it takes the place of `causal`.
    """

    def __init__(
        self,
        query_lengths: Tokens,
        key_lengths: Tokens | None = None,
        *,
        causal: bool = False,
        prefix: Tokens | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        queries = np.asarray(query_lengths, dtype=np.int64)
        keys = queries if key_lengths is None else np.asarray(key_lengths, dtype=np.int64)
        self.is_cross = key_lengths is not None
        self.causal, self.device = causal and prefix is None, torch.device(device)
        self.prefix = None if prefix is None else np.asarray(prefix, dtype=np.int64)
        self.query_lengths, self.key_lengths = queries, keys
        self.num_queries, self.num_keys = int(queries.sum()), int(keys.sum())
        self.buckets, self._query_tokens, self._key_tokens = self._lay_out()
        self.longest = max((max(b.queries, b.keys) for b in self.buckets), default=1)
        self._indices: dict[tuple[int, bool], Indices] = {}
        self._offsets: dict[tuple[int | None, torch.dtype], torch.Tensor | None] = {}
        self.masks: dict[Any, Any] = {}  # that kernels made of this, for the next layer
        self.places: tuple[torch.Tensor, ...] | None = None

    def _lay_out(self) -> tuple[tuple[Bucket, ...], list[Ints], list[Ints]]:
        query_starts = np.cumsum(self.query_lengths) - self.query_lengths
        key_starts = np.cumsum(self.key_lengths) - self.key_lengths
        rounded = np.stack([padded_lengths(self.query_lengths), padded_lengths(self.key_lengths)], axis=1)
        shapes, which = np.unique(rounded, axis=0, return_inverse=True)
        buckets, query_tokens, key_tokens = [], [], []
        first_query = first_key = 0
        for number, (queries, keys) in enumerate(shapes.tolist()):
            members = np.flatnonzero(which.reshape(-1) == number)
            if queries == 0 or keys == 0:
                continue  # nothing asks, or there is nothing to look at: the output stays 0
            reversed_slots = np.arange(queries - 1, -1, -1)
            query_tokens.append(_tokens(query_starts[members], self.query_lengths[members], reversed_slots))
            key_tokens.append(_tokens(key_starts[members], self.key_lengths[members], np.arange(keys)))
            last_key = self._last_key(members, queries, keys)
            buckets.append(
                Bucket(
                    rows=len(members),
                    queries=queries,
                    keys=keys,
                    first_query=first_query,
                    first_key=first_key,
                    last_key=None if last_key is None else torch.from_numpy(last_key).to(self.device),
                )
            )
            first_query += len(members) * queries
            first_key += len(members) * keys
        return tuple(buckets), query_tokens, key_tokens

    def _last_key(self, members: Ints, queries: int, keys: int) -> Ints | None:
        if self.prefix is not None:
            places = np.arange(queries - 1, -1, -1)[None, :]
            return np.maximum(places, self.prefix[members, None] - 1)
        if self.causal or bool((self.key_lengths[members] == keys).all()):
            return None  # padding stands after every query that counts
        return self.key_lengths[members, None] - 1

    @property
    def query_slots(self) -> int:
        return sum(b.rows * b.queries for b in self.buckets)

    @property
    def key_slots(self) -> int:
        return sum(b.rows * b.keys for b in self.buckets)

    def queries(self, heads: int) -> Indices:
        """For tensors of (tokens * heads, d)."""
        return self._index(heads, of_queries=True)

    def keys(self, heads: int) -> Indices:
        return self._index(heads, of_queries=False)

    def _index(self, heads: int, *, of_queries: bool) -> Indices:
        if (heads, of_queries) not in self._indices:
            blocks = self._query_tokens if of_queries else self._key_tokens
            tokens = self.num_queries if of_queries else self.num_keys
            own = np.arange(heads)[None, :, None]
            flat = [np.where(b[:, None] < 0, -1, b[:, None] * heads + own).reshape(-1) for b in blocks]
            take = np.concatenate(flat) if flat else np.zeros(0, dtype=np.int64)
            filled = np.flatnonzero(take >= 0)
            back = np.full(tokens * heads, len(take), dtype=np.int64)
            back[take[filled]] = filled
            self._indices[heads, of_queries] = Indices(
                take=torch.from_numpy(take.clip(min=0)).to(self.device),
                padding=torch.from_numpy(np.flatnonzero(take < 0)).to(self.device),
                back=torch.from_numpy(back).to(self.device),
                complete=len(filled) == len(back),
            )
        return self._indices[heads, of_queries]

    def offsets(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        """What causality and a sliding window add to a score, by offset key - query: (1, 2 * longest - 1) of 0 and
        -inf, or None where they add nothing. A window hides keys `window` or more tokens before the query, and, where
        the query sees both ways, as many after it."""
        if (window, dtype) not in self._offsets:
            self._offsets[window, dtype] = self._make_offsets(window, dtype)
        return self._offsets[window, dtype]

    def _make_offsets(self, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        if not self.causal and (window is None or window >= self.longest):
            return None
        offsets = torch.arange(1 - self.longest, self.longest, device=self.device)
        hidden = offsets > 0 if self.causal else torch.zeros_like(offsets, dtype=torch.bool)
        if window is not None:
            hidden |= offsets.abs() >= window
        return torch.zeros(1, len(offsets), dtype=dtype, device=self.device).masked_fill_(hidden, NEVER)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLayout:
    """What travels with a flat batch through a model to our attention function, as the keyword `packed`."""

    own: Attending  # self-attention of the stack that is called
    cross: Attending | None = None


def padded_lengths(lengths: Ints) -> Ints:
    """Rounded up to a multiple of an eighth to a quarter of the length, 8 at least: few buckets, little padding.

    5 -> 8, 20 -> 24, 70 -> 80, 300 -> 320, 700 -> 768
    """
    power = np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64)  # of the power of two at or above
    step = np.maximum(8, 2 ** np.maximum(power - 3, 0))
    return -(-lengths // step) * step


def flat_index(lengths: Sequence[Tokens], width: int) -> Ints:
    """Places of the tokens that are no padding in rows of `width`, read row by row: (tokens,).

    [[3], [2]], 4 -> 0 1 2 4 5
    """
    return np.concatenate([row * width + np.arange(int(n.sum()), dtype=np.int64) for row, n in enumerate(lengths)])


def offset_view(offsets: torch.Tensor, longest: int, queries: int, keys: int) -> torch.Tensor:
    """(heads, 2 * longest - 1) by offset key - query, as (heads, queries, keys) with the queries reversed; no copy."""
    heads, width = offsets.shape
    return offsets.as_strided((heads, queries, keys), (width, 1, 1), offsets.storage_offset() + longest - queries)


def sum_by_offset(scores: torch.Tensor, longest: int, below: int = 0) -> torch.Tensor:
    """The transpose of `offset_view`: (rows, heads, queries, keys) summed to (heads, 2 * longest - 1). `below`: queries
    of the view that come after these."""
    _, heads, queries, keys = scores.shape
    whole = scores.new_zeros(heads, 2 * longest - 1)
    lines = whole[:, longest - queries - below : longest + keys - 1 - below]
    if scores.device.type == "cpu":
        _diagonal_sums()(scores.numpy(), lines.numpy())
        return whole
    span = queries + keys - 1
    skewed = scores.new_zeros(heads, queries, span + 1)
    skewed[:, :, :keys] = scores.sum(0)
    # Read in rows one shorter, every row has moved one to the right: equal r + c stand in one column.
    lines += skewed.view(heads, -1)[:, : queries * span].view(heads, queries, span).sum(1)
    return whole


@cache
def _diagonal_sums() -> Callable[..., None]:
    from flantune.compiled import compiled

    return compiled(_add_diagonals)


def _add_diagonals(scores: Any, lines: Any) -> None:
    rows, heads, queries, keys = scores.shape
    for b in range(rows):
        for h in range(heads):
            for r in range(queries):
                for c in range(keys):
                    lines[h, r + c] += scores[b, h, r, c]


def _tokens(starts: Ints, lengths: Ints, places: Ints) -> Ints:
    """(rows, places): the flat token at each place of each example, -1 past its end."""
    return np.where(places[None] < lengths[:, None], starts[:, None] + places[None], -1)
