"""Run a study's points: each in a process of its own, here or on a Ray cluster; what is done is not done again.

A base model that several points start from is made and asked once, before them. A point that fails keeps its reason
and stops no other; the same command tries it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from flantune.errors import StateError
from flantune.pipeline.data import Progress, quiet
from flantune.pipeline.parallel import available_processors
from flantune.studies.cost import StudyCost, cost_of
from flantune.studies.point import (
    BEGUN,
    NOT_RUN,
    Label,
    Layout,
    Point,
    PointFolder,
    PointResult,
    makes_base,
    point_name,
)
from flantune.studies.work import ATTEMPTS, DONE, FAILED, has_other_data, job_json
from flantune.whole import write_json

SIDES = {"base": "base", "point": "tuned"}


@dataclass(frozen=True, slots=True)
class Job:
    """A base or a point that is to be made and asked. `needs`: keys of the jobs that must be done before."""

    key: str
    kind: str  # "base", "point"
    point: Point
    folder: PointFolder
    needs: tuple[str, ...] = ()

    @property
    def done(self) -> Path:
        return self.folder.evals / SIDES[self.kind] / DONE

    @property
    def failed(self) -> Path:
        return self.folder.evals / FAILED


@dataclass(frozen=True, slots=True)
class Event:
    """A job's process says where it is, or has ended. `lost`: how it ended where it could not say so itself."""

    key: str
    ended: bool = False
    lost: str = ""
    stage: str = ""
    done: int = 0
    total: int = 0


class Hands(Protocol):
    """Who does the jobs."""

    def room(self) -> int:
        """Jobs that can be begun now."""
        ...

    def begin(self, key: str, job: Mapping[str, Any], folder: Path) -> None: ...

    def events(self) -> list[Event]:
        """What was heard; waits a moment for something."""
        ...

    def close(self) -> None:
        """End what still runs. What it has written is kept."""
        ...


def run_points(
    points: Sequence[Point],
    root: Path,
    *,
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress = quiet,
    on_result: Callable[[PointResult], None] | None = None,
) -> list[PointResult]:
    """Results in the order of the points. Points of equal content are one; `on_result` hears of each as it ends.

    `workers`: points at a time, which share the processors out among them; when not given, one here, and on a Ray
    cluster one for every GPU, or for every machine where there is none. `ray`: "local", "auto" or the HOST:PORT of its
    head; every machine sees `root` under the same path.
    """
    root = Path(root).resolve()
    jobs = jobs_of(points, root)
    for job in jobs.values():
        if job.kind == "point" and job.done.exists() and has_other_data(job.folder):
            job.done.unlink()  # what it says is of other data: tried again, it fails with how to mend that
    waiting = [job for job in jobs.values() if not job.done.exists()]
    if waiting:
        for job in waiting:  # it is tried again
            job.failed.unlink(missing_ok=True)
        _do_all(waiting, root, workers, ray, _Told(progress, jobs, on_result))
    return [result_of(point, root) for point in points]


def jobs_of(points: Iterable[Point], root: Path) -> dict[str, Job]:
    """Every job of the points once, by its key, bases first."""
    layout = Layout(root)
    bases: dict[str, Job] = {}
    own: dict[str, Job] = {}
    for point in points:
        base, folder = layout.base(point), layout.point(point)
        base_key = f"bases/{base.root.name}/{base.asked}"
        bases.setdefault(base_key, Job(base_key, "base", point, base))
        key = f"points/{folder.root.name}/{folder.asked}"
        own.setdefault(key, Job(key, "point", point, folder, (base_key,) if makes_base(point.start) else ()))
    return {**bases, **own}


def _do_all(waiting: list[Job], root: Path, workers: int | None, ray: str | None, told: _Told) -> None:
    open_jobs = {job.key: job for job in waiting}
    running: dict[str, Job] = {}
    hands, threads = _open_hands(workers, ray)
    try:
        while open_jobs or running:
            for job in _ready(open_jobs, running, told):
                if hands.room() < 1:
                    break
                del open_jobs[job.key]
                running[job.key] = job
                told.begun(job)
                job.folder.evals.mkdir(parents=True, exist_ok=True)
                hands.begin(job.key, job_json(job.kind, job.point, root, threads), job.folder.evals)
            for event in hands.events():
                if not event.ended:
                    told.heard(event)
                    continue
                job = running.pop(event.key)
                if not job.done.exists() and not job.failed.exists():
                    write_json(job.failed, {"reason": event.lost or "ended without a word", "error": "lost"})
                told.ended(job)
    finally:
        hands.close()


