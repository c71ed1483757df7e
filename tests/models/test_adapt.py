"""Adapters: what they change, what they train, how they are kept and merged."""

from __future__ import annotations

import copy
import sys
from types import SimpleNamespace

import pytest
import torch

from flantune.errors import ModelError, RecipeError, StateError
from flantune.models.adapt import (
    add_adapter,
    check_precision,
    describe,
    has_adapter,
    load_adapter,
    merge_adapter,
    quantised,
    save_adapter,
    target_names,
)
from flantune.models.check import check_packing
from flantune.models.family import family_of
from flantune.models.load import load_model, save_model
from flantune.recipe import AdapterSpec
from models.packs import random_row, tiny_model

FAMILIES = ("t5", "llama", "qwen3")
SPEC = AdapterSpec(rank=4, alpha=8)


def batch_of(model, examples: int = 3):
    return family_of(model).collate(model, [random_row(1, examples), random_row(2, examples)], 48, 32)


def loss(model) -> torch.Tensor:
    with torch.no_grad():
        return family_of(model).loss(model, batch_of(model)).loss_sum


def learned(family: str, spec: AdapterSpec = SPEC):
    """An adapted model whose B matrices are no longer zero."""
    model = add_adapter(tiny_model(family), spec, seed=3)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if ".lora_B" in name:
            parameter.data.normal_(0.0, 0.1, generator=generator)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_new_adapters_change_nothing_and_are_the_same_for_the_same_seed(family):
    plain, model = tiny_model(family), add_adapter(tiny_model(family), SPEC, seed=3)
    assert type(model) is type(plain)
    assert torch.equal(loss(model), loss(plain))
    again, other = add_adapter(tiny_model(family), SPEC, seed=3), add_adapter(tiny_model(family), SPEC, seed=4)
    numbers = [torch.cat([p.flatten() for p in m.parameters() if p.requires_grad]) for m in (model, again, other)]
    assert torch.equal(numbers[0], numbers[1]) and not torch.equal(numbers[0], numbers[2])
    assert has_adapter(model) and not has_adapter(plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_adapters_get_a_gradient(family):
    model = add_adapter(tiny_model(family), SPEC, seed=0).train()
    family_of(model).loss(model, batch_of(model)).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (".lora_" in name) == (parameter.grad is not None), name
    assert any(p.grad.abs().max() > 0 for n, p in model.named_parameters() if ".lora_B" in n)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spec", [SPEC, AdapterSpec(rank=4, targets="attention", rank_stabilised=True)])
def test_a_merged_model_computes_what_the_adapted_one_does(family, spec):
    model = learned(family, spec)
    merged = merge_adapter(model, tiny_model(family), spec)
    assert (
        not has_adapter(merged)
        and dict(merged.named_parameters()).keys() == dict(tiny_model(family).named_parameters()).keys()
    )
    assert loss(merged).item() == pytest.approx(loss(model).item(), rel=1e-5)
    assert abs(loss(merged) - loss(tiny_model(family))) > 1e-3


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_pefts_own_reading_of_a_saved_adapter_agrees(family, tmp_path):
    import peft

    model = learned(family)
    save_model(tiny_model(family), None, tmp_path / "base")
    save_adapter(model, SPEC, str(tmp_path / "base"), tmp_path / "adapter")
    assert describe(tmp_path / "adapter")["base_model_name_or_path"] == str(tmp_path / "base")
    read = peft.PeftModel.from_pretrained(load_model(str(tmp_path / "base")), tmp_path / "adapter")
    assert torch.equal(loss(read.base_model.model), loss(model))
    merged = read.merge_and_unload()  # PEFT's merge is the reference of ours
    ours = dict(merge_adapter(model, tiny_model(family), SPEC).named_parameters())
    for name, parameter in merged.named_parameters():
        torch.testing.assert_close(ours[name], parameter, rtol=1e-6, atol=1e-7)


def test_a_saved_adapter_goes_back_into_a_model_of_its_shape_alone(tmp_path):
    model = learned("llama")
    save_adapter(model, SPEC, "base", tmp_path / "adapter")
    fresh = add_adapter(tiny_model("llama"), SPEC, seed=9)
    load_adapter(fresh, tmp_path / "adapter")
    assert torch.equal(loss(fresh), loss(model))
    with pytest.raises(StateError, match="of this recipe's model and rank"):
        load_adapter(add_adapter(tiny_model("llama"), AdapterSpec(rank=2), seed=9), tmp_path / "adapter")


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_of_an_adapted_model_are_its_examples_one_at_a_time(family):
    """The check's gradients are of what is trained."""
    model = learned(family)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    check_packing(model, [random_row(1), random_row(2)])


def test_frozen_weights_in_two_bytes_are_multiplied_in_bf16():
    model = add_adapter(tiny_model("llama"), AdapterSpec(rank=4, load="bf16"), seed=0)
    kinds = {p.dtype for n, p in model.named_parameters() if "proj" in n and ".lora_" not in n}
    assert kinds == {torch.bfloat16}
    assert {p.dtype for n, p in model.named_parameters() if ".lora_" in n} == {torch.float32}
    assert model.get_output_embeddings().weight.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = family_of(model).loss(model, batch_of(model)).loss_sum
    assert got.item() == pytest.approx(loss(tiny_model("llama")).item(), rel=0.02)
    with pytest.raises(RecipeError, match=r"load: bf16: expected train.precision bf16, got fp32"):
        check_precision(AdapterSpec(load="bf16"), "fp32")
    check_precision(AdapterSpec(load="bf16"), "bf16")
    check_precision(AdapterSpec(), "fp32")


def test_targets_that_the_model_has_not_are_an_error_that_lists_those_it_has():
    with pytest.raises(RecipeError, match=r"got nonsense. It has: down_proj, gate_proj, k_proj"):
        target_names(tiny_model("llama"), AdapterSpec(targets=("q_proj", "nonsense")))
    assert target_names(tiny_model("t5"), AdapterSpec(targets="attention")) == ("k", "o", "q", "v")
    assert "lm_head" not in target_names(tiny_model("llama"), AdapterSpec())


def test_four_bits_need_bitsandbytes_and_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"the package bitsandbytes, .* pip install 'flantune\[qlora\]'"):
        quantised(AdapterSpec(load="4bit"))
    assert quantised(AdapterSpec(load="bf16")) == {}


def test_four_bits_are_asked_of_transformers_as_qlora_has_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    import transformers

    asked: dict[str, object] = {}
    monkeypatch.setattr(transformers, "BitsAndBytesConfig", lambda **more: asked.update(more) or "config")
    how = quantised(AdapterSpec(load="4bit"))
    assert how == {"quantization_config": "config", "device_map": {"": 0}}
    assert asked["bnb_4bit_quant_type"] == "nf4" and asked["load_in_4bit"] and asked["bnb_4bit_use_double_quant"]
    assert asked["bnb_4bit_compute_dtype"] is torch.bfloat16


def test_without_peft_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match=r"pip install 'flantune\[lora\]'"):
        add_adapter(tiny_model("llama"), SPEC, seed=0)


def test_the_model_that_was_adapted_is_left_as_it_was_by_a_merge():
    model = learned("llama")
    before = {n: p.clone() for n, p in model.named_parameters()}
    merge_adapter(model, copy.deepcopy(tiny_model("llama")), SPEC)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
