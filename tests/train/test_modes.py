"""Ways of running the layers: they may cost time or memory, never change what is computed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from flantune.recipe import OptimizerSpec
from flantune.train.parallel import blocks_of
from models.packs import tiny_model
from train import runs
from train.runs import SPEC, small_run

FLOAT = SPEC.model_copy(update={"precision": "fp32", "steps": 4})


def weights(model: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_activation_checkpointing_gives_the_same_bits_dropout_included(
    family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[str] = []

    def counted(*arguments: Any, **more: Any) -> Any:
        model = tiny_model(*arguments, **more)
        inside = next(m for m in blocks_of(model)[0].modules() if isinstance(m, torch.nn.Linear))
        inside.register_forward_pre_hook(lambda *_: calls.append(""))
        return model

    monkeypatch.setattr(runs, "tiny_model", counted)
    done = {}
    for asked in (False, True):
        calls.clear()
        model, _ = small_run(
            tmp_path / str(asked), FLOAT.model_copy(update={"activation_checkpointing": asked}), family
        )
        done[asked] = (weights(model), len(calls))
        assert not model.is_activation_checkpointing
    assert done[True][1] == 2 * done[False][1] > 0  # each layer once more, in the backward pass
    assert all(torch.equal(a, b) for a, b in zip(done[True][0], done[False][0], strict=True))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
@pytest.mark.parametrize("family", ["t5", "llama"])
def test_compiled_layers_learn_the_same(family: Any, tmp_path: Path):
    constant = FLOAT.model_copy(update={"optimizer": OptimizerSpec(lr=0.001, min_dim_factored=16)})
    torch.compiler.reset()  # what other models left in the compiler
    counters.clear()
    plain, report = small_run(tmp_path / "a", constant, family=family)
    assert counters["stats"]["unique_graphs"] == 0
    compiled, other = small_run(tmp_path / "b", constant.model_copy(update={"compile": True}), family=family)
    assert counters["stats"]["unique_graphs"] > 0
    assert other.loss == pytest.approx(report.loss, rel=1e-4)
    for one, expected in zip(weights(compiled), weights(plain), strict=True):
        torch.testing.assert_close(one, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert all(block._compiled_call_impl is None for block in blocks_of(compiled))


def test_blocks_are_the_repeated_layers():
    assert [type(b).__name__ for b in blocks_of(tiny_model("t5"))] == ["T5Block"] * 4
    assert [type(b).__name__ for b in blocks_of(tiny_model("llama"))] == ["LlamaDecoderLayer"] * 2
    plain = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(2, 2)]), "head": torch.nn.Linear(2, 2)})
    assert len(blocks_of(plain)) == 1
