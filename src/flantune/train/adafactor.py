"""Adafactor as T5X runs it (spec 5.2). torch's and transformers' differ in the rate, epsilon, in what is factored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from flantune.train.parallel import local, sharded_dim

EPSILON_SQUARED_GRADIENT = 1e-30
MIN_PARAMETER_SCALE = 1e-3  # a tensor with a smaller RMS moves as if it had this one
CLIP_RMS = 1.0
DECAY_EXPONENT = 0.8
BUCKET = 1 << 26  # numbers of sharded parameters on a rank that are updated together: their updates live at once


class Adafactor(torch.optim.Optimizer):
    """Per tensor at step t = 1, 2, ... with gradient g, parameter p:

        beta2 = 1 - t ** -0.8          s = g**2 + 1e-30
        v     = running mean of s with beta2; or, where the two largest dims are both >= `min_dim_factored`, of its
                row means r and column means c, with v = r * c / mean(r)
        u     = g / sqrt(v), divided by max(1, RMS(u))
        p    -= lr * max(1e-3, RMS(p)) * u

    No momentum, no weight decay. State is float32, or float64 for float64 parameters. `step_offset` counts virtual
    steps already done: T5X restores the step with the weights, which makes beta2 nearly 1 from the start; 0 is fresh.

    Parameters may be spread over ranks in one dim (FSDP2's DTensor), evenly or not: means are over the whole tensor,
    state is spread as its parameter is, and a step needs two sums over the ranks for each `BUCKET` of numbers.
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
            for bucket in _buckets([p for p in group["params"] if p.grad is not None]):
                self._update(bucket, group)
        return loss

    def _update(self, parameters: Sequence[torch.Tensor], group: dict[str, Any]) -> None:
        """Parameters of one bucket: statistics, a sum over ranks, the update's size, another sum, the step."""
        works = [self._begin(parameter, group) for parameter in parameters]
        spread = works[0].group
        _sum_over_ranks([partial for work in works for partial in work.partials], spread)
        for work in works:
            work.update_means()
        sizes = [work.make_update() for work in works]
        _sum_over_ranks(sizes, spread)
        for work, size in zip(works, sizes, strict=True):
            work.move(size, group["lr"])

    def _begin(self, parameter: torch.Tensor, group: dict[str, Any]) -> _Work:
        state = self.state[parameter]
        if not state:
            self.start(parameter, group["min_dim_factored"])
        state["step"] += 1
        beta2 = decay_rate(int(state["step"]) + group["step_offset"])
        return _Work.of(parameter, state, factored_dims(parameter.shape, group["min_dim_factored"]), beta2)

    def start(self, parameter: torch.Tensor, min_dim_factored: int | None = None) -> dict[str, torch.Tensor]:
        """The state of a parameter before its first step, made and kept."""
        least = self.defaults["min_dim_factored"] if min_dim_factored is None else min_dim_factored
        dims, kind = factored_dims(parameter.shape, least), _state_dtype(parameter)
        state: dict[str, torch.Tensor] = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.int64)  # on the CPU: reading it never waits for the device
        if dims is None:
            state["v"] = torch.zeros_like(parameter, dtype=kind)
        else:
            rows_dim, columns_dim = dims
            state["v_row"] = _zeros_without(parameter, columns_dim, kind)
            state["v_col"] = _zeros_without(parameter, rows_dim, kind)
        return state


