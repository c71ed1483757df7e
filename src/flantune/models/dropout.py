"""Dropout whose mask is a hash of (seed, place): nothing is stored, any number of threads gives the same.

torch draws its CPU masks one number at a time from a serial generator and keeps them for the backward pass: a quarter
of a small T5's step. Each call here takes one number from that generator, so whoever seeds it (and activation
checkpointing, which puts its state back) decides the mask as before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn


class HashedDropout(nn.Dropout):
    """`nn.Dropout` with a hashed mask on a CPU; elsewhere it is torch's."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0 or input.device.type != "cpu" or self.p == 1:
            return super().forward(input)
        return _seeded_dropout(input, self.p)


def use_hashed_dropout(model: nn.Module) -> None:
    """Replace every plain `nn.Dropout` inside the model, in place; names and state stay what they were."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                hashed = HashedDropout(child.p)
                hashed.train(child.training)
                setattr(module, name, hashed)


@torch.compiler.disable  # numba's kernel is no graph; a compiled layer calls it as it is
def _seeded_dropout(values: torch.Tensor, p: float) -> torch.Tensor:
    return hashed_dropout(values, p, draw_seed())


@torch.compiler.disable
def draw_seed() -> int:
    """One number from torch's global CPU generator, 63 bits."""
    return int(torch.empty((), dtype=torch.int64).random_())


def hashed_dropout(values: torch.Tensor, p: float, seed: int) -> torch.Tensor:
    """Each element 0 with probability p, else divided by 1 - p; element i's fate is a hash of (seed, i)."""
    made: torch.Tensor = _HashedDropout.apply(values, p, seed)
    return made


class _HashedDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, p: float, seed: int) -> torch.Tensor:
        ctx.p, ctx.seed = p, seed
        return keep_some(values, p, seed)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return keep_some(grad, ctx.p, ctx.seed), None, None


def keep_some(values: torch.Tensor, p: float, seed: int, out: torch.Tensor | None = None) -> torch.Tensor:
    """The mask of (p, seed) applied to a tensor on any device; `out` may be `values`, contiguous."""
    if values.device.type != "cpu":
        generator = torch.Generator(values.device).manual_seed(seed)
        kept = torch.empty_like(values, dtype=torch.float32).bernoulli_(1 - p, generator=generator)
        return torch.mul(values, kept.to(values.dtype) / (1 - p), out=out)
    values = values.detach().contiguous()
    if values.dtype not in (torch.float32, torch.float64):  # numpy knows no bfloat16
        return torch.mul(values, keep_some(torch.ones(values.shape), p, seed).to(values.dtype), out=out)
    made = torch.empty_like(values) if out is None else out
    mixed = _mixed(seed)
    first, second = np.uint32(mixed & 0xFFFFFFFF), np.uint32(mixed >> 32)
    threshold, scale = np.uint32(round(p * 2**32)), values.numpy().dtype.type(1 / (1 - p))
    _kernel()(values.view(-1).numpy(), made.view(-1).numpy(), first, second, threshold, scale)
    return made


def _mixed(seed: int) -> int:
    """64 bits that look random even for seeds 0, 1, 2: splitmix64's output."""
    mask = (1 << 64) - 1
    z = (seed + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@cache
def _kernel() -> Callable[..., None]:
    from flantune.compiled import compiled

    return compiled(_keep_by_hash)


def _keep_by_hash(values: Any, out: Any, first: Any, second: Any, threshold: Any, scale: Any) -> None:
    # Three rounds of multiply and shift (C. Wellons, hash-prospector, triple32), the seed's second half after the
    # first: seeds whose first halves are equal, or a shift of one another, still share no mask. All in 32 bits, so
    # that it runs as wide vectors; a tensor of more than 2**32 elements would repeat itself.
    for i in range(values.size):
        h = np.uint32(np.uint32(i) * np.uint32(0x9E3779B9) + first)
        h = np.uint32((h ^ (h >> np.uint32(17))) * np.uint32(0xED5AD4BB))
        h = np.uint32(h + second)
        h = np.uint32((h ^ (h >> np.uint32(11))) * np.uint32(0xAC4C1B51))
        h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x31848BAB))
        h = np.uint32(h ^ (h >> np.uint32(14)))
        out[i] = values[i] * scale if h >= threshold else values[i] * 0
