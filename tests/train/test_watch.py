from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from flantune.errors import RecipeError
from flantune.train.metrics import Speed, Totals, read_metrics
from flantune.train.watch import open_watchers
from train.runs import SPEC, small_run


class Recorder(types.ModuleType):
    """A package that keeps what it is told."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.begun: list[dict[str, Any]] = []
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **options: Any) -> None:
        self.begun.append(options)

    def log(self, values: dict[str, float], step: int) -> None:
        self.lines.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_every_logged_line_is_shown_and_a_resumed_run_is_the_same_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    recorder = Recorder(name)
    monkeypatch.setitem(sys.modules, name, recorder)
    monkeypatch.setenv(f"{name.upper()}_PROJECT", "mine")
    constant = SPEC.model_copy(
        update={"watch": (name,), "optimizer": SPEC.optimizer.model_copy(update={"decay": "constant"})}
    )
    folder = tmp_path / "run-7"
    small_run(folder, constant.model_copy(update={"steps": 8}))
    small_run(folder, constant)
    told = {m.step: m.loss for m in read_metrics(folder / "metrics.jsonl")}
    assert list(told) == [4, 8, 12, 14]
    assert {step: values["train/loss"] for step, values in recorder.lines} == told
    first, second = recorder.begun
    assert first == second and first["project"] == "mine" and "run-7" in first["name"]
    assert recorder.finished == 2
    assert not (folder / "tensorboard").exists()


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_package_that_is_not_there_is_named_before_a_step_is_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RecipeError, match=rf"train\.watch: expected the package '{name}'.*pip install {name}"):
        small_run(tmp_path, SPEC.model_copy(update={"watch": (name,)}), on_step=lambda m: pytest.fail("a step was run"))


def test_nobody_need_watch(tmp_path: Path):
    assert open_watchers((), tmp_path) == []
    small_run(tmp_path, SPEC.model_copy(update={"watch": (), "steps": 4}))
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1
    assert not (tmp_path / "tensorboard").exists()


def test_the_share_of_the_peak_is_work_done_over_what_could_have_been(tmp_path: Path):
    done = Totals(input_tokens=100, target_tokens=10, seconds=2.0)
    assert Speed(input_token=3.0, target_token=5.0, peak=700.0).share(done) == (300 + 50) / 2 / 700
    small_run(tmp_path, SPEC.model_copy(update={"steps": 4}), speed=Speed(input_token=1.0, target_token=1.0, peak=10.0))
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["peak_share"] == pytest.approx(line["tokens_per_second"] / 10)