@dataclass(slots=True)
class _Work:
    """A parameter within one step. Tensors are this rank's parts; `shape` and `numel` are of the whole tensor.

    `partials` are sums over this rank's part of a dim that is spread, to be summed over the ranks in place.
    """

    parameter: torch.Tensor
    gradient: torch.Tensor
    state: dict[str, torch.Tensor]
    dims: tuple[int, int] | None
    beta2: float
    shape: torch.Size
    spread_dim: int | None
    group: Any
    partials: list[torch.Tensor] = field(default_factory=list)
    update: torch.Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def of(cls, whole: torch.Tensor, state: dict[str, Any], dims: tuple[int, int] | None, beta2: float) -> _Work:
        assert whole.grad is not None
        dim, group = sharded_dim(whole) or (None, None)
        parameter, gradient = local(whole.detach()), local(whole.grad).to(_state_dtype(whole))
        kept = {name: local(value) for name, value in state.items()}
        work = cls(parameter, gradient, kept, dims, beta2, whole.shape, dim, group)
        work._observe()
        return work

    def _observe(self) -> None:
        """Squares into the running means, wherever they are whole here."""
        self.partials.append(self.parameter.to(self.gradient.dtype).square().sum())
        squared = self.gradient.square().add_(EPSILON_SQUARED_GRADIENT)
        if self.dims is None:
            self.state["v"].mul_(self.beta2).add_(squared, alpha=1 - self.beta2)
            return
        rows_dim, columns_dim = self.dims
        row, column = squared.sum(columns_dim), squared.sum(rows_dim)
        self.partials += [row] if self.spread_dim == columns_dim else []
        self.partials += [column] if self.spread_dim == rows_dim else []
        if self.spread_dim != columns_dim:
            self._mean_into("v_row", row, columns_dim)
        if self.spread_dim != rows_dim:
            self._mean_into("v_col", column, rows_dim)
        else:
            self.partials.append(self.state["v_row"].sum(self._kept, keepdim=True))

    def update_means(self) -> None:
        """The means that had to wait for the other ranks' parts."""
        if self.dims is None or self.spread_dim is None:
            return
        rows_dim, columns_dim = self.dims
        if self.spread_dim == columns_dim:
            self._mean_into("v_row", self.partials[1], columns_dim)
        elif self.spread_dim == rows_dim:
            self._mean_into("v_col", self.partials[1], rows_dim)

    def make_update(self) -> torch.Tensor:
        """Gradient over root mean square, not clipped yet. Returns the sum of its squares here."""
        if self.dims is None:
            self.update = self.state["v"].rsqrt().mul_(self.gradient)
        else:
            rows_dim, columns_dim = self.dims
            row = self.state["v_row"]
            total = self.partials[2] if self.spread_dim == rows_dim else row.sum(self._kept, keepdim=True)
            row_factor = (row / (total / self.shape[rows_dim])).rsqrt_().unsqueeze(columns_dim)
            self.update = self.gradient * row_factor
            self.update.mul_(self.state["v_col"].rsqrt().unsqueeze(rows_dim))
        return self.update.square().sum()

    def move(self, update_size: torch.Tensor, rate: float) -> None:
        """`update_size` is the sum of squares over the whole tensor."""
        numel = self.shape.numel()
        clip = (update_size / numel).sqrt_().div_(CLIP_RMS).clamp_(min=1.0)
        scale = (self.partials[0] / numel).sqrt_().clamp_(min=MIN_PARAMETER_SCALE)
        self.parameter.sub_(self.update.mul_(scale.mul_(rate).div_(clip)).to(self.parameter.dtype))

    def _mean_into(self, name: str, total: torch.Tensor, over: int) -> None:
        self.state[name].mul_(self.beta2).add_(total, alpha=(1 - self.beta2) / self.shape[over])

    @property
    def _kept(self) -> int:
        """Where the rows' dim stands in the row means, which have lost the columns' dim."""
        assert self.dims is not None
        rows_dim, columns_dim = self.dims
        return rows_dim if rows_dim < columns_dim else rows_dim - 1


def _buckets(parameters: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """One tensor at a time where it is whole; those spread over the same ranks together, up to `BUCKET` numbers."""
    waiting: dict[Any, list[torch.Tensor]] = {}
    for parameter in parameters:
        spread = sharded_dim(parameter)
        if spread is None:
            yield [parameter]
            continue
        key = (spread[1], _state_dtype(parameter), parameter.device)
        bucket = waiting.setdefault(key, [])
        # By the whole size, which is the same on every rank: buckets must be too.
        size = dist.get_world_size(spread[1])
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > BUCKET * size:
            yield waiting.pop(key)
            bucket = waiting.setdefault(key, [])
        bucket.append(parameter)
    yield from waiting.values()


def _sum_over_ranks(tensors: Sequence[torch.Tensor], group: Any) -> None:
    """In place, all in one exchange. Nothing to do without a group."""
    if group is None:
        return
    joined = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(joined, group=group)
    at = 0
    for tensor in tensors:
        tensor.copy_(joined[at : at + tensor.numel()].view_as(tensor))
        at += tensor.numel()


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


def _zeros_without(parameter: torch.Tensor, dim: int, kind: torch.dtype) -> torch.Tensor:
    """Zeros of the parameter's shape without `dim`, spread over the ranks as it is where that dim is left."""
    shape = torch.Size(size for d, size in enumerate(parameter.shape) if d != dim)
    if not isinstance(parameter, DTensor):
        return parameter.new_zeros(shape, dtype=kind)
    own = parameter.to_local()
    zeros = own.new_zeros([size for d, size in enumerate(own.shape) if d != dim], dtype=kind)
    places: list[Placement] = []
    for place in parameter.placements:
        stays = isinstance(place, Shard) and place.dim != dim
        places.append(Shard(place.dim - (place.dim > dim)) if stays else Replicate())  # type: ignore[attr-defined]
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(zeros, parameter.device_mesh, places, run_check=False, shape=shape, stride=stride)


def _state_dtype(parameter: torch.Tensor) -> torch.dtype:
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32
