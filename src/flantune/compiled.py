"""Loops over arrays as machine code."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled by numba on its first call and kept beside its source for the next process.

    Functions of its own module that it calls are compiled into it.
    """
    import numba  # here, not above: importing it takes longer than most commands

    function = _with_parts(function)
    made: Callable[..., Any]
    try:
        made = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # nowhere to keep the compiled code: a read-only install without a home folder
        made = numba.njit(nogil=True)(function)
    return made


def _with_parts(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same code, with compiled functions under the names of those it calls: numba calls no plain one."""
    assert isinstance(function, FunctionType)
    own, module = function.__globals__, function.__module__
    parts = {
        name: compiled(own[name])
        for name in function.__code__.co_names
        if isinstance(own.get(name), FunctionType) and own[name].__module__ == module
    }
    if not parts:
        return function
    return FunctionType(function.__code__, {**own, **parts}, function.__name__, function.__defaults__)
