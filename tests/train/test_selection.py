from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flantune.errors import StateError
from flantune.models.family import family_of
from flantune.recipe import OptimizerSpec, SelectionSpec
from flantune.train.checkpoint import checkpoint_of, load_weights
from flantune.train.metrics import read_metrics
from flantune.train.parallel import ALONE, Objective
from flantune.train.selection import Evaluation, Moment, Selection, held_out_loss
from models.packs import random_row, tiny_model
from train.runs import SPEC, small_run

CONSTANT = SPEC.model_copy(update={"optimizer": OptimizerSpec(lr=0.02, min_dim_factored=16), "keep_checkpoints": 1})


def scripted(values: dict[int, float], by: Any = "loss", patience: int | None = None, every: int = 2) -> Selection:
    """A selection that measures what it is told to, and fails where it is asked twice."""
    left = dict(values)

    def measure(moment: Moment) -> Evaluation:
        assert moment.checkpoint.folder.is_dir()
        return Evaluation(step=moment.checkpoint.step, value=left.pop(moment.checkpoint.step))

    return Selection(SelectionSpec(by=by, every=every, tasks=("*",), patience=patience), measure, {"tasks": ["a"]})


def weights_at(folder: Path, step: int) -> Any:
    model = tiny_model(seed=9)
    load_weights(checkpoint_of(folder / "checkpoints", step), model)
    return model


def test_the_model_gets_the_weights_of_the_best_step_though_few_checkpoints_are_kept(tmp_path: Path):
    curve = {2: 3.0, 4: 1.0, 6: 2.0, 8: 1.0, 10: 2.0, 12: 4.0, 14: 5.0}
    model, report = small_run(tmp_path, CONSTANT, selection=scripted(curve))
    assert (report.chosen_step, report.steps) == (4, 14)  # of equals, the first
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-14", "step-4"]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights_at(tmp_path, 4).parameters(), strict=True))
    plain, _ = small_run(tmp_path / "plain", CONSTANT.model_copy(update={"steps": 4}))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    told = json.loads((tmp_path / "selection.json").read_text())
    assert (told["chosen"], told["stopped"], told["by"]) == (4, False, "loss")
    assert {e["step"]: e["value"] for e in told["evaluations"]} == curve


def test_a_score_is_better_when_higher_and_patience_ends_the_training(tmp_path: Path):
    curve = {2: 0.1, 4: 0.5, 6: 0.2, 8: 0.5}
    model, report = small_run(
        tmp_path, CONSTANT.model_copy(update={"log_every": 3}), selection=scripted(curve, "score", patience=2)
    )
    assert (report.chosen_step, report.steps) == (4, 8)
    assert [m.step for m in read_metrics(tmp_path / "metrics.jsonl")] == [3, 6, 8]  # the last steps are told too
    again, second = small_run(
        tmp_path, CONSTANT, selection=scripted({}, "score", patience=2), on_step=lambda m: pytest.fail("a step was run")
    )
    assert (second.chosen_step, second.steps) == (4, 8)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_kill_between_saving_and_measuring_costs_the_measurement_alone(tmp_path: Path):
    class Killed(Exception):
        pass

    selection = scripted({2: 1.0})

    def killed(moment: Moment) -> Evaluation:
        if moment.checkpoint.step == 4:
            raise Killed
        return Evaluation(step=2, value=1.0)

    selection._measure = killed
    with pytest.raises(Killed):
        small_run(tmp_path, CONSTANT, selection=selection)
    rest = {4: 0.5, 6: 2.0, 8: 2.0, 10: 2.0, 12: 2.0, 14: 2.0}
    model, report = small_run(tmp_path, CONSTANT, selection=scripted(rest))  # 2 is not asked for again
    assert (report.resumed_from, report.chosen_step) == (4, 4)
    plain, _ = small_run(tmp_path / "plain", CONSTANT.model_copy(update={"steps": 4}))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_the_last_step_is_measured_though_it_is_no_multiple(tmp_path: Path):
    _, report = small_run(tmp_path, CONSTANT, selection=scripted({5: 3.0, 10: 2.0, 14: 1.0}, every=5))
    assert report.chosen_step == 14


def test_a_measurement_that_is_no_number_stops_with_its_step(tmp_path: Path):
    with pytest.raises(StateError, match="step 2: expected a finite loss"):
        small_run(tmp_path, CONSTANT, selection=scripted({2: float("nan")}))


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_the_held_out_loss_is_the_mean_over_target_tokens_without_dropout(family: Any):
    model = tiny_model(family, seed=1, dropout=0.5).train()
    own = family_of(model)
    rows = [random_row(seed=k) for k in range(5)]
    micros = [own.collate(model, rows[:2], 48, 32), own.collate(model, rows[2:], 48, 32)]
    objective = Objective(model, own, 0.1)
    loss, targets = held_out_loss(objective, micros, ALONE, "fp32")
    assert objective.training and model.training
    model.eval()
    whole = own.loss(model, own.collate(model, rows, 48, 32))
    assert targets == whole.weight_sum
    assert loss == pytest.approx(float(whole.loss_sum.detach()) / targets, rel=1e-6)
