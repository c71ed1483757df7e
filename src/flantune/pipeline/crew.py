"""Processes of this machine that are told things through pipes and answer through them; one that dies is told of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection, get_context
from typing import Any


class PipeCrew:
    """Processes started anew (not forked): nothing of this one's memory is in them.

    `work(pipe, *given)` runs in each until its pipe ends; `given` names the arguments of the n-th one hired, from 0.
    """

    def __init__(self, work: Callable[..., None], given: Callable[[int], tuple[Any, ...]]) -> None:
        self._work, self._given = work, given
        self._context = get_context("spawn")
        self._workers: dict[int, tuple[Any, connection.Connection]] = {}  # process, and our end of its pipe
        self._hired = 0

    def hire(self) -> int:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=self._work, args=(theirs, *self._given(self._hired)), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        self._hired += 1
        self._workers[self._hired] = process, ours
        return self._hired

    def send(self, worker: int, what: Any) -> None:
        with suppress(OSError):  # it is gone; `received` will say so
            self._workers[worker][1].send(what)

    def received(self) -> list[tuple[int, tuple[Any, Any] | None]]:
        """Waits until someone speaks or dies. Worker and the pair it sent; None: it is gone."""
        waiting = set(connection.wait([pipe for _, pipe in self._workers.values()]))
        return [(worker, self._from(worker)) for worker, (_, pipe) in list(self._workers.items()) if pipe in waiting]

    def _from(self, worker: int) -> tuple[Any, Any] | None:
        process, pipe = self._workers[worker]
        try:
            first, second = pipe.recv()
        except (EOFError, OSError):
            del self._workers[worker]
            process.join()
            return None
        return first, second

    @property
    def processes(self) -> dict[int, int]:
        """Process ids by worker."""
        return {worker: int(process.pid) for worker, (process, _) in self._workers.items()}

    def close(self) -> None:
        for process, pipe in self._workers.values():
            pipe.close()
            process.terminate()
        for process, _ in self._workers.values():
            process.join()
        self._workers.clear()
