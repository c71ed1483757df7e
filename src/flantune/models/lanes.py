"""Pieces of work on a CPU, each done on one thread from beginning to end.

Where a piece is many small calls, dividing each call among the threads costs more in waiting than it saves, and what
one call leaves in a core's cache the next one finds in another's.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")

_FEW = 2  # pieces to a thread below which the calls themselves are divided


def each_piece(pieces: Sequence[T], work: Callable[[T], None], device: torch.device) -> None:
    """`work` on every piece, in any order and several at once; pieces must not write to the same place."""
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    if threads < 2 or len(pieces) < _FEW * threads:
        for piece in pieces:
            work(piece)
        return
    left, one_at_a_time = iter(pieces), threading.Lock()
    inference = torch.is_inference_mode_enabled()

    def taken() -> Iterator[T]:
        while True:
            with one_at_a_time:
                piece = next(left, None)
            if piece is None:
                return
            yield piece

    def lane() -> None:
        with torch.inference_mode(inference), torch.no_grad():  # both belong to a thread
            for piece in taken():
                work(piece)

    waiting = [_pool(threads, os.getpid()).submit(lane) for _ in range(threads)]
    for one in waiting:
        one.result()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads whose own calls are not divided further; `process`, for a fork has none of its parent's threads."""
    own = torch.get_num_threads()
    all_begun = threading.Barrier(threads)

    def begin() -> None:
        torch.get_num_threads()  # the first call in a thread takes over the process's number
        torch.set_num_threads(1)
        all_begun.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="flantune-lane", initializer=begin)
    for one in [pool.submit(int) for _ in range(threads)]:
        one.result()
    torch.set_num_threads(own)  # `set_num_threads` in any thread is what later threads begin with
    return pool
