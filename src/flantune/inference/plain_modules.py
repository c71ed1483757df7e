"""Models whose modules can be passed by: transformers' own, in single precision on a CPU, with nobody listening in.

There, calls and Python between them take a good part of the time that a small model's products take. Elsewhere they are
no large part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_TORCH = ("torch.nn.modules.", "transformers.activations")
_OURS = "flantune.models.dropout"  # of a model in evaluation mode it does nothing


def all_plain(model: Any, modules: Iterable[Any], stock: tuple[str, ...]) -> bool:
    """Whether all `modules` of the model are of torch or of the packages `stock`, called as they came. Autocast is the
    caller's to look at: it may come later."""
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return False
    return not nn.modules.module._has_any_global_hook() and all(_is_plain(m, (*_TORCH, *stock)) for m in modules)


def _is_plain(module: Any, stock: tuple[str, ...]) -> bool:
    kind = type(module)
    if isinstance(module, nn.Linear) and kind is not nn.Linear:
        return False
    known = kind.__module__.startswith(stock) or kind.__module__ == _OURS
    single = all(p.dtype == torch.float32 for p in module.parameters(recurse=False))
    own = bool(getattr(module, "_told_of_offsets", False))  # a hook of ours, for the modules' own way
    heard = len(module._forward_hooks) + len(module._forward_pre_hooks) - own
    return known and single and not heard and "forward" not in vars(module)


AddNormed = Callable[[Any, Tensor, Tensor], Tensor]


def add_normed(norm: Any, x: Tensor, more: Tensor) -> Tensor:
    """x becomes x + more; returned is that, `normed`."""
    return normed(norm, x.add_(more))


def normed(norm: Any, x: Tensor) -> Tensor:
    """x (..., width) by an RMS norm of transformers' (Zhang and Sennrich 2019), in one call."""
    return functional.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)
