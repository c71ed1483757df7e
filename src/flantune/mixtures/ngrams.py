"""Normalised words and their n-grams as 64-bit hashes: what leakage and duplicates are looked for with.

Two texts are equal here where a reader would call them the same words: NFKC, case folded, punctuation and white space
one blank, commas inside numbers gone. Scripts written without blanks (Chinese, Japanese, Thai, ...) go by characters.

    "The 1,000 HATS—cost: ２元"  ->  the 1000 hats cost 2 元
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flantune.compiled import compiled

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

_COMMA_IN_NUMBER = re.compile(r"(?<=\d),(?=\d)")
_SPACE = ord(" ")
_ASCII = bytes(ord(chr(b).lower()) if chr(b).isalnum() and b < 128 else _SPACE for b in range(256))
# First and last code points of scripts that put no blank between words.
_UNSPACED = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


class _Folding(dict[int, str]):
    """What becomes of a code point after case folding; filled as they are met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if category == "Cf":  # joiners and soft hyphens are no part of the words
            folded = ""
        elif category[0] not in "LNM":
            folded = " "
        elif any(first <= code <= last for first, last in _UNSPACED):
            folded = f" {character} "
        else:
            folded = character
        self[code] = folded
        return folded


_FOLDING = _Folding()


def words(text: str) -> list[str]:
    """The normalised words of a text, in order."""
    return folded(text).decode().split()


def normalise(text: str) -> str:
    return " ".join(words(text))


def folded(text: str) -> bytes:
    """The normalised words as UTF-8 with one or more blanks between them."""
    if text.isascii():
        if "," in text:
            text = _COMMA_IN_NUMBER.sub("", text)
        return text.encode().translate(_ASCII)
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # Lone surrogates are no letters, so what is left can always be encoded.
    return _COMMA_IN_NUMBER.sub("", text).translate(_FOLDING).encode()


@dataclass(frozen=True, slots=True)
class WordHashes:
    """Texts as hashes of their words: text i is words[starts[i]:starts[i + 1]]. (words,) and (texts + 1,)"""

    words: Hashes
    starts: Places

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, text: int) -> Hashes:
        return self.words[self.starts[text] : self.starts[text + 1]]


def hash_words(texts: Sequence[str]) -> WordHashes:
    parts = [folded(text) for text in texts]
    ends = np.cumsum([len(p) for p in parts], dtype=np.int64)
    data = np.frombuffer(b"".join(parts), dtype=np.uint8)
    hashes, starts = compiled(_hash_words)(data, ends)
    return WordHashes(hashes, starts)


def hash_grams(texts: WordHashes, n: int, *, whole_if_short: bool = False) -> WordHashes:
    """Hashes of every n words in a row, repeats and all: texts of w words have w - n + 1, shorter ones none.

    With `whole_if_short` a text of 1 to n - 1 words has one, of all its words.
    """
    hashes, starts = compiled(_hash_grams)(texts.words, texts.starts, n, whole_if_short)
    return WordHashes(hashes, starts)


class GramTable:
    """A set of n-gram hashes, looked up fast in long texts. `keys` ascending, each once."""

    def __init__(self, n: int, keys: Hashes) -> None:
        self.n, self.keys = n, keys
        size = 1 << max(16, (16 * max(1, len(keys)) - 1).bit_length())  # about one false maybe in sixteen
        self._maybe = np.zeros(size, dtype=np.bool_)
        self._maybe[keys & np.uint64(size - 1)] = True

    def find(self, texts: WordHashes) -> tuple[Places, Places]:
        """(text, key) of every place where a key stands, in order; a key that stands twice is told twice."""
        return compiled(_find)(texts.words, texts.starts, self.n, self.keys, self._maybe)


def _hash_words(data: npt.NDArray[np.uint8], ends: Places) -> tuple[Hashes, Places]:
    hashes = np.empty(len(data) // 2 + len(ends) + 1, dtype=np.uint64)
    starts = np.zeros(len(ends) + 1, dtype=np.int64)
    count, place = 0, 0
    for text in range(len(ends)):
        inside = False
        h = np.uint64(0)
        while place < ends[text]:
            byte = data[place]
            place += 1
            if byte == 32:
                if inside:
                    hashes[count] = h
                    count += 1
                    inside = False
                continue
            if not inside:
                inside = True
                h = np.uint64(0xCBF29CE484222325)
            h = (h ^ np.uint64(byte)) * np.uint64(0x100000001B3)  # FNV-1a
        if inside:
            hashes[count] = h
            count += 1
        starts[text + 1] = count
    return hashes[:count].copy(), starts


def _hash_grams(words: Hashes, starts: Places, n: int, whole_if_short: bool) -> tuple[Hashes, Places]:
    base = np.uint64(0x9E3779B97F4A7C15)
    top = np.uint64(1)
    for _ in range(n):
        top *= base
    hashes = np.empty(len(words) + 1, dtype=np.uint64)
    out_starts = np.zeros(len(starts), dtype=np.int64)
    count = 0
    for text in range(len(starts) - 1):
        first, last = starts[text], starts[text + 1]
        h = np.uint64(0)
        for place in range(first, last):
            h = h * base + words[place]
            if place - first >= n:
                h -= top * words[place - n]
            short_end = whole_if_short and place == last - 1 and last - first < n
            if place - first >= n - 1 or short_end:
                z = h ^ (h >> np.uint64(30))
                z *= np.uint64(0xBF58476D1CE4E5B9)
                z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                hashes[count] = z ^ (z >> np.uint64(31))
                count += 1
        out_starts[text + 1] = count
    return hashes[:count].copy(), out_starts


def _find(words: Hashes, starts: Places, n: int, keys: Hashes, maybe: npt.NDArray[np.bool_]) -> tuple[Places, Places]:
    base = np.uint64(0x9E3779B97F4A7C15)
    top = np.uint64(1)
    for _ in range(n):
        top *= base
    mask = np.uint64(len(maybe) - 1)
    texts = np.empty(64, dtype=np.int64)
    found = np.empty(64, dtype=np.int64)
    count = 0
    for text in range(len(starts) - 1):
        first, last = starts[text], starts[text + 1]
        h = np.uint64(0)
        for place in range(first, last):
            h = h * base + words[place]
            if place - first >= n:
                h -= top * words[place - n]
            if place - first < n - 1:
                continue
            z = h ^ (h >> np.uint64(30))
            z *= np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            if not maybe[z & mask]:
                continue
            low, high = 0, len(keys)
            while low < high:
                middle = (low + high) // 2
                if keys[middle] < z:
                    low = middle + 1
                else:
                    high = middle
            if low == len(keys) or keys[low] != z:
                continue
            if count == len(texts):
                texts = np.concatenate((texts, np.empty(count, dtype=np.int64)))
                found = np.concatenate((found, np.empty(count, dtype=np.int64)))
            texts[count] = text
            found[count] = low
            count += 1
    return texts[:count].copy(), found[:count].copy()
