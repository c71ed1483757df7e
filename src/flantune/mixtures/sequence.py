"""The stream's arithmetic: which leaf stands at a place, how often it stood before, which row, which of n choices.

All of it is a pure function of integers, exact, with no state to carry: place one billion costs what place one does.

    u(k) = offset + k * A mod 2**64         A / 2**64 is the golden ratio's fraction, 0.618...
    the leaf at k is the one whose interval holds u(k)

Multiples of the golden ratio fill the circle more evenly than any other step (three-distance theorem), so among n
places a leaf of share p stands n * p times, give or take a few: O(log n), against O(sqrt(n)) for independent draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15  # odd, round(2**64 * (sqrt(5) - 1) / 2): Knuth's and splitmix64's increment
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # splitmix64's finalizer (Steele, Lea, Flood 2014)
_ROUNDS = 8

Words = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]


def name_key(*names: object) -> int:
    """64 bits from names and ints. Keyed by name, so that what is added beside a name changes nothing of its own."""
    text = ":".join(str(name).replace("\\", "\\\\").replace(":", "\\:") for name in names)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def mix(word: int) -> int:
    """splitmix64's finalizer: a bijection of 64-bit words that looks random."""
    word &= WORD
    word = ((word ^ (word >> 30)) * _M1) & WORD
    word = ((word ^ (word >> 27)) * _M2) & WORD
    return word ^ (word >> 31)


def mix_words(words: Words) -> Words:
    """`mix` of every word; arrays of uint64 wrap silently, which is the arithmetic meant."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_M1)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_M2)
    return words ^ (words >> np.uint64(31))


def keyed_word(key: int, counter: int) -> int:
    """Number `counter` of the random words that `key` names."""
    return mix(key + (counter + 1) * GOLDEN)


def choose(key: int, counter: int, n: int) -> int:
    """One of 0 ... n-1, uniform up to n / 2**64."""
    return (keyed_word(key, counter) * n) >> 64


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """sum of floor((a*i + b) / m) over i < n, for n, a, b >= 0, m > 0: Euclid's algorithm, O(log) steps."""
    total = 0
    while True:
        if a >= m:
            total += n * (n - 1) // 2 * (a // m)
            a %= m
        if b >= m:
            total += n * (b // m)
            b %= m
        top = a * n + b
        if top < m:
            return total
        n, b, m, a = top // m, top % m, a, m


def count_before(offset: int, place: int, bounds: list[int]) -> list[int]:
    """How many k < place have u(k) in [bounds[j], bounds[j+1]), for each j. Exact.

    x mod M >= t exactly when floor((x - t) / M) + 1 > floor(x / M), so a count is a difference of two floor sums.
    """
    whole = WORD + 1
    sums = [floor_sum(place, whole, GOLDEN, offset + whole - bound) for bound in bounds]
    return [low - high for low, high in pairwise(sums)]


def shuffled_places(key: int, block: int, length: int, edges: Sequence[int] = ()) -> Words:
    """(length,) the places of one block of the stream in the order they are read: a permutation keyed by the block.

    u(k) itself repeats its pattern with small changes; within a block the order is made random, its contents are not.
    `edges` part the block: each stretch between two of them is shuffled among itself.
    """
    places = np.arange(length, dtype=np.uint64)
    words = mix_words(places * np.uint64(GOLDEN) + np.uint64(mix(key + block * GOLDEN)))
    stretches = pairwise((0, *edges, length))
    order = np.concatenate([a + np.argsort(words[a:b], kind="stable") for a, b in stretches])
    return order.astype(np.uint64) + np.uint64(block * length)


def permute(values: Words, sizes: Words, keys: Words) -> Words:
    """Element-wise: the place of `value` in a permutation of 0 ... size-1 that `key` names. All (n,), value < size.

    A Feistel network on the next even number of bits, walked until it lands below `size` (cycle walking): a bijection
    for every size and key, with nothing to store, however many rows a task has.
    """
    half = np.ones_like(sizes)  # bits in each half, at least one
    while (small := (np.uint64(1) << (np.uint64(2) * half)) < sizes).any():
        half = half + small.astype(np.uint64)
    mask = (np.uint64(1) << half) - np.uint64(1)
    out = values.copy()
    pending = np.arange(len(values))
    while len(pending):
        out[pending] = _feistel(out[pending], half[pending], mask[pending], keys[pending])
        pending = pending[out[pending] >= sizes[pending]]
    return out


def _feistel(values: Words, half: Words, mask: Words, keys: Words) -> Words:
    left, right = values >> half, values & mask
    for number in range(_ROUNDS):
        word = mix_words(keys + right + np.uint64((number + 1) * GOLDEN & WORD))
        # The high bits: the low ones of a product depend on the low bits alone.
        left, right = right, left ^ ((word >> np.uint64(32)) & mask)
    return (left << half) | right


def distinct_choices(key: int, n: int) -> Iterator[int]:
    """0 ... n-1 in an order that `key` names, lazily (Fisher-Yates with only the touched places kept)."""
    moved: dict[int, int] = {}
    for j in range(n):
        t = j + choose(key, j, n - j)
        yield moved.get(t, t)
        moved[t] = moved.get(j, j)
