"""What loops that `compiled` compiles cannot say in Python: products whose sums stay in the processor's registers, and
a hint to memory.

Left to itself the compiler adds up vectors lane by lane at the end of every product, and writes sums to memory between
terms; these, in LLVM's own language, run at the speed of a processor's multiplications. Rows are contiguous in their
last axis. As Python they are numpy's products. What is compiled with them is kept beside the caller's source and knows
nothing of a change here: touch that file, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from flantune.compiled import compiled, written_as

LEAST = np.float32(-1e30)  # a score of nothing; finite, so that there is a difference of two
LANES = 16  # numbers that are looked at together: widths are multiples of it
_LINE = 16  # numbers that memory gives at once


@written_as(lambda: _product(_write_dots))
def dots(rows: Any, queries: Any, out: Any) -> None:
    """Of four queries, (4 or more, width), with as much of four rows, (4 or more, width or more), into out[query, row].
    The width is a multiple of LANES."""
    out[:4, :4] = queries[:4] @ rows[:4, : queries.shape[1]].T


@written_as(lambda: _product(_write_add_weighed))
def add_weighed(weights: Any, rows: Any, out: Any) -> None:
    """Rows (n, LANES or more), weighed for each of eight queries by weights[query, :n], onto out[query, :LANES]. The
    weights may lie in any order."""
    out[:8, :LANES] += weights[:8, : len(rows)] @ rows[:, :LANES]


@written_as(lambda: _largest())
def largest(row: Any) -> Any:
    """Of the numbers of a row, LANES of them or a multiple, none of which is no number."""
    return row.max()


@written_as(lambda: _prefetch())
def prefetch(array: Any, at: int) -> None:
    """Element `at` of a flat array will be wanted soon: a hint to the processor, where compiled; nothing in Python."""


@written_as(lambda: _ask())
def ask(flat: Any, at: int, count: int) -> int:
    """`prefetch` of so many numbers from `at` on, as far as there are any; the place after them."""
    stop = min(at + count, len(flat))
    for place in range(at, stop, _LINE):
        prefetch(flat, place)
    return at + count


@written_as(lambda: _exp())
def exp(x: Any) -> Any:
    """Of a number of no more than 0, to a unit in the last place, or two; 1e-38 where that is more. In steps that a
    compiler does for many numbers at once: 2^n times a series for what is left (Cephes' coefficients, Moshier 1989)."""
    x = max(x, np.float32(-87))
    n = math.floor(x * np.float32(1.44269504) + np.float32(0.5))
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    x = x - np.float32(n) * np.float32(0.693359375) + np.float32(n) * np.float32(2.12194440e-4)
    series = np.float32(1.98756915e-4) * x + np.float32(1.39819995e-3)
    series = series * x + np.float32(8.33345191e-3)
    series = series * x + np.float32(4.16657959e-2)
    series = series * x + np.float32(1.66666655e-1)
    series = series * x + np.float32(5.00000012e-1)
    return (series * x * x + x + np.float32(1)) * power


@written_as(lambda: _weigh())
def weigh(scores: Any, most: Any) -> Any:
    """Scores of which none is larger than `most` to weights, in place; their sum."""
    total = np.float32(0)
    for i in range(len(scores)):
        scores[i] = exp(scores[i] - most)
        total += scores[i]
    return total


def _ask() -> Any:
    return compiled(ask, quick=True)


def _exp() -> Any:
    return compiled(exp, quick=True)


def _weigh() -> Any:
    return compiled(weigh, quick=True)


def _product(write: Callable[[_Writer, Sequence[Any]], None]) -> Any:
    from numba.core import types
    from numba.extending import intrinsic

    def call(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given = zip(signature.args, arguments, strict=True)
        write(_Writer(builder), [context.make_array(kind)(context, builder, value) for kind, value in given])
        return context.get_dummy_value()

    def product(typing: Any, a: Any, b: Any, out: Any) -> Any:
        return types.void(a, b, out), call

    return intrinsic(product)


def _largest() -> Any:
    from numba.core import types
    from numba.extending import intrinsic

    def call(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, row = _Writer(builder), context.make_array(signature.args[0])(context, builder, arguments[0])
        first = to.row(row, 0)
        (place,) = to.sums(1, LANES, [first])
        with to.loop(to.length(row, 0), LANES) as at:
            to.keep_larger(place, to.load(first, at, LANES))
        return to.largest(place)

    def largest(typing: Any, row: Any) -> Any:
        return types.float32(row), call

    return intrinsic(largest)


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


def _write_dots(to: _Writer, arrays: Sequence[Any]) -> None:
    queries_at_once = 4 if _has_32_registers() else 2
    lanes = LANES if _has_32_registers() else LANES // 2
    rows = [to.row(arrays[0], i) for i in range(4)]
    for first in range(0, 4, queries_at_once):
        queries = [to.row(arrays[1], first + q) for q in range(queries_at_once)]
        sums = to.sums(4 * queries_at_once, lanes)
        with to.loop(to.length(arrays[1], 1), lanes) as place:
            seen = [to.load(row, place, lanes) for row in rows]
            for q, query in enumerate(queries):
                asked = to.load(query, place, lanes)
                for i, one in enumerate(seen):
                    to.add(sums[4 * q + i], one, asked)
        made = to.totals(sums)
        for q in range(queries_at_once):
            to.store(to.row(arrays[2], first + q), to.part(made, 4 * q, 4))


def _write_add_weighed(to: _Writer, arrays: Sequence[Any]) -> None:
    weights, rows, out = arrays
    queries_at_once = 8 if _has_32_registers() else 4
    for first in range(0, 8, queries_at_once):
        ends = [to.row(out, first + q) for q in range(queries_at_once)]
        weighs = [to.row(weights, first + q) for q in range(queries_at_once)]
        sums = to.sums(queries_at_once, LANES, ends)
        with to.loop(to.length(rows, 0), 1) as number:
            row = to.load(to.row(rows, number), None, LANES)
            for place, weight in zip(sums, weighs, strict=True):
                to.add(place, row, to.spread(to.along(weights, weight, number), LANES))
        for end, place in zip(ends, sums, strict=True):
            to.store(end, to.builder.load(place))


@cache
def _has_32_registers() -> bool:
    """Of vectors: AVX-512 has them, and every ARM of 64 bits; x86 before has 16."""
    import llvmlite.binding

    if "x86_64" not in llvmlite.binding.get_default_triple():
        return True
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512vl"))


class _Writer:
    """LLVM's instructions for vectors of single-precision numbers."""

    def __init__(self, builder: Any) -> None:
        from llvmlite import ir
        from numba.core import cgutils

        self.builder, self._ir, self._cgutils = builder, ir, cgutils
        self._number, self._word, self._index = ir.FloatType(), ir.IntType(64), ir.IntType(32)

    def length(self, array: Any, axis: int) -> Any:
        return self._cgutils.unpack_tuple(self.builder, array.shape)[axis]

    def row(self, array: Any, number: Any) -> Any:
        """The address of a row's first number."""
        stride = self._cgutils.unpack_tuple(self.builder, array.strides)[0]
        number = self._ir.Constant(self._word, number) if isinstance(number, int) else number
        byte = self._ir.IntType(8).as_pointer()
        return self.builder.gep(self.builder.bitcast(array.data, byte), [self.builder.mul(stride, number)])

    def along(self, array: Any, row: Any, place: Any) -> Any:
        """The address of a row's number at a place, wherever its next one lies."""
        stride = self._cgutils.unpack_tuple(self.builder, array.strides)[1]
        return self.builder.gep(row, [self.builder.mul(stride, place)])

    def load(self, row: Any, place: Any, lanes: int) -> Any:
        if place is not None:
            row = self.builder.gep(row, [self.builder.mul(place, self._ir.Constant(self._word, 4))])
        return self.builder.load(self.builder.bitcast(row, self._vector(lanes).as_pointer()), align=4)

    def store(self, row: Any, vector: Any) -> None:
        self.builder.store(vector, self.builder.bitcast(row, vector.type.as_pointer()), align=4)

    def spread(self, number: Any, lanes: int) -> Any:
        """What is at an address, in all lanes."""
        one = self.load(number, None, 1)
        return self._shuffled(one, one, [0] * lanes)

    def sums(self, count: int, lanes: int, starts: Sequence[Any] | None = None) -> list[Any]:
        """Places of sums, from 0 or from what is at the addresses `starts`."""
        places = [self._cgutils.alloca_once(self.builder, self._vector(lanes)) for _ in range(count)]
        for i, place in enumerate(places):
            start = (
                self._ir.Constant(self._vector(lanes), None) if starts is None else self.load(starts[i], None, lanes)
            )
            self.builder.store(start, place)
        return places

    def add(self, place: Any, x: Any, y: Any) -> None:
        product = self.builder.fmul(x, y, flags=("contract",))
        self.builder.store(self.builder.fadd(self.builder.load(place), product, flags=("contract",)), place)

    def keep_larger(self, place: Any, x: Any) -> None:
        held = self.builder.load(place)
        self.builder.store(self._larger(x, held), place)

    def largest(self, place: Any) -> Any:
        vector = self.builder.load(place)
        while vector.type.count > 1:
            half = vector.type.count // 2
            vector = self._larger(self.part(vector, 0, half), self.part(vector, half, half))
        return self.builder.extract_element(vector, self._ir.Constant(self._index, 0))

    def _larger(self, x: Any, y: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", x, y), x, y)

    @contextmanager
    def loop(self, stop: Any, step: int) -> Iterator[Any]:
        """From 0 to `stop`, a multiple of `step`, by it."""
        first, by = self._ir.Constant(self._word, 0), self._ir.Constant(self._word, step)
        with self._cgutils.for_range_slice(self.builder, first, stop, by, self._word) as (place, _):
            yield place

    def totals(self, sums: Sequence[Any]) -> Any:
        """The sums' lanes added up, into one vector in their order."""
        vectors = [self.builder.load(place) for place in sums]
        lanes = half = vectors[0].type.count
        while half > 1:
            half //= 2
            low = [i for i in range(2 * lanes) if i // half % 2 == 0]
            high = [i for i in range(2 * lanes) if i // half % 2 == 1]
            vectors = [
                self.builder.fadd(self._shuffled(x, y, low), self._shuffled(x, y, high))
                for x, y in zip(vectors[::2], vectors[1::2], strict=True)
            ]
        assert len(vectors) == 1
        return vectors[0]

    def part(self, vector: Any, first: int, count: int) -> Any:
        return self._shuffled(vector, vector, list(range(first, first + count)))

    def _vector(self, lanes: int) -> Any:
        return self._ir.VectorType(self._number, lanes)

    def _shuffled(self, x: Any, y: Any, places: Sequence[int]) -> Any:
        mask = self._ir.Constant(self._ir.VectorType(self._index, len(places)), list(places))
        return self.builder.shuffle_vector(x, y, mask)
