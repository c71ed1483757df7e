"""Loops over arrays as machine code."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled by numba on its first call and kept beside its source for the next process."""
    import numba  # here, not above: importing it takes longer than most commands

    made: Callable[..., Any]
    try:
        made = numba.njit(cache=True)(function)
    except RuntimeError:  # nowhere to keep the compiled code: a read-only install without a home folder
        made = numba.njit(function)
    return made
