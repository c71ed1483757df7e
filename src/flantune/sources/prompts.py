"""Generic prompt and completion, as JSON lines or one JSON array. The pairs of names it knows are in PAIRS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flantune.errors import DataError
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
from flantune.sources.rejects import Rejects

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("instruction", "completion"),
    ("inputs", "targets"),
    ("input", "output"),
    ("input", "target"),
)
# Known by sight as well; ("input", "target") is not, for MAWPS and other benchmarks use it too: name the reader then.
SURE_PAIRS = tuple(p for p in PAIRS if p != ("input", "target"))
METADATA = frozenset({"id", "idx", "source", "dataset", "task", "category", "metadata"})


class PromptsReader:
    name = "prompts"
    mixture = "prompts"

    def matches(self, path: Path) -> bool:
        first = first_object(path)
        if first is None:
            return False
        pair = pair_of(first)
        # Any further key may change what the row means (predictions hold prompt, response and the reference).
        return (
            pair in SURE_PAIRS
            and set(first) - set(pair or ()) <= METADATA
            and all(isinstance(first[k], str) for k in pair or ())
        )

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        first = first_object(path)
        pair = pair_of(first) if first is not None else None
        if pair is None:
            known = ", ".join("/".join(p) for p in PAIRS)
            raise DataError(
                str(path),
                field="keys",
                expected=f"one of {known}",
                got=sorted(first or {}),
                mend="Or map columns with reader: table.",
            )
        task = file_task(path, spec, self, category="Instructions", templates="prompts", fields=("prompt",))
        prompt, completion = pair

        def parse(record: Record) -> Iterator[Draft]:
            yield Draft(
                {"prompt": text_of(record, prompt)}, (text_of(record, completion),), id=str(record.get("id") or "")
            )

        yield TaskRows(task, examples_of(task, path, json_objects(path), parse, rejects))


def pair_of(record: Record) -> tuple[str, str] | None:
    return next((p for p in PAIRS if p[0] in record and p[1] in record), None)
