"""Choosing a checkpoint: measured at fixed steps on a split of its own, the best one becomes the model.

FOLDER/selection.json    every measurement so far, the step chosen, and whether training stopped early
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from flantune.errors import StateError
from flantune.recipe import SelectionSpec
from flantune.tokens.collate import PackedBatch
from flantune.train.checkpoint import Checkpoint
from flantune.train.parallel import Objective, Ranks
from flantune.train.precision import Precision, autocast
from flantune.train.step import count_tokens, turns
from flantune.whole import write_json

FILE = "selection.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A step that is measured: its checkpoint on disk and the same weights in memory."""

    checkpoint: Checkpoint
    objective: Objective
    ranks: Ranks
    precision: Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """One point of the curve. `parts` say what `value` is the mean of, by task or benchmark."""

    step: int
    value: float
    parts: Mapping[str, float] = field(default_factory=dict)


# Called on every rank at the same steps; returns the same on each.
Measure = Callable[[Moment], Evaluation]


class Selection:
    """The measurements of one training, on disk as they are made; asked by the loop what is due and when to stop."""

    def __init__(self, spec: SelectionSpec, measure: Measure, split: Mapping[str, Any]) -> None:
        """`split` (JSON) names what is measured on, for the file."""
        self.spec = spec
        self._measure = measure
        self._split = dict(split)
        self.evaluations: list[Evaluation] = []

    def resume(self, folder: Path, step: int) -> None:
        """Take up the measurements made up to `step`; later ones are of steps to be done again."""
        path = folder / FILE
        if not path.exists():
            return
        try:
            kept = [Evaluation(**told) for told in json.loads(path.read_text(encoding="utf-8"))["evaluations"]]
        except (ValueError, KeyError, TypeError) as e:
            raise StateError(f"{path}: cannot be read: {e}. Remove it; the kept checkpoints are measured again.") from e
        self.evaluations = [e for e in kept if e.step <= step]

    def due(self, step: int, last: int) -> bool:
        """Whether `step` is to be measured and has not been."""
        asked = step > 0 and (step % self.spec.every == 0 or step == last)
        return asked and all(e.step != step for e in self.evaluations)

    def evaluate(self, moment: Moment, folder: Path) -> Evaluation:
        made = self._measure(moment)
        if not math.isfinite(made.value):
            raise StateError(
                f"step {made.step}: expected a finite {self.spec.by} on the selection split, got {made.value}."
            )
        self.evaluations.append(made)
        moment.ranks.first(lambda: self._write(folder))
        return made

    @property
    def best(self) -> Evaluation | None:
        """The lowest loss or highest score so far; of equals, the first."""
        sign = 1.0 if self.spec.by == "loss" else -1.0
        return min(self.evaluations, key=lambda e: sign * e.value, default=None)

    @property
    def stopped(self) -> bool:
        """Whether `patience` measurements in a row were no better than the best."""
        best = self.best
        if best is None or self.spec.patience is None:
            return False
        return sum(e.step > best.step for e in self.evaluations) >= self.spec.patience

    def _write(self, folder: Path) -> None:
        best = self.best
        told = {
            "by": self.spec.by,
            "split": self._split,
            "evaluations": [asdict(e) for e in self.evaluations],
            "chosen": best.step if best else None,
            "stopped": self.stopped,
        }
        write_json(folder / FILE, told)


def loss_measure(micros: Sequence[PackedBatch]) -> Measure:
    """Nats per target token over packed rows, without dropout. `parts` has the number of target tokens."""

    def measure(moment: Moment) -> Evaluation:
        loss, targets = held_out_loss(moment.objective, micros, moment.ranks, moment.precision)
        return Evaluation(step=moment.checkpoint.step, value=loss, parts={"target_tokens": targets})

    return measure


@torch.no_grad()
def held_out_loss(
    objective: Objective, micros: Sequence[PackedBatch], ranks: Ranks, precision: Precision
) -> tuple[float, float]:
    """Cross-entropy per target token of all `micros`, and how many those are; rows are spread over the ranks."""
    device = next(objective.parameters()).device
    was_training = objective.training
    objective.eval()
    losses = [0.0] * len(micros)
    try:
        for micro, counts in turns(len(micros), ranks):
            with autocast(precision, device):
                _, told = objective(micros[micro].to(device))
            if counts:
                losses[micro] = float(told[0])
    finally:
        objective.train(was_training)
    own = range(ranks.rank, len(micros), ranks.size)
    targets = ranks.sum(count_tokens([micros[m] for m in own]))[0]
    return math.fsum(ranks.sum(losses)) / targets, targets
