"""Compiled functions say what the same Python says, also through the functions of their module that they call."""

from __future__ import annotations

import numpy as np
import pytest

from flantune.compiled import compiled


def halved(value: int) -> int:
    return value // 2 if value % 2 == 0 else raised(value)


def raised(value: int) -> int:
    return 3 * value + 1


def steps_to_one(values, out) -> None:
    for k in range(len(values)):
        value = values[k]
        while value != 1:
            value = halved(value)
            out[k] += 1


@pytest.mark.parametrize("made", [lambda function: function, compiled], ids=["python", "compiled"])
def test_parts_that_call_parts_are_compiled_too(made):
    out = np.zeros(4, dtype=np.int64)
    made(steps_to_one)(np.array([1, 6, 7, 27]), out)
    assert out.tolist() == [0, 8, 16, 111]


def test_a_function_is_compiled_once_and_stays_python_itself():
    assert compiled(steps_to_one) is compiled(steps_to_one)
    assert steps_to_one.__globals__["halved"] is halved
