"""Jobs of a study as tasks on a Ray cluster: each a process of its own on whatever machine has room.

Every machine has flantune installed, in the same version, and sees the studies' root and the collections under the same
paths. The job of a machine that is lost is done again on another, from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flantune.errors import StateError
from flantune.pipeline.parallel import MAX_LOSSES
from flantune.pipeline.ray_cluster import START_SECONDS, joined, lost_errors
from flantune.studies.points import Event
from flantune.studies.processes import JOB, how_it_ended, said_in, start_process
from flantune.whole import write_json


@dataclass(slots=True)
class _Running:
    key: str
    path: str
    losses: int = 0


def open_cluster(address: str, count: int | None) -> tuple[RayTasks, int]:
    """Hands on the cluster at `address`, and the threads of each job: `count` jobs at a time, else one for every GPU,
    or for every machine where there is none. Raises RecipeError without Ray, StateError where there is no cluster."""
    ray, started = joined(address)
    resources = ray.cluster_resources()
    gpus, machines = int(resources.get("GPU", 0)), sum(1 for node in ray.nodes() if node["Alive"])
    number = count or gpus or machines
    cpus = max(1, int(resources.get("CPU", 1)) // number)
    return RayTasks(ray, number, cpus=cpus, gpus=1 if gpus else 0, stop_ray=started), cpus


class RayTasks:
    def __init__(self, ray: Any, count: int, *, cpus: int, gpus: int, stop_ray: bool) -> None:
        self._ray, self._count, self._stop_ray = ray, count, stop_ray
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "scheduling_strategy": "SPREAD"}
        self._task = ray.remote(**options)(do_remotely)
        self._threads = cpus
        self._streams: dict[Any, _Running] = {}
        self._placed = False
        self._lost = (*lost_errors(ray), ray.exceptions.NodeDiedError, ray.exceptions.LocalRayletDiedError)

    def room(self) -> int:
        return self._count - len(self._streams)

    def begin(self, key: str, job: Mapping[str, Any], folder: Path) -> None:
        write_json(folder / JOB, job)
        self._send(_Running(key, str(folder / JOB)))

    def events(self) -> list[Event]:
        timeout = 1.0 if self._placed else START_SECONDS
        ready, _ = self._ray.wait(list(self._streams), num_returns=1, timeout=timeout, fetch_local=False)
        if not ready:
            if self._placed:
                return []
            raise StateError(
                f"Ray placed no job within {START_SECONDS:.0f} s; each needs {self._threads} processors. The cluster "
                f"has {self._ray.cluster_resources().get('CPU', 0):.0f}. Give fewer jobs at a time, with --workers."
            )
        self._placed = True
        running = self._streams[ready[0]]
        try:
            said = self._ray.get(next(ready[0]))
        except StopIteration:  # every job's last word is how it ended
            del self._streams[ready[0]]
            return [Event(running.key, ended=True, lost="its task ended without a word")]
        except self._lost as e:
            del self._streams[ready[0]]
            return self._again(running, type(e).__name__)
        if "ended" not in said:
            return [Event(running.key, stage=said["stage"], done=said["done"], total=said["total"])]
        del self._streams[ready[0]]
        if said["ended"] == -9:  # as a machine's own memory guard ends it: here it may fit
            return self._again(running, "killed")
        return [Event(running.key, ended=True, lost=how_it_ended(said["ended"]))]

    def close(self) -> None:
        try:
            for stream in self._streams:
                self._ray.cancel(stream, force=True)
        finally:
            self._streams.clear()
            if self._stop_ray:
                self._ray.shutdown()

    def _again(self, running: _Running, why: str) -> list[Event]:
        running.losses += 1
        if running.losses > MAX_LOSSES:
            return [Event(running.key, ended=True, lost=f"{running.losses} workers were lost over it: {why}")]
        self._send(running)
        return [Event(running.key, stage=f"again after a loss ({why})")]

    def _send(self, running: _Running) -> None:
        self._streams[self._task.options(num_returns="streaming").remote(running.path, self._threads)] = running


def do_remotely(path: str, threads: int) -> Iterator[dict[str, Any]]:
    """The job's process on the machine that Ray chose; what it says, and last how it ended. It ends with this task: its
    standard input is ours."""
    process = start_process([path], threads)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            said = said_in(line)
            if said is not None and "stage" in said:
                yield said
        yield {"ended": process.wait()}
    finally:
        process.kill()
        process.wait()
