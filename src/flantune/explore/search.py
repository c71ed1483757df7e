"""Text looked for in every example: a scan without an index, bounded in hits and time, that says where it stopped.

Arrow looks through a batch of rows at once for those that may hold the text; only they are read and looked at closely.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from flantune.errors import RecipeError
from flantune.explore.views import Hit, SearchView
from flantune.tasks import ExampleStore
from flantune.types import Example

CONTEXT = 60  # characters shown before and after a match


def search_examples(
    store: ExampleStore,
    text: str,
    tasks: Sequence[str],
    *,
    start: str | None = None,
    limit: int = 50,
    seconds: float = 2.0,
    clock: Callable[[], float] = time.monotonic,
) -> SearchView:
    """Examples of `tasks`, in order, that hold `text` in a field, target or rationale; letter case does not count.

    Stops after `limit` examples found or `seconds` spent. `start` is an earlier answer's `next`: the scan goes on with
    the example after the last one looked at, so that no example is missed or found twice.
    Raises RecipeError for an empty text or a `start` that is none.
    """
    if not text.strip():
        raise RecipeError("search: give some text to look for.")
    pattern = pattern_of(text)
    task, row = _place(start, tasks)
    until = clock() + seconds
    hits: list[Hit] = []
    scanned = 0
    stopped = following = None
    for name, first, batch in _batches(store, tasks[task:], row):
        if scanned and clock() > until:  # at least one batch a call, so that going on always gets on
            stopped, following = f"{seconds:g} seconds spent", f"{first}:{name}"
            break
        for place in candidates(batch, text).tolist():
            hit = find(pattern, store.example(name, first + place))
            if hit is None:
                continue
            if len(hits) == limit:
                stopped, following = f"{limit} found", f"{hit.row}:{name}"
                scanned += place
                break
            hits.append(hit)
        if stopped:
            break
        scanned += batch.num_rows
    return SearchView(
        hits=tuple(hits),
        scanned=scanned,
        total=sum(store.size(name) for name in tasks),
        next=following,
        stopped=stopped,
    )


def pattern_of(text: str) -> re.Pattern[str]:
    """The text in any letter case, by Unicode's simple folding."""
    # Python's own takes the dotted and the dotless i of Turkish for an i as well; Unicode and Arrow do not.
    exact = {"i": "(?-i:[iI])", "I": "(?-i:[iI])", "İ": "(?-i:İ)", "ı": "(?-i:ı)"}
    return re.compile("".join(exact.get(c) or re.escape(c) for c in text), re.IGNORECASE)


def candidates(batch: pa.RecordBatch, text: str) -> np.ndarray:
    """Places of the batch's rows that may hold the text: all that do, and a few that do not."""
    # Fields are kept as JSON, where a quote or a line break is spelt with a backslash; so is the text looked for.
    escaped = orjson.dumps(text)[1:-1].decode()
    found = _holds(batch.column("fields"), escaped) | _holds(batch.column("rationale"), text)
    targets = batch.column("targets")
    inside = np.flatnonzero(_holds(targets.flatten(), text))
    found[np.asarray(pc.list_parent_indices(targets))[inside]] = True
    return np.flatnonzero(found)


def _holds(column: pa.Array, text: str) -> np.ndarray:
    mask = pc.fill_null(pc.match_substring(column, text, ignore_case=True), False)
    return np.asarray(mask.to_numpy(zero_copy_only=False), dtype=bool)


def find(pattern: re.Pattern[str], example: Example) -> Hit | None:
    """The first match in the example, with what stands around it."""
    for field, text in texts(example):
        match = pattern.search(text)
        if match:
            return Hit(
                task=example.task,
                row=example.row,
                where=example.where,
                field=field,
                before=text[max(0, match.start() - CONTEXT) : match.start()],
                match=match[0],
                after=text[match.end() : match.end() + CONTEXT],
            )
    return None


def texts(example: Example) -> Iterator[tuple[str, str]]:
    yield from example.fields.items()
    yield from (("target", target) for target in example.targets)
    if example.rationale is not None:
        yield "rationale", example.rationale


def _batches(store: ExampleStore, tasks: Sequence[str], row: int) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    """(task, its first row in the batch, the batch), from row `row` of the first task on."""
    for name in tasks:
        for first, batch in store.batches(name, row):
            yield name, first, batch
        row = 0


def _place(start: str | None, tasks: Sequence[str]) -> tuple[int, int]:
    if not start:
        return 0, 0
    row, _, name = start.partition(":")
    if not row.isdigit() or name not in tasks:
        raise RecipeError(f"search: start {start!r} is no place among the tasks looked at; begin the search anew.")
    return list(tasks).index(name), int(row)
