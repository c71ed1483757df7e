"""Prompts that begin alike, in the first layer of T5's encoder: what they share is made once.

There a token's query, key and value are its word's, whatever the prompt says later, and so is what the beginning sees
of itself. Further up all depends on the whole prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flantune.inference.encoder_loops import Laid, attend_laid
from flantune.inference.parts import merge_into
from flantune.inference.plain_modules import normed
from flantune.inference.products import Product
from flantune.inference.vectors import LANES
from flantune.types import Tokens

_LEAST = 128  # tokens that are worth sharing
_ENOUGH = 0.75  # of what a group shares so far: one that shares less with it begins another


def begin_alike(prompts: Sequence[Tokens]) -> list[tuple[int, list[int]]]:
    """Groups of prompts, by their index, each with the tokens that all of it begin with: whole LANES, and never a whole
    prompt. Prompts that share too little stand alone, with 0."""
    groups: list[tuple[int, list[int]]] = []
    for i in sorted(range(len(prompts)), key=lambda i: prompts[i].tobytes()):
        most = len(prompts[i]) - 1
        if groups:
            shared, members = groups[-1]
            common = min(_common(prompts[members[-1]], prompts[i]), most)
            known = min(common, shared)
            if known >= _LEAST and (len(members) == 1 or known >= _ENOUGH * shared):
                members.append(i)
                groups[-1] = (known, members)
                continue
        groups.append((most, [i]))
    return [(shared // LANES * LANES if len(members) > 1 else 0, members) for shared, members in groups]


def _common(a: Tokens, b: Tokens) -> int:
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


@dataclass(frozen=True, slots=True)
class _Beginning:
    query: Tensor
    laid: Laid  # its keys and values
    seen: Tensor  # of itself
    total: Tensor  # log of the sum behind that


class FirstLayer:
    """Self-attention of the first layer, up to its output matrix. The last beginning is kept."""

    def __init__(self, norm: Any, own: Sequence[Product], heads: int) -> None:
        self._norm, self._own, self._heads = norm, own, heads
        self._kept: tuple[bytes, _Beginning] | None = None  # and its words

    def attend(self, ids: Tensor, x: Tensor, lengths: Sequence[int], shared: Sequence[int], bias: Tensor) -> Tensor:
        """ids (tokens,) and their embeddings x (tokens, d_model), of prompts end to end; of each the tokens that it
        shares, a multiple of LANES; bias as `attend_prompt` says -> (tokens, H, d)."""
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        own = torch.cat([torch.arange(at + s, at + n) for at, n, s in zip(starts, lengths, shared, strict=True)])
        made = self._project(x.index_select(0, own))
        out, done = x.new_empty(len(x), *made[0].shape[1:]), 0
        for at, length, common in zip(starts, lengths, shared, strict=True):
            query, key, value = (t[done : done + length - common] for t in made)
            done += length - common
            laid = Laid.out(key, value)
            seen, total = attend_laid(query, laid, bias)
            if common:
                begun, whole = self._beginning(ids[at : at + common], x[at : at + common], bias), out[at : at + common]
                merge_into(seen, total, *attend_laid(query, begun.laid, bias, ahead=-common))
                whole.copy_(begun.seen)
                merge_into(whole, begun.total.clone(), *attend_laid(begun.query, laid, bias, ahead=common))
            out[at + common : at + length] = seen
        return out

    def _beginning(self, ids: Tensor, x: Tensor, bias: Tensor) -> _Beginning:
        words = ids.numpy().tobytes()
        if self._kept is None or self._kept[0] != words:
            query, key, value = self._project(x)
            laid = Laid.out(key, value)
            self._kept = words, _Beginning(query, laid, *attend_laid(query, laid, bias))
        return self._kept[1]

    def _project(self, x: Tensor) -> list[Tensor]:
        """(tokens, d_model) -> queries, keys and values (tokens, H, d)"""
        told = normed(self._norm, x)
        return [product(told).unflatten(1, (self._heads, -1)) for product in self._own]
