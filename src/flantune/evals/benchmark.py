"""What a benchmark is: items from files, an answer read out of an output, a score for the answer."""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson

from flantune.errors import DataError, RecipeError
from flantune.types import Item

Fits = Callable[[str], bool]  # does this prompt fit the model's input?
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer read out of an output and the rule that read it; no answer is None, never a wrong one."""

    answer: str | None
    rule: str


@dataclass(frozen=True, slots=True)
class Posed:
    """An item and how many exemplars had to go for its prompt to fit."""

    item: Item
    shots_dropped: int = 0


class Benchmark(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> str:
        """Its folder's name inside a data folder; empty where there is none."""
        ...

    @property
    def modes(self) -> tuple[str, ...]: ...

    @property
    def default_shots(self) -> Mapping[str, int]:
        """By mode."""
        ...

    @property
    def default_split(self) -> str: ...

    @property
    def sampled_tasks(self) -> bool:
        """Are its tasks a sample of a larger world of tasks? Then intervals must vary over tasks too."""
        ...

    def items(
        self,
        path: Path,
        mode: str,
        *,
        shots: int | None = None,
        split: str | None = None,
        limit: int | None = None,
        seed: int = 0,
        fits: Fits = ...,
    ) -> Iterator[Posed]:
        """The questions, worded. `limit`: items per task, the first ones in an order keyed by `seed`."""
        ...

    def extract(self, item: Item, output: str) -> Extraction: ...

    def score(self, item: Item, extraction: Extraction) -> float | None:
        """In [0, 1]; None where there is no answer to score."""
        ...


def everything_fits(prompt: str) -> bool:
    return True


def score_equal(item: Item, extraction: Extraction) -> float | None:
    """1 where the answer is one of the references, blanks at the edges aside."""
    if extraction.answer is None:
        return None
    return float(extraction.answer.strip() in {r.strip() for r in item.references})


def keep_fitting(word: Callable[[int], str], shots: int, fits: Fits) -> tuple[str, int]:
    """The prompt with as many of its first `shots` exemplars as fit, and their number; exemplars go from the end.

    A prompt that does not fit without any comes back so: the engine cuts it and says so.
    """
    for kept in range(shots, -1, -1):
        prompt = word(kept)
        if fits(prompt):
            return prompt, kept
    return word(0), 0


def chosen(rows: Sequence[T], limit: int | None, *key: object) -> list[tuple[int, T]]:
    """At most `limit` rows with their places, in file order: the first ones of an order keyed by `key`.

    A larger limit with the same key holds all rows of a smaller one.
    """
    numbered = list(enumerate(rows))
    if limit is None or limit >= len(numbered):
        return numbered
    prefix = ":".join(str(k) for k in key)

    def place(pair: tuple[int, T]) -> bytes:
        return hashlib.blake2b(f"{prefix}:{pair[0]}".encode(), digest_size=8).digest()

    return sorted(sorted(numbered, key=place)[:limit], key=lambda pair: pair[0])


def check_mode(benchmark: Benchmark, mode: str) -> None:
    if mode not in benchmark.modes:
        raise RecipeError(f"{benchmark.name}: no mode '{mode}'; it has {', '.join(benchmark.modes)}.")


def check_shots(benchmark: Benchmark, shots: int | None, mode: str, most: int) -> int:
    """The number of exemplars to show: the benchmark's own unless stated; more than there are is an error."""
    asked = benchmark.default_shots[mode] if shots is None else shots
    if not 0 <= asked <= most:
        raise RecipeError(f"{benchmark.name}: {asked} shots asked, expected 0 to {most}.")
    return asked


def existing(path: Path, what: str) -> Path:
    if not path.exists():
        raise RecipeError(f"{path}: no such {'folder' if path.suffix == '' else 'file'} ({what}). Is --data DIR right?")
    return path


def existing_either(*paths: Path, what: str) -> Path:
    """The first path that exists."""
    found = next((p for p in paths if p.exists()), None)
    return found if found is not None else existing(paths[0], what)


def read_text(path: Path) -> str:
    """A UTF-8 file, plain or .gz, its line ends untouched."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise DataError(str(path), field="(file)", expected="UTF-8 text", got=str(e)) from None


def read_json(path: Path) -> Any:
    try:
        return orjson.loads(read_text(path))
    except orjson.JSONDecodeError as e:
        raise DataError(str(path), field="(file)", expected="JSON", got=str(e)) from None


def read_json_lines(path: Path, fields: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Every line an object that has `fields`, text all of them."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as e:
            raise DataError(f"{path}:{number}", field="(line)", expected="a JSON object", got=str(e)) from None
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number}", field="(line)", expected="a JSON object", got=row)
        for field in fields:
            if not isinstance(row.get(field), str):
                raise DataError(f"{path}:{number}", field=field, expected="text", got=row.get(field))
        rows.append(row)
    if not rows:
        raise DataError(str(path), field="(file)", expected="at least one row", got="none")
    return rows


def read_csv(path: Path, columns: int) -> list[list[str]]:
    """Rows of text; quoted cells may hold line breaks, and no word is taken for a missing value."""
    import io

    rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
    for number, row in enumerate(rows, start=1):
        if len(row) != columns:
            raise DataError(f"{path}:row {number}", field="(row)", expected=f"{columns} columns", got=row)
    if not rows:
        raise DataError(str(path), field="(file)", expected="at least one row", got="none")
    return rows
