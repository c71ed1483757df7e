"""Alpaca: instruction, input (may be blank), output; one JSON array or JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flantune.recipe import CollectionSpec
from flantune.sources.reading import (
    Draft,
    Record,
    TaskRows,
    examples_of,
    file_task,
    first_object,
    json_objects,
    text_of,
)
from flantune.sources.rejects import BadRow, Rejects

KEYS = frozenset({"instruction", "input", "output"})
METADATA = frozenset({"id", "text", "source"})  # `text` is the whole rendered once more


class AlpacaReader:
    name = "alpaca"
    mixture = "alpaca"

    def matches(self, path: Path) -> bool:
        first = first_object(path)
        if first is None or not {"instruction", "output"} <= set(first) <= KEYS | METADATA:
            return False
        return all(isinstance(first[k], str) for k in KEYS & set(first))

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        task = file_task(path, spec, self, category="Instructions", templates="alpaca", fields=("instruction", "input"))
        yield TaskRows(task, examples_of(task, path, json_objects(path), parse_row, rejects))


def parse_row(record: Record) -> Iterator[Draft]:
    extra = record.get("input", "")
    if not isinstance(extra, str):
        raise BadRow("input", "text, blank where there is none", extra)
    fields = {"instruction": text_of(record, "instruction"), "input": extra.strip()}
    yield Draft(fields, (text_of(record, "output"),), id=str(record.get("id") or ""))
