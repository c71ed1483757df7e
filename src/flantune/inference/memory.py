"""How many tokens to read at once: as many as pay, no more than fit, fewer when memory runs out all the same."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from flantune.errors import ModelError

# On a CPU a batch of so many tokens is as fast as any larger one; on a GPU it takes more to fill it. On a CPU encoders
# gain a few hundredths by as many again, and lose by eight times as many.
_PAYS = {"cpu": 1_024, "cuda": 65_536}
_ENCODERS_PAY = {"cpu": 2_048}
_ROWS = {"cpu": 96, "cuda": 512}  # sequences written at once: likewise
_SHARE = 0.5  # of the memory that is free, for everything a batch needs
_GIB = 1 << 30

# glibc's parameters, and what it would arrive at by itself once a block of 32 MB had been freed: blocks up to that size
# are of the heap, and of the heap's free top twice as much stays.
_MALLOPT = {-3: 32 << 20, -1: 64 << 20}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
_USERS_OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@dataclass(slots=True)
class Budget:
    """`tokens` read at once and `rows` written at once, until memory says otherwise."""

    tokens: int
    rows: int
    shrunk: int = 0  # how often memory ran out

    def shrink(self, error: BaseException, tokens: int, rows: int = 1) -> None:
        """Half of what was asked for (`tokens`, `rows`) from now on. Raises ModelError where nothing can be halved."""
        if tokens <= 1 and rows <= 1:
            raise ModelError(
                "memory ran out on the smallest batch there is. Take a smaller model, a device with more memory or "
                f"another precision. ({_first_line(error)})"
            ) from error
        self.tokens = max(1, min(self.tokens, tokens) // 2)
        self.rows = max(1, min(self.rows, rows) // 2) if rows > 1 else self.rows
        self.shrunk += 1


def automatic_budget(model: Any, batch_tokens: int | None) -> Budget:
    """`batch_tokens` where it is a number; else what pays on the model's device and fits into its free memory."""
    kind = model.device.type
    rows = _ROWS.get(kind, 64)
    if batch_tokens is not None:
        return Budget(batch_tokens, rows)
    fits = int(_SHARE * free_memory(model.device) / bytes_per_token(model))
    pays = {**_PAYS, **(_ENCODERS_PAY if model.config.is_encoder_decoder else {})}
    return Budget(max(64, min(pays.get(kind, 1_024), fits)), rows)


def tokens_that_fit(model: Any) -> int:
    """Tokens whose keys and values may be kept at once."""
    return max(1, int(_SHARE * free_memory(model.device) / cache_bytes(model)))


def free_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    available = int(psutil.virtual_memory().available)
    return min(available, _left_in_cgroup(available))


def bytes_per_token(model: Any) -> int:
    """Of activations while a token is read, generously: hidden states, the feed-forward layer, its keys and values."""
    config = getattr(model.config, "decoder", model.config)  # T5Gemma's stacks have their own
    hidden = _first(config, "hidden_size", "d_model")
    inner = _first(config, "intermediate_size", "d_ff")
    return 4 * (16 * hidden + 4 * inner) + cache_bytes(model)


def cache_bytes(model: Any, bytes_each: int = 4) -> int:
    """Of one token's keys and values in all decoder layers."""
    config = getattr(model.config, "decoder", model.config)  # T5Gemma's stacks have their own
    layers = _first(config, "num_decoder_layers", "num_hidden_layers", "num_layers")
    heads = _first(config, "num_attention_heads", "num_heads")
    groups = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
    width = width or _first(config, "hidden_size", "d_model") // heads
    return 2 * layers * groups * width * bytes_each


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in str(error) or "not enough memory" in str(error)
    )


@contextmanager
def out_of_memory(device: torch.device) -> Iterator[list[BaseException]]:
    """Yields a list that holds the error, if memory ran out inside; every other error goes on."""
    caught: list[BaseException] = []
    try:
        yield caught
    except (RuntimeError, MemoryError) as e:  # torch.OutOfMemoryError is a RuntimeError
        if not is_out_of_memory(e):
            raise
        caught.append(e.with_traceback(None))  # the traceback holds every tensor of the batch
    if caught:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def keep_freed_memory() -> None:
    """What one layer frees is there for the next. As it comes, glibc gives blocks of a few megabytes back to the system
    and takes them anew, page by page: a twelfth of the time that a small decoder reads. A user's own settings stand."""
    if sys.platform == "linux" and not any(name in os.environ for name in _USERS_OWN):
        tune = getattr(ctypes.CDLL(None), "mallopt", None)  # not every C library has it
        for parameter, value in _MALLOPT.items():
            if tune is not None:
                tune(parameter, value)


def _left_in_cgroup(otherwise: int) -> int:
    """A container's own limit, which the machine's free memory does not know of."""
    try:
        with open("/sys/fs/cgroup/memory.max") as limit, open("/sys/fs/cgroup/memory.current") as used:
            return max(_GIB // 4, int(limit.read()) - int(used.read()))
    except (OSError, ValueError):  # no such files, or "max"
        return otherwise


def _first(config: Any, *names: str) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise ModelError(f"{type(config).__name__}: expected one of {', '.join(names)} in the configuration, got none.")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]