def _ready(open_jobs: dict[str, Job], running: Mapping[str, Job], told: _Told) -> list[Job]:
    """Jobs whose needs are met. Those that can no longer be met fail with the reason of what failed before them."""
    ready = []
    for job in list(open_jobs.values()):
        unmet = [key for key in job.needs if key in open_jobs or key in running]
        broken = [reason for key in job.needs if (reason := told.reason(key))]
        if broken:
            del open_jobs[job.key]
            job.folder.evals.mkdir(parents=True, exist_ok=True)
            write_json(job.failed, {"reason": f"its base model: {broken[0]}", "error": "base", "job": job.kind})
            told.ended(job)
        elif not unmet:
            ready.append(job)
    return ready


def _open_hands(workers: int | None, ray: str | None) -> tuple[Hands, int]:
    """And the threads that each job has."""
    if ray is not None:
        from flantune.studies.ray_points import open_cluster

        return open_cluster(ray, workers)
    from flantune.studies.processes import Processes

    cores = available_processors()
    count = max(1, workers or 1)
    return Processes(count), max(1, cores // count)


class _Told:
    """Passes on what is heard of the jobs: how many are done, and what is being done."""

    def __init__(
        self, progress: Progress, jobs: Mapping[str, Job], on_result: Callable[[PointResult], None] | None
    ) -> None:
        self._progress, self._on_result, self._jobs = progress, on_result, jobs
        self._doing: dict[str, str] = {}
        self._ended = sum(job.done.exists() for job in jobs.values())
        self._failed: dict[str, str] = {}
        self._show()

    def reason(self, key: str) -> str:
        return self._failed.get(key, "")

    def begun(self, job: Job) -> None:
        self._doing[job.key] = "starts"
        self._show()

    def heard(self, event: Event) -> None:
        of = f"/{event.total:,}" if event.total else ""
        self._doing[event.key] = f"{event.stage} {event.done:,}{of}"
        self._show()

    def ended(self, job: Job) -> None:
        self._doing.pop(job.key, None)
        self._ended += 1
        if not job.done.exists():
            self._failed[job.key] = read_reason(job.failed)
        if job.kind == "point" and self._on_result is not None:
            base = Layout(job.folder.root.parent.parent).base(job.point)
            self._on_result(_result(job.point.labels, job.folder, base))
        self._show()

    def _show(self) -> None:
        doing = "; ".join(f"{key.split('/')[1][:6]} {what}" for key, what in self._doing.items())
        failed = f"{len(self._failed)} failed; " if self._failed else ""
        self._progress("points", self._ended, len(self._jobs), f"{failed}{doing}")


def result_of(point: Point, root: Path) -> PointResult:
    """What lies in the point's folder now. One that was never begun has failed: it was not run."""
    layout = Layout(Path(root).resolve())
    return _result(point.labels, layout.point(point), layout.base(point))


def result_at(root: Path, labels: Mapping[str, Label], name: str, base: str, asked: str) -> PointResult:
    """The same of a point that is known by its names alone: its own, its base's and of what is asked."""
    points, bases = Path(root).resolve() / "points", Path(root).resolve() / "bases"
    return _result(labels, PointFolder(points / name, asked=asked), PointFolder(bases / base, asked=asked))


def _result(labels: Mapping[str, Label], folder: PointFolder, base: PointFolder) -> PointResult:
    name = folder.root.name
    done, base_done = folder.evals / "tuned" / DONE, base.evals / "base" / DONE
    wall = _seconds(folder.evals / ATTEMPTS)
    if not done.exists() or not base_done.exists():
        why = (read_reason(folder.evals / FAILED) if not done.exists() else "") or read_reason(base.evals / FAILED)
        begun = BEGUN if folder.root.exists() else NOT_RUN
        return PointResult(
            labels=labels,
            name=name,
            folder=folder.root,
            status="failed",
            reason=why or begun,
            wall_seconds=wall,
        )
    told, of_base = _read(done), _read(base_done)
    items, base_items = folder.evals / "tuned" / "items.parquet", base.evals / "base" / "items.parquet"
    return PointResult(
        labels=labels,
        name=name,
        folder=folder.root,
        status="done",
        scores=tuple(told["scores"]),
        items=items if items.exists() else None,
        base=base.root.name,
        base_scores=tuple(of_base["scores"]),
        base_items=base_items if base_items.exists() else None,
        seconds=told["train_seconds"],
        wall_seconds=wall,
        flops=told["flops"],
        steps=told["steps"],
        tokens=told["tokens"],
        composition=told["composition"],
        formats=told.get("formats", {}),
    )


def read_reason(path: Path) -> str:
    """Of a failed.json; empty where there is none."""
    return str(_read(path)["reason"]) if path.exists() else ""


def _seconds(path: Path) -> float:
    return float(_read(path)["seconds"]) if path.exists() else 0.0


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(orjson.loads(path.read_bytes()))
    except (OSError, ValueError) as e:
        raise StateError(f"{path}: cannot be read: {e}. Remove it and give the same command again.") from None


__all__ = [
    "Event",
    "Hands",
    "Job",
    "Label",
    "Point",
    "PointResult",
    "StudyCost",
    "cost_of",
    "jobs_of",
    "point_name",
    "result_of",
    "run_points",
]
