"""Words that a Unigram model reads in two ways of nearly the same score.

The sentencepiece library sums the scores of a path in single precision, from the text's beginning. Between ways that
differ by less than the sums' rounding, chance decides, and not as it does in the wrapper that users load, which sums in
double precision. Such words are found here.

With b and k pieces on two ways of a word, each addition is off by half a unit in the last place at most, so the ways
can change places only where their scores differ by at most (b + k) / 2 units. A word's tightness is the least of
margin / ((b + k) / 2) over all its ways; it is doubtful in a text whose score has a unit at least that large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from flantune.compiled import compiled

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

MOST_COUNTED = 48  # characters of a word whose ways are told apart by their number of pieces; longer ones bound it
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class NearTies:
    """How nearly the words of a text are read in another way."""

    UNKNOWN = 10.0  # below the least score: the library's penalty for a character without a piece

    def __init__(self, model: Any, normalize: Callable[[list[str]], list[str]]) -> None:
        scores = {p.piece: p.score for p in model.pieces if p.type in (p.NORMAL, p.USER_DEFINED)}
        self._unknown = min(scores.values()) - self.UNKNOWN
        self._longest = max(map(len, scores))
        self._normalize = normalize
        self._keys, self._scores = _table(scores)

    def tightness(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Of each text's tightest word, nats; infinite where every word has but one way."""
        words = [text.split() for text in texts]
        found = np.full(len(texts), np.inf, dtype=np.float32)
        flat = list(chain.from_iterable(words))
        if flat:
            owners = np.repeat(np.arange(len(texts)), [len(own) for own in words])
            np.minimum.at(found, owners, self.of_words(flat).astype(np.float32))
        return found

    def of_words(self, words: list[str]) -> Floats:
        points, ends = _points(self._normalize(words))
        out = np.empty(len(words), dtype=np.float64)
        compiled(_tightness)(points, ends, self._keys, self._scores, self._longest, self._unknown, MOST_COUNTED, out)
        return out

    def rounding(self, num_tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """A unit in the last place of the score of that many tokens, at most."""
        return np.spacing((num_tokens * -self._unknown).astype(np.float32))


def _points(texts: Sequence[str]) -> tuple[Ints, Ints]:
    """Code points of texts end to end, and where each ends."""
    ends = np.cumsum(np.array([len(text) for text in texts], dtype=np.int64))
    return np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64), ends


def _table(scores: dict[str, float]) -> tuple[Hashes, Floats]:
    """Open addressing by the hash of a piece's code points; 0 is an empty place."""
    size = 1 << (2 * len(scores)).bit_length()
    keys, values = np.zeros(size, dtype=np.uint64), np.zeros(size, dtype=np.float64)
    pieces = [piece for piece in scores if piece]
    points, ends = _points(pieces)
    hashes = np.empty(len(pieces), dtype=np.uint64)
    compiled(_hashes)(points, ends, hashes)
    if len(np.unique(hashes)) < len(hashes):
        raise ValueError("two pieces of the vocabulary have the same hash")
    compiled(_insert)(keys, values, hashes, np.array([scores[piece] for piece in pieces]))
    return keys, values


def _hashes(points: Ints, ends: Ints, out: Hashes) -> None:
    start = 0
    for word in range(len(ends)):
        value = np.uint64(0)
        for k in range(start, ends[word]):
            value = _hashed(value, points[k])
        out[word] = value
        start = ends[word]


def _hashed(value: np.uint64, point: int) -> np.uint64:
    """The hash of one more code point."""
    value = (value ^ np.uint64(point + 1)) * _FACTOR
    return value ^ (value >> np.uint64(29))


def _insert(keys: Hashes, values: Floats, hashes: Hashes, scores: Floats) -> None:
    mask = np.uint64(len(keys) - 1)
    for k in range(len(hashes)):
        place = hashes[k] & mask
        while keys[place] != 0:
            place = (place + np.uint64(1)) & mask
        keys[place] = hashes[k]
        values[place] = scores[k]


def _tightness(
    points: Ints,
    ends: Ints,
    keys: Hashes,
    scores: Floats,
    longest: int,
    unknown: float,
    most_counted: int,
    out: Floats,
) -> None:
    begin = 0
    for word in range(len(ends)):
        edges = _edges(points[begin : ends[word]], keys, scores, longest, unknown)
        out[word] = _least_margin(edges, ends[word] - begin, most_counted)
        begin = ends[word]


def _edges(points: Ints, keys: Hashes, scores: Floats, longest: int, unknown: float) -> Floats:
    """[s, w]: score of the piece of w + 1 characters from s of a word; -inf where there is none."""
    mask, n = np.uint64(len(keys) - 1), len(points)
    edges = np.full((max(n, 1), longest), -inf)
    for start in range(n):
        value = np.uint64(0)
        for width in range(min(longest, n - start)):
            value = _hashed(value, points[start + width])
            place = value & mask
            while keys[place] != 0 and keys[place] != value:
                place = (place + np.uint64(1)) & mask
            if keys[place] == value:
                edges[start, width] = scores[place]
        if edges[start, 0] == -inf:
            edges[start, 0] = unknown
    return edges


def _least_margin(edges: Floats, n: int, most_counted: int) -> float:
    """Of the best way through a word of n characters to any other, by additions; inf where it is the only way."""
    counted = n if n <= most_counted else 0
    # Two best scores of the ways to each place; by their number of pieces where the word is short.
    best = np.full((n + 1, counted + 1), -inf)
    second = np.full((n + 1, counted + 1), -inf)
    best[0, 0] = 0.0
    for start in range(n):
        for width in range(min(edges.shape[1], n - start)):
            score = edges[start, width]
            if score == -inf:
                continue
            end = start + width + 1
            for pieces in range(counted + 1):
                to = pieces + 1 if counted else 0
                if to > counted:
                    break
                for came in (best[start, pieces], second[start, pieces]):
                    total = came + score
                    if total > best[end, to]:
                        second[end, to] = best[end, to]
                        best[end, to] = total
                    elif total > second[end, to]:
                        second[end, to] = total
    taken = 0
    for pieces in range(counted + 1):
        if best[n, pieces] > best[n, taken]:
            taken = pieces
    least = inf
    for pieces in range(counted + 1):
        other = second[n, pieces] if pieces == taken else best[n, pieces]
        if other > -inf:
            additions = (taken + pieces) / 2 if counted else n
            least = min(least, (best[n, taken] - other) / max(additions, 1))
    return least
