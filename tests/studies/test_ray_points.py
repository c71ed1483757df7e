"""Points on a Ray cluster of two nodes (raylets of this machine): the same models, also when a worker is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from flantune.demo.files import write_world
from flantune.errors import StateError
from flantune.studies import points as points_module
from flantune.studies.point import Point
from flantune.studies.points import run_points
from ray_cluster import two_nodes

from .grids import tiny

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_nodes(1) as made:
        yield made


def points_of(tmp_path: Path, steps: int) -> list[Point]:
    write_world(tmp_path / "world")
    base = tiny(tmp_path)
    train = base.train.model_copy(update={"steps": steps})
    return [
        Point({"seed": n}, base.model_copy(update={"seed": n, "train": train}), base.model_copy(update={"seed": 0}))
        for n in (0, 1)
    ]


def jobs_at_work(root: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"flantune.studies.work" in words and any(str(root / "points").encode() in w for w in words):
                found.append(int(entry.name))
    return found


def test_a_cluster_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    ray.shutdown()  # of another file's tests
    with pytest.raises(StateError, match="no cluster could be reached"):
        run_points(points_of(tmp_path, 3), tmp_path / "root", ray="127.0.0.1:1")


def test_a_cluster_trains_the_same_points_and_gets_over_a_lost_worker(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = points_of(tmp_path, 12)
    monkeypatch.setattr(points_module, "available_processors", lambda: 2)  # one thread each, as on the cluster's nodes
    alone = run_points(points, tmp_path / "alone", workers=2)
    root = tmp_path / "ray"
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 600
        while not killed and time.monotonic() < deadline:
            if found := jobs_at_work(root):
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
            time.sleep(0.02)

    watching = threading.Thread(target=kill_one)
    watching.start()
    found = run_points(points, root, ray="auto")
    watching.join()
    assert killed and [r.status for r in found] == ["done", "done"], [r.reason for r in found]
    for here, there in zip(alone, found, strict=True):
        assert here.name == there.name and here.scores == there.scores
        models = [load_file(r.folder / "model" / "model.safetensors") for r in (here, there)]
        assert all((models[0][k] == models[1][k]).all() for k in models[0])
