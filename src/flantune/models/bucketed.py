"""Attention inside the buckets of a flat batch, forward and backward, in pieces that fit a cache.

Scores are never kept: the backward pass makes them again from queries and keys, as flash attention does. Everything is
an index_select, a product or a sum, so that equal inputs give equal bits.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch

from flantune.models.dropout import keep_some
from flantune.models.lanes import each_piece
from flantune.models.layout import NEVER, Attending, Bucket, offset_view, sum_by_offset

# Scores computed at once, numbers. On a CPU a piece and its gradients stay in a core's caches; a GPU wants larger ones.
_PIECE = {"cpu": 1 << 19, "cuda": 1 << 26}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How scores are made from products: scaled, capped (Gemma 2), dropped out. `seed` decides the dropout."""

    scale: float
    softcap: float | None = None
    dropout: float = 0.0
    seed: int = 0


@torch.compiler.disable  # loops over buckets that differ from batch to batch: nothing to gain, much to trace
def bucketed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attending: Attending,
    scoring: Scoring,
    offsets: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of every example to itself. query (tokens, heads, d), key and value (tokens, kv_heads, d or d_v).

    `offsets` (heads or 1, 2 * attending.longest - 1) is added to the scores by key - query; -inf hides. Returns
    (tokens, heads, d_v); a query that has nothing to look at gives 0.
    """
    made: torch.Tensor = _Bucketed.apply(query, key, value, offsets, attending, scoring)
    return made


class _Bucketed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        offsets: torch.Tensor | None,
        attending: Attending,
        scoring: Scoring,
    ) -> torch.Tensor:
        if offsets is not None:
            offsets = offsets.detach().to(_score_type(query.dtype)).contiguous()
        ctx.attending, ctx.scoring = attending, scoring
        ctx.save_for_backward(query, key, value, offsets)
        with torch.autocast(query.device.type, enabled=False):
            work = _Work(query, key, value, offsets, attending, scoring)
            slots = work.query_slots(value.shape[-1])

            def attend(run: list[_Piece]) -> None:
                for piece in run:
                    probabilities = work.dropped(piece, work.probabilities(piece))
                    work.product(probabilities, work.of_keys(work.value, piece), slots[piece.queries])

            each_piece(work.runs, attend, query.device)
            return work.back_to_queries(slots)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, offsets = ctx.saved_tensors
        with torch.autocast(query.device.type, enabled=False):
            work = _Work(query, key, value, offsets, ctx.attending, ctx.scoring)
            bias = torch.zeros_like(offsets) if ctx.needs_input_grad[3] else None
            grads = work.gradients(grad, bias)
        return (*grads, bias, None, None)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows `rows` and kv heads `heads` of a bucket, and of each the queries at `places`; `queries` and `keys` are
    their slots times heads."""

    bucket: Bucket
    rows: slice
    heads: slice
    places: slice
    batch: int  # rows * kv heads
    queries: slice
    keys: slice
    number: int

    @property
    def width(self) -> int:
        """Queries of each."""
        return int(self.places.stop - self.places.start)


