"""What `flantune tasks check` says of collections: how many tasks and examples they hold, and what cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flantune.errors import DataError
from flantune.recipe import CollectionSpec
from flantune.sources import Rejects, claim_name, collection_parts, read_part, rows_file

Status = Literal["read", "skipped", "malformed", "over the limit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """One file's line of the report. `rows` were seen, `rejected` set aside, `examples` kept."""

    path: str
    status: Status
    reader: str = ""
    tasks: tuple[str, ...] = ()
    rows: int = 0
    examples: int = 0
    rejected: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """`reasons` counts the rows set aside by why; `lines` has every file, in the order they were read."""

    files: int
    tasks: int
    examples: int
    rejected: int
    reasons: dict[str, int]
    lines: tuple[FileCheck, ...]

    @property
    def problems(self) -> tuple[FileCheck, ...]:
        """The files a build would stop at."""
        return tuple(line for line in self.lines if line.status in ("malformed", "over the limit"))


def check_collections(
    specs: Sequence[CollectionSpec],
    max_rejected: float = 0.01,
    rejected_path: Path | None = None,
    on_file: Callable[[FileCheck], None] | None = None,
) -> CheckReport:
    """Read everything, keep nothing, stop at nothing: a file that would stop a build becomes a line that says so.

    `rejected_path`: where the rows set aside go, as JSON lines. Raises RecipeError for a path that is not there.
    """
    seen: dict[str, str] = {}
    lines: list[FileCheck] = []
    with Rejects(rejected_path) as rejects:
        for spec in specs:
            for path in collection_parts(spec):
                line = _check_file(path, spec, rejects, max_rejected, seen)
                lines.append(line)
                if on_file is not None:
                    on_file(line)
        return CheckReport(
            files=len(lines),
            tasks=sum(len(line.tasks) for line in lines),
            examples=sum(line.examples for line in lines),
            rejected=rejects.total_rejected(),
            reasons=dict(rejects.reasons.most_common()),
            lines=tuple(lines),
        )


def _check_file(
    path: Path, spec: CollectionSpec, rejects: Rejects, max_rejected: float, seen: dict[str, str]
) -> FileCheck:
    tasks: list[str] = []
    examples = 0
    reader, problem = "", ""
    status: Status = "read"
    try:
        for rows in read_part(path, spec, rejects):
            reader = rows.task.source
            claim_name(seen, rows, path)
            kept = sum(1 for _ in rows.examples)
            examples += kept
            if kept:
                tasks.append(rows.task.name)
        if str(path) in rejects.skipped:
            status, problem = "skipped", rejects.skipped[str(path)]
    except DataError as e:
        status, problem = "malformed", str(e)
    if status == "read":
        try:
            rejects.check(rows_file(path), max_rejected)
        except DataError as e:
            status, problem = "over the limit", str(e)
    counted = str(rows_file(path))
    return FileCheck(
        path=str(path),
        status=status,
        reader=reader,
        tasks=tuple(tasks),
        rows=rejects.rows[counted],
        examples=examples,
        rejected=rejects.rejected[counted],
        problem=problem,
    )
