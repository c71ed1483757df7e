from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import DataError, StateError
from flantune.recipe import TokensSpec
from flantune.tokens.block import unpacked_block
from flantune.tokens.build import CARD, PROGRESS, build_shards, read_card
from flantune.tokens.card import Asked
from flantune.tokens.encode import EncodedBatch
from flantune.tokens.even import EvenShares
from flantune.tokens.shards import INDEX, ShardReader
from flantune.types import Encoded
from flantune.whole import write_json

SPEC = TokensSpec(inputs_len=32, targets_len=16, block=20, shard_rows=5)


def block_of(b: int) -> EncodedBatch:
    """A function of b alone, with drops and, every fourth block, nothing at all."""
    rng = np.random.default_rng(b)
    if b % 4 == 3:
        return EncodedBatch(examples=(), dropped=tuple((b * 20 + i, "all gone") for i in range(20)))
    examples = tuple(
        Encoded(
            inputs=rng.integers(0, 99, rng.integers(1, 33)).astype(np.int32),
            targets=rng.integers(0, 99, rng.integers(1, 9)).astype(np.int32),
            index=b * 20 + i,
            task=f"task/{rng.integers(4)}",
            mixture="m",
        )
        for i in range(1, 20)
    )
    return EncodedBatch(examples=examples, dropped=((b * 20, "too long"),), formats=("zs_opt",) * 19)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


ASKED = Asked(mixtures={"m": 1.0}, draws={"m": {"task/0": 0.25}})


class Stop(Exception):
    pass


def test_a_build_holds_exactly_the_rows_asked_and_its_card_counts_them(tmp_path: Path) -> None:
    card = build_shards(block_of, 47, SPEC, tmp_path, asked=ASKED)
    reader = ShardReader(tmp_path, verify=True)
    rows = list(reader.rows(range(len(reader))))
    assert len(rows) == card.rows == 47
    assert [s.rows for s in reader.index.shards] == [5] * 9 + [2]
    assert sum(len(r.indices) for r in rows) == card.total().examples
    assert sum(len(r.inputs) for r in rows) == card.total().input_tokens
    assert card.formats == {"zs_opt": card.total().examples}
    assert card.tasks["task/0"].asked == card.mixtures["m"].drawn == 0.25
    assert read_card(tmp_path).to_json() == card.to_json()
    by_index = {e.index: e for b in range(12) for e in block_of(b).examples}
    for row in rows:
        at = 0
        for index, length in zip(row.indices.tolist(), row.inputs_lengths.tolist(), strict=True):
            assert row.inputs[at : at + length].tolist() == by_index[index].inputs.tolist()
            at += length
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".arrow") == [CARD, INDEX]


def two_mixtures(b: int) -> EncodedBatch:
    """The same with every third example of another mixture."""
    block = block_of(b)
    named = tuple(replace(e, mixture="n" if e.index % 3 == 0 else "m") for e in block.examples)
    return replace(block, examples=named)


def halves() -> EvenShares:
    """Far from what comes, so that much is held."""
    return EvenShares("target_tokens", {"m": 0.5, "n": 0.5})


@settings(deadline=None, max_examples=15)
@given(
    stops=st.lists(st.integers(0, 9), max_size=4),
    num_rows=st.integers(1, 45),
    one_sided=st.booleans(),
    even=st.sampled_from([None, halves]),
)
def test_interrupted_anywhere_it_ends_in_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    stops: list[int],
    num_rows: int,
    one_sided: bool,
    even: Callable[[], EvenShares] | None,
) -> None:
    def build(blocks: Callable[[int], EncodedBatch], folder: Path) -> None:
        build_shards(blocks, num_rows, SPEC, folder, one_sided=one_sided, even=even and even())

    whole = tmp_path_factory.mktemp("whole")
    build(two_mixtures, whole)
    parts = tmp_path_factory.mktemp("parts")
    for stop in stops:

        def stopping(b: int, stop: int = stop) -> EncodedBatch:
            if b == stop:
                raise Stop
            return two_mixtures(b)

        try:
            build(stopping, parts)
        except Stop:
            assert not (parts / INDEX).exists()
    build(two_mixtures, parts)
    assert contents(parts) == contents(whole)


def test_shares_are_evened_alike_whether_blocks_come_packed_or_not(tmp_path: Path) -> None:
    build_shards(two_mixtures, 40, SPEC, tmp_path / "encoded", even=halves())
    build_shards(lambda b: unpacked_block(two_mixtures(b), SPEC), 40, SPEC, tmp_path / "unpacked", even=halves())
    build_shards(two_mixtures, 40, SPEC, tmp_path / "as drawn")
    assert contents(tmp_path / "encoded") == contents(tmp_path / "unpacked")
    evened, drawn = (read_card(tmp_path / name).mixtures for name in ("encoded", "as drawn"))
    assert abs(evened["n"].target_tokens / evened["m"].target_tokens - 1) < 0.5
    assert drawn["n"].target_tokens / drawn["m"].target_tokens < 0.6
    with pytest.raises(StateError, match="another recipe"):
        build_shards(two_mixtures, 40, SPEC, tmp_path / "as drawn", even=halves())


