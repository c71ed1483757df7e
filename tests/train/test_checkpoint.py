from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from flantune.errors import StateError
from flantune.recipe import OptimizerSpec
from flantune.train import checkpoint as checkpoint_module
from flantune.train.checkpoint import latest_checkpoint, restore_checkpoint, save_checkpoint
from flantune.train.optimizers import make_optimizer
from models.packs import tiny_model

OPTIMIZERS = [OptimizerSpec(min_dim_factored=16), OptimizerSpec(name="adamw")]


def stepped(spec: OptimizerSpec, seed: int = 0, steps: int = 2) -> tuple[Any, torch.optim.Optimizer]:
    model = tiny_model(seed=seed)
    optimizer = make_optimizer(spec, model)
    for k in range(steps):
        move(model, optimizer, seed + k)
    return model, optimizer


def move(model: Any, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("spec", OPTIMIZERS, ids=lambda s: s.name)
def test_the_step_after_a_restore_is_the_step_without_one_bit_for_bit(spec: OptimizerSpec, tmp_path: Path):
    model, optimizer = stepped(spec)
    save_checkpoint(tmp_path, 2, model, optimizer, {"note": 0.1 + 0.2})
    move(model, optimizer, seed=9)

    other, other_optimizer = stepped(spec, seed=5, steps=1)
    found = latest_checkpoint(tmp_path)
    assert found is not None and (found.step, found.extra) == (2, {"note": 0.1 + 0.2})
    restore_checkpoint(found, other, other_optimizer)
    move(other, other_optimizer, seed=9)
    assert same(weights(model), weights(other))


def test_a_checkpoint_is_a_model_that_transformers_loads(tmp_path: Path):
    model, optimizer = stepped(OPTIMIZERS[0])
    folder = save_checkpoint(tmp_path, 2, model, optimizer, {})
    assert same(weights(AutoModelForSeq2SeqLM.from_pretrained(folder)), weights(model))


def test_only_the_newest_are_kept(tmp_path: Path):
    model, optimizer = stepped(OPTIMIZERS[0])
    for step in (5, 10, 15, 100):
        save_checkpoint(tmp_path, step, model, optimizer, {}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-100", "step-15"]


def damage(folder: Path, how: str) -> None:
    path = folder / "optimizer.safetensors"
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif how == "flipped":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    elif how == "missing":
        path.unlink()
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text('{"model.safe')


@pytest.mark.parametrize("how", ["truncated", "flipped", "missing", "no manifest", "cut manifest"])
def test_a_damaged_checkpoint_is_passed_over_for_the_last_whole_one(how: str, tmp_path: Path):
    model, optimizer = stepped(OPTIMIZERS[0])
    save_checkpoint(tmp_path, 1, model, optimizer, {})
    damage(save_checkpoint(tmp_path, 2, model, optimizer, {}), how)
    with pytest.warns(UserWarning, match="step-2: not a whole checkpoint"):
        found = latest_checkpoint(tmp_path)
    assert found is not None and found.step == 1


def test_nothing_whole_is_nothing(tmp_path: Path):
    assert latest_checkpoint(tmp_path / "none") is None
    model, optimizer = stepped(OPTIMIZERS[0])
    damage(save_checkpoint(tmp_path, 2, model, optimizer, {}), "truncated")
    with pytest.warns(UserWarning):
        assert latest_checkpoint(tmp_path) is None


def test_a_full_disk_is_a_clear_error_and_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, optimizer = stepped(OPTIMIZERS[0])
    save_checkpoint(tmp_path, 1, model, optimizer, {}, keep=1)
    real = checkpoint_module.save_file

    def onto_a_full_disk(tensors: Any, path: Path, metadata: Any = None) -> None:
        if path.name == "optimizer.safetensors":
            with open("/dev/full", "wb", buffering=0) as full:  # the kernel's own ENOSPC
                full.write(b"x")
        real(tensors, path, metadata=metadata)

    monkeypatch.setattr(checkpoint_module, "save_file", onto_a_full_disk)
    with pytest.raises(StateError, match=r"step-2: could not be written: .*No space left on device"):
        save_checkpoint(tmp_path, 2, model, optimizer, {}, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]
    found = latest_checkpoint(tmp_path)
    assert found is not None and found.step == 1


def test_another_models_weights_are_refused_by_name(tmp_path: Path):
    model, optimizer = stepped(OPTIMIZERS[0])
    save_checkpoint(tmp_path, 2, model, optimizer, {})
    found = latest_checkpoint(tmp_path)
    assert found is not None
    larger = tiny_model(vocab_size=128)
    with pytest.raises(StateError, match=r"'shared\.weight' differs"):
        restore_checkpoint(found, larger, make_optimizer(OPTIMIZERS[0], larger))


def test_the_manifest_names_every_file(tmp_path: Path):
    model, optimizer = stepped(OPTIMIZERS[0])
    folder = save_checkpoint(tmp_path, 2, model, optimizer, {})
    listed = set(json.loads((folder / "manifest.json").read_text()))
    assert listed == {p.name for p in folder.iterdir()} - {"manifest.json"}
    shutil.rmtree(folder)
