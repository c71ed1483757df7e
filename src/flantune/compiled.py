"""Loops over arrays as machine code."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])
_MAKE = "__made_for_numba__"
# Sums in any order, products and sums as one; no number is taken to be finite.
_QUICK = {"reassoc", "contract", "nsz"}


@cache
def compiled(function: Callable[..., Any], *, quick: bool = False, parallel: bool = False) -> Callable[..., Any]:
    """The function compiled by numba on its first call and kept beside its source for the next process.

    Functions of its own module that it calls are compiled into it, and those that are `written_as` something else.
    `quick`: sums may be taken in any order, which lets them be wide vectors. `parallel`: loops over a `prange` of the
    module's (where it is read as Python, `range`) are shared out among threads; `shared_threads` says whether that may
    be.
    """
    import numba  # here, not above: importing it takes longer than most commands

    function = _with_parts(function, quick)
    made: Callable[..., Any]
    flags: dict[str, Any] = {"nogil": True, "parallel": parallel, "fastmath": _QUICK if quick else False}
    try:
        made = numba.njit(cache=True, **flags)(function)
    except RuntimeError:  # nowhere to keep the compiled code: a read-only install without a home folder
        made = numba.njit(**flags)(function)
    return made


def written_as(make: Callable[[], Any]) -> Callable[[_Function], _Function]:
    """A function that compiled ones call as what `make` returns, something of numba's own; in Python it is itself."""

    def told(function: _Function) -> _Function:
        setattr(function, _MAKE, cache(make))
        return function

    return told


def _with_parts(function: Callable[..., Any], quick: bool) -> Callable[..., Any]:
    """The same code, with compiled functions under the names of those it calls: numba calls no plain one."""
    assert isinstance(function, FunctionType)
    own, module = function.__globals__, function.__module__
    parts = {
        name: compiled(own[name], quick=quick)
        for name in function.__code__.co_names
        if isinstance(own.get(name), FunctionType) and own[name].__module__ == module and not hasattr(own[name], _MAKE)
    }
    named = [name for name in function.__code__.co_names if name in own]
    parts |= {name: own[name].__dict__[_MAKE]() for name in named if _MAKE in getattr(own[name], "__dict__", {})}
    if "prange" in named:
        parts["prange"] = _prange()
    if not parts:
        return function
    return FunctionType(function.__code__, {**own, **parts}, function.__name__, function.__defaults__)


def _prange() -> Any:
    import numba

    return numba.prange


def shared_threads() -> bool:
    """Parallel loops run on torch's threads, as many as it has, so that neither waits for the other's; False: they
    would not, and are better left alone."""
    import torch

    numba = _on_torch_threads()
    if numba is None:
        return False
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    return True


@cache
def _on_torch_threads() -> Any:
    """numba, told to use OpenMP as torch does, or None. Its own pool is no use: torch's threads, when they have
    nothing to do, keep their processors busy for some milliseconds, and two callers at once end the process."""
    import torch

    numba: Any = importlib.import_module("numba")
    if not torch.backends.openmp.is_available() or numba.config.THREADING_LAYER not in ("default", "omp"):
        return None
    try:
        importlib.import_module("numba.np.ufunc.omppool")
        if numba.threading_layer() != "omp":
            return None  # somebody has chosen before us
    except ImportError:
        return None
    except ValueError:  # nobody has
        numba.config.THREADING_LAYER = "omp"
    return numba
