"""The training loop, top to bottom: resume, step, log, save, measure."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import PreTrainedModel

from flantune.errors import StateError
from flantune.models.dropout import HashedDropout
from flantune.models.family import Family
from flantune.recipe import TrainSpec
from flantune.tokens.collate import PackedBatch
from flantune.train.checkpoint import (
    Checkpoint,
    checkpoint_of,
    latest_checkpoint,
    load_weights,
    restore_checkpoint,
    save_checkpoint,
)
from flantune.train.metrics import Metrics, MetricsLog, Speed, StepSums, Totals, metrics_of
from flantune.train.optimizers import learning_rate, make_optimizer, set_learning_rate
from flantune.train.parallel import ALONE, Objective, Ranks, blocks_of, shard
from flantune.train.precision import Precision, choose_precision
from flantune.train.selection import Moment, Selection
from flantune.train.step import NonFiniteLoss, dropout_seed, train_step

__all__ = ["Batches", "NonFiniteLoss", "TrainReport", "dropout_seed", "train", "train_step"]

# Micro-batches of step 0, 1, 2, ...: a pure function, so that any step can be done again after a resume, by any number
# of ranks. The sequence may make its micro-batches when asked for them: a rank asks only for its own.
Batches = Callable[[int], Sequence[PackedBatch]]

CHECKPOINTS = "checkpoints"  # in the folder of a training

# Changing these does not change what is computed, so a run may be resumed with others.
_FREE_TO_CHANGE = {"checkpoint_every", "keep_checkpoints", "log_every", "threads", "watch", "activation_checkpointing"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """What a call of `train` left. Counts and seconds are of the whole training, resumed parts included."""

    steps: int  # done: fewer than asked where it stopped early
    chosen_step: int  # whose weights the model has
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
    *,
    ranks: Ranks = ALONE,
    selection: Selection | None = None,
    speed: Speed | None = None,
) -> TrainReport:
    """Train `model` in place for `spec.steps` steps, continuing from `folder`/checkpoints where there are any.

    Writes checkpoints, metrics.jsonl and what watches into `folder`. `identity` (JSON) says what else the result
    depends on, such as the shards' hash: a checkpoint made with another is refused with StateError. With `selection`
    the model ends with the weights of the best step measured, and may stop early. On Ctrl-C or SIGTERM the step is
    finished and saved, then KeyboardInterrupt raised. Killed at any moment and called again, it ends with the same
    bits on a CPU. Over several ranks every one calls this; the model is left in shards, `on_step` called on rank 0.
    Raises NonFiniteLoss, StateError.
    """
    objective = Objective(model, family, spec.z_loss)
    if ranks.size > 1:
        shard(objective, ranks)
    precision = choose_precision(spec.precision, next(model.parameters()).device)
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    made_of = _identity(spec, seed, family, identity or {})
    checkpoints = folder / CHECKPOINTS
    found = latest_checkpoint(checkpoints, ranks)
    optimizer = make_optimizer(spec.optimizer, model)
    window, whole, start = Totals(), Totals(), 0
    if found is not None:
        _require_same(found, made_of, spec)
        start = found.step
        window, whole = Totals.from_json(found.extra["window"]), Totals.from_json(found.extra["whole"])
        if selection is not None:
            selection.resume(folder, start)
        if _finished(start, spec, selection):
            return _end(checkpoints, start, start, whole, precision, model, ranks, selection, held=None)
        restore_checkpoint(found, model, optimizer, ranks)

    step = start
    with ExitStack() as stack:
        log = stack.enter_context(MetricsLog(folder, start, spec.watch)) if ranks.main else None
        interrupted = stack.enter_context(_interrupt_after_step())
        stack.enter_context(_training_mode(model, spec))

        def measure(checkpoint: Checkpoint) -> None:
            if selection is not None and selection.due(checkpoint.step, spec.steps):
                moment = Moment(checkpoint=checkpoint, objective=objective, ranks=ranks, precision=precision)
                made = selection.evaluate(moment, folder)
                if log is not None:
                    log.show(made.step, {f"selection/{selection.spec.by}": made.value})

        if found is not None:
            measure(found)  # where a kill came between its saving and its measuring
        while not _finished(step, spec, selection):
            step += 1
            rate = learning_rate(spec.optimizer, step, spec.steps)
            set_learning_rate(optimizer, rate)
            sums = train_step(
                model,
                family,
                optimizer,
                batches(step - 1),
                spec,
                step,
                seed,
                precision,
                ranks=ranks,
                objective=objective,
            )
            window.add(sums)
            whole.add(sums)
            if on_step is not None and ranks.main:
                on_step(metrics_of(step, _only(sums), whole, rate, speed))
            last = step == spec.steps
            if step % spec.log_every == 0 or last:
                if log is not None:
                    log.write(metrics_of(step, window, whole, rate, speed))
                window = Totals()
            stopping = bool(ranks.sum([float(interrupted())])[0])
            due = selection is not None and selection.due(step, spec.steps)
            if step % spec.checkpoint_every == 0 or last or stopping or due:
                if log is not None:
                    log.sync()
                extra = {"identity": made_of, "window": window.to_json(), "whole": whole.to_json()}
                best = None if selection is None else selection.best
                path = save_checkpoint(
                    checkpoints,
                    step,
                    model,
                    optimizer,
                    extra,
                    keep=spec.keep_checkpoints,
                    protected=() if best is None else (best.step,),
                    ranks=ranks,
                )
                if stopping and not last:
                    raise KeyboardInterrupt
                measure(Checkpoint(path, step, extra))
        if window.steps and log is not None:  # it stopped between two lines
            log.write(metrics_of(step, window, whole, learning_rate(spec.optimizer, step, spec.steps), speed))
    return _end(checkpoints, step, start, whole, precision, model, ranks, selection, held=step)


def _finished(step: int, spec: TrainSpec, selection: Selection | None) -> bool:
    if selection is None:
        return step >= spec.steps
    return selection.stopped or (step >= spec.steps and not selection.due(step, spec.steps))


def _end(
    checkpoints: Path,
    step: int,
    start: int,
    whole: Totals,
    precision: Precision,
    model: PreTrainedModel,
    ranks: Ranks,
    selection: Selection | None,
    *,
    held: int | None,
) -> TrainReport:
    """Give the model the chosen step's weights, where those are not what it holds."""
    best = None if selection is None else selection.best
    chosen = step if best is None else best.step
    if chosen != held:
        load_weights(ranks.tell(ranks.first(lambda: checkpoint_of(checkpoints, chosen))), model, ranks)  # type: ignore[arg-type]
    model.eval()
    return TrainReport(
        steps=step,
        chosen_step=chosen,
        resumed_from=start,
        loss=whole.loss_sum / whole.weight_sum if whole.weight_sum else None,
        accuracy=whole.correct / whole.weight_sum if whole.weight_sum else None,
        examples=whole.examples,
        input_tokens=whole.input_tokens,
        target_tokens=whole.target_tokens,
        seconds=whole.seconds,
        precision=precision,
    )


@contextmanager
def _training_mode(model: PreTrainedModel, spec: TrainSpec) -> Iterator[None]:
    """Dropout on, and the recipe's ways of running the layers; the model is left as any other after."""
    model.train()
    if spec.activation_checkpointing:
        model.activation_checkpointing_enable()
    # A hash of whole numbers in numba is nothing that a compiler of tensors can look into.
    apart = [m for m in model.modules() if isinstance(m, HashedDropout)] if spec.compile else []
    for module in apart:
        module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]
    if spec.compile:
        for block in blocks_of(model):
            block.compile()
    try:
        yield
    finally:
        if spec.activation_checkpointing:
            model.activation_checkpointing_disable()
        if spec.compile:
            for block in blocks_of(model):
                block._compiled_call_impl = None
        for module in apart:
            del module.forward
        model.eval()


@contextmanager
def _interrupt_after_step() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM (a scheduler's warning) are noted and asked for between steps; a second one stops at once.

    Only the main thread hears signals.
    """
    noted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        noted.set()
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield noted.is_set
    finally:
        restore()


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


def _only(sums: StepSums) -> Totals:
    totals = Totals()
    totals.add(sums)
    return totals
