"""Adafactor as T5X runs it (spec 5.2). torch's and transformers' differ in the rate, epsilon, in what is factored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch

EPSILON_SQUARED_GRADIENT = 1e-30
MIN_PARAMETER_SCALE = 1e-3  # a tensor with a smaller RMS moves as if it had this one
CLIP_RMS = 1.0
DECAY_EXPONENT = 0.8


class Adafactor(torch.optim.Optimizer):
    """Per tensor at step t = 1, 2, ... with gradient g, parameter p:

        beta2 = 1 - t ** -0.8          s = g**2 + 1e-30
        v     = running mean of s with beta2; or, where the two largest dims are both >= `min_dim_factored`, of its
                row means r and column means c, with v = r * c / mean(r)
        u     = g / sqrt(v), divided by max(1, RMS(u))
        p    -= lr * max(1e-3, RMS(p)) * u

    No momentum, no weight decay. State is float32, or float64 for float64 parameters. `step_offset` counts virtual
    steps already done: T5X restores the step with the weights, which makes beta2 nearly 1 from the start; 0 is fresh.
    """

    def __init__(self, params: Iterable[Any], lr: float, *, min_dim_factored: int = 128, step_offset: int = 0) -> None:
        super().__init__(params, {"lr": lr, "min_dim_factored": min_dim_factored, "step_offset": step_offset})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        dims = factored_dims(parameter.shape, group["min_dim_factored"])
        if not state:
            self._start(state, parameter, dims)
        state["step"] += 1
        beta2 = decay_rate(int(state["step"]) + group["step_offset"])
        kind = _state_dtype(parameter)
        gradient = parameter.grad.to(kind)  # type: ignore[union-attr]
        squared = gradient.square().add_(EPSILON_SQUARED_GRADIENT)
        if dims is None:
            second = state["v"].mul_(beta2).add_(squared, alpha=1 - beta2)
            update = squared.copy_(second).rsqrt_().mul_(gradient)
        else:
            rows_dim, columns_dim = dims  # row means average over columns_dim and so keep rows_dim
            row = state["v_row"].mul_(beta2).add_(squared.mean(columns_dim), alpha=1 - beta2)
            column = state["v_col"].mul_(beta2).add_(squared.mean(rows_dim), alpha=1 - beta2)
            kept = rows_dim if rows_dim < columns_dim else rows_dim - 1  # where rows_dim stands in `row`
            row_factor = (row / row.mean(kept, keepdim=True)).rsqrt_().unsqueeze(columns_dim)
            update = gradient * row_factor * column.rsqrt().unsqueeze(rows_dim)
        update.div_(_rms(update).div_(CLIP_RMS).clamp_(min=1.0))
        step_size = _rms(parameter.to(kind)).clamp_(min=MIN_PARAMETER_SCALE).mul_(group["lr"])
        parameter.sub_((update * step_size).to(parameter.dtype))

    @staticmethod
    def _start(state: dict[str, Any], parameter: torch.Tensor, dims: tuple[int, int] | None) -> None:
        state["step"] = torch.zeros((), dtype=torch.int64)  # on the CPU: reading it never waits for the device
        kind = _state_dtype(parameter)
        if dims is None:
            state["v"] = torch.zeros_like(parameter, dtype=kind)
            return
        rows_dim, columns_dim = dims
        state["v_row"] = parameter.new_zeros(_without(parameter.shape, columns_dim), dtype=kind)
        state["v_col"] = parameter.new_zeros(_without(parameter.shape, rows_dim), dtype=kind)


def decay_rate(step: int) -> float:
    """beta2 at 1-based `step`: 0 at the first, so that the first update forgets the zero it started from."""
    return 1.0 - float(step) ** -DECAY_EXPONENT


def factored_dims(shape: torch.Size, min_dim: int) -> tuple[int, int] | None:
    """(second largest dim, largest dim) of a tensor whose second moment is factored, None where it is kept whole."""
    if len(shape) < 2:
        return None
    ascending = sorted(range(len(shape)), key=lambda d: shape[d])  # stable, as numpy's argsort on so few
    rows_dim, columns_dim = ascending[-2], ascending[-1]
    return (rows_dim, columns_dim) if shape[rows_dim] >= min_dim else None


def _without(shape: torch.Size, dim: int) -> list[int]:
    return [size for d, size in enumerate(shape) if d != dim]


def _state_dtype(parameter: torch.Tensor) -> torch.dtype:
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def _rms(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.square().mean().sqrt()
