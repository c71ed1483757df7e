"""Blocks of the stream made ahead of the build by several workers: processes here, or Ray actors on many machines.

    worker 1   block 0 ------ block 3 ------          the build asks for 0, 1, 2, ... and writes them in that order;
    worker 2   block 1 ---- block 4 ------            a block is a function of its number, so who makes it and when
    worker 3   block 2 -------- block 5 ---           changes no byte of the shards
    build             0 write  1 write 2 write ...

A worker that is lost (killed, out of memory, its machine gone) is replaced, and its blocks are made again elsewhere.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import flantune
from flantune.errors import FlantuneError, RecipeError, StateError
from flantune.pipeline.crew import PipeCrew
from flantune.recipe import Recipe
from flantune.tokens.block import PackedBlock, pack_block, unpacked_block

if TYPE_CHECKING:
    from flantune.pipeline.data import Readied
    from flantune.pipeline.folder import RunFolder

QUEUED = 2  # blocks a worker has before it: the one it makes, and the next
MAX_LOSSES = 3  # workers that may be lost over one block, or in starting, before the build gives up


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker needs to make blocks: the recipe, and the run's folder with its store and tokenizer."""

    recipe: Recipe
    root: Path  # the run's folder, absolute
    one_sided: bool
    fingerprint: str  # of mixture and tokenizer: what the worker finds must be the same
    store: str  # folder of the store, within the run's
    store_fingerprint: str
    version: str = flantune.__version__

    @property
    def folder(self) -> RunFolder:
        from flantune.pipeline.folder import RunFolder

        return RunFolder(self.root)

    @classmethod
    def of(cls, recipe: Recipe, folder: RunFolder, readied: Readied, one_sided: bool) -> Job:
        """Paths in it are absolute: a worker may stand in another folder."""
        model = recipe.model
        path = model.tokenizer.path
        tokenizer = model.tokenizer.model_copy(update={"path": path and _absolute(path)})
        model = model.model_copy(update={"tokenizer": tokenizer, "init": _absolute(model.init)})
        return cls(
            recipe=recipe.model_copy(update={"model": model}),
            root=folder.root.resolve(),
            one_sided=one_sided,
            fingerprint=readied.fingerprint,
            store=readied.data.store.folder.resolve().relative_to(folder.root.resolve()).as_posix(),
            store_fingerprint=readied.data.store.fingerprint,
        )


def _absolute(name: str) -> str:
    """A folder's whole path; hub ids and other names as they are."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Who makes the blocks: `count` processes here, or actors of the Ray cluster at `ray`.

    `ray`: "local" starts one on this machine, "auto" takes the one that RAY_ADDRESS names or that runs here, else
    starts one; anything else is the address of its head.
    """

    count: int | None = None  # one per processor when not given
    ray: str | None = None


def hire(workers: Workers, job: Job) -> BlocksAhead:
    """Start the workers; closing what this returns ends them."""
    if workers.ray is not None:
        from flantune.pipeline.ray_build import open_crew

        crew, processors = open_crew(workers.ray, job)
        return BlocksAhead(crew, workers.count or processors)
    return BlocksAhead(LocalCrew(job), workers.count or available_processors())


