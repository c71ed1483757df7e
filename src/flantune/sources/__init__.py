"""From source files to Examples: one reader per format people have, all listed in READERS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flantune.errors import DataError, RecipeError
from flantune.recipe import CollectionSpec
from flantune.sources.alpaca import AlpacaReader
from flantune.sources.chat import ChatReader
from flantune.sources.code import CodeReader
from flantune.sources.dialog import DialogReader
from flantune.sources.flan_cot import FlanCotReader
from flantune.sources.hub import HubReader
from flantune.sources.muffin import MuffinReader
from flantune.sources.muffin_hub import MuffinHubReader
from flantune.sources.native import SUFFIX as NATIVE_SUFFIX
from flantune.sources.native import NativeReader, rows_path
from flantune.sources.niv2 import Niv2Reader
from flantune.sources.p3 import P3Reader
from flantune.sources.prompts import PromptsReader
from flantune.sources.qed import QedReader
from flantune.sources.reading import Draft, Reader, TaskRows, is_empty, selected
from flantune.sources.rejects import BadRow, Rejects
from flantune.sources.table import TableReader

__all__ = [
    "READERS",
    "VERSION",
    "BadRow",
    "Draft",
    "Reader",
    "Rejects",
    "TaskRows",
    "claim_name",
    "collection_files",
    "collection_parts",
    "read_collection",
    "read_part",
    "reader_for",
    "rows_file",
]

VERSION = 2  # raised when a reader gives other examples than before, so that stores are built anew

TABLE, HUB = TableReader(), HubReader()
# In the order they are asked; P3's rows are prompt/completion rows too, so it stands before `prompts`.
READERS: tuple[Reader, ...] = (
    NativeReader(),
    Niv2Reader(),
    FlanCotReader(),
    QedReader(),
    P3Reader(),
    MuffinReader(),
    MuffinHubReader(),
    DialogReader(),
    CodeReader(),
    PromptsReader(),
    AlpacaReader(),
    ChatReader(),
    TABLE,
    HUB,
)


def reader_for(path: Path, spec: CollectionSpec) -> Reader | None:
    """The reader the collection names; else the first that surely knows the file; None where none does.

    A table is only taken for one where the collection maps columns: any CSV would match.
    """
    if spec.reader != "auto":
        for reader in READERS:
            if reader.name == spec.reader:
                return reader
        known = ", ".join(r.name for r in READERS)
        raise RecipeError(f"collection '{spec.path}': unknown reader '{spec.reader}'. Known: {known}, auto.")
    if spec.columns and TABLE.matches(path):
        return TABLE
    return next((r for r in READERS if r is not TABLE and r.matches(path)), None)


def is_hub(spec: CollectionSpec) -> bool:
    return spec.reader == "hub" or (spec.reader == "auto" and HUB.matches(Path(spec.path)))


def collection_files(spec: CollectionSpec) -> tuple[Path, ...]:
    """A collection's files in sorted order. Hidden ones are none; rows beside a NAME.task.yaml belong to it.

    Empty for a hub set, whose files are not ours to list.
    """
    root = Path(spec.path)
    if is_hub(spec):
        return ()
    if root.is_file():
        return (root,)
    if not root.is_dir():
        raise RecipeError(f"collection '{spec.path}': no such file or folder.")
    files = sorted(p for p in root.rglob("*") if p.is_file() and not _hidden(p.relative_to(root)))
    owned = {rows_path(p) for p in files if p.name.endswith(NATIVE_SUFFIX)}
    kept = tuple(p for p in files if p not in owned and selected(p, root, spec))
    if not kept:
        raise RecipeError(f"collection '{spec.path}': no file is selected by include {list(spec.include)}, "
                          f"exclude {list(spec.exclude)}.")  # fmt: skip
    return kept


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def collection_parts(spec: CollectionSpec) -> tuple[Path, ...]:
    """What is read one after the other: the files, or the hub set as a whole."""
    return (Path(spec.path),) if is_hub(spec) else collection_files(spec)


def rows_file(path: Path) -> Path:
    """The file whose rows are counted: the rows beside a NAME.task.yaml, else the file itself."""
    return rows_path(path) if path.name.endswith(NATIVE_SUFFIX) else path


def read_part(path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
    """The tasks of one part. A file in a folder that is empty, or that no reader knows, is entered in `rejects` as
    skipped; one that was named by itself is an error."""
    if is_hub(spec):
        yield from HUB.read(path, spec, rejects)
        return
    named = path == Path(spec.path)
    if not _is_text(path.name):
        # Its name would stand in every example's `where` and in the task's own name, and no JSON file could hold it.
        if named:
            raise DataError(ascii(str(path)), field="file name", expected="UTF-8", got=path.name, mend="Rename it.")
        rejects.skip(path, "its name is no UTF-8")
        return
    if rows_file(path).is_file() and is_empty(rows_file(path)):
        if named:
            raise DataError(str(path), field="file", expected="rows", got="an empty file")
        rejects.skip(path, "empty file")
        return
    reader = reader_for(path, spec)
    if reader is not None:
        yield from reader.read(path, spec, rejects)
        return
    if named:
        raise DataError(
            str(path),
            field="file",
            expected="a format that a reader surely knows",
            got=path.name,
            mend="Name the reader; a table needs 'columns' too. Readers: " + ", ".join(r.name for r in READERS) + ".",
        )
    rejects.skip(path, "no reader knows it")


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_collection(
    spec: CollectionSpec, rejects: Rejects, max_rejected: float, seen: dict[str, str] | None = None
) -> Iterator[TaskRows]:
    """The tasks of a file, a folder (recursively, sorted) or a hub set, each to be read to its end before the next.

    Raises DataError once a file is read of which more than `max_rejected` (a share of its rows) was malformed, and
    where two files give one task name. `seen` (name -> file) carries the names from one collection to the next.
    """
    names = {} if seen is None else seen
    parts = collection_parts(spec)
    found = False
    for path in parts:
        for rows in read_part(path, spec, rejects):
            found = True
            claim_name(names, rows, path)
            yield rows
        rejects.check(rows_file(path), max_rejected)
    if not found:
        empty = sum(rows_file(path).is_file() and is_empty(rows_file(path)) for path in parts)
        raise DataError(
            spec.path,
            field="files",
            expected="at least one with rows, in a format that a reader knows",
            got=f"none among {len(parts)}" + (f" ({empty} of them empty)" if empty else ""),
            mend="Fill the empty ones." if empty == len(parts) else "Name the reader in the recipe.",
        )


def claim_name(names: dict[str, str], rows: TaskRows, path: Path) -> None:
    """Enter a task's name. Two tasks of one name would be mixed up silently everywhere after."""
    name = rows.task.name
    if name in names:
        raise DataError(
            str(path),
            field="task name",
            expected="a name of its own",
            got=name,
            mend=f"{names[name]} has it already. Rename or exclude one of them.",
        )
    names[name] = str(path)
