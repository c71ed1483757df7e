"""What all readers share: opening files, walking their rows, and turning a parsed row into Examples.

file --rows--> (place, record) --parse--> Draft --check, number--> Example
                    |                |
                    +--- BadRow -----+--> Rejects
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast

import orjson

from flantune.errors import DataError, shorten
from flantune.recipe import CollectionSpec
from flantune.sources.rejects import BadRow, Rejects
from flantune.types import Example, Task

GZIP_MAGIC = b"\x1f\x8b"
SNIFF_BYTES = 1 << 18  # what `matches` may look at
FIRST_LINE_BYTES = 1 << 22  # JSON lines are long: a T0 prompt has 26,000 characters
BOM = b"\xef\xbb\xbf"

T = TypeVar("T")
Record = dict[str, Any]


@dataclass(frozen=True)
class TaskRows:
    """A task and its kept examples, read as they are asked for. `has_rationale` and `has_options` of `task` say what
    the format may hold; what the rows do hold is known only once they are read (the store settles it)."""

    task: Task
    examples: Iterator[Example]


class Reader(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def mixture(self) -> str:
        """The mixture its tasks belong to where a collection names none."""

    def matches(self, path: Path) -> bool:
        """Whether the file is surely of this format, by its name and its first bytes. Never raises on content."""

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]: ...


@dataclass(frozen=True, slots=True)
class Draft:
    """What a row says, before it is checked and numbered."""

    fields: Mapping[str, str]
    targets: tuple[str, ...]
    rationale: str | None = None
    options: tuple[str, ...] | None = None
    id: str = ""


def file_task(
    path: Path,
    spec: CollectionSpec,
    reader: Reader,
    *,
    category: str,
    templates: str,
    fields: tuple[str, ...],
    dataset: str | None = None,
) -> Task:
    """The one task of a file, named after it, with free text for answers. `dataset`: the file's name when not given."""
    mixture = spec.mixture or reader.mixture
    return Task(
        name=f"{mixture}/{stem(path)}",
        mixture=mixture,
        dataset=dataset or stem(path),
        category=category,
        templates=templates,
        fields=fields,
        metric="rouge_l",
        source=reader.name,
        path=str(path),
    )


def selected(path: Path, root: Path, spec: CollectionSpec) -> bool:
    """Whether a collection takes a file of its folder; globs are tried on its name and on its path within it."""
    names = (path.name, path.relative_to(root).as_posix())

    def any_match(globs: tuple[str, ...]) -> bool:
        return any(fnmatchcase(n, g) for g in globs for n in names)

    return any_match(spec.include) and not any_match(spec.exclude)


# Opening -------------------------------------------------------------------------------------------------------------


def stem(path: Path) -> str:
    """The file name without .gz and without its last suffix: "a/b.v1.jsonl.gz" -> "b.v1"."""
    name = path.name.removesuffix(".gz")
    return Path(name).stem


def suffix(path: Path) -> str:
    """The last suffix below .gz, lower case: ".jsonl"."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, unzipped where they begin as gzip does. DataError names a file that cannot be read whole."""
    try:
        with path.open("rb") as raw:
            if raw.peek(2)[:2] == GZIP_MAGIC:
                with gzip.open(raw) as unzipped:
                    yield cast(BinaryIO, unzipped)
            else:
                yield raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
        raise DataError(str(path), field="file", expected="a whole gzip file", got=str(e)) from None
    except OSError as e:
        raise DataError(str(path), field="file", expected="a readable file", got=e.strerror or str(e)) from None


def read_bytes(path: Path) -> bytes:
    with open_bytes(path) as f:
        return f.read().removeprefix(BOM)


def head(path: Path, limit: int = SNIFF_BYTES) -> bytes:
    """The first bytes, unzipped; empty where they cannot be read, so that sniffing never raises."""
    try:
        with open_bytes(path) as f:
            return f.read(limit).removeprefix(BOM)
    except DataError:
        return b""


def is_empty(path: Path) -> bool:
    """Whether the (unzipped) file holds nothing but white space."""
    with open_bytes(path) as f:
        while chunk := f.read(SNIFF_BYTES):
            if chunk.removeprefix(BOM).strip():
                return False
    return True


def first_line(path: Path) -> str | None:
    """The first line without its line break; None where it is no UTF-8 or the file no text."""
    try:
        with open_bytes(path) as f:
            return f.readline(FIRST_LINE_BYTES).removeprefix(BOM).rstrip(b"\r\n").decode("utf-8")
    except (DataError, UnicodeDecodeError):
        return None


def first_object(path: Path) -> Record | None:
    """The first object of JSON lines or of one JSON array; None where there is none."""
    line = first_line(path)
    if line is None:
        return None
    if line.lstrip().startswith("["):
        text = head(path).decode("utf-8", errors="ignore").lstrip()[1:].lstrip()
        try:
            value, _ = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError):
            return None
    else:
        try:
            value = parse_json(line)
        except orjson.JSONDecodeError:
            return None
    return value if isinstance(value, dict) else None


