"""A few optimizer steps done here, on random rows and weights, to know what this machine reaches."""

from __future__ import annotations

import time

import numpy as np
import torch
from transformers import PreTrainedModel

from flantune.errors import StateError
from flantune.models.adapt import add_adapter
from flantune.models.attention import PACKED, prepare
from flantune.models.family import family_of
from flantune.models.load import scratch_model
from flantune.models.skeleton import of_config, skeleton
from flantune.pipeline.plan import Job, Measured
from flantune.train.cost import Shape, Tokens, row_flops
from flantune.train.hardware import USABLE, this_machine
from flantune.train.optimizers import make_optimizer
from flantune.train.precision import autocast, best_device, choose_precision
from flantune.types import Packed

STEPS, WARM_UP = 2, 1


def measure_steps(job: Job, shape: Shape, row: Tokens, rows: int = 1) -> Measured:
    """Forward, backward and the optimizer's step over `rows` packed rows, with examples as long as `row` says.

    Raises StateError where the weights, their gradients and the optimizer's state would not fit here.
    """
    machine = this_machine(0.05)
    needed = 4.0 * shape.total * (4 if job.train.optimizer.name == "adamw" else 2.1)
    if needed > USABLE * machine.memory:
        raise StateError(
            f"--measure: {job.title} needs {needed / 1e9:.0f} GB for weights and their gradients, and there are "
            f"{machine.memory / 1e9:.0f} GB here. Plan it without --measure."
        )
    device = best_device()
    precision = choose_precision(job.train.precision, device)
    model = _random(job)
    torch.nn.Module.to(model, device)
    if job.model.adapter is not None:
        add_adapter(model, job.model.adapter, seed=0)
    family = family_of(model)
    optimizer = make_optimizer(job.train.optimizer, model)
    packed = [random_row(row, shape.vocabulary, seed) for seed in range(rows)]
    batch = family.collate(model, packed, row.inputs_len, row.targets_len).to(device)
    model.train()
    began = 0.0
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            began = _now(device)
        with autocast(precision, device):
            sums = family.loss(model, batch, job.train.z_loss)
        (sums.total / sums.weight_sum).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = _now(device) - began
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    flops = row_flops(shape, row, None if job.model.adapter is None else trained) * rows * STEPS
    return Measured(
        rate=flops / seconds,
        slots_per_second=rows * STEPS * row.slots / seconds,
        rows=rows,
        steps=STEPS,
        precision=precision,
    )


def random_row(row: Tokens, vocabulary: int, seed: int) -> Packed:
    """Examples of the usual length until the row is full."""
    rng = np.random.default_rng(seed)
    inputs, targets = max(1, round(row.example_inputs)), max(1, round(row.example_targets))
    count = max(1, min(row.inputs_len // inputs, row.targets_len // targets))

    def ids(length: int) -> np.ndarray:
        return rng.integers(3, vocabulary, length * count).astype(np.int32)

    return Packed(
        inputs=ids(inputs),
        targets=ids(targets),
        inputs_lengths=np.full(count, inputs, dtype=np.int32),
        targets_lengths=np.full(count, targets, dtype=np.int32),
        indices=np.arange(count, dtype=np.int64),
        tasks=("random",) * count,
    )


def _random(job: Job) -> PreTrainedModel:
    spec = job.model
    if spec.init == "scratch":
        shell = skeleton(spec)
        family = "t5" if spec.family == "auto" else spec.family
        return scratch_model(family, spec.size, vocab_size=shell.config.vocab_size, eos_id=1, pad_id=0)
    config = skeleton(spec).config
    config._attn_implementation = PACKED
    return prepare(of_config(config))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
