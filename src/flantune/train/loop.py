"""The training loop, top to bottom: resume, step, log, save, measure."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
    run = _Run(
        model=model,
        objective=objective,
        batches=batches,
        spec=spec,
        folder=folder,
        seed=seed,
        made_of=_identity(spec, seed, family, identity or {}),
        optimizer=make_optimizer(spec.optimizer, model),
        precision=precision,
        ranks=ranks,
        selection=selection,
        speed=speed,
        on_step=on_step,
    )
    found = latest_checkpoint(folder / CHECKPOINTS, ranks)
    start = 0 if found is None else run.resume(found)
    if found is not None:
        if _finished(start, spec, selection):
            return _end(run, start, start, held=None)
        restore_checkpoint(found, model, run.optimizer, ranks)
    step = _go_on(run, found, start)
    return _end(run, step, start, held=step)


def _go_on(run: _Run, found: Checkpoint | None, step: int) -> int:
    """The steps after `step`, with what is logged, saved and measured on the way; the last one done."""
    with ExitStack() as stack:
        run.log = stack.enter_context(MetricsLog(run.folder, step, run.spec.watch)) if run.ranks.main else None
        interrupted = stack.enter_context(_interrupt_after_step())
        stack.enter_context(_training_mode(run.model, run.spec))
        if found is not None:
            run.measure(found)  # where a kill came between its saving and its measuring
        while not _finished(step, run.spec, run.selection):
            step += 1
            run.step(step)
            stopping = bool(run.ranks.sum([float(interrupted())])[0])
            if stopping or run.saves_after(step):
                saved = run.save(step)
                if stopping and step < run.spec.steps:
                    raise KeyboardInterrupt
                run.measure(saved)
        run.write_line(step)  # where it stopped between two lines
    return step


@dataclass(kw_only=True)
class _Run:
    """What the steps of one call of `train` share, and what they have counted."""

    model: PreTrainedModel
    objective: Objective
    batches: Batches
    spec: TrainSpec
    folder: Path
    seed: int
    made_of: Mapping[str, Any]
    optimizer: torch.optim.Optimizer
    precision: Precision
    ranks: Ranks
    selection: Selection | None
    speed: Speed | None
    on_step: Callable[[Metrics], None] | None
    log: MetricsLog | None = None  # on rank 0
    window: Totals = field(default_factory=Totals)  # since the last line of the log
    whole: Totals = field(default_factory=Totals)  # resumed parts included

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    def resume(self, found: Checkpoint) -> int:
        """Take over its counts; the steps it has. Raises StateError where it is another training's."""
        _require_same(found, self.made_of, self.spec)
        self.window = Totals.from_json(found.extra["window"])
        self.whole = Totals.from_json(found.extra["whole"])
        if self.selection is not None:
            self.selection.resume(self.folder, found.step)
        return found.step

    def step(self, step: int) -> None:
        """Train, count, tell."""
        rate = learning_rate(self.spec.optimizer, step, self.spec.steps)
        set_learning_rate(self.optimizer, rate)
        sums = train_step(
            self.model,
            self.objective.family,
            self.optimizer,
            self.batches(step - 1),
            self.spec,
            step,
            self.seed,
            self.precision,
            ranks=self.ranks,
            objective=self.objective,
        )
        self.window.add(sums)
        self.whole.add(sums)
        if self.on_step is not None and self.ranks.main:
            self.on_step(metrics_of(step, _only(sums), self.whole, rate, self.speed))
        if step % self.spec.log_every == 0 or step == self.spec.steps:
            self.write_line(step)

    def write_line(self, step: int) -> None:
        """A line of the log for the steps since the last one, if there are any."""
        if self.window.steps and self.log is not None:
            rate = learning_rate(self.spec.optimizer, step, self.spec.steps)
            self.log.write(metrics_of(step, self.window, self.whole, rate, self.speed))
        self.window = Totals()

    def saves_after(self, step: int) -> bool:
        due = self.selection is not None and self.selection.due(step, self.spec.steps)
        return step % self.spec.checkpoint_every == 0 or step == self.spec.steps or due

    def save(self, step: int) -> Checkpoint:
        if self.log is not None:
            self.log.sync()
        extra = {"identity": self.made_of, "window": self.window.to_json(), "whole": self.whole.to_json()}
        best = None if self.selection is None else self.selection.best
        path = save_checkpoint(
            self.checkpoints,
            step,
            self.model,
            self.optimizer,
            extra,
            keep=self.spec.keep_checkpoints,
            protected=() if best is None else (best.step,),
            ranks=self.ranks,
        )
        return Checkpoint(path, step, extra)

    def measure(self, checkpoint: Checkpoint) -> None:
        """On the selection split, where that is due."""
        if self.selection is None or not self.selection.due(checkpoint.step, self.spec.steps):
            return
        moment = Moment(checkpoint=checkpoint, objective=self.objective, ranks=self.ranks, precision=self.precision)
        made = self.selection.evaluate(moment, self.folder)
        if self.log is not None:
            self.log.show(made.step, {f"selection/{self.selection.spec.by}": made.value})


def _finished(step: int, spec: TrainSpec, selection: Selection | None) -> bool:
    if selection is None:
        return step >= spec.steps
    return selection.stopped or (step >= spec.steps and not selection.due(step, spec.steps))


def _end(run: _Run, step: int, start: int, *, held: int | None) -> TrainReport:
    """Give the model the chosen step's weights, where those are not what it holds."""
    best, ranks, whole = None if run.selection is None else run.selection.best, run.ranks, run.whole
    chosen = step if best is None else best.step
    if chosen != held:
        found = ranks.tell(ranks.first(lambda: checkpoint_of(run.checkpoints, chosen)))
        load_weights(found, run.model, ranks)  # type: ignore[arg-type]
    run.model.eval()
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
        precision=run.precision,
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
