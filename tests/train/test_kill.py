"""A training killed without warning again and again ends as one that never was."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from train.runs import MANY_SAVES, small_run, start
from train.test_loop import assert_same_weights, untimed


@pytest.mark.slow
def test_killed_at_twenty_random_moments_it_ends_with_the_same_bits(tmp_path: Path):
    """The recipe saves at every second step, so that many kills fall into the writing of a checkpoint; each life is
    long enough for a few steps."""
    whole, _ = small_run(tmp_path / "whole", MANY_SAVES)
    folder, moments = tmp_path / "killed", random.Random(20)
    in_writing = 0
    for _ in range(20):
        process = start(folder, "t5", kill_after=-1, spec="many_saves")
        assert process.stdout is not None
        process.stdout.readline()  # a step is done: importing is over
        time.sleep(moments.uniform(0.0, 0.4))
        process.kill()
        process.communicate()
        if process.returncode == 0:  # it was done before the kill
            break
        assert process.returncode == -signal.SIGKILL
        in_writing += any((folder / "checkpoints").glob(".tmp-*"))
    model, report = small_run(folder, MANY_SAVES)
    assert_same_weights(model, whole)
    assert untimed(folder) == untimed(tmp_path / "whole")
    assert 0 < report.resumed_from <= MANY_SAVES.steps
    assert not any((folder / "checkpoints").glob(".tmp-*"))
    print(f"kills that fell into the writing of a checkpoint: {in_writing}")
