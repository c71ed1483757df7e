"""The training loop, top to bottom: resume, step, log, save."""

from __future__ import annotations

import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import PreTrainedModel

from flantune.errors import FlantuneError, StateError
from flantune.models.family import Family
from flantune.recipe import TrainSpec
from flantune.tokens.collate import EncDecBatch, PackedBatch
from flantune.train.checkpoint import Checkpoint, latest_checkpoint, load_weights, restore_checkpoint, save_checkpoint
from flantune.train.metrics import Metrics, MetricsLog, StepSums, Totals, metrics_of
from flantune.train.optimizers import learning_rate, make_optimizer, set_learning_rate
from flantune.train.precision import Precision, autocast, choose_precision

# Micro-batches of step 0, 1, 2, ...: a pure function, so that any step can be done again after a resume.
Batches = Callable[[int], Sequence[PackedBatch]]

# Changing these does not change what is computed, so a run may be resumed with others.
_FREE_TO_CHANGE = {"checkpoint_every", "keep_checkpoints", "log_every", "threads"}


class NonFiniteLoss(FlantuneError):
    """The loss or its gradient became infinite or NaN. The weights are those of the step before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What a call of `train` left. Counts and seconds are of the whole training, resumed parts included."""

    steps: int
    resumed_from: int  # steps already done when the call began; equal to `steps` where nothing was left to do
    loss: float | None  # nats per target token over the whole training
    accuracy: float | None
    examples: int
    input_tokens: int
    target_tokens: int
    seconds: float
    precision: Precision


def train(
    model: PreTrainedModel,
    family: Family,
    batches: Batches,
    spec: TrainSpec,
    folder: Path,
    seed: int,
    on_step: Callable[[Metrics], None] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> TrainReport:
    """Train `model` in place for `spec.steps` steps, continuing from `folder`/checkpoints where there are any.

    Writes checkpoints, metrics.jsonl and TensorBoard events into `folder`. `identity` (JSON) says what else the result
    depends on, such as the shards' hash: a checkpoint made with another is refused with StateError. On Ctrl-C the step
    is finished and saved, then KeyboardInterrupt raised. Killed at any moment and called again, it ends with the same
    bits on a CPU. Raises NonFiniteLoss, StateError.
    """
    device = next(model.parameters()).device
    precision = choose_precision(spec.precision, device)
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    made_of = _identity(spec, seed, family, identity or {})
    checkpoints = folder / "checkpoints"
    found = latest_checkpoint(checkpoints)
    if found is not None:
        _require_same(found, made_of, spec)
        if found.step == spec.steps:
            load_weights(found, model)
            return _report(found.step, found.step, Totals.from_json(found.extra["whole"]), precision)
    optimizer = make_optimizer(spec.optimizer, model)
    window, whole, start = Totals(), Totals(), 0
    if found is not None:
        restore_checkpoint(found, model, optimizer)
        window, whole = Totals.from_json(found.extra["window"]), Totals.from_json(found.extra["whole"])
        start = found.step

    model.train()
    with MetricsLog(folder, resume_at=start) as log, _interrupt_after_step() as interrupted:
        for step in range(start + 1, spec.steps + 1):
            rate = learning_rate(spec.optimizer, step, spec.steps)
            set_learning_rate(optimizer, rate)
            sums = train_step(model, family, optimizer, batches(step - 1), spec, step, seed, precision)
            window.add(sums)
            whole.add(sums)
            if on_step is not None:
                on_step(metrics_of(step, _only(sums), whole, rate))
            last = step == spec.steps
            if step % spec.log_every == 0 or last:
                log.write(metrics_of(step, window, whole, rate))
                window = Totals()
            if step % spec.checkpoint_every == 0 or last or interrupted():
                log.sync()
                extra = {"identity": made_of, "window": window.to_json(), "whole": whole.to_json()}
                save_checkpoint(checkpoints, step, model, optimizer, extra, keep=spec.keep_checkpoints)
            if interrupted() and not last:
                raise KeyboardInterrupt
    model.eval()
    return _report(spec.steps, start, whole, precision)


def train_step(
    model: PreTrainedModel,
    family: Family,
    optimizer: torch.optim.Optimizer,
    micros: Sequence[PackedBatch],
    spec: TrainSpec,
    step: int,
    seed: int,
    precision: Precision,
) -> StepSums:
    """One optimizer step. The loss is divided by the target tokens of the whole batch, not of each micro-batch: every
    target token weighs the same however the batch is split (spec 4.4)."""
    began = time.perf_counter()
    device = next(model.parameters()).device
    targets = sum(float(batch.loss_weights.sum()) for batch in micros)
    if targets == 0:
        raise StateError(f"step {step}: expected target tokens in the batch, got none. {_rows(micros)}")
    normaliser = targets if spec.loss_normalizer == "target_tokens" else 1.0
    optimizer.zero_grad(set_to_none=True)
    parts = []
    for micro, batch in enumerate(micros):
        with dropout_seed(seed, step, micro, device), autocast(precision, device):
            sums = family.loss(model, batch.to(device), spec.z_loss)
        (sums.total / normaliser).backward()
        parts.append(torch.stack([sums.loss_sum.detach(), sums.z_sum.detach(), sums.correct.detach()]))
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    loss_sum, z_sum, correct, grad_norm = torch.cat([torch.stack(parts).sum(0), norm[None]]).tolist()
    if not (math.isfinite(loss_sum) and math.isfinite(z_sum) and math.isfinite(grad_norm)):
        _raise_non_finite(parts, micros, step, loss_sum, grad_norm)
    optimizer.step()
    return StepSums(
        loss_sum=loss_sum,
        z_sum=z_sum,
        weight_sum=targets,
        correct=correct,
        grad_norm=grad_norm,
        seconds=time.perf_counter() - began,
        **_count(micros),
    )


@contextmanager
def dropout_seed(seed: int, step: int, micro: int, device: torch.device) -> Iterator[None]:
    """Dropout inside draws from a stream of its own for (seed, step, micro); the global stream is left as it was."""
    digest = hashlib.blake2b(f"dropout:{seed}:{step}:{micro}".encode(), digest_size=8).digest()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int.from_bytes(digest, "little"))
        yield


