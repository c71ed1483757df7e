"""One backend made of several: our engine in processes of this machine or on a Ray cluster, each with a share.

Shares are runs of requests in the order of their prompts, cut where neighbours have least in common, so that what is
read once by one engine is still read once by one worker. Answers come back as they are known; the share of a worker
that dies is asked again by another, less what it had answered.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from multiprocessing import connection
from typing import Any, Protocol

from flantune.errors import StateError
from flantune.inference.answers import Request
from flantune.inference.backends import Capabilities, Local, Prices, Refused
from flantune.inference.requests import Generated, GenerateRequest, Scored, ScoreRequest
from flantune.pipeline.crew import PipeCrew
from flantune.pipeline.parallel import MAX_LOSSES, Failure, Workers, available_processors
from flantune.recipe import EvalSpec

Answer = Generated | Scored | Refused
SHARES = 4  # per worker: the last ones to finish then differ by a quarter of a worker's time at most
MOST_IN_SHARE = 512  # requests


@dataclass(frozen=True, slots=True, kw_only=True)
class AskingJob:
    """What a worker opens. `model`: a folder that every worker sees under this path, or a hub id."""

    model: str
    max_inputs: int
    spec: EvalSpec
    tokenizer: str | None = None
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Share:
    places: tuple[int, ...]  # of the requests among all
    requests: tuple[Request, ...]
    losses: int = 0  # workers that died over it


@dataclass(frozen=True, slots=True)
class Heard:
    """What came from a worker: it is ready, or gave an answer, or has done its share, or failed, or is lost."""

    kind: str  # "ready", "answer", "done", "failed", "lost"
    worker: int
    identity: Mapping[str, Any] = field(default_factory=dict)
    answer: Answer | None = None  # with the place among its share's requests
    failure: Failure | None = None


class Crew(Protocol):
    def hire(self) -> int: ...

    def send(self, worker: int, requests: tuple[Request, ...]) -> None: ...

    def heard(self) -> list[Heard]:
        """At least one; waits for it."""
        ...

    def close(self) -> None: ...


class Shared(Local):
    """A backend like the engine its workers run: same identity, same answers."""

    capabilities = Capabilities(numbered=True)
    prices: Prices | None = None

    def __init__(
        self, model: str, max_inputs: int, workers: Workers, spec: EvalSpec | None = None, tokenizer: str | None = None
    ) -> None:
        from flantune.models.place import located
        from flantune.tokens.tokenizer import load_tokenizer

        where = located(model)
        job = AskingJob(model=where, max_inputs=max_inputs, spec=spec or EvalSpec(), tokenizer=tokenizer)
        self._crew, self._number = _open_crew(job, workers)
        self._ready: dict[int, Share | None] = {}  # by worker at work: its share, or None where it waits for one
        self._lost_in_starting = 0
        self.identity: Mapping[str, Any] = {}
        try:
            for _ in range(self._number):
                self._crew.hire()
            while not self.identity:
                for heard in self._crew.heard():
                    self._took(heard)
        except BaseException:
            self._crew.close()
            raise
        words = load_tokenizer(tokenizer or where)
        super().__init__(words, self.identity["max_inputs"], self.identity["prompt_eos"])

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Generated | Refused]:
        yield from self._all(requests)  # type: ignore[misc]

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scored | Refused]:
        yield from self._all(requests)  # type: ignore[misc]

    def close(self) -> None:
        self._crew.close()

    def __enter__(self) -> Shared:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all(self, requests: Sequence[Request]) -> Iterator[Answer]:
        waiting = deque(shares_of(requests, self._number))
        answered: set[int] = set()
        while len(answered) < len(requests):
            for worker, own in self._ready.items():
                if own is None and waiting:
                    share = waiting.popleft()
                    self._ready[worker] = share
                    self._crew.send(worker, share.requests)
            for heard in self._crew.heard():
                share_of = self._ready.get(heard.worker)
                if heard.kind == "answer" and heard.answer is not None and share_of is not None:
                    place = share_of.places[heard.answer.index]
                    if place not in answered:
                        answered.add(place)
                        yield replace(heard.answer, index=place)
                elif (left := self._took(heard)) is not None:
                    waiting.appendleft(without(left, answered))

    def _took(self, heard: Heard) -> Share | None:
        """Note who is at work; the share of a worker that was lost."""
        if heard.kind == "failed":
            assert heard.failure is not None
            raise heard.failure.error()
        if heard.kind == "ready":
            if self.identity and dict(self.identity) != dict(heard.identity):
                raise StateError(
                    f"two workers hold different models or settings: {dict(self.identity)} and {dict(heard.identity)}. "
                    "Is it the same folder on every machine?"
                )
            self.identity = dict(heard.identity)
        if heard.kind in ("ready", "done"):
            self._ready[heard.worker] = None
            return None
        return self._lost(heard.worker)

    def _lost(self, worker: int) -> Share | None:
        share = self._ready.pop(worker, None)
        if share is None:
            self._lost_in_starting += 1
        losses = self._lost_in_starting if share is None else share.losses + 1
        if losses >= MAX_LOSSES:
            raise StateError(
                f"{losses} workers were lost, one after the other: killed, out of memory, or their machines gone. What "
                "was answered is kept; the same command goes on. Fewer workers need less memory."
            )
        self._crew.hire()
        return None if share is None else replace(share, losses=losses)


def without(share: Share, answered: set[int]) -> Share:
    left = [(p, r) for p, r in zip(share.places, share.requests, strict=True) if p not in answered]
    return Share(tuple(p for p, _ in left), tuple(r for _, r in left), share.losses)


def shares_of(requests: Sequence[Request], workers: int) -> list[Share]:
    """Runs in the order of the prompts, about `SHARES` per worker, cut where neighbours have least in common."""
    order = sorted(range(len(requests)), key=lambda i: requests[i].prompt)
    common = [0, *(_common(requests[a].prompt, requests[b].prompt) for a, b in pairwise(order))]
    size = max(1, min(MOST_IN_SHARE, -(-len(order) // (workers * SHARES))))
    shares, start = [], 0
    while start < len(order):
        near = range(start + max(1, size // 2), min(start + size + size // 2, len(order) - 1) + 1)
        left = len(order) - start
        end = len(order) if left <= size else min(near, key=lambda i: (common[i], abs(i - start - size)))
        places = tuple(order[start:end])
        shares.append(Share(places, tuple(requests[i] for i in places)))
        start = end
    return shares


def _common(a: str, b: str) -> int:
    """Characters that two prompts begin with alike."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # halving: whole slices are compared at once
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def _open_crew(job: AskingJob, workers: Workers) -> tuple[Crew, int]:
    if workers.ray is not None:
        from flantune.pipeline.ray_asking import open_asking_crew

        return open_asking_crew(workers.ray, job, workers.count)
    devices = _devices()
    number = workers.count or max(1, len(devices))
    threads = max(1, available_processors() // number)
    return LocalCrew(replace(job, threads=threads), devices), number


def _devices() -> list[str]:
    """CUDA devices this process may use, by name; none on a machine without."""
    import torch

    if not torch.cuda.is_available():
        return []
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    return stated.split(",") if stated else [str(n) for n in range(torch.cuda.device_count())]


# Workers on this machine ---------------------------------------------------------------------------------------------


class LocalCrew(PipeCrew):
    """With CUDA devices each process is given one, in turn."""

    def __init__(self, job: AskingJob, devices: Sequence[str] = ()) -> None:
        super().__init__(_work, lambda n: (job, devices[n % len(devices)] if devices else None))

    def heard(self) -> list[Heard]:
        said = self.received()
        return [Heard("lost", worker) if what is None else heard_from(worker, *what) for worker, what in said]


def heard_from(worker: int, kind: str, what: Any) -> Heard:
    named = {"ready": "identity", "answer": "answer", "failed": "failure"}
    return Heard(kind, worker, **({named[kind]: what} if kind in named else {}))


def answers_to(backend: Any, requests: Sequence[Request]) -> Iterator[Answer]:
    """All of one kind."""
    yield from backend.score(requests) if isinstance(requests[0], ScoreRequest) else backend.generate(requests)


def open_worker(job: AskingJob) -> Any:
    import torch

    from flantune.pipeline.evaluation import open_backend

    torch.set_num_threads(job.threads)
    return open_backend(job.model, job.spec, job.max_inputs, job.tokenizer)


def _work(pipe: connection.Connection, job: AskingJob, device: str | None) -> None:
    """A worker process: opens the model, then answers shares until its parent closes its end or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        try:
            backend = open_worker(job)
            pipe.send(("ready", dict(backend.identity)))
            while True:
                for answer in answers_to(backend, pipe.recv()):
                    pipe.send(("answer", answer))
                pipe.send(("done", None))
        except (EOFError, OSError):
            raise
        except Exception as e:
            pipe.send(("failed", Failure(e)))
    except (EOFError, OSError):
        return
