"""Files and folders that appear whole or not at all: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from flantune.errors import StateError

_TEMPORARY = ".tmp-"


def write_json(path: Path, value: Any) -> None:
    """Whole, as `write_whole` writes; keys in the order given."""
    data = (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
    write_whole(path, lambda file: file.write(data))


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> str:
    """Write a file that is either whole or not there, also through a power cut. Returns its sha256 in hex."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.replace(temporary, path)
        _fsync(path.parent)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StateError(
                f"{path}: the disk is full. What was written before is whole; free some space and run the same command."
            ) from e
        raise StateError(f"{path}: cannot be written: {e}") from e
    return digest


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder to write in; on leaving the block it becomes `final`, replacing what was there.

    Whatever goes wrong inside, `final` is left as it was and the half-written folder is removed. Raises StateError
    where the disk cannot take it (full, over quota, read-only).
    """
    temporary = final.parent / f"{_TEMPORARY}{final.name}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        _flush(temporary)
        _replace(temporary, final)
    except (OSError, SafetensorError) as e:  # safetensors reports a full disk as an error of its own
        raise StateError(
            f"{final}: could not be written: {e}. What was there before is untouched; free some space or point 'runs' "
            "at another disk, then give the same command again."
        ) from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written in `folder`. Only where no other process writes there."""
    if folder.is_dir():
        for entry in folder.iterdir():
            if entry.name.startswith(_TEMPORARY):
                shutil.rmtree(entry, ignore_errors=True)


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _fsync(path)


def _replace(temporary: Path, final: Path) -> None:
    aside = final.parent / f"{_TEMPORARY}old-{final.name}-{os.getpid()}"
    if final.exists():  # a folder that is not empty cannot be renamed over
        final.rename(aside)
    temporary.rename(final)
    _fsync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
