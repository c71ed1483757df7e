from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import StateError
from flantune.tokens.shards import INDEX, ShardReader, ShardWriter, read_index
from flantune.types import Packed

SETTINGS = {"inputs_len": 64, "targets_len": 32, "one_sided": False, "fingerprint": "abc"}


def make_row(i: int, examples: int = 2) -> Packed:
    rng = np.random.default_rng(i)
    inputs_lengths = rng.integers(0, 9, examples).astype(np.int32)
    targets_lengths = rng.integers(1, 5, examples).astype(np.int32)
    return Packed(
        inputs=rng.integers(0, 1000, inputs_lengths.sum()).astype(np.int32),
        targets=rng.integers(0, 1000, targets_lengths.sum()).astype(np.int32),
        inputs_lengths=inputs_lengths,
        targets_lengths=targets_lengths,
        indices=(2**40 + i * 10 + np.arange(examples)).astype(np.int64),
        tasks=tuple(f"task/{(i + k) % 5}" for k in range(examples)),
    )


def assert_same(a: Packed, b: Packed) -> None:
    for name in ("inputs", "targets", "inputs_lengths", "targets_lengths", "indices"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype and left.tolist() == right.tolist(), name
    assert a.tasks == b.tasks


def write(folder: Path, num_rows: int, rows_per_shard: int = 4) -> list[Packed]:
    rows = [make_row(i, 1 + i % 3) for i in range(num_rows)]
    writer = ShardWriter(folder, rows_per_shard)
    for row in rows:
        writer.append(row)
    writer.finish(**SETTINGS)  # type: ignore[arg-type]
    return rows


@settings(deadline=None, max_examples=20)
@given(num_rows=st.integers(1, 15), rows_per_shard=st.integers(1, 6), data=st.data())
def test_what_was_written_is_read_at_any_place(
    tmp_path_factory: pytest.TempPathFactory, num_rows: int, rows_per_shard: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    rows = write(folder, num_rows, rows_per_shard)
    reader = ShardReader(folder, verify=True)
    assert len(reader) == num_rows
    places = data.draw(st.lists(st.integers(0, num_rows - 1), max_size=20))
    for i, got in zip(places, reader.rows(places), strict=True):
        assert_same(got, rows[i])
    with pytest.raises(IndexError):
        reader.row(num_rows)


def test_a_shard_opens_with_any_arrow_library(tmp_path: Path) -> None:
    rows = write(tmp_path, 6)
    table = pa.ipc.open_file(tmp_path / "shard-00001.arrow").read_all()
    assert table.column("inputs").to_pylist() == [r.inputs.tolist() for r in rows[4:]]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["rows"] == 6 and [s["rows"] for s in index["shards"]] == [4, 2]
    for shard in index["shards"]:
        data = (tmp_path / shard["name"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])


def test_a_writer_continues_at_a_later_shard_to_the_same_bytes(tmp_path: Path) -> None:
    rows = write(tmp_path / "whole", 11)
    first = ShardWriter(tmp_path / "parts", 4)
    completed = [first.append(row) for row in rows[:6]]
    assert completed == [False, False, False, True, False, False]
    second = ShardWriter(tmp_path / "parts", 4, done=first.shards, tasks=first.tasks)
    for row in rows[4:]:
        second.append(row)
    second.finish(**SETTINGS)  # type: ignore[arg-type]
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "parts").iterdir())
    assert all((tmp_path / "whole" / n).read_bytes() == (tmp_path / "parts" / n).read_bytes() for n in names)


def test_a_folder_without_index_is_not_whole(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 1)
    writer.append(make_row(0))
    with pytest.raises(StateError, match="did not finish"):
        ShardReader(tmp_path)


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path, 9)
    path = tmp_path / "shard-00001.arrow"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StateError, match=r"shard-00001.arrow: expected \d+ bytes"):
        ShardReader(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path, 9)
    (tmp_path / "shard-00002.arrow").unlink()
    with pytest.raises(StateError, match=r"shard-00002.arrow: missing"):
        ShardReader(tmp_path)


def test_changed_bytes_are_found_when_asked(tmp_path: Path) -> None:
    write(tmp_path, 4)
    path = tmp_path / "shard-00000.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ShardReader(tmp_path)
    with pytest.raises(StateError, match="sha256"):
        ShardReader(tmp_path, verify=True)


def test_a_shard_that_is_no_arrow_file_is_an_error_of_ours(tmp_path: Path) -> None:
    write(tmp_path, 4)
    path = tmp_path / "shard-00000.arrow"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(StateError, match="not a readable Arrow file"):
        ShardReader(tmp_path).row(0)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2}', '{"format": 1}', '{"format": 1, "shards": [{}]}'])
def test_an_index_that_is_none_of_ours_is_an_error_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(StateError, match="build again"):
        read_index(tmp_path)


def test_a_full_disk_leaves_no_half_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ShardWriter(tmp_path, 2)
    assert [writer.append(make_row(i)) for i in range(2)] == [False, True]

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    writer.append(make_row(2))
    with pytest.raises(StateError, match="disk is full"):
        writer.append(make_row(3))
    assert [p.name for p in tmp_path.iterdir()] == ["shard-00000.arrow"]
