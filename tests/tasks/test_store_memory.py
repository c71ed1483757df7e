"""A store does not gather in memory as it is read: the pages of its files are given back."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import orjson
import pytest

from flantune.recipe import CollectionSpec
from flantune.tasks import build_store
from flantune.tasks import store as store_module

TASKS, ROWS, TEXT = 6, 4_000, "A sentence of some length that is here to fill pages. " * 12


def resident(folder: Path) -> int:
    """Bytes of the folder's files that are mapped into this process and in memory, by the kernel's account."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split(" ", 1)[0]
        if "-" in first and not first.endswith(":"):
            ours = str(folder) in line
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_every_example_leaves_little_of_the_files_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "RELEASE_EVERY", 16)  # in proportion to files as small as these
    data = tmp_path / "data"
    data.mkdir()
    for t in range(TASKS):
        rows = ({"prompt": f"{t} {i} {TEXT}", "completion": f"{i}<|endoftext|>"} for i in range(ROWS))
        (data / f"task_{t}.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    store = build_store([CollectionSpec(path=str(data))], tmp_path / "store")
    size = sum(p.stat().st_size for p in (tmp_path / "store" / "examples").iterdir())
    assert size > 15e6
    places = [(task, row) for task in store.tasks for row in range(0, ROWS, 3)]
    random.Random(0).shuffle(places)
    worst = 0
    for n, (task, row) in enumerate(places):
        example = store.example(task, row)
        assert example.fields["prompt"].split(" ", 2)[1] == str(row) == example.targets[0]
        if n % 1000 == 0:
            worst = max(worst, resident(tmp_path / "store"))
    assert 0 < worst < size / 3
    for task in store.tasks:
        for row, example in enumerate(store.examples(task)):
            assert example.row == row
        worst = max(worst, resident(tmp_path / "store"))
    assert worst < size / 3
