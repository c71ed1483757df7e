"""Shared by the tests of the readers: write a file, read it, see what was kept and what was set aside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flantune.recipe import CollectionSpec
from flantune.sources import Rejects, read_part
from flantune.types import Example, Task


@dataclass(frozen=True)
class Read:
    task: Task
    examples: list[Example]
    rejects: Rejects


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Read]:
    """Write `content` under `name` and read it, by default with whatever reader recognises it."""

    def one(name: str, content: str | bytes, reader: str = "auto", **spec: Any) -> Read:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        rejects = Rejects()
        (rows,) = read_part(path, CollectionSpec(path=str(path), reader=reader, **spec), rejects)
        return Read(rows.task, list(rows.examples), rejects)

    return one
