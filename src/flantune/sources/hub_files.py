"""How the hub lays out a split's files, and which of them belong together.

FOLDER/train-00000-of-00002.parquet      shards as they are pushed; older ones carry a hash after the count
FOLDER/train/0000.parquet                the hub's own conversion
FOLDER/train.csv                         one file, its split the name's last word
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from flantune.errors import DataError
from flantune.recipe import CollectionSpec
from flantune.sources.reading import Record, selected, stem
from flantune.sources.rejects import BadRow
from flantune.sources.table import parquet_rows

SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<shards>\d{5})(-[0-9a-f]{16})?\.parquet")
CONVERTED = re.compile(r"(?P<number>\d{4})\.parquet")


def split_of(path: Path) -> str | None:
    """The split that a shard of the hub's layout belongs to."""
    match = SHARD.fullmatch(path.name)
    return match["split"] if match else path.parent.name if CONVERTED.fullmatch(path.name) else None


def split_and_folder(path: Path) -> tuple[str, Path]:
    """A file's split, and the folder that holds its set or its configuration. A single file: "glue-train.csv"."""
    split = split_of(path)
    if split is None:
        return stem(path).rpartition("-")[2], path.parent
    return split, path.parent.parent if CONVERTED.fullmatch(path.name) else path.parent


def shards_of(path: Path, spec: CollectionSpec) -> tuple[Path, ...]:
    """All shards of the split that this file is one of, in order; those that the collection leaves out are not among
    them. Raises DataError where one is not there at all."""
    there: dict[int, Path] = {}
    match = SHARD.fullmatch(path.name)
    if match is not None and int(match["number"]) < int(match["shards"]):
        for file in path.parent.glob("*.parquet"):
            m = SHARD.fullmatch(file.name)
            if m and (m["split"], m["shards"]) == (match["split"], match["shards"]):
                there[int(m["number"])] = file
        # One too many is enough to see that some are missing.
        wanted = [f"{match['split']}-{k:05d}-of-{match['shards']}.parquet" for k in range(int(match["shards"]))]
        wanted = wanted[: len(there) + 1]
    elif CONVERTED.fullmatch(path.name):
        there = {int(m["number"]): f for f in path.parent.glob("*.parquet") if (m := CONVERTED.fullmatch(f.name))}
        wanted = [f"{k:04d}.parquet" for k in range(max(there) + 1)]
    else:
        return (path,)
    missing = [name for k, name in enumerate(wanted) if k not in there]
    if missing:
        raise DataError(
            str(path),
            field="shards",
            expected="all of the split",
            got=f"{missing[0]} is not there",
            mend="Fetch it again, or name the files that are there one by one.",
        )
    return tuple(f for _, f in sorted(there.items()) if selected(f, Path(spec.path), spec))


def shard_rows(
    shards: Sequence[Path], columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, Record | BadRow]]:
    """Rows of Parquet files one after the other, counted from 1 through all of them."""
    number = 0
    for shard in shards:
        for _, record in parquet_rows(shard, columns, optional):
            number += 1
            yield str(number), record
