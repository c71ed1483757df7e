"""CSV, TSV, Parquet and JSON lines through a mapping of roles to columns.

Roles: `answer` (or `target`), `rationale`, `options`, `id`; any other role is a field of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flantune.errors import DataError, RecipeError
from flantune.recipe import CollectionSpec
from flantune.sources.reading import (
    Draft,
    Record,
    TaskRows,
    examples_of,
    header_of,
    json_objects,
    stem,
    suffix,
    table_rows,
)
from flantune.sources.rejects import BadRow, Rejects
from flantune.types import Task

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = frozenset({*DELIMITERS, ".parquet", ".jsonl", ".json"})
ANSWERS = ("answer", "target")
NOT_FIELDS = frozenset({*ANSWERS, "rationale", "options", "id"})


class TableReader:
    name = "table"
    mixture = "table"

    def matches(self, path: Path) -> bool:
        """By suffix alone: `reader_for` asks this reader only for collections that map columns."""
        return suffix(path) in SUFFIXES

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        columns = checked_columns(spec)
        rows: Iterator[tuple[str, Record | BadRow]]
        if suffix(path) == ".parquet":
            rows = parquet_rows(path, tuple(columns.values()))
        elif suffix(path) in DELIMITERS:
            delimiter = DELIMITERS[suffix(path)]
            check_header(header_of(path, delimiter), columns.values(), str(path))
            rows = table_rows(path, delimiter)
        else:
            rows = json_objects(path)
        mixture = spec.mixture or self.mixture
        task = mapped_task(f"{mixture}/{stem(path)}", stem(path), mixture, columns, self.name, str(path))
        yield TaskRows(task, examples_of(task, path, rows, mapped_parser(columns), rejects))


def checked_columns(spec: CollectionSpec) -> dict[str, str]:
    roles = set(spec.columns)
    example = "columns: {question: text, answer: label}"
    if not roles & set(ANSWERS) or not roles - NOT_FIELDS:
        raise RecipeError(
            f"collection '{spec.path}': key 'columns': expected the role 'answer' and at least one field, "
            f"got {sorted(roles)}. For instance {example}."
        )
    if set(ANSWERS) <= roles:
        raise RecipeError(
            f"collection '{spec.path}': key 'columns': 'answer' and 'target' are one role; give one of them."
        )
    return dict(spec.columns)


def check_header(header: Sequence[str], columns: Iterable[str], where: str) -> None:
    missing = [c for c in columns if c not in header]
    if missing:
        raise DataError(
            where,
            field="header",
            expected=f"the columns {missing}",
            got=list(header),
            mend="Mend 'columns' in the recipe.",
        )


def mapped_task(name: str, dataset: str, mixture: str, columns: Mapping[str, str], source: str, path: str) -> Task:
    return Task(
        name=name,
        mixture=mixture,
        dataset=dataset,
        category="Table",
        templates="generic",
        fields=tuple(role for role in columns if role not in NOT_FIELDS),
        has_rationale="rationale" in columns,
        has_options="options" in columns,
        metric="exact_match" if "options" in columns else "rouge_l",
        source=source,
        path=path,
    )


def mapped_parser(columns: Mapping[str, str]) -> Callable[[Record], Iterator[Draft]]:
    answer = next(columns[role] for role in ANSWERS if role in columns)
    fields = {role: column for role, column in columns.items() if role not in NOT_FIELDS}

    def parse(record: Record) -> Iterator[Draft]:
        worded = {role: cell_text(record, column) for role, column in fields.items()}
        if not any(text.strip() for text in worded.values()):
            raise BadRow(", ".join(fields.values()), "text in one of them", worded)
        rationale = cell_text(record, columns["rationale"]) if "rationale" in columns else None
        options = options_of(record.get(columns["options"]), columns["options"]) if "options" in columns else None
        name = cell_text(record, columns["id"]) if "id" in columns else ""
        yield Draft(worded, answers_of(record, answer), rationale, options, name)

    return parse


def cell_text(record: Record, column: str) -> str:
    """A cell as text; whole and decimal numbers of typed columns are written as Python writes them."""
    value = record.get(column)
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and value == value:
        return str(value)
    raise BadRow(column, "text or a number", value)


def answers_of(record: Record, column: str) -> tuple[str, ...]:
    """One answer, or a typed column's list of them."""
    value = record.get(column)
    if isinstance(value, list) and value:
        return tuple(cell_text({column: v}, column) for v in value)
    return (cell_text(record, column),)


def options_of(value: Any, column: str) -> tuple[str, ...] | None:
    """A list; or its JSON; or texts between bars, "yes|no". A blank cell: this row has none."""
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if not text.startswith("["):
            return tuple(text.split("|"))
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            raise BadRow(column, "a JSON list, or texts between bars", text) from None
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(v, (str, int, float)) for v in value):
        raise BadRow(column, "a JSON list, or texts between bars", value)
    return tuple(map(str, value))


def batch_records(batch: pa.RecordBatch) -> Iterator[Record | BadRow]:
    """A batch's rows; one whose text is no UTF-8, which Arrow does not check, is a bad row of its own."""
    try:
        records = batch.to_pylist()
    except (OverflowError, ValueError):
        records = [one_record(batch.slice(i, 1)) for i in range(batch.num_rows)]
    yield from records


def one_record(row: pa.RecordBatch) -> Record | BadRow:
    try:
        return cast(Record, row.to_pylist()[0])
    except UnicodeDecodeError as e:
        return BadRow("row", "text in UTF-8", e.object[e.start : e.start + 8])
    except (OverflowError, ValueError) as e:
        return BadRow("row", "values that can be read", str(e))


def parquet_columns(path: Path) -> list[str]:
    """The columns' names; none where the file is no Parquet file."""
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError, ValueError):
        return []


def parquet_rows(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, Record | BadRow]]:
    """Rows of a Parquet file, counted from 1; only these columns are read, a batch at a time."""
    try:
        with pq.ParquetFile(path) as file:
            header = file.schema_arrow.names
            check_header(header, columns, str(path))
            wanted = [*columns, *(c for c in optional if c in header)]
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=list(dict.fromkeys(wanted))):
                for record in batch_records(batch):
                    number += 1
                    yield str(number), record
    except (pa.ArrowException, OSError) as e:
        raise DataError(str(path), field="file", expected="a Parquet file", got=str(e)) from None
