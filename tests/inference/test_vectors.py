"""What compiled loops call for products, against numpy in double precision, on processors of many registers and few."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from flantune.inference import vectors
from flantune.inference.vectors import LANES

numba = pytest.importorskip("numba")
MADE: dict[tuple[str, bool], Callable[..., Any]] = {}


def drawn(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


@pytest.fixture(params=[True, False], ids=["32 registers", "16 registers"])
def registers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(vectors, "_has_32_registers", lambda: request.param)
    return bool(request.param)


def called(write: Callable[..., None], registers: bool) -> Callable[..., Any]:
    name = write.__name__, registers
    if name not in MADE:
        product = vectors._product(write)
        MADE[name] = numba.njit(lambda a, b, out: product(a, b, out))
    return MADE[name]


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_dots_of_four_rows_and_four_queries(registers: bool, lanes: int):
    rows, queries = drawn(7, lanes * LANES, seed=1), drawn(6, lanes * LANES, seed=2)
    out = drawn(6, 9)
    wanted = out.copy()
    wanted[1:5, 2:6] = queries[1:5].astype(np.float64) @ rows[3:7].astype(np.float64).T
    by_numpy = out.copy()
    vectors.dots(rows[3:], queries[1:], by_numpy[1:, 2:])
    called(vectors._write_dots, registers)(rows[3:], queries[1:], out[1:, 2:])
    np.testing.assert_allclose(out, wanted, atol=2e-5, rtol=0)
    np.testing.assert_allclose(by_numpy, wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("count", [1, 3, 32])
def test_weighed_rows_are_added(registers: bool, count: int):
    weights, rows, out = drawn(9, count + 2), drawn(count, LANES + 5), drawn(10, LANES + 4)
    wanted = out.copy()
    wanted[2:, 3 : 3 + LANES] += weights[1:, 2:].astype(np.float64) @ rows[:, 4 : 4 + LANES].astype(np.float64)
    by_numpy = out.copy()
    vectors.add_weighed(weights[1:, 2:], rows[:, 4:], by_numpy[2:, 3:])
    called(vectors._write_add_weighed, registers)(weights[1:, 2:], rows[:, 4:], out[2:, 3:])
    np.testing.assert_allclose(out, wanted, atol=2e-5, rtol=0)
    np.testing.assert_allclose(by_numpy, wanted, atol=2e-5, rtol=0)


def test_the_largest_wherever_it_stands():
    largest = vectors._largest()
    found = numba.njit(lambda row: largest(row))
    for length in (LANES, 3 * LANES):
        for place in range(length):
            row = -np.abs(drawn(length, seed=place)) - 1
            row[place] = -0.5
            assert found(row) == vectors.largest(row) == -0.5


def test_exp_of_every_size():
    x = np.concatenate([np.linspace(-87, 0, 200_001), [-1e-30, -0.0]]).astype(np.float32)
    wanted = np.exp(x.astype(np.float64))
    got = _all_exps(x)
    assert np.max(np.abs(got - wanted) / wanted) < 2.0**-22
    assert got[-1] == 1
    assert [float(vectors.exp(v)) for v in x[::5_000]] == pytest.approx(wanted[::5_000].tolist(), rel=2.0**-22)
    assert np.all(_all_exps(np.array([-88, -1e30, -np.inf], dtype=np.float32)) < 2e-38)


def _all_exps(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    from flantune.compiled import compiled

    out = np.empty_like(x)
    compiled(_exps, quick=True)(x, out)
    return out.astype(np.float64)


def _exps(x: Any, out: Any) -> None:
    for i in range(len(x)):
        out[i] = exp(x[i])


exp = vectors.exp
