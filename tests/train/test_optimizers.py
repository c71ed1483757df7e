from __future__ import annotations

import math

import pytest
import torch

from flantune.recipe import OptimizerSpec
from flantune.train.adafactor import Adafactor
from flantune.train.optimizers import learning_rate, make_optimizer, set_learning_rate
from models.packs import tiny_model


def rates(spec: OptimizerSpec, steps: int) -> list[float]:
    return [learning_rate(spec, step, steps) for step in range(1, steps + 1)]


def test_the_default_rate_is_constant():
    assert rates(OptimizerSpec(), 5) == [5e-4] * 5


def test_warm_up_rises_in_a_straight_line_and_reaches_the_rate_at_its_last_step():
    assert rates(OptimizerSpec(lr=1.0, warmup_steps=4), 6) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_decay_ends_at_the_final_rate():
    spec = OptimizerSpec(lr=1.0, warmup_steps=2, decay="linear", final_lr=0.2)
    assert rates(spec, 6) == pytest.approx([0.5, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_cosine_decay_is_half_way_down_half_way_through():
    spec = OptimizerSpec(lr=1.0, warmup_steps=2, decay="cosine", final_lr=0.2)
    got = rates(spec, 6)
    assert got[-1] == pytest.approx(0.2) and got[3] == pytest.approx(0.6)
    assert got[2] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 4)))


def test_a_warm_up_longer_than_the_training_never_reaches_the_rate():
    assert max(rates(OptimizerSpec(lr=1.0, warmup_steps=10, decay="cosine"), 4)) == 0.4


def test_the_recipe_names_the_optimizer_and_its_settings():
    model = tiny_model()
    adafactor = make_optimizer(OptimizerSpec(min_dim_factored=16, step_offset=7), model)
    assert isinstance(adafactor, Adafactor)
    assert (adafactor.defaults["min_dim_factored"], adafactor.defaults["step_offset"]) == (16, 7)
    adamw = make_optimizer(OptimizerSpec(name="adamw", weight_decay=0.1, betas=(0.8, 0.9)), model)
    assert isinstance(adamw, torch.optim.AdamW)
    assert {g["betas"] for g in adamw.param_groups} == {(0.8, 0.9)}
    decayed = {p for g in adamw.param_groups if g["weight_decay"] == 0.1 for p in g["params"]}
    assert decayed == {p for p in model.parameters() if p.ndim >= 2}
    assert sum(len(g["params"]) for g in adamw.param_groups) == len(list(model.parameters()))
    set_learning_rate(adamw, 0.25)
    assert {g["lr"] for g in adamw.param_groups} == {0.25}