class _Work:
    """One call's tensors in slots, ordered by bucket, example, head, place: (slots * heads, d)."""

    def __init__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        offsets: torch.Tensor | None,
        attending: Attending,
        scoring: Scoring,
    ) -> None:
        self.attending, self.scoring, self.offsets = attending, scoring, offsets
        self.heads, self.kv_heads = query.shape[1], key.shape[1]
        self.group = self.heads // self.kv_heads
        self.type, self.score_type = query.dtype, _score_type(query.dtype)
        self.query = _take(query, attending.queries(self.heads).take)
        if scoring.scale != 1.0:
            self.query *= scoring.scale
        self.key = _take(key, attending.keys(self.kv_heads).take)
        self.value = _take(value, attending.keys(self.kv_heads).take)
        self.limit = _PIECE.get(query.device.type, _PIECE["cpu"])
        self.runs = self._runs()
        sizes = (p.batch * self.group * p.width * p.bucket.keys for run in self.runs for p in run)
        self.largest = max(sizes, default=0)
        self.own = threading.local()

    def _runs(self) -> list[list[_Piece]]:
        """Pieces, those with the same keys together: their gradients are sums over the run."""
        runs: list[list[_Piece]] = []
        number = 0
        for b in self.attending.buckets:
            of_head = self.group * b.queries * b.keys
            rows = max(1, self.limit // (of_head * self.kv_heads))
            heads = self.kv_heads if of_head * self.kv_heads <= self.limit else max(1, self.limit // of_head)
            # Heads that share a key stand below each other, so that a part of the queries is not one block then.
            parts = -(-of_head // self.limit) if self.group == 1 else 1
            width = -(-b.queries // parts)
            for r in range(0, b.rows, rows):
                for h in range(0, self.kv_heads, heads):
                    last_r, last_h = min(b.rows, r + rows), min(self.kv_heads, h + heads)
                    batch = (last_r - r) * (last_h - h)
                    first = r * self.kv_heads + h  # several rows: all heads; several parts of the heads: one row
                    query = b.first_query * self.heads + first * self.group * b.queries
                    key = b.first_key * self.kv_heads + first * b.keys
                    run = []
                    for place in range(0, b.queries, width):
                        last = min(b.queries, place + width)
                        run.append(
                            _Piece(
                                b,
                                slice(r, last_r),
                                slice(h, last_h),
                                slice(place, last),
                                batch,
                                slice(query + place, query + place + batch * self.group * (last - place)),
                                slice(key, key + batch * b.keys),
                                number,
                            )
                        )
                        number += 1
                    runs.append(run)
        return runs

    def of_queries(self, slots: torch.Tensor, piece: _Piece) -> torch.Tensor:
        """(batch, group * queries, d): the heads that share a key stand below each other."""
        return slots[piece.queries].view(piece.batch, self.group * piece.width, -1)

    def of_keys(self, slots: torch.Tensor, piece: _Piece) -> torch.Tensor:
        return slots[piece.keys].view(piece.batch, piece.bucket.keys, -1)

    def scores_space(self, piece: _Piece, which: int) -> torch.Tensor:
        """One of four that each thread has of its own."""
        if not hasattr(self.own, "space"):
            self.own.space = [self.query.new_empty(self.largest, dtype=self.score_type) for _ in range(4)]
        shape = (piece.batch, self.group * piece.width, piece.bucket.keys)
        space: torch.Tensor = self.own.space[which][: shape[0] * shape[1] * shape[2]]
        return space.view(shape)

    def into(self, left: torch.Tensor, right: torch.Tensor, space: torch.Tensor) -> torch.Tensor:
        """A product in the score's type."""
        if self.type == self.score_type:
            return torch.bmm(left, right, out=space)
        return space.copy_(torch.bmm(left, right))

    def product(self, left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, add: bool = False) -> None:
        left = left if left.dtype == self.type else left.to(self.type)
        out = out.view(left.shape[0], left.shape[1], right.shape[2])
        if add:
            torch.baddbmm(out, left, right, out=out)
        else:
            torch.bmm(left, right, out=out)

    def by_head(self, scores: torch.Tensor, piece: _Piece) -> torch.Tensor:
        """(rows, heads, queries, keys), a view."""
        rows = piece.rows.stop - piece.rows.start
        return scores.view(rows, -1, piece.width, piece.bucket.keys)

    def probabilities(self, piece: _Piece) -> torch.Tensor:
        """Softmax of the piece's scores, before dropout, in space 1. (Space 0 holds the capped scores' tanh.)"""
        bucket = piece.bucket
        keys = self.of_keys(self.key, piece).transpose(1, 2)
        scores = self.into(self.of_queries(self.query, piece), keys, self.scores_space(piece, 0))
        if self.scoring.softcap is not None:
            scores.div_(self.scoring.softcap).tanh_()
            scores = torch.mul(scores, self.scoring.softcap, out=self.scores_space(piece, 2))
        seen = self.by_head(scores, piece)
        if self.offsets is not None:
            seen.add_(self.offset_view(piece))
        if bucket.last_key is not None:
            last = bucket.last_key[piece.rows]
            last = last if last.shape[1] == 1 else last[:, piece.places]
            hidden = torch.arange(bucket.keys, device=last.device) > last[:, :, None]
            none = torch.zeros(hidden.shape, dtype=scores.dtype, device=last.device).masked_fill_(hidden, NEVER)
            seen.add_(none[:, None])
        return torch.softmax(scores, -1, out=self.scores_space(piece, 1))

    def offset_view(self, piece: _Piece) -> torch.Tensor:
        assert self.offsets is not None
        view = offset_view(self.offsets, self.attending.longest, piece.bucket.queries, piece.bucket.keys)
        view = view[:, piece.places]
        if view.shape[0] == 1:
            return view
        return view[piece.heads.start * self.group : piece.heads.stop * self.group]

    def dropped(self, piece: _Piece, values: torch.Tensor, which: int = 2) -> torch.Tensor:
        """The same elements kept in the forward and the backward pass, in the space named."""
        if self.scoring.dropout == 0:
            return values
        seed = (self.scoring.seed + piece.number * 0x9E3779B97F4A7C15) & (2**63 - 1)
        return keep_some(values, self.scoring.dropout, seed, out=self.scores_space(piece, which))

    def query_slots(self, width: int) -> torch.Tensor:
        """One more than there are, which stays 0: where a query without keys is sent."""
        return self._slots(self.attending.query_slots * self.heads, width)

    def key_slots(self, width: int) -> torch.Tensor:
        return self._slots(self.attending.key_slots * self.kv_heads, width)

    def _slots(self, count: int, width: int) -> torch.Tensor:
        slots = self.query.new_empty(count + 1, width)
        slots[count] = 0
        return slots

    def back_to_queries(self, slots: torch.Tensor) -> torch.Tensor:
        back = self.attending.queries(self.heads).back
        return slots.index_select(0, back).view(-1, self.heads, slots.shape[1])

    def back_to_keys(self, slots: torch.Tensor) -> torch.Tensor:
        back = self.attending.keys(self.kv_heads).back
        return slots.index_select(0, back).view(-1, self.kv_heads, slots.shape[1])

    def gradients(self, grad: torch.Tensor, bias: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """Of query, key and value; the one of the offsets is added to `bias`."""
        indices = self.attending.queries(self.heads)
        # 0 in padding: a query that is not there must not add to its keys' gradients.
        output = _take(grad, indices.take).index_fill_(0, indices.padding, 0)
        d_query = self.query_slots(self.query.shape[1])
        d_key, d_value = self.key_slots(self.key.shape[1]), self.key_slots(self.value.shape[1])
        of_bias: dict[int, torch.Tensor] = {}

        def add_run(run: list[_Piece]) -> None:
            for piece in run:
                again = piece.places.start > 0
                probabilities = self.probabilities(piece)
                own = self.of_queries(output, piece)
                key, value = self.of_keys(self.key, piece), self.of_keys(self.value, piece)
                kept = self.dropped(piece, probabilities)
                self.product(kept.transpose(1, 2), own, d_value[piece.keys], again)
                d_kept = self.into(own, value.transpose(1, 2), self.scores_space(piece, 3))
                d_scores = self.score_gradients(probabilities, kept, d_kept)
                if bias is not None:
                    below = piece.bucket.queries - piece.places.stop
                    of_bias[piece.number] = sum_by_offset(self.by_head(d_scores, piece), self.attending.longest, below)
                if self.scoring.softcap is not None:
                    tanh = self.scores_space(piece, 0)
                    d_scores.mul_(1 - tanh * tanh)
                d_scores = d_scores if d_scores.dtype == self.type else d_scores.to(self.type)
                self.product(d_scores, key, d_query[piece.queries])
                self.product(d_scores.transpose(1, 2), self.of_queries(self.query, piece), d_key[piece.keys], again)

        each_piece(self.runs, add_run, grad.device)
        if bias is not None:  # in the order of the pieces, whoever was first
            for piece in (piece for run in self.runs for piece in run):
                self._add_bias(bias, of_bias[piece.number], piece)
        if self.scoring.scale != 1.0:
            d_query *= self.scoring.scale
        return self.back_to_queries(d_query), self.back_to_keys(d_key), self.back_to_keys(d_value)

    def score_gradients(self, probabilities: torch.Tensor, kept: torch.Tensor, d_kept: torch.Tensor) -> torch.Tensor:
        """The softmax's gradient; in the space of `d_kept`, where anything was dropped."""
        if kept is probabilities:
            return torch._softmax_backward_data(d_kept, probabilities, -1, self.score_type)
        # What is kept is the probability times its mask: times the gradient that comes, it is what the softmax's
        # gradient has of probability times gradient, and the mask need not be made again.
        both = d_kept.mul_(kept)
        return both.addcmul_(probabilities, both.sum(-1, keepdim=True), value=-1)

    def _add_bias(self, bias: torch.Tensor, summed: torch.Tensor, piece: _Piece) -> None:
        if bias.shape[0] == 1:
            bias += summed.sum(0, keepdim=True)
        else:
            bias[piece.heads.start * self.group : piece.heads.stop * self.group] += summed


def _score_type(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _take(values: torch.Tensor, take: torch.Tensor) -> torch.Tensor:
    """(tokens, heads, d) in slots; in padding some token's: what is computed there is masked or thrown away."""
    return values.detach().reshape(-1, values.shape[-1]).index_select(0, take)