@contextmanager
def _interrupt_after_step() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is noted and asked for between steps; a second one stops at once. Only the main thread hears signals."""
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _identity(spec: TrainSpec, seed: int, family: Family, more: Mapping[str, Any]) -> dict[str, Any]:
    settings = spec.model_dump(mode="json", exclude=_FREE_TO_CHANGE)
    if spec.optimizer.decay == "constant":
        del settings["steps"]  # no step's rate depends on how many follow: training may go on for longer
    return {"seed": seed, "family": family.name, "train": settings, **more}


def _require_same(found: Checkpoint, made_of: Mapping[str, Any], spec: TrainSpec) -> None:
    saved = found.extra["identity"]
    differing = [_difference(key, made_of.get(key), saved.get(key)) for key in sorted({*made_of, *saved})]
    told = [d for d in differing if d is not None]
    if found.step > spec.steps:
        told.append(f"steps: expected at most {spec.steps}, got {found.step}")
    if told:
        raise StateError(
            f"{found.folder}: was made by another recipe: {'; '.join(told)}. Give the run another name, or remove its "
            "checkpoints folder to start over."
        )


def _difference(key: str, expected: Any, got: Any) -> str | None:
    if expected == got:
        return None
    if isinstance(expected, dict) and isinstance(got, dict):
        parts = [_difference(f"{key}.{k}", expected.get(k), got.get(k)) for k in sorted({*expected, *got})]
        return "; ".join(p for p in parts if p is not None)
    return f"{key}: expected {expected}, got {got}"


def _raise_non_finite(
    parts: Sequence[torch.Tensor], micros: Sequence[PackedBatch], step: int, loss_sum: float, grad_norm: float
) -> None:
    bad = [batch for part, batch in zip(parts, micros, strict=True) if not torch.isfinite(part).all()]
    what = f"loss {loss_sum}" if bad else f"gradient norm {grad_norm}"
    raise NonFiniteLoss(
        f"step {step}: expected a finite loss and gradient, got {what}. {_rows(bad or micros)} Lower "
        "train.optimizer.lr, or look at these examples with 'flantune preview --at INDEX'. The last checkpoint is "
        "whole."
    )


def _rows(micros: Sequence[PackedBatch]) -> str:
    indices = sorted(i for batch in micros for row in batch.indices for i in row)
    shown = ", ".join(str(i) for i in indices[:32]) + (f", ... ({len(indices)} in all)" if len(indices) > 32 else "")
    return f"Examples of the stream in it: {shown}."


def _count(micros: Sequence[PackedBatch]) -> dict[str, int]:
    counts = {"examples": 0, "input_tokens": 0, "target_tokens": 0}
    for batch in micros:
        counts["examples"] += sum(len(row) for row in batch.indices)
        if isinstance(batch, EncDecBatch):
            inputs, targets = batch.input_segments > 0, batch.target_segments > 0
        else:
            inputs, targets = batch.in_inputs, (batch.segments > 0) & ~batch.in_inputs
        counts["input_tokens"] += int(inputs.sum())
        counts["target_tokens"] += int(targets.sum())
    return counts


def _only(sums: StepSums) -> Totals:
    totals = Totals()
    totals.add(sums)
    return totals


def _report(steps: int, resumed_from: int, whole: Totals, precision: Precision) -> TrainReport:
    return TrainReport(
        steps=steps,
        resumed_from=resumed_from,
        loss=whole.loss_sum / whole.weight_sum if whole.weight_sum else None,
        accuracy=whole.correct / whole.weight_sum if whole.weight_sum else None,
        examples=whole.examples,
        input_tokens=whole.input_tokens,
        target_tokens=whole.target_tokens,
        seconds=whole.seconds,
        precision=precision,
    )