def test_interrupted_between_any_two_writes_it_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename of the build is in turn the last thing that happens."""
    build_shards(block_of, 23, SPEC, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    rename = os.replace
    for last in range(1, 20):
        folder, done = tmp_path / str(last), 0

        def replace(a: Path, b: Path, last: int = last) -> None:
            nonlocal done
            if done == last:
                raise Stop
            done += 1
            rename(a, b)

        monkeypatch.setattr(os, "replace", replace)
        try:
            build_shards(block_of, 23, SPEC, folder)
            finished = True
        except Stop:
            finished = False
        monkeypatch.undo()
        build_shards(block_of, 23, SPEC, folder)
        assert contents(folder) == expected
        if finished:
            break
    assert finished and last > 8  # shards, progress after each whole one, card, index


SLOW_BUILD = """
    import sys, time
    sys.path.insert(0, sys.argv[2])
    import test_build as t
    from pathlib import Path
    def slow(b):
        time.sleep(0.02)
        return t.block_of(b)
    print("ready", flush=True)
    t.build_shards(slow, 400, t.SPEC, Path(sys.argv[1]))
"""


def test_killed_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    build_shards(block_of, 400, SPEC, tmp_path / "whole")
    parts = tmp_path / "parts"
    command = [sys.executable, "-c", textwrap.dedent(SLOW_BUILD), str(parts), str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    while not (parts / "shard-00003.arrow").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (parts / INDEX).exists()
    asked: list[int] = []
    build_shards(lambda b: asked.append(b) or block_of(b), 400, SPEC, parts)  # type: ignore[func-returns-value]
    assert min(asked) > 0  # it went on, it did not begin again
    assert contents(parts) == contents(tmp_path / "whole")


def test_a_whole_folder_is_returned_without_asking_for_a_block(tmp_path: Path) -> None:
    card = build_shards(block_of, 10, SPEC, tmp_path)

    def never(b: int) -> EncodedBatch:
        raise AssertionError(b)

    assert build_shards(never, 10, SPEC, tmp_path).to_json() == card.to_json()


def test_another_recipes_folder_is_refused(tmp_path: Path) -> None:
    build_shards(block_of, 10, SPEC, tmp_path, fingerprint="one")
    for other in ({"num_rows": 11}, {"fingerprint": "two"}, {"spec": SPEC.model_copy(update={"targets_len": 15})}):
        arguments = {"num_rows": 10, "spec": SPEC, "fingerprint": "one", **other}
        with pytest.raises(StateError, match="another recipe"):
            build_shards(block_of, folder=tmp_path, **arguments)  # type: ignore[arg-type]


def interrupted(folder: Path) -> None:
    def stopping(b: int) -> EncodedBatch:
        if b == 2:
            raise Stop
        return block_of(b)

    with pytest.raises(Stop):
        build_shards(stopping, 100, SPEC, folder, fingerprint="one")
    assert (folder / PROGRESS).exists()


def test_another_recipes_beginning_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path)
    with pytest.raises(StateError, match="beginning of another recipe"):
        build_shards(block_of, 100, SPEC, tmp_path, fingerprint="two")


def test_a_damaged_beginning_is_refused(tmp_path: Path) -> None:
    interrupted(tmp_path)
    path = tmp_path / "shard-00000.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StateError, match="sha256"):
        build_shards(block_of, 100, SPEC, tmp_path, fingerprint="one")


def test_a_stream_that_gives_nothing_ends_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"too small \(320\)|too small \(20\)"):
        build_shards(
            lambda b: EncodedBatch(examples=(), dropped=tuple((b * 20 + i, "too small") for i in range(20))),
            5,
            SPEC,
            tmp_path,
        )


def test_progress_is_told_in_rows(tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    card = build_shards(block_of, 47, SPEC, tmp_path, on_progress=lambda *now: told.append(now))
    assert [rows for rows, _, _ in told] == sorted(rows for rows, _, _ in told)
    assert told[-1] == (47, 47, card.total().examples)


def test_card_and_progress_have_the_bytes_that_all_our_json_has(tmp_path: Path) -> None:
    interrupted(tmp_path)
    for name in (PROGRESS, CARD):
        written = (tmp_path / name).read_bytes()
        write_json(tmp_path / "again.json", json.loads(written))
        assert (tmp_path / "again.json").read_bytes() == written
        (tmp_path / "again.json").unlink()
        build_shards(block_of, 100, SPEC, tmp_path, fingerprint="one")
