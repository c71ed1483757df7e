"""Token ids of source fields, each text tokenised once, for prompts composed from tokens.

A text is kept as its ends and its middle. The middle, from the first safe cut to the last (boundaries.py), has the same
ids in any prompt; the ends join what the prompt puts beside them and are looked up as units.

    "The ferry left at nine."   head "The"   middle [ferry, left, at]   tail " nine."

    tokens/ids.bin        int32, every middle and every unit, end to end
           texts.bin      one record a text: where its middle lies, its ends (numbers in ends.jsonl), which option it is
           rows.bin       one record a row of the store: its first text, its shape, a hash of its fields
           ends.jsonl     strings    units.jsonl  [string, place, count]    shapes.jsonl
           state.json     how much of each file is whole

Appended to, and named whole by `state.json` alone: what a killed run wrote after it is cut off by the next. One process
writes; others that open the folder meanwhile keep what they add to themselves.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import orjson

from flantune.mixtures.rows import RowShape, shape_of
from flantune.tasks import ExampleStore
from flantune.tokens.boundaries import Boundaries
from flantune.tokens.growing import (
    Column,
    Strings,
    append_lines,
    disk_errors,
    give_back_pages,
    map_file,
    read_lines,
)
from flantune.tokens.units import KnownUnits
from flantune.types import Example
from flantune.whole import write_json

VERSION = 3
STATE = "state.json"
FILL_ROWS = 4096  # rows read and tokenised at once
GIVE_BACK_EVERY = 4096  # rows looked up or added before the pages of the files are given back
ROWS_AT_ONCE = 512  # records of rows.bin; each brings up to 64 kB of its neighbours into memory
_LINES = ("ends.jsonl", "units.jsonl", "shapes.jsonl")

TEXT = np.dtype([("off", "<i8"), ("n", "<i4"), ("head", "<i4"), ("tail", "<i4"), ("option", "<i4")])
ROW = np.dtype(
    [("text", "<i8"), ("shape", "<i4"), ("hash", "<u4")]
)  # text: number of the first one plus 1; 0: not read

# (head, place of the middle, its count, tail or None where the text has no cut, the head's first character if a cut
# may lie before it)
Part = tuple[str, int, int, str | None, str]
Texts = list[tuple[Part, int]]  # a row's texts, each with the number of the option it equals, -1 for none
Row = tuple[RowShape, Texts, int]  # and a hash of the fields


class TokenStore:
    """The texts of an ExampleStore in tokens. Every row has a place; its texts are added when they are asked for.

    Use as a context manager, or call `close`. Not shared by threads.
    """

    def __init__(
        self, store: ExampleStore, boundaries: Boundaries, folder: Path | str | None, fingerprint: str
    ) -> None:
        """Open or begin. `folder` None keeps all in memory. `fingerprint` is the tokenizer's."""
        self.boundaries = boundaries
        self.texts_tokenised = 0  # texts of the source this object gave to the tokenizer; units and wording not counted
        self._known = KnownUnits(boundaries)
        self._store = store
        stamp = f"{VERSION}:{store.fingerprint}:{fingerprint}".encode()
        self._stamp = hashlib.blake2b(stamp, digest_size=8).hexdigest()
        self._starts: dict[str, int] = {}
        total = 0
        for task, size in store.sizes.items():
            self._starts[task] = total
            total += size
        self._total_rows = total
        self._rows_used = self._records_read = 0  # since pages were last given back
        self._lock: IO[bytes] | None = None
        self.folder = self._claim(Path(folder)) if folder is not None else None
        self._ids = Column(self.folder, "ids.bin", np.dtype("<i4"))
        self._texts = Column(self.folder, "texts.bin", TEXT)
        self._ends = Strings(self.folder, "ends.jsonl")
        self._shapes: list[RowShape] = []
        self._saved_shapes = 0
        self._shape_numbers: dict[RowShape, int] = {}
        self.units: dict[str, tuple[int, int]] = {}  # place and count of each unit's ids
        self._new_units: list[tuple[str, int, int]] = []
        self._literals: dict[str, Part] = {}
        self._openings: list[str] = []  # of the strings in `_ends`
        self._at_hand: dict[int, Row] = {}
        self._rows = self._open_rows()
        self._load()

    # Reading ---------------------------------------------------------------------------------------------------------

    @property
    def ids(self) -> npt.NDArray[np.int32]:
        return self._ids.values

    def look_up(self, wanted: Mapping[str, Iterable[int]]) -> None:
        """Have these rows at hand, tokenised, and no others: many at once cost a third of one by one."""
        self.fill(wanted)
        empty = [np.empty(0, dtype=np.int64)]
        numbers = np.unique(
            np.concatenate(empty + [self._starts[t] + np.fromiter(rows, dtype=np.int64) for t, rows in wanted.items()])
        )
        self._at_hand = dict(zip(numbers.tolist(), self._read_rows(numbers), strict=True))

    def _row(self, task: str, row: int) -> Row:
        number = self._starts[task] + row
        found = self._at_hand.get(number)
        if found is None:
            self.fill({task: [row]})
            self._used(1)
            (found,) = self._read_rows(np.array([number]))
            self._at_hand[number] = found
        return found

    def _read_rows(self, numbers: npt.NDArray[np.int64]) -> list[Row]:
        records = self._records(numbers)
        shapes = [self._shapes[k] for k in records["shape"].tolist()]
        firsts = records["text"].astype(np.int64) - 1
        counts = np.array([_num_texts(shape) for shape in shapes], dtype=np.int64)
        ends = np.cumsum(counts)
        places = np.repeat(firsts - (ends - counts), counts) + np.arange(int(counts.sum()))
        strings, openings = self._ends.strings, self._openings
        for text in strings[len(openings) :]:
            openings.append(_opening(text))
        texts: Texts = [
            ((strings[head], off, n, None if tail < 0 else strings[tail], openings[head]), option)
            for off, n, head, tail, option in self._texts.values[places].tolist()
        ]
        hashes = records["hash"].tolist()
        return [
            (shape, texts[end - count : end], own)
            for shape, end, count, own in zip(shapes, ends.tolist(), counts.tolist(), hashes, strict=True)
        ]

    def _records(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Of rows.bin, which has a place for every row of the collection: never all of it in memory."""
        found = np.empty(len(numbers), dtype=ROW)
        for at in range(0, len(numbers), ROWS_AT_ONCE):
            found[at : at + ROWS_AT_ONCE] = self._rows[numbers[at : at + ROWS_AT_ONCE]]
            self._records_read += min(ROWS_AT_ONCE, len(numbers) - at)
            if self._records_read >= ROWS_AT_ONCE:
                give_back_pages(self._rows)
                self._records_read = 0
        return found

    def shape(self, task: str, row: int) -> RowShape:
        return self._row(task, row)[0]

    def same_fields(self, task: str, row: int, other: int) -> bool:
        if self._row(task, row)[2] != self._row(task, other)[2]:
            return False
        return dict(self._store.example(task, row).fields) == dict(self._store.example(task, other).fields)

    def parts(self, task: str, row: int) -> tuple[RowShape, Texts]:
        """The row's shape and its texts: fields in the shape's order, targets, rationale, options."""
        shape, texts, _ = self._row(task, row)
        return shape, texts

    def literal(self, text: str) -> Part:
        """A template's own text."""
        part = self._literals.get(text)
        if part is None:
            (part,) = self._make_parts([text])
            self._literals[text] = part
        return part

    # Adding ----------------------------------------------------------------------------------------------------------

    def fill(self, wanted: Mapping[str, Iterable[int]]) -> int:
        """Tokenise the rows that are not yet there. Returns how many there were."""
        added = 0
        for task, rows in wanted.items():
            start = self._starts[task]
            numbers = np.unique(np.fromiter(rows, dtype=np.int64))
            missing = numbers[self._records(start + numbers)["text"] == 0]
            for at in range(0, len(missing), FILL_ROWS):
                some = missing[at : at + FILL_ROWS].tolist()
                self._add_rows(task, self._store.read(task, some))
                added += len(some)
                self._used(len(some))
        return added

    def add_units(self, units: Sequence[str]) -> None:
        """Tokenise units that are not yet there."""
        for text, place, count in zip(units, *self._append(units), strict=True):
            self.units[text] = (place, count)
            self._new_units.append((text, place, count))

    def save(self) -> None:
        """Make everything added so far survive a kill."""
        if self.folder is None:
            return
        with disk_errors(self.folder):
            for column in (self._ids, self._texts):
                column.flush()
            self._ends.flush()
            append_lines(self.folder / "units.jsonl", self._new_units)
            append_lines(self.folder / "shapes.jsonl", [asdict(s) for s in self._shapes[self._saved_shapes :]])
            assert isinstance(self._rows, np.memmap)
            self._rows.flush()
        self._new_units = []
        self._saved_shapes = len(self._shapes)
        sizes = {name: (self.folder / name).stat().st_size for name in _LINES}
        columns = {"ids.bin": self._ids, "texts.bin": self._texts}
        sizes |= {name: column.num_bytes for name, column in columns.items() if len(column)}
        write_json(self.folder / STATE, {"stamp": self._stamp, "texts": len(self._texts), "bytes": sizes})

    def give_back(self) -> None:
        """What was read and written of the files, out of this process's memory; the system keeps what it has room for.

        Else it would hold the tokens of every row it came by: in time, of the whole collection.
        """
        self._rows_used = 0
        give_back_pages(self._rows)
        for column in (self._ids, self._texts):
            column.give_back()

    def _used(self, rows: int) -> None:
        self._rows_used += rows
        if self._rows_used >= GIVE_BACK_EVERY:
            self.give_back()

    def close(self) -> None:
        self.save()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> TokenStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add_rows(self, task: str, examples: Sequence[Example]) -> None:
        texts: list[str] = []
        options: list[int] = []
        firsts: list[int] = []
        for example in examples:
            firsts.append(len(texts))
            own = [*example.fields.values(), *example.targets]
            # What `formats.options.worded_answer` looks for: the first choice the trimmed answer is.
            choices = [c.strip() for c in example.options or ()]
            options += [-1] * len(example.fields)
            options += [choices.index(t.strip()) if t.strip() in choices else -1 for t in example.targets]
            if example.rationale is not None:
                own.append(example.rationale)
            own += example.options or ()
            options += [-1] * (len(own) - len(example.fields) - len(example.targets))
            texts += own
        self.texts_tokenised += len(texts)
        first_text = len(self._texts)
        records = np.empty(len(texts), dtype=TEXT)
        for k, (head, off, n, tail, _) in enumerate(self._make_parts(texts)):
            records[k] = (off, n, self._ends.number(head), -1 if tail is None else self._ends.number(tail), options[k])
        self._texts.append(records)
        start = self._starts[task]
        for example, first in zip(examples, firsts, strict=True):
            shape = self._shape_number(shape_of(example))
            self._rows[start + example.row] = (first_text + first + 1, shape, _fields_hash(example))

    def _make_parts(self, texts: Sequence[str]) -> list[Part]:
        ends = [self.boundaries.ends(text) for text in texts]
        middles = [text[cut[0] : cut[1]] for text, cut in zip(texts, ends, strict=True) if cut and cut[0] < cut[1]]
        places = iter(zip(*self._append(middles), strict=True))
        parts: list[Part] = []
        for text, cut in zip(texts, ends, strict=True):
            if cut is None:
                parts.append((text, 0, 0, None, _opening(text)))
                continue
            place, count = next(places) if cut[0] < cut[1] else (0, 0)
            head = text[: cut[0]]
            parts.append((head, place, count, text[cut[1] :], _opening(head)))
        return parts

    def _append(self, texts: Sequence[str]) -> tuple[list[int], list[int]]:
        """Place in `ids` and number of ids of each text."""
        if not texts:
            return [], []
        ids, counts = self._known.encode(texts)
        places = len(self._ids) + np.cumsum(counts) - counts
        self._ids.append(ids)
        return places.tolist(), counts.tolist()

    def _shape_number(self, shape: RowShape) -> int:
        number = self._shape_numbers.get(shape)
        if number is None:
            number = self._shape_numbers[shape] = len(self._shapes)
            self._shapes.append(shape)
        return number

    # Opening ---------------------------------------------------------------------------------------------------------

    def _claim(self, folder: Path) -> Path | None:
        """The folder, cut to what is whole of it; None where another process writes: then this one keeps to memory."""
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            self._lock = None
            return None
        state = _whole_state(folder, self._stamp)
        if state is None:
            for name in (*_LINES, "ids.bin", "texts.bin", "rows.bin", STATE):
                (folder / name).unlink(missing_ok=True)
            return folder
        for name, size in state["bytes"].items():
            os.truncate(folder / name, size)
        return folder

    def _open_rows(self) -> npt.NDArray[Any]:
        if self.folder is None:
            return np.zeros(self._total_rows, dtype=ROW)
        begun = (self.folder / "rows.bin").exists()
        rows = map_file(self.folder / "rows.bin", ROW, self._total_rows)
        if not begun:
            return rows
        # A killed run may have numbered texts that it never came to save.
        for at in range(0, len(rows), 1 << 20):
            chunk = rows["text"][at : at + (1 << 20)]
            if (chunk > len(self._texts)).any():
                chunk[chunk > len(self._texts)] = 0
            give_back_pages(rows)  # all of them are looked at
        return rows

    def _load(self) -> None:
        if self.folder is None:
            return
        for shape in read_lines(self.folder / "shapes.jsonl"):
            fields, filled = tuple(shape.pop("fields")), tuple(shape.pop("filled"))
            self._shape_number(RowShape(fields=fields, filled=filled, **shape))
        self._saved_shapes = len(self._shapes)
        self.units = {text: (off, n) for text, off, n in read_lines(self.folder / "units.jsonl")}


def _whole_state(folder: Path, stamp: str) -> dict[str, Any] | None:
    """state.json, where it is of these tokens and the files hold what it says."""
    try:
        state = json.loads((folder / STATE).read_bytes())
        whole = state["stamp"] == stamp and all((folder / f).stat().st_size >= n for f, n in state["bytes"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if whole else None


def _opening(text: str) -> str:
    return text[0] if text[:1] in (" ", "\n") else ""


def _num_texts(shape: RowShape) -> int:
    return len(shape.fields) + shape.targets + (shape.rationale is not None) + (shape.options or 0)


def _fields_hash(example: Example) -> int:
    data = orjson.dumps(dict(example.fields), option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little")
