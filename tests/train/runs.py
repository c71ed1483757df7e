"""A small training that the tests run whole, in pieces, and in a process that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flantune.models.family import family_of
from flantune.recipe import OptimizerSpec, TrainSpec
from flantune.tokens.collate import PackedBatch
from flantune.train.loop import TrainReport, train
from models.packs import random_row, tiny_model

SPEC = TrainSpec(
    steps=14,
    micro_rows=2,
    batch_rows=4,
    checkpoint_every=3,
    log_every=4,
    precision="bf16",
    z_loss=1e-4,
    optimizer=OptimizerSpec(lr=0.02, min_dim_factored=16, warmup_steps=3, decay="cosine"),
)

MANY_SAVES = SPEC.model_copy(update={"steps": 400, "checkpoint_every": 2, "log_every": 1, "precision": "fp32"})
SPECS = {"usual": SPEC, "many_saves": MANY_SAVES}


def start(folder: Path, family: str, kill_after: int, spec: str = "usual") -> subprocess.Popen[str]:
    """The training in a process of its own."""
    tests = str(Path(__file__).resolve().parents[1])
    return subprocess.Popen(
        [sys.executable, "-m", "train.runs", str(folder), family, str(kill_after), spec],
        cwd=tests,
        env={**os.environ, "PYTHONPATH": tests},
        stdout=subprocess.PIPE,
        text=True,
    )


def batches(model: Any, micro_rows: int = 2, batch_rows: int = 4, distinct: int = 1_000) -> Any:
    """Step -> micro-batches of the same rows, however they are split."""
    family = family_of(model)

    def of_step(step: int) -> Sequence[PackedBatch]:
        rows = [random_row(seed=(step % distinct) * batch_rows + k) for k in range(batch_rows)]
        pieces = [rows[k : k + micro_rows] for k in range(0, batch_rows, micro_rows)]
        return [family.collate(model, piece, 48, 32) for piece in pieces]

    return of_step


def small_run(folder: Path, spec: TrainSpec = SPEC, family: Any = "t5", **more: Any) -> tuple[Any, TrainReport]:
    model = tiny_model(family, seed=1, dropout=0.1)
    report = train(model, family_of(model), batches(model), spec, folder, seed=7, **more)
    return model, report


def main(folder: str, family: str, kill_after: str, spec: str) -> None:
    """Kill this process without warning once the step is done; -1 lets it end."""
    torch.set_num_threads(1)

    def on_step(metrics: Any) -> None:
        print(metrics.step, flush=True)
        if metrics.step == int(kill_after):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)

    small_run(Path(folder), SPECS[spec], family=family, on_step=on_step)


if __name__ == "__main__":
    main(*sys.argv[1:])
