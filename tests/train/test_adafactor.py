from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.train.adafactor import Adafactor, decay_rate, factored_dims


@pytest.fixture(scope="session")
def vectors(spec_dir: Path) -> dict[str, Any]:
    return json.loads((spec_dir / "test_vectors.json").read_text())["adafactor"]


@pytest.mark.parametrize("case", ["vector", "tiny_param", "matrix"])
def test_parameters_and_state_are_the_published_vectors_to_1e_9(case: str, vectors: dict[str, Any]):
    told = vectors[case]
    parameter = torch.nn.Parameter(torch.tensor(told["param"], dtype=torch.float64))
    optimizer = Adafactor([parameter], lr=told["lr"], min_dim_factored=2 if case == "matrix" else 128)
    for number, (gradient, step) in enumerate(zip(told["grads"], told["steps"], strict=True), start=1):
        before = parameter.detach().clone()
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        assert decay_rate(number) == pytest.approx(step["beta2"], abs=1e-12)
        moved = (before - parameter.detach()) / step["step_size"]
        np.testing.assert_allclose(moved, step["clipped_update"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(parameter.detach(), step["param"], rtol=0, atol=1e-9)
        for name in ("v", "v_row", "v_col"):
            assert (name in step) == (name in optimizer.state[parameter])
            if name in step:
                np.testing.assert_allclose(optimizer.state[parameter][name], step[name], rtol=0, atol=1e-9)


def test_virtual_steps_make_the_average_as_long_as_a_restored_one(vectors: dict[str, Any]):
    told = vectors["continued_state"]["beta2_at_next_step"]
    assert decay_rate(1 + 1_100_000) == pytest.approx(told, abs=1e-12)
    parameter = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = Adafactor([parameter], lr=1e-3, step_offset=1_100_000)
    parameter.grad = torch.full((3,), 2.0, dtype=torch.float64)
    optimizer.step()
    np.testing.assert_allclose(optimizer.state[parameter]["v"], 4 * (1 - told), rtol=1e-9)


def slow_adafactor(parameter: np.ndarray, gradients: list[np.ndarray], lr: float, min_dim: int) -> np.ndarray:
    """The six lines of the specification, with the second moment of a factored tensor written out whole."""
    mean_v, row, column = np.zeros_like(parameter), 0.0, 0.0
    ascending = np.argsort(parameter.shape, kind="stable")
    factored = parameter.ndim >= 2 and parameter.shape[ascending[-2]] >= min_dim
    for t, gradient in enumerate(gradients, start=1):
        beta2 = 1 - t**-0.8
        squared = gradient**2 + 1e-30
        if factored:
            small, large = ascending[-2], ascending[-1]
            row = beta2 * row + (1 - beta2) * squared.mean(large, keepdims=True)
            column = beta2 * column + (1 - beta2) * squared.mean(small, keepdims=True)
            v = row * column / row.mean(small, keepdims=True)
        else:
            mean_v = beta2 * mean_v + (1 - beta2) * squared
            v = mean_v
        update = gradient / np.sqrt(v)
        update = update / max(1.0, np.sqrt((update**2).mean()))
        parameter = parameter - lr * max(1e-3, np.sqrt((parameter**2).mean())) * update
    return parameter


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    min_dim=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-8, 1e-3, 1.0, 30.0]),
)
def test_tensors_of_any_shape_follow_the_specification(shape: list[int], min_dim: int, seed: int, scale: float):
    rng = np.random.default_rng(seed)
    start, gradients = rng.normal(size=shape) * scale, [rng.normal(size=shape) * scale for _ in range(4)]
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = Adafactor([parameter], lr=0.01, min_dim_factored=min_dim)
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    expected = slow_adafactor(start, gradients, lr=0.01, min_dim=min_dim)
    np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-9, atol=1e-12 * scale)


def test_only_tensors_with_two_large_dims_are_factored():
    assert factored_dims(torch.Size([128, 256]), 128) == (0, 1)
    assert factored_dims(torch.Size([256, 128]), 128) == (1, 0)
    assert factored_dims(torch.Size([127, 4096]), 128) is None
    assert factored_dims(torch.Size([4096]), 128) is None
    assert factored_dims(torch.Size([512, 6, 64]), 64) == (2, 0)


def test_state_is_float32_for_smaller_parameters_and_a_missing_gradient_moves_nothing():
    moved, still = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16)), torch.nn.Parameter(torch.ones(4))
    optimizer = Adafactor([moved, still], lr=0.1)
    moved.grad = torch.ones(4, dtype=torch.bfloat16)
    optimizer.step()
    assert optimizer.state[moved]["v"].dtype == torch.float32 and moved.dtype == torch.bfloat16
    assert torch.equal(still, torch.ones(4)) and still not in optimizer.state


def test_a_gradient_of_zeros_moves_nothing():
    parameter = torch.nn.Parameter(torch.ones(4))
    parameter.grad = torch.zeros(4)
    Adafactor([parameter], lr=0.1).step()
    assert torch.equal(parameter, torch.ones(4))
