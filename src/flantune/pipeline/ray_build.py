"""Workers on a Ray cluster: one actor each, wherever the cluster has a processor free.

Every machine has flantune installed, in the same version. The run's folder is read where a machine sees it under the
same path (a shared file system); to a machine that does not, its store and tokenizer are copied once for the build.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from flantune.errors import StateError
from flantune.pipeline.parallel import Event, Failure, Job, answer, block_maker, event_of, one_thread
from flantune.pipeline.ray_cluster import START_SECONDS, joined, lost_errors
from flantune.tokens.block import PackedBlock

CHUNK = 32 << 20  # bytes of a file that travel at once
_MISSING = "missing"
_NOT_COPIED = (("data", "shards"), ("data", "tokens"))  # of the run's folder: what the build writes, what workers add
_GIVEN = "given"  # in a copy: the tokenizer that the recipe names by its folder
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf")


def open_crew(address: str, job: Job) -> tuple[RayCrew, int]:
    """Workers-to-be of the cluster at `address` ("local", "auto" or the head's), and its number of processors.

    Raises RecipeError without Ray, StateError where the cluster cannot be reached.
    """
    ray, started = joined(address)
    return RayCrew(ray, job, stop_ray=started), max(1, int(ray.cluster_resources().get("CPU", 1)))


class RayCrew:
    """Actors of one cluster. `always_copy` copies the run's files to machines that see them too."""

    def __init__(self, ray: Any, job: Job, *, stop_ray: bool, always_copy: bool = False) -> None:
        self._ray, self._job, self._stop_ray, self._always_copy = ray, job, stop_ray, always_copy
        self._build = uuid.uuid4().hex[:12]
        self._actor = ray.remote(num_cpus=1, max_restarts=0, scheduling_strategy="SPREAD")(BlockWorker)
        self._workers: dict[int, Any] = {}
        self._refs: dict[Any, tuple[int, int | None]] = {}  # answers to come: worker, and block or None for "ready"
        self._copies: list[Path] = []
        self._hired = 0
        self._placed = False
        self._lost = lost_errors(ray)

    def hire(self) -> int:
        self._hired += 1
        worker = self._workers[self._hired] = self._actor.remote(self._job, self._build)
        self._refs[worker.open.remote(not self._always_copy)] = self._hired, None
        return self._hired

    def send(self, worker: int, block: int) -> None:
        self._refs[self._workers[worker].make.remote(block)] = worker, block

    def events(self) -> list[Event]:
        ready, _ = self._ray.wait(list(self._refs), num_returns=1, timeout=None if self._placed else START_SECONDS)
        if not ready:
            raise StateError(
                f"Ray placed no worker within {START_SECONDS:.0f} s: each needs one processor. The cluster has "
                f"{self._ray.cluster_resources().get('CPU', 0):.0f}, of which "
                f"{self._ray.available_resources().get('CPU', 0):.0f} are free."
            )
        self._placed = True
        worker, block = self._refs.pop(ready[0])
        try:
            made = self._ray.get(ready[0])
            if made == _MISSING:
                made = self._copy_to(worker)
        except self._lost:
            self._forget(worker)
            return [Event("lost", worker)]
        return [event_of(worker, block, made)]

    def processes(self) -> dict[int, int]:
        """Process ids by worker, on whatever machine; waits for those at work."""
        return {worker: self._ray.get(actor.process.remote()) for worker, actor in self._workers.items()}

    def copies(self) -> set[Path]:
        """Where copies of the run's files lie, on whatever machine."""
        return set(self._copies)

    def close(self) -> None:
        try:
            farewells = [actor.leave.remote() for actor in self._workers.values()]
            if farewells:
                self._ray.wait(farewells, num_returns=len(farewells), timeout=10)
            for actor in self._workers.values():
                self._ray.kill(actor)
        finally:
            self._workers.clear()
            self._refs.clear()
            if self._stop_ray:
                self._ray.shutdown()

    def _forget(self, worker: int) -> None:
        """A worker that does not answer, though its process may live on behind a broken network."""
        self._ray.kill(self._workers.pop(worker))
        self._refs = {ref: (w, block) for ref, (w, block) in self._refs.items() if w != worker}

    def _copy_to(self, worker: int) -> Failure | None:
        """The run's files to the worker's machine, unless another worker there got them meanwhile."""
        actor, get = self._workers[worker], self._ray.get
        if not get(actor.has_copy.remote()):
            for name, path in copied_files(self._job):
                with path.open("rb") as file:
                    chunk = file.read(CHUNK)
                    while True:  # at least once: an empty file is a file
                        get(actor.receive.remote(name, chunk))
                        if not (chunk := file.read(CHUNK)):
                            break
            self._copies.append(get(actor.received.remote()))
        failure: Failure | None = get(actor.open.remote(False))
        return failure


class BlockWorker:
    """An actor: opens the run on its machine and makes the blocks it is asked for."""

    def __init__(self, job: Job, build: str) -> None:
        one_thread()
        self._job = job
        self._copy = Path(tempfile.gettempdir()) / f"flantune-{build}"  # one for all workers of this machine
        self._parts = self._copy.with_name(f"{self._copy.name}.partial-{os.getpid()}")
        self._make: Callable[[int], PackedBlock] | None = None

    def open(self, in_place: bool) -> Failure | str | None:
        """Ready (None), or why not. `in_place` False uses the copy alone."""
        try:
            if in_place and (self._job.root / self._job.store / "store.json").is_file():
                self._make = block_maker(self._job)
            elif self._copy.is_dir():
                self._make = block_maker(moved(self._job, self._copy))
            else:
                return _MISSING
        except Exception as e:
            return Failure(e)
        return None

    def make(self, block: int) -> PackedBlock | Failure:
        assert self._make is not None
        return answer(self._make, block)

    def has_copy(self) -> bool:
        return self._copy.is_dir()

    def receive(self, name: str, chunk: bytes) -> None:
        """The next bytes of a file."""
        path = self._parts / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(chunk)

    def received(self) -> Path:
        """Every file is there."""
        self._parts.rename(self._copy)
        return self._copy

    def process(self) -> int:
        return os.getpid()

    def leave(self) -> None:
        """Remove the copy; what is mapped of it stays readable to those that are still at work."""
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.rmtree(self._parts, ignore_errors=True)


def copied_files(job: Job) -> Iterator[tuple[str, Path]]:
    """(name in the copy, file) of all that a worker reads."""
    root = job.root
    for top in (root / "data", root / "tokenizer"):
        for path in sorted(top.rglob("*")):
            name = path.relative_to(root)
            unfinished = any(part.startswith(".") for part in name.parts)
            if path.is_file() and not unfinished and name.parts[:2] not in _NOT_COPIED:
                yield name.as_posix(), path
    given = given_tokenizer(job)
    for path in sorted(given.iterdir()) if given else ():
        if path.is_file() and path.suffix not in _WEIGHTS:
            yield f"{_GIVEN}/{path.name}", path


def given_tokenizer(job: Job) -> Path | None:
    """The folder outside the run that the tokenizer is read from; None where it is the run's own, or a hub's."""
    model = job.recipe.model
    path = model.tokenizer.path or (model.init if model.init not in ("scratch", "demo") else None)
    return Path(path) if path and Path(path).is_dir() else None


def moved(job: Job, root: Path) -> Job:
    """The job with its files at a copy's place."""
    recipe = job.recipe
    if (root / _GIVEN).is_dir():
        tokenizer = recipe.model.tokenizer.model_copy(update={"path": str(root / _GIVEN)})
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"tokenizer": tokenizer})})
    return replace(job, recipe=recipe, root=root)