def parse_json(text: bytes | str) -> Any:
    """One JSON value. NaN and Infinity, which pandas and json.dump write for what is missing, are read as null.

    Raises orjson.JSONDecodeError; lone surrogates, which no UTF-8 file could hold again, are refused too.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(text, parse_constant=lambda _: None)
            orjson.dumps(value)
        except (ValueError, TypeError, RecursionError):
            value = None
        if value is None:
            raise
        return value


def load_json(path: Path) -> Any:
    """A file that is one JSON value. DataError names a file that is not."""
    try:
        return parse_json(read_bytes(path))
    except orjson.JSONDecodeError as e:
        raise DataError(
            f"{path}:{e.lineno}", field="file", expected="JSON in UTF-8", got=f"{e.msg} at column {e.colno}"
        ) from None


# Rows ----------------------------------------------------------------------------------------------------------------


def text_lines(path: Path) -> Iterator[tuple[str, str | BadRow]]:
    """(line number, line) of every line that is not blank. Lines end at "\\n" alone: U+2028 and U+0085 are text."""
    with open_bytes(path) as f:
        for number, raw in enumerate(f, 1):
            line = raw.removeprefix(BOM) if number == 1 else raw
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if not line.strip():
                continue
            try:
                yield str(number), line.decode("utf-8")
            except UnicodeDecodeError as e:
                yield str(number), BadRow("line", "UTF-8", e.object[e.start : e.start + 8])


def json_lines(path: Path) -> Iterator[tuple[str, Record | BadRow]]:
    for place, line in text_lines(path):
        if isinstance(line, BadRow):
            yield place, line
            continue
        try:
            value = parse_json(line)
        except orjson.JSONDecodeError as e:
            yield place, BadRow("line", "a JSON object", line, mend=f"{e.msg} at column {e.colno}.")
            continue
        yield place, value if isinstance(value, dict) else BadRow("line", "a JSON object", value)


def json_objects(path: Path) -> Iterator[tuple[str, Record | BadRow]]:
    """The objects of JSON lines, or of one JSON array (places are then rows, counted from 1)."""
    if not head(path, 4096).lstrip().startswith(b"["):
        yield from json_lines(path)
        return
    for number, value in enumerate(load_json(path), 1):
        yield str(number), value if isinstance(value, dict) else BadRow("row", "a JSON object", value)


def table_rows(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, str] | BadRow]]:
    """Rows of a CSV or TSV with a header. Places are physical line numbers; every cell stays the text it is."""
    csv.field_size_limit(1 << 30)  # a cell of the default's 131,072 characters is ordinary here
    with open_bytes(path) as raw:
        # newline="": line breaks inside quoted cells are the cell's own.
        reader = csv.reader(io.TextIOWrapper(raw, "utf-8-sig", newline=""), delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) != len(header):
                raise DataError(f"{path}:1", field="header", expected="column names that differ", got=header)
            line = reader.line_num
            for cells in reader:
                place, line = str(line + 1), reader.line_num
                if not cells:
                    continue
                if len(cells) == len(header):
                    yield place, dict(zip(header, cells, strict=True))
                else:
                    yield place, BadRow("row", f"{len(header)} cells", len(cells))
        except csv.Error as e:
            raise DataError(f"{path}:{reader.line_num}", field="row", expected="well-formed CSV", got=str(e)) from None
        except UnicodeDecodeError as e:
            got = e.object[e.start : e.start + 8]
            raise DataError(f"{path}", field=f"text after line {reader.line_num}", expected="UTF-8", got=got) from None


def header_of(path: Path, delimiter: str) -> list[str]:
    """The column names of a CSV or TSV; empty where the first line is none."""
    line = first_line(path)
    if not line:
        return []
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


# Drafts --------------------------------------------------------------------------------------------------------------


def text_of(record: Mapping[str, Any], key: str) -> str:
    """A key's text. BadRow where it is missing, no text, or blank."""
    if key not in record:
        raise BadRow(key, "the key", sorted(map(str, record)))
    value = record[key]
    if not isinstance(value, str) or not value.strip():
        raise BadRow(key, "text that is not blank", value)
    return value


def texts_of(record: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A key's list of texts; blank ones are left to `examples_of`."""
    value = record.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise BadRow(key, "a list of texts", value)
    return tuple(value)


def choice_of(record: Mapping[str, Any], key: str, options: tuple[str, ...]) -> str:
    """The option an integer (or whole-number text) names."""
    value = record.get(key)
    # Nine digits are more than any list is long; int() refuses thousands of them with an error of its own.
    place = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else value
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(options):
        raise BadRow(key, f"0 to {len(options) - 1}", value)
    return options[place]


def examples_of(
    task: Task,
    path: Path,
    rows: Iterable[tuple[str, T | BadRow]],
    parse: Callable[[T], Iterable[Draft]],
    rejects: Rejects,
) -> Iterator[Example]:
    """Checked, numbered examples. A row gives as many as `parse` finds in it, or is set aside whole.

    Targets lose white space at their edges and repeats; one left blank is dropped, a row left with none is set aside.
    """
    number = 0
    for place, record in rows:
        rejects.row(path)
        try:
            if isinstance(record, BadRow):
                raise record
            drafts = [_checked(d) for d in parse(record)]
        except BadRow as bad:
            rejects.add_bad(path, place, bad)
            continue
        for k, draft in enumerate(drafts):
            made_up = f"{stem(path)}-{place}" if len(drafts) == 1 else f"{stem(path)}-{place}-{k}"
            yield Example(
                task=task.name,
                row=number,
                id=draft.id or made_up,
                fields=draft.fields,
                targets=draft.targets,
                rationale=draft.rationale,
                options=draft.options,
                where=f"{path.name}:{place}",
            )
            number += 1


def _checked(draft: Draft) -> Draft:
    targets = tuple(dict.fromkeys(t for t in map(str.strip, draft.targets) if t))
    if not targets:
        raise BadRow("target", "text that is not blank", list(draft.targets))
    rationale = (draft.rationale or "").strip() or None
    options = draft.options
    if options is not None:
        options = tuple(o.strip() for o in options)
        if len(options) < 2 or not all(options):
            raise BadRow("options", "two or more, none blank", list(options))
        if not any(t in options for t in targets):
            raise BadRow("target", "one of the options", targets[0], mend=f"Options: {shorten(list(options))}.")
    return Draft(draft.fields, targets, rationale, options, draft.id)
