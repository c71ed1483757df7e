"""Loops over arrays as machine code."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

# Sums in any order, products and sums as one; no number is taken to be finite.
_QUICK = {"reassoc", "contract", "nsz"}


@cache
def compiled(function: Callable[..., Any], *, quick: bool = False, parallel: bool = False) -> Callable[..., Any]:
    """The function compiled by numba on its first call and kept beside its source for the next process.

    Functions of its own module that it calls are compiled into it. `quick`: sums may be taken in any order, which lets
    them be wide vectors. `parallel`: loops over a `prange` of the module's (where it is read as Python, `range`) are
    shared out among threads; `shared_threads` says whether that may be.
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


def _with_parts(function: Callable[..., Any], quick: bool) -> Callable[..., Any]:
    """The same code, with compiled functions under the names of those it calls: numba calls no plain one."""
    assert isinstance(function, FunctionType)
    own, module = function.__globals__, function.__module__
    parts = {
        name: compiled(own[name], quick=quick)
        for name in function.__code__.co_names
        if isinstance(own.get(name), FunctionType) and own[name].__module__ == module
    }
    parts |= {name: make() for name, make in _BUILT_IN.items() if name in function.__code__.co_names and name in own}
    if not parts:
        return function
    return FunctionType(function.__code__, {**own, **parts}, function.__name__, function.__defaults__)


def prefetch(array: Any, at: int) -> None:
    """Element `at` of a flat array will be wanted soon: a hint to the processor, where compiled; nothing in Python."""


def _prange() -> Any:
    import numba

    return numba.prange


@cache
def _prefetch() -> Any:
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    number, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
    read, second_cache, data = (ir.Constant(number, n) for n in (0, 2, 1))

    def call(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), pointer)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(hint, [place, read, second_cache, data])
        return context.get_dummy_value()

    def prefetch(typing: Any, array: Any, at: Any) -> Any:
        return types.void(array, at), call

    return intrinsic(prefetch)


_BUILT_IN: dict[str, Callable[[], Any]] = {"prange": _prange, "prefetch": _prefetch}


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
