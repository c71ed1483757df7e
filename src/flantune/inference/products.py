"""Products of a model's matrices: with many rows, as when it reads, and with few, as when it writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from flantune.inference.memory import free_memory

_MANY = 256  # rows; of fewer, to make code for their number costs more than it saves
COPIES_AFTER = 4  # steps; after so many a copy has paid for itself before long
COPIES_SHARE = 0.05  # of the memory that is free, for the copies
_ROWS = 32  # what oneDNN is told to arrange for; more or fewer are no slower for it, but for one alone

# Activations of torch and transformers that oneDNN computes on the way, to a few units in the last place: its name and
# algorithm for each.
_FUSED = {
    "ReLU": ("relu", ""),
    "SiLUActivation": ("swish", ""),
    "GELUActivation": ("gelu", "none"),
    "GELUTanh": ("gelu", "tanh"),
    "NewGELUActivation": ("gelu", "tanh"),
}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As torch's `linear`, where no gradient is wanted; of many rows by the quicker of torch's two libraries."""
    rows = x.numel() // max(1, x.shape[-1])
    if rows < _MANY or x.dtype != torch.float32 or x.device.type != "cpu" or weight.dtype != x.dtype:
        return functional.linear(x, weight, bias)
    if not _one_dnn_is_quicker():
        return functional.linear(x, weight, bias)
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return made


@cache
def _one_dnn_is_quicker() -> bool:
    """On an AMD with AVX-512, which MKL does not use there: it takes 1.2 to 1.5 times as long. On others they are
    alike, but that oneDNN makes code for every new number of rows."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


class ReadsMany(TorchFunctionMode):
    """Inside it, modules that call torch's `linear` get the one above."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is functional.linear and not torch.is_grad_enabled():
            return linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class Product:
    """x W^T + b for x (rows, in) and a weight W (out, in), off the weight itself until it is packed; or an activation
    of it, in the same pass where the weight is packed and oneDNN knows the activation."""

    def __init__(
        self,
        weight: Tensor,
        unpacked: Callable[..., Tensor] = linear,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.weight = weight
        self._unpacked, self._activation = unpacked, activation
        self._fused = ("none", "") if activation is None else _FUSED.get(type(activation).__name__)
        self._packed: Tensor | None = None

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if self._packed is None:
            made = self._unpacked(x, self.weight, bias)
        else:
            name, algorithm = self._fused or ("none", "")
            made = torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, name, [], algorithm)
            if self._fused is not None:
                return made
        return made if self._activation is None else self._activation(made)

    @property
    def is_packed(self) -> bool:
        return self._packed is not None

    def pack(self) -> None:
        self._packed = packed(self.weight.detach())


class Products:
    """Those of a model that writes or reads much. Where there is room they are made of copies as oneDNN lays weights
    out: of 4 to 80 rows 1.2 to 3 times as fast as turned weights on an AMD, as fast on an Intel; of hundreds 1.1 times.

    `as_torch`: torch's own `linear`, and no other, for what is compared with the stock model to the bit."""

    def __init__(self, *, as_torch: bool = False) -> None:
        self._as_torch = as_torch
        self._all: list[Product] = []
        self._steps = 0

    def of(self, weight: Tensor, activation: Callable[[Tensor], Tensor] | None = None) -> Product:
        self._all.append(Product(weight, functional.linear if self._as_torch else linear, activation))
        return self._all[-1]

    def count_step(self) -> None:
        """Called before every step: after a few of them the copies are made."""
        self._steps += 1
        if self._as_torch or self._steps != COPIES_AFTER or not all(can_be_packed(p.weight) for p in self._all):
            return
        held = sum(p.weight.numel() * p.weight.element_size() for p in self._all)
        if held < COPIES_SHARE * free_memory(torch.device("cpu")):
            for product in self._all:
                product.pack()


def packed(weight: Tensor) -> Tensor:
    """A copy as oneDNN lays weights (out, in) out."""
    made: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
    return made


def can_be_packed(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