def available_processors() -> int:
    """Those this process may use, where the system says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Failure:
    """An error that travels: one of ours as it was, any other with its traceback as text."""

    def __init__(self, error: BaseException) -> None:
        self._kind = type(error) if isinstance(error, FlantuneError) else None
        self._args, self._state = error.args if self._kind else (), dict(vars(error)) if self._kind else {}
        self._text = "" if self._kind else "".join(traceback.format_exception(error))

    def error(self) -> BaseException:
        if self._kind is None:
            return RuntimeError(f"a worker failed:\n{self._text}")
        error = self._kind.__new__(self._kind)  # ours take other arguments than the message they end up with
        error.args = self._args
        vars(error).update(self._state)
        return error


@dataclass(frozen=True, slots=True)
class Event:
    """What came from a worker: `block` and `made`, or `failure` (of `block`, or of beginning), or its kind alone."""

    kind: str  # "ready", "made", "failed", "lost"
    worker: int
    block: int | None = None
    made: PackedBlock | None = None
    failure: Failure | None = None


class Crew(Protocol):
    """Workers by number. They make their blocks in the order they were sent."""

    def hire(self) -> int:
        """Begin to start one more worker; "ready" follows, or "failed", or "lost"."""
        ...

    def send(self, worker: int, block: int) -> None: ...

    def events(self) -> list[Event]:
        """What has come since, at least one; waits for it."""
        ...

    def close(self) -> None:
        """End every worker."""
        ...


@dataclass(slots=True)
class _Hired:
    ready: bool = False
    queue: deque[int] = field(default_factory=deque)  # the first is the one being made


class BlocksAhead:
    """Call it with block after block: gives each packed, while the workers make those that follow.

    At most `3 * workers` blocks are under way or waiting. A block that cannot be made raises where it is asked for, as
    it would without workers. Raises StateError where workers are lost again and again. Close it.
    """

    def __init__(self, crew: Crew, workers: int) -> None:
        if workers < 1:
            raise RecipeError(f"workers: expected 1 or more, got {workers}.")
        self._crew = crew
        self._window = (QUEUED + 1) * workers
        self._first = self._next = 0  # the block asked for, and the first that nobody was sent
        self._begun = False
        self._again: list[int] = []  # blocks whose workers were lost
        self._done: dict[int, PackedBlock | Failure] = {}
        self._losses: dict[int | None, int] = {}  # None: workers lost before their first block
        self._hired: dict[int, _Hired] = {}
        for _ in range(workers):
            self._hire()

    def __call__(self, block: int) -> PackedBlock:
        if not self._begun:
            self._first = self._next = block
            self._begun = True
        if block != self._first:
            raise ValueError(f"block {block} asked for, {self._first} is next")
        self._send()
        while block not in self._done:
            for event in self._crew.events():
                self._take(event)
            self._send()
        made = self._done.pop(block)
        self._first = block + 1
        self._send()
        if isinstance(made, Failure):
            raise made.error()
        return made

    def close(self) -> None:
        self._crew.close()

    def __enter__(self) -> BlocksAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hire(self) -> None:
        self._hired[self._crew.hire()] = _Hired()

    def _send(self) -> None:
        """Blocks to the workers that have least before them, the earliest block first."""
        self._again.sort()
        while self._again or self._next < self._first + self._window:
            free = [(len(h.queue), w) for w, h in self._hired.items() if h.ready and len(h.queue) < QUEUED]
            if not free:
                return
            worker = min(free)[1]
            if self._again:
                block = self._again.pop(0)
            else:
                block, self._next = self._next, self._next + 1
            self._hired[worker].queue.append(block)
            self._crew.send(worker, block)

    def _take(self, event: Event) -> None:
        hired = self._hired.get(event.worker)
        if hired is None:
            return
        if event.kind == "ready":
            hired.ready = True
        elif event.kind == "lost":
            self._lost(event.worker, hired)
        elif event.block is None:
            assert event.failure is not None
            raise event.failure.error()  # it could not begin, and no other would
        else:
            made = event.made if event.made is not None else event.failure
            assert made is not None
            hired.queue.remove(event.block)
            self._done[event.block] = made

    def _lost(self, worker: int, hired: _Hired) -> None:
        del self._hired[worker]
        block = hired.queue[0] if hired.queue else None
        if block is None and hired.ready:  # idle: it cost nothing
            self._hire()
            return
        losses = self._losses[block] = self._losses.get(block, 0) + 1
        if losses >= MAX_LOSSES:
            doing = "before their first block" if block is None else f"while they made block {block}"
            raise StateError(
                f"{losses} workers were lost {doing}: killed, out of memory, or their machines gone. What is written "
                "is kept; the same command goes on from there. Fewer workers need less memory."
            )
        self._again.extend(hired.queue)
        self._hire()


# Making blocks -------------------------------------------------------------------------------------------------------


def block_maker(job: Job) -> Callable[[int], PackedBlock]:
    """Open the run's folder as the build has left it. Raises StateError where it holds something else."""
    from flantune.pipeline.data import encoded_blocks, even_shares, reopen

    if job.version != flantune.__version__:
        raise StateError(
            f"worker: expected flantune {job.version}, got {flantune.__version__}. Install the same one everywhere."
        )
    readied = reopen(job.recipe, job.folder)
    if readied.data.store.fingerprint != job.store_fingerprint or readied.fingerprint != job.fingerprint:
        raise StateError(
            f"{job.root}: a worker found another store, mixture or tokenizer there than the build has. Is it the same "
            "folder on every machine, and the same version of every package?"
        )
    encode, spec = encoded_blocks(job.recipe, job.folder, readied), job.recipe.tokens
    if even_shares(job.recipe, readied.data) is not None:  # then the build packs, when it has evened them
        return lambda block: unpacked_block(encode(block), spec)
    return lambda block: pack_block(encode(block), spec, one_sided=job.one_sided)


def answer(make: Callable[[int], PackedBlock], block: int) -> PackedBlock | Failure:
    try:
        return make(block)
    except Exception as e:
        return Failure(e)


def one_thread() -> None:
    """A worker is one of many on its machine. Before the tokenizers' first call."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# Workers on this machine ---------------------------------------------------------------------------------------------


class LocalCrew(PipeCrew):
    def __init__(self, job: Job) -> None:
        super().__init__(_work, lambda _: (job,))

    def events(self) -> list[Event]:
        heard = self.received()
        return [Event("lost", worker) if what is None else event_of(worker, *what) for worker, what in heard]


def event_of(worker: int, block: int | None, made: PackedBlock | Failure | None) -> Event:
    """What a worker said: no block and nothing made is "ready"."""
    if isinstance(made, Failure):
        return Event("failed", worker, block, failure=made)
    return Event("ready", worker) if made is None else Event("made", worker, block, made)


def _work(pipe: connection.Connection, job: Job) -> None:
    """A worker process: opens the run, then answers block numbers until the build closes its end or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    one_thread()
    try:
        try:
            make = block_maker(job)
        except Exception as e:
            pipe.send((None, Failure(e)))
            return
        pipe.send((None, None))
        while True:
            block = pipe.recv()
            pipe.send((block, answer(make, block)))
    except (EOFError, OSError):
        return
