"""Workers of an evaluation on a Ray cluster: one actor each, with a GPU of its own where the cluster has some.

Every machine has flantune installed, in the same version, and sees the model's folder under the same path (or the model
is a hub id).
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from flantune.errors import StateError
from flantune.inference.answers import Request
from flantune.pipeline.asking import AskingJob, Heard, answers_to, heard_from, open_worker
from flantune.pipeline.parallel import Failure
from flantune.pipeline.ray_cluster import START_SECONDS, joined, lost_errors


def open_asking_crew(address: str, job: AskingJob, count: int | None) -> tuple[RayCrew, int]:
    """Workers-to-be of the cluster at `address`, and their number: one per GPU, or else one per machine."""
    ray, started = joined(address)
    resources = ray.cluster_resources()
    gpus, machines = int(resources.get("GPU", 0)), sum(1 for node in ray.nodes() if node["Alive"])
    number = count or gpus or machines
    cpus = max(1, int(resources.get("CPU", 1)) // number)
    return RayCrew(ray, replace(job, threads=cpus), gpus=1 if gpus else 0, cpus=cpus, stop_ray=started), number


class RayCrew:
    def __init__(self, ray: Any, job: AskingJob, *, gpus: int, cpus: int, stop_ray: bool) -> None:
        self._ray, self._job, self._stop_ray = ray, job, stop_ray
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self._actor = ray.remote(**options)(AskingWorker)
        self._workers: dict[int, Any] = {}
        self._streams: dict[Any, int] = {}  # what a worker says, bit by bit
        self._hired = 0
        self._placed = False
        self._lost = lost_errors(ray)

    def hire(self) -> int:
        self._hired += 1
        worker = self._workers[self._hired] = self._actor.remote(self._job)
        self._streams[worker.open.options(num_returns="streaming").remote()] = self._hired
        return self._hired

    def send(self, worker: int, requests: tuple[Request, ...]) -> None:
        stream = self._workers[worker].answer.options(num_returns="streaming").remote(requests)
        self._streams[stream] = worker

    def heard(self) -> list[Heard]:
        timeout = None if self._placed else START_SECONDS
        ready, _ = self._ray.wait(list(self._streams), num_returns=1, timeout=timeout, fetch_local=False)
        if not ready:
            raise StateError(
                f"Ray placed no worker within {START_SECONDS:.0f} s; each needs {self._job.threads} processors. The "
                f"cluster has {self._ray.cluster_resources().get('CPU', 0):.0f}. Give a number with --workers."
            )
        self._placed = True
        stream = ready[0]
        worker = self._streams[stream]
        try:
            kind, what = self._ray.get(next(stream))
        except StopIteration:  # it has said all it had to say
            del self._streams[stream]
            return self.heard() if self._streams else []
        except self._lost:
            self._forget(worker)
            return [Heard("lost", worker)]
        return [heard_from(worker, kind, what)]

    def processes(self) -> dict[int, int]:
        return {worker: self._ray.get(actor.process.remote()) for worker, actor in self._workers.items()}

    def close(self) -> None:
        try:
            for actor in self._workers.values():
                self._ray.kill(actor)
        finally:
            self._workers.clear()
            self._streams.clear()
            if self._stop_ray:
                self._ray.shutdown()

    def _forget(self, worker: int) -> None:
        """A worker that does not answer, though its process may live on behind a broken network."""
        self._ray.kill(self._workers.pop(worker))
        self._streams = {stream: w for stream, w in self._streams.items() if w != worker}


class AskingWorker:
    """An actor: opens the model on its machine and answers shares."""

    def __init__(self, job: AskingJob) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self._job = job
        self._backend: Any = None

    def open(self) -> Any:
        try:
            self._backend = open_worker(self._job)
            yield "ready", dict(self._backend.identity)
        except Exception as e:
            yield "failed", Failure(e)

    def answer(self, requests: tuple[Request, ...]) -> Any:
        try:
            for answer in answers_to(self._backend, requests):
                yield "answer", answer
            yield "done", None
        except Exception as e:
            yield "failed", Failure(e)

    def process(self) -> int:
        return os.getpid()
