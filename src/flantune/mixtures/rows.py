"""What the mixture must know of a row to choose its wording: which of it is blank, and whether two rows ask the same.

Choices are made from shapes, so that they are the same whether a row's text is at hand or only its token ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from flantune.types import Example

FILLED, BLANK = "…", ""


@dataclass(frozen=True, slots=True)
class RowShape:
    """An example without its words. Few differ within a task, so they are worth looking things up by."""

    fields: tuple[str, ...]
    filled: tuple[bool, ...]  # (fields,) whether it says anything
    targets: int
    rationale: bool | None  # None: there is none; False: blank
    options: int | None

    def example(self, task: str) -> Example:
        """An example of this shape, for what looks at blanks alone."""
        return Example(
            task=task,
            row=0,
            id="",
            fields={name: FILLED if full else BLANK for name, full in zip(self.fields, self.filled, strict=True)},
            targets=(FILLED,) * self.targets,
            rationale=None if self.rationale is None else FILLED if self.rationale else BLANK,
            options=None if self.options is None else (FILLED,) * self.options,
        )


def shape_of(example: Example) -> RowShape:
    return RowShape(
        fields=tuple(example.fields),
        filled=tuple(bool(text.strip()) for text in example.fields.values()),
        targets=len(example.targets),
        rationale=None if example.rationale is None else bool(example.rationale.strip()),
        options=None if example.options is None else len(example.options),
    )


class Rows(Protocol):
    """Where shapes are looked up."""

    def shape(self, task: str, row: int) -> RowShape: ...

    def same_fields(self, task: str, row: int, other: int) -> bool:
        """Whether two rows of a task hold the same fields: one must not be the other's exemplar."""
        ...


class Examples(Protocol):
    def example(self, task: str, row: int) -> Example: ...


class StoredRows:
    """Rows read from a store, each once: for one prompt."""

    def __init__(self, store: Examples) -> None:
        self._store = store
        self._read: dict[tuple[str, int], Example] = {}

    def example(self, task: str, row: int) -> Example:
        found = self._read.get((task, row))
        if found is None:
            found = self._read[task, row] = self._store.example(task, row)
        return found

    def shape(self, task: str, row: int) -> RowShape:
        return shape_of(self.example(task, row))

    def same_fields(self, task: str, row: int, other: int) -> bool:
        return dict(self.example(task, row).fields) == dict(self.example(task, other).fields)
