"""Jobs in processes of this machine."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from flantune.studies.points import Event
from flantune.whole import write_json

JOB = "job.json"
PATIENCE = 10.0  # seconds that a process has to end by itself


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    place: int  # from 0: which GPU is its own
    key: str = ""  # of the job it is at; empty where it waits for one


class Processes:
    """At most `count`, each doing one job after another: starting one costs seconds. One that dies takes its job along
    and no other. With GPUs, each has one to itself as far as they go round."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: dict[int, _Worker] = {}  # by place
        self._heard: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()  # None: it is gone

    def room(self) -> int:
        return self._count - sum(bool(w.key) for w in self._workers.values())

    def begin(self, key: str, job: Mapping[str, Any], folder: Path) -> None:
        write_json(folder / JOB, job)
        worker = next((w for w in self._workers.values() if not w.key), None) or self._hire(job["threads"])
        worker.key = key
        assert worker.process.stdin is not None
        with suppress(OSError):  # it is gone; `events` will say so
            worker.process.stdin.write(f"{folder / JOB}\n".encode())
            worker.process.stdin.flush()

    def events(self) -> list[Event]:
        try:
            heard = [self._heard.get(timeout=0.5)]
        except queue.Empty:
            return []
        while not self._heard.empty():
            heard.append(self._heard.get())
        return [event for place, said in heard if (event := self._event(place, said)) is not None]

    def close(self) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in self._workers.values():
            try:
                worker.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers.clear()

    def _event(self, place: int, said: dict[str, Any] | None) -> Event | None:
        worker = self._workers[place]
        key = worker.key
        if said is None:
            del self._workers[place]
            return Event(key, ended=True, lost=how_it_ended(worker.process.wait())) if key else None
        if "ended" in said:
            worker.key = ""
            return Event(key, ended=True)
        return Event(key, stage=said["stage"], done=said["done"], total=said["total"]) if "stage" in said else None

    def _hire(self, threads: int) -> _Worker:
        place = min(set(range(self._count)) - self._workers.keys())
        worker = self._workers[place] = _Worker(start_process((), threads, gpu_of(place)), place)
        threading.Thread(target=self._listen, args=(place, worker.process), daemon=True).start()
        return worker

    def _listen(self, place: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said = said_in(line)
            if said is not None:
                self._heard.put((place, said))
        self._heard.put((place, None))


def said_in(line: bytes) -> dict[str, Any] | None:
    """None where a library printed something."""
    try:
        said = orjson.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def start_process(arguments: Sequence[str], threads: int, gpu: str | None = None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment["TOKENIZERS_PARALLELISM"] = "false" if threads == 1 else "true"
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return subprocess.Popen(
        [sys.executable, "-m", "flantune.studies.work", *arguments],
        stdin=subprocess.PIPE,  # its end is the end of the process
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # each job's is in its log
        env=environment,
        start_new_session=True,  # Ctrl-C is for the command, which ends its processes in order
    )


def how_it_ended(code: int) -> str:
    """Empty where the process said it itself."""
    if code in (0, 1):
        return ""
    if code == -signal.SIGKILL:
        return "its process was killed (signal 9): by the system where memory ran out, or by somebody"
    if code < 0:
        return f"its process ended by signal {-code}"
    return f"its process ended with {code}"


def gpu_of(place: int) -> str | None:
    """Which GPU the place's jobs see; None where there is no choice."""
    stated = os.environ.get("CUDA_VISIBLE_DEVICES")
    if stated is not None:
        given = [part for part in stated.split(",") if part.strip()]
    else:
        given = [str(n) for n in range(_gpus())]
    return given[place % len(given)] if len(given) > 1 else None


def _gpus() -> int:
    """NVIDIA devices of this machine, without torch: it takes seconds to import."""
    return sum(1 for path in Path("/dev").glob("nvidia[0-9]*") if path.name.removeprefix("nvidia").isdigit())
