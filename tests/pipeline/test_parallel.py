"""Blocks made ahead: in order whatever the workers do, within bounds, made again where a worker is lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from parallel_runs import digests, job_of, small_recipe

from flantune.demo.files import write_world
from flantune.errors import DataError, RecipeError, StateError
from flantune.pipeline.data import build
from flantune.pipeline.folder import RunFolder, open_run
from flantune.pipeline.parallel import (
    MAX_LOSSES,
    QUEUED,
    BlocksAhead,
    Event,
    Failure,
    LocalCrew,
    Workers,
    answer,
    block_maker,
    event_of,
)
from flantune.recipe import Recipe, TokensSpec, parse_recipe
from flantune.tokens.block import PackedBlock, pack_block
from flantune.tokens.build import build_shards
from flantune.tokens.encode import EncodedBatch
from flantune.types import Encoded

SPEC = TokensSpec(inputs_len=32, targets_len=16, block=20, shard_rows=5)


def block_of(b: int) -> PackedBlock:
    if b % 13 == 11:
        raise DataError(f"block {b}", field="examples", expected="luck", got=b, mend="Try another.")
    rng = np.random.default_rng(b)
    examples = tuple(
        Encoded(
            inputs=rng.integers(0, 99, rng.integers(1, 33)).astype(np.int32),
            targets=rng.integers(0, 99, rng.integers(1, 9)).astype(np.int32),
            index=b * 20 + i,
            task=f"task/{rng.integers(4)}",
            mixture="m",
        )
        for i in range(20)
    )
    return pack_block(EncodedBatch(examples=examples), SPEC)


class DiceCrew:
    """Workers in this process that answer, start and are lost as the dice fall. Keeps the rules that a crew keeps."""

    def __init__(self, seed: int, lose: float) -> None:
        self._dice, self._lose = random.Random(seed), lose
        self.queues: dict[int, deque[int]] = {}
        self.started: set[int] = set()
        self.sent: list[int] = []
        self.hired = 0
        self.most_under_way = 0
        self.closed = False

    def hire(self) -> int:
        self.hired += 1
        self.queues[self.hired] = deque()
        return self.hired

    def send(self, worker: int, block: int) -> None:
        assert worker in self.started
        self.queues[worker].append(block)
        assert len(self.queues[worker]) <= QUEUED
        self.sent.append(block)
        self.most_under_way = max(self.most_under_way, sum(map(len, self.queues.values())))

    def events(self) -> list[Event]:
        busy = [w for w, queue in self.queues.items() if queue or w not in self.started]
        assert busy, "the build waits for nobody"
        chosen = self._dice.sample(sorted(busy), self._dice.randint(1, len(busy)))
        return [self._event(worker) for worker in chosen]

    def _event(self, worker: int) -> Event:
        if self._dice.random() < self._lose:
            del self.queues[worker]
            return Event("lost", worker)
        if worker not in self.started:
            self.started.add(worker)
            return Event("ready", worker)
        block = self.queues[worker].popleft()
        return event_of(worker, block, answer(block_of, block))

    def close(self) -> None:
        self.closed = True


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32), workers=st.integers(1, 5), first=st.integers(0, 9), lose=st.sampled_from([0.0, 0.02])
)
def test_blocks_come_in_order_whatever_the_workers_do(seed: int, workers: int, first: int, lose: float) -> None:
    crew = DiceCrew(seed, lose)
    with BlocksAhead(crew, workers) as blocks:
        for b in range(first, first + 25):
            try:
                made = blocks(b)
            except DataError as e:
                assert b % 13 == 11
                with pytest.raises(DataError) as ours:
                    block_of(b)
                assert str(e) == str(ours.value) and vars(e) == vars(ours.value)
                continue
            except StateError as e:
                assert lose and "lost" in str(e)
                break
            expected = block_of(b)
            assert made.inputs.tolist() == expected.inputs.tolist()
            assert made.indices.tolist() == expected.indices.tolist()
            assert max(crew.sent) <= b + (QUEUED + 1) * workers
    assert crew.closed
    assert crew.most_under_way <= QUEUED * workers
    if not lose:
        assert crew.hired == workers
        assert crew.sent == sorted(set(crew.sent))  # each once


def test_a_block_over_which_workers_die_ends_the_build_with_what_to_do() -> None:
    class Deadly(DiceCrew):
        def _event(self, worker: int) -> Event:
            if self.queues[worker] and self.queues[worker][0] == 3:
                del self.queues[worker]
                return Event("lost", worker)
            return super()._event(worker)

    crew = Deadly(0, 0.0)
    blocks = BlocksAhead(crew, 2)
    for b in range(3):
        blocks(b)
    with pytest.raises(StateError, match=rf"{MAX_LOSSES} workers were lost while they made block 3.*same command"):
        blocks(3)


def test_workers_that_never_begin_end_the_build() -> None:
    with pytest.raises(StateError, match="before their first block"):
        BlocksAhead(DiceCrew(0, 1.0), 2)(0)


def test_no_workers_are_an_error_of_the_call() -> None:
    with pytest.raises(RecipeError, match="1 or more"):
        BlocksAhead(DiceCrew(0, 0.0), 0)


def test_an_error_that_is_not_ours_travels_with_its_traceback() -> None:
    def fail(block: int) -> PackedBlock:
        raise ZeroDivisionError(f"in block {block}")

    failure = answer(fail, 7)
    assert isinstance(failure, Failure)
    assert "in block 7" in str(failure.error()) and "Traceback" in str(failure.error())


@pytest.fixture(scope="module", params=["draws", "target_tokens"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, RunFolder]:
    """A run built by itself, without workers."""
    folder = tmp_path_factory.mktemp("alone")
    write_world(folder / "world")
    recipe = parse_recipe(small_recipe(folder, request.param))
    run = open_run(recipe)
    build(recipe, run)
    return recipe, run


@pytest.fixture
def begun(built: tuple[Recipe, RunFolder], tmp_path: Path) -> Iterator[tuple[Recipe, RunFolder]]:
    """The same run with its store and tokenizer and no shards."""
    recipe, run = built
    other = RunFolder(tmp_path / run.root.name)
    shutil.copytree(run.root, other.root, ignore=shutil.ignore_patterns("shards"))
    yield recipe.model_copy(update={"runs": str(tmp_path)}), other


def test_processes_write_the_same_bytes_also_when_one_is_killed(
    built: tuple[Recipe, RunFolder], begun: tuple[Recipe, RunFolder]
) -> None:
    (_, alone), (recipe, run) = built, begun
    job, arguments = job_of(recipe, run)
    crew = LocalCrew(job)
    killed: list[int] = []
    with BlocksAhead(crew, 2) as blocks:

        def killing(b: int) -> PackedBlock:
            if b == 3:
                killed.append(next(iter(crew.processes.values())))
                os.kill(killed[0], signal.SIGKILL)
            return blocks(b)

        build_shards(killing, **arguments)
        assert killed and killed[0] not in crew.processes.values() and len(crew.processes) == 2
    assert digests(run) == digests(alone)
    assert {"index.json", "card.json", "shard-00001.arrow"} <= digests(run).keys()


def test_a_worker_that_finds_another_run_says_so(begun: tuple[Recipe, RunFolder]) -> None:
    recipe, run = begun
    job, _ = job_of(recipe, run)
    for changed in ({"fingerprint": "other"}, {"store_fingerprint": "other"}):
        with pytest.raises(StateError, match="another store, mixture or tokenizer"):
            block_maker(replace(job, **changed))
    with pytest.raises(StateError, match="expected flantune 0"):
        block_maker(replace(job, version="0"))
    assert block_maker(job)(0).indices.tolist()


def test_a_whole_folder_starts_no_worker(built: tuple[Recipe, RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, run = built
    before = digests(run)
    monkeypatch.setattr("flantune.pipeline.parallel.LocalCrew", None)
    build(recipe, run, workers=Workers(count=2))
    assert digests(run) == before


def children(process: int) -> set[int]:
    """Ids of the processes it has started, and they, that still run."""
    found: set[int] = set()
    for task in Path(f"/proc/{process}/task").glob("*"):
        for child in map(int, (task / "children").read_text().split()):
            found |= {child} | children(child)
    return found


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_stopped_takes_its_workers_along_and_another_finishes_it(
    built: tuple[Recipe, RunFolder], begun: tuple[Recipe, RunFolder], tmp_path: Path, how: signal.Signals
) -> None:
    (_, alone), (recipe, run) = built, begun
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    command = [sys.executable, "-m", "flantune", "build", str(path), "--json"]
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job ignores SIGINT, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    workers: set[int] = set()
    deadline = time.monotonic() + 300
    while not (run.shards / "shard-00002.arrow").exists() and process.poll() is None and time.monotonic() < deadline:
        workers |= children(process.pid)
        time.sleep(0.002)
    process.send_signal(how)
    process.communicate()
    assert process.returncode == (-9 if how == signal.SIGKILL else 130) and not (run.shards / "index.json").exists()
    while any(runs(w) for w in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) >= 2 and not any(runs(w) for w in workers)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert digests(run) == digests(alone)
