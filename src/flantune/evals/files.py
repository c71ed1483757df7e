"""The files benchmarks come in: text, JSON, JSON lines and CSV, plain or gzipped, and Parquet as the hub has it, with
errors that name the place."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from flantune.errors import DataError, RecipeError

FETCH = "`flantune tasks fetch --list` names what can be had from its publisher."


def existing(path: Path, what: str) -> Path:
    if not path.exists():
        kind = "folder" if path.suffix == "" else "file"
        raise RecipeError(f"{path}: no such {kind} ({what}). Is --data DIR right? {FETCH}")
    return path


def existing_either(*paths: Path, what: str) -> Path:
    """The first path that exists."""
    found = next((p for p in paths if p.exists()), None)
    return found if found is not None else existing(paths[0], what)


def read_text(path: Path) -> str:
    """A UTF-8 file, plain or .gz, without a byte order mark, its line ends untouched."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return data.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as e:
        raise DataError(str(path), field="(file)", expected="UTF-8 text", got=str(e)) from None


def read_json(path: Path) -> Any:
    """NaN and Infinity, which Python's own writer puts out, are read too."""
    text = read_text(path)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as e:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
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
    rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
    for number, row in enumerate(rows, start=1):
        if len(row) != columns:
            raise DataError(f"{path}:row {number}", field="(row)", expected=f"{columns} columns", got=row)
    if not rows:
        raise DataError(str(path), field="(file)", expected="at least one row", got="none")
    return rows


def read_table(path: Path, columns: Iterable[str], delimiter: str = ",") -> list[dict[str, str]]:
    """Rows of a CSV file with a header, every cell text; a column that is not there is an error."""
    text = read_text(path)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    there = list(reader.fieldnames or [])
    for column in columns:
        if column not in there:
            raise DataError(f"{path}:1", field=column, expected="a column of this name", got=there)
    rows = []
    for number, row in enumerate(reader, start=1):
        if None in row or None in row.values():
            raise DataError(
                f"{path}:row {number}", field="(row)", expected=f"{len(there)} columns", got=list(row.values())
            )
        rows.append(dict(row))
    if not rows:
        raise DataError(str(path), field="(file)", expected="at least one row", got="none")
    return rows


_HUB_SPLITS = {"val": ("val", "validation"), "dev": ("dev", "validation")}


def hub_files(folder: Path, split: str) -> list[Path]:
    """A split's files where `folder` is laid out as a data set's on the hub, `test-00000-of-00001.parquet`; else none.

    The hub calls some publishers' val and dev "validation".
    """
    names = _HUB_SPLITS.get(split, (split,))
    return next((files for n in names if (files := sorted(folder.glob(f"{n}-*.parquet")))), [])


def read_parquet(files: Iterable[Path], columns: Iterable[str]) -> list[tuple[str, dict[str, Any]]]:
    """(place, row) of every row; a column that is not there is an error."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[tuple[str, dict[str, Any]]] = []
    for path in files:
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as e:
            raise DataError(str(path), field="(file)", expected="a Parquet file", got=str(e).split("\n")[0]) from None
        for column in columns:
            if column not in table.column_names:
                raise DataError(str(path), field=column, expected="a column of this name", got=table.column_names)
        rows += [(f"{path}:row {number}", row) for number, row in enumerate(table.to_pylist(), start=1)]
    return rows
