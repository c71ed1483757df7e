"""What a training run says of itself: metrics.jsonl and who else watches, each step once however often it resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from flantune.train.watch import Watcher, open_watchers


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSums:
    """One optimizer step, in sums over the global batch, so that any number of steps can be added up."""

    loss_sum: float  # nats
    z_sum: float
    weight_sum: float  # target tokens with loss
    correct: float  # of them, predicted right
    grad_norm: float  # of the normalised gradient, before the update
    examples: int
    input_tokens: int  # without padding
    target_tokens: int  # without padding
    seconds: float


@dataclass(slots=True, kw_only=True)
class Totals:
    """Steps added up. Goes through a checkpoint, so that a resumed run's lines equal an uninterrupted one's."""

    steps: int = 0
    loss_sum: float = 0.0
    z_sum: float = 0.0
    weight_sum: float = 0.0
    correct: float = 0.0
    grad_norm: float = 0.0  # summed; divide by steps
    examples: int = 0
    input_tokens: int = 0
    target_tokens: int = 0
    seconds: float = 0.0

    def add(self, step: StepSums) -> None:
        self.steps += 1
        for field in fields(step):
            setattr(self, field.name, getattr(self, field.name) + getattr(step, field.name))

    def to_json(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Totals:
        return cls(**saved)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """One line of metrics.jsonl: means over the steps since the line before, counts since the start."""

    step: int
    loss: float  # cross-entropy in nats per target token, without the z-loss
    z_loss: float
    accuracy: float  # share of target tokens predicted right, the right tokens before them given
    learning_rate: float
    grad_norm: float
    tokens_per_second: float  # input and target tokens, without padding, of all ranks
    seconds: float  # of training since the start, without loading and saving
    examples: int
    input_tokens: int
    target_tokens: int
    peak_share: float | None = None  # of the hardware's rate of multiplications, where that is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """FLOPs of training on one token of each side, and those that all the hardware together can do in a second."""

    input_token: float
    target_token: float
    peak: float

    def share(self, done: Totals) -> float:
        flops = self.input_token * done.input_tokens + self.target_token * done.target_tokens
        return flops / done.seconds / self.peak


def metrics_of(step: int, window: Totals, whole: Totals, learning_rate: float, speed: Speed | None = None) -> Metrics:
    return Metrics(
        step=step,
        loss=window.loss_sum / window.weight_sum,
        z_loss=window.z_sum / window.weight_sum,
        accuracy=window.correct / window.weight_sum,
        learning_rate=learning_rate,
        grad_norm=window.grad_norm / window.steps,
        tokens_per_second=(window.input_tokens + window.target_tokens) / window.seconds,
        seconds=whole.seconds,
        examples=whole.examples,
        input_tokens=whole.input_tokens,
        target_tokens=whole.target_tokens,
        peak_share=None if speed is None else speed.share(window),
    )


class MetricsLog:
    """Appends to `folder`/metrics.jsonl and shows the watchers. Lines after `resume_at` are of steps to be redone."""

    def __init__(self, folder: Path, resume_at: int, watch: Sequence[str] = ("tensorboard",)) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        self._watchers: list[Watcher] = open_watchers(watch, folder)
        cut_after(path, resume_at)
        self._file = path.open("a", encoding="utf-8")
        earlier = [(line.step, _shown(line)) for line in read_metrics(path)]
        for watcher in self._watchers:
            watcher.replay(earlier)

    def write(self, metrics: Metrics) -> None:
        self._file.write(json.dumps(asdict(metrics)) + "\n")
        self._file.flush()
        self.show(metrics.step, _shown(metrics))

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """To the watchers alone."""
        for watcher in self._watchers:
            watcher.show(step, values)

    def sync(self) -> None:
        """To disk, before a checkpoint says that these steps are done."""
        self._file.flush()
        os.fsync(self._file.fileno())
        for watcher in self._watchers:
            watcher.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        for watcher in self._watchers:
            watcher.close()


def _shown(metrics: Metrics) -> dict[str, float]:
    return {f"train/{name}": value for name, value in asdict(metrics).items() if name != "step" and value is not None}


def cut_after(path: Path, step: int) -> None:
    """Keep only the lines up to `step`; a line that a kill cut short goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            if line and json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            break
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)


def read_metrics(path: Path) -> list[Metrics]:
    """Every whole line of a metrics.jsonl."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [Metrics(**json.loads(line)) for line in lines[:-1]]
