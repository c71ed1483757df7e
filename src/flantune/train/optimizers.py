"""From the recipe's `optimizer` section to a torch optimizer, and its learning rate at each step."""

from __future__ import annotations

import math

import torch

from flantune.recipe import OptimizerSpec
from flantune.train.adafactor import Adafactor


def make_optimizer(spec: OptimizerSpec, model: torch.nn.Module) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if spec.name == "adafactor":
        return Adafactor(parameters, lr=spec.lr, min_dim_factored=spec.min_dim_factored, step_offset=spec.step_offset)
    # Norm scales and biases are not decayed: they have no reason to be small.
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=spec.lr, betas=spec.betas, fused=True)


def learning_rate(spec: OptimizerSpec, step: int, total_steps: int) -> float:
    """The rate of step 1, 2, ... `total_steps`.

    Rises in a straight line to `lr` at step `warmup_steps`, then stays or falls to `final_lr` at the last step.
    inverse_sqrt falls as 1 / sqrt(step), never below `final_lr`, and does not depend on the last step (T5's
    pretraining: lr 0.01 after 10,000 steps).
    """
    if step < spec.warmup_steps:
        return spec.lr * step / spec.warmup_steps
    if spec.decay == "constant":
        return spec.lr
    if spec.decay == "inverse_sqrt":
        return max(spec.final_lr, spec.lr * math.sqrt(max(1, spec.warmup_steps) / step))
    falling = max(1, total_steps - spec.warmup_steps)
    done = min(1.0, (step - spec.warmup_steps) / falling)
    left = 1.0 - done if spec.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return spec.final_lr + (spec.lr - spec.final_lr) * left


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
