"""Arrays and lists of strings that grow at their end: in memory, or on disk behind what is in memory.

On disk only what a caller notes down as whole counts: files are longer than their content while they grow.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from flantune.errors import StateError
from flantune.tasks.store import give_back

_SMALLEST = 1 << 12  # entries


class Column:
    """A one-dimensional array. With a folder it is mapped from `name` there, which holds its content on opening."""

    def __init__(self, folder: Path | None, name: str, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._path = folder / name if folder is not None else None
        self._count = 0
        self._array: npt.NDArray[Any] = np.empty(0, dtype=dtype)
        if self._path is not None and self._path.exists():
            self._count = self._path.stat().st_size // dtype.itemsize
            if self._count:
                self._array = map_file(self._path, dtype, self._count)

    def __len__(self) -> int:
        return self._count

    @property
    def num_bytes(self) -> int:
        return self._count * self.dtype.itemsize

    @property
    def values(self) -> npt.NDArray[Any]:
        return self._array[: self._count]

    def append(self, values: npt.NDArray[Any]) -> None:
        end = self._count + len(values)
        if end > len(self._array):
            room = max(end, len(self._array) + len(self._array) // 2, _SMALLEST)
            if self._path is not None:
                self._array = map_file(self._path, self.dtype, room)
            else:
                grown = np.empty(room, dtype=self.dtype)
                grown[: self._count] = self.values
                self._array = grown
        self._array[self._count : end] = values
        self._count = end

    def flush(self) -> None:
        if isinstance(self._array, np.memmap):
            self._array.flush()

    def give_back(self) -> None:
        give_back_pages(self._array)


class Strings:
    """Different strings, numbered as they come."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self._path = folder / name if folder is not None else None
        self.strings: list[str] = list(read_lines(self._path)) if self._path is not None else []
        self._numbers = {text: k for k, text in enumerate(self.strings)}
        self._saved = len(self.strings)

    def number(self, text: str) -> int:
        found = self._numbers.get(text)
        if found is None:
            found = self._numbers[text] = len(self.strings)
            self.strings.append(text)
        return found

    def flush(self) -> None:
        if self._path is not None:
            append_lines(self._path, self.strings[self._saved :])
            self._saved = len(self.strings)


def map_file(path: Path, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    """The file as an array of `count` entries, lengthened with zeros if it is shorter.

    The room is taken on disk here: writing to mapped pages of a full disk would kill the process.
    """
    size = count * dtype.itemsize
    with disk_errors(path.parent), path.open("ab") as file:
        if size > file.tell():
            os.posix_fallocate(file.fileno(), 0, size)
    if count == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r+", shape=(count,))


def give_back_pages(array: npt.NDArray[Any]) -> None:
    """A mapped array's pages to the system, so that memory holds no more of a file than is in use. Loses nothing."""
    if isinstance(array.base, mmap.mmap):
        give_back(array.base)


def append_lines(path: Path, values: Iterable[Any]) -> None:
    """One JSON value a line, on disk when this returns."""
    with path.open("ab") as file:
        file.writelines(orjson.dumps(value) + b"\n" for value in values)
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> Iterator[Any]:
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                yield orjson.loads(line)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StateError(f"{folder}: the disk is full. Free some space and run the same command.") from e
        raise StateError(f"{folder}: cannot be written: {e}") from e
