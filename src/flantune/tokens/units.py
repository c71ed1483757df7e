"""Texts tokenised unit by unit, every different unit once: most of what a text says, another has said.

    "left at nine.\n\n The ferry left"  ->  "left" | " at" | " nine." | "\n\n The" | " ferry" | " left"

A unit lies between two safe cuts (boundaries.py), so the ids of a text are those of its units end to end. A tokenizer
takes microseconds for a word; finding one that is known takes nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from flantune.compiled import compiled
from flantune.tokens.boundaries import Boundaries
from flantune.tokens.growing import Column
from flantune.types import Tokens

MOST_POINTS = 1 << 24  # characters of units kept, about 100 MB with their ids; then all are forgotten

Ints = npt.NDArray[np.int64]
Points = npt.NDArray[np.uint32]

# What a character is before a cut: bits of `KnownUnits._kinds`
_BEFORE_BLANK, _BEFORE_BREAK, _SEEN = 1, 2, 4


class KnownUnits:
    """A tokenizer with a memory for units."""

    _table: Ints  # 1 + number of the unit that hashes there; 0: none
    _points: Column
    _point_ends: Column
    _ids: Column
    _id_ends: Column

    def __init__(self, boundaries: Boundaries, most_points: int = MOST_POINTS) -> None:
        self._boundaries = boundaries
        self._most = most_points
        self._kinds = np.zeros(0x110000, dtype=np.uint8)  # by code point
        self._forget()

    def encode(self, texts: Sequence[str]) -> tuple[Tokens, Ints]:
        """(ids of all texts end to end, how many each has)."""
        if len(self._points) > self._most:
            self._forget()
        whole = "".join(texts)
        points = np.frombuffer(whole.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        self._look_at(points)
        text_ends = np.cumsum(np.array([len(text) for text in texts], dtype=np.int64))
        unit_ends = np.empty(len(points) + 1, dtype=np.int64)
        units_of = np.empty(len(texts), dtype=np.int64)  # how many units each text has
        count = compiled(_cut)(points, text_ends, self._kinds, unit_ends, units_of)
        numbers = self._numbered(whole, points, unit_ends[:count])
        return self._joined(numbers, units_of)

    def _numbered(self, whole: str, points: Points, ends: Ints) -> Ints:
        """The number of each unit; new ones are tokenised."""
        known = len(self._point_ends) - 1
        while 2 * (known + len(ends)) > len(self._table):
            self._table = np.zeros(2 * len(self._table), dtype=np.int64)
            compiled(_insert_all)(self._points.values, self._point_ends.values, self._table)
        numbers = np.empty(len(ends), dtype=np.int64)
        fresh = np.empty(len(ends), dtype=np.int64)
        new = compiled(_find)(points, ends, self._points.values, self._point_ends.values, self._table, numbers, fresh)
        if new:
            stops = ends[fresh[:new]]
            starts = np.where(fresh[:new] > 0, ends[fresh[:new] - 1], 0)
            units = [whole[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
            try:
                self._learn(units)
            except BaseException:
                self._forget()  # the table already holds numbers that nothing was learnt for
                raise
        return numbers

    def _learn(self, units: list[str]) -> None:
        self._points.append(np.frombuffer("".join(units).encode("utf-32-le", "surrogatepass"), dtype=np.uint32))
        self._point_ends.append(self._point_ends.values[-1] + np.cumsum([len(unit) for unit in units]))
        rows = self._boundaries.encode(units)
        self._ids.append(np.concatenate(rows))
        self._id_ends.append(self._id_ends.values[-1] + np.cumsum([len(row) for row in rows]))

    def _joined(self, numbers: Ints, units_of: Ints) -> tuple[Tokens, Ints]:
        counts = np.empty(len(units_of), dtype=np.int64)
        ends = self._id_ends.values
        ids = np.empty(int((ends[numbers + 1] - ends[numbers]).sum()), dtype=np.int32)
        compiled(_join)(self._ids.values, ends, numbers, units_of, ids, counts)
        return ids, counts

    def _look_at(self, points: Points) -> None:
        """Which characters may stand before a cut."""
        unseen = points[self._kinds[points] == 0]
        for point in np.unique(unseen).tolist():
            at = self._boundaries.at
            kind = at(chr(point), " ") * _BEFORE_BLANK | at(chr(point), "\n") * _BEFORE_BREAK
            self._kinds[point] = _SEEN | kind

    def _forget(self) -> None:
        self._table = np.zeros(1 << 12, dtype=np.int64)
        self._points = Column(None, "points", np.dtype("<u4"))
        self._point_ends = Column(None, "point_ends", np.dtype("<i8"))
        self._ids = Column(None, "ids", np.dtype("<i4"))
        self._id_ends = Column(None, "id_ends", np.dtype("<i8"))
        for ends in (self._point_ends, self._id_ends):
            ends.append(np.zeros(1, dtype=np.int64))


def _cut(points: Points, text_ends: Ints, kinds: npt.NDArray[np.uint8], unit_ends: Ints, units_of: Ints) -> int:
    count = 0
    start = 0
    for text in range(len(text_ends)):
        before = count
        for k in range(start, text_ends[text] - 1):
            after = points[k + 1]
            kind = kinds[points[k]]
            if (after == 32 and kind & _BEFORE_BLANK) or (after == 10 and kind & _BEFORE_BREAK):
                unit_ends[count] = k + 1
                count += 1
        if text_ends[text] > start:
            unit_ends[count] = text_ends[text]
            count += 1
        units_of[text] = count - before
        start = text_ends[text]
    return count


def _find(points: Points, ends: Ints, known: Points, known_ends: Ints, table: Ints, numbers: Ints, fresh: Ints) -> int:
    """Numbers of units, known ones first; `fresh`: which of `ends` each new one is first seen at. Returns how many."""
    mask = len(table) - 1
    first_new = len(known_ends) - 1
    new = 0
    start = 0
    for unit in range(len(ends)):
        end = ends[unit]
        value = np.uint64(14695981039346656037)
        for k in range(start, end):
            value = (value ^ np.uint64(points[k])) * np.uint64(1099511628211)
        place = np.int64((value ^ (value >> np.uint64(32))) & np.uint64(mask))
        while True:
            number = table[place] - 1
            if number < 0:
                number = first_new + new
                table[place] = number + 1
                fresh[new] = unit
                new += 1
                break
            if number < first_new:
                at, stop = known_ends[number], known_ends[number + 1]
                same = stop - at == end - start
                for k in range(end - start if same else 0):
                    if known[at + k] != points[start + k]:
                        same = False
                        break
            else:
                other = fresh[number - first_new]
                at = ends[other - 1] if other > 0 else 0
                same = ends[other] - at == end - start
                for k in range(end - start if same else 0):
                    if points[at + k] != points[start + k]:
                        same = False
                        break
            if same:
                break
            place = (place + 1) & mask
        numbers[unit] = number
        start = end
    return new


def _insert_all(known: Points, known_ends: Ints, table: Ints) -> None:
    mask = len(table) - 1
    for number in range(len(known_ends) - 1):
        value = np.uint64(14695981039346656037)
        for k in range(known_ends[number], known_ends[number + 1]):
            value = (value ^ np.uint64(known[k])) * np.uint64(1099511628211)
        place = np.int64((value ^ (value >> np.uint64(32))) & np.uint64(mask))
        while table[place] > 0:
            place = (place + 1) & mask
        table[place] = number + 1


def _join(source: Tokens, ends: Ints, numbers: Ints, units_of: Ints, ids: Tokens, counts: Ints) -> None:
    at = 0
    unit = 0
    for text in range(len(units_of)):
        begin = at
        for _ in range(units_of[text]):
            number = numbers[unit]
            unit += 1
            for k in range(ends[number], ends[number + 1]):
                ids[at] = source[k]
                at += 1
        counts[text] = at - begin
