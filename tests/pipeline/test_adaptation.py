"""Adapters, a base that goes on from what it knows, and text among the instructions, through the whole path."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM

from flantune.demo.files import write_world
from flantune.errors import ModelError
from flantune.models.adapt import add_adapter
from flantune.models.load import load_model
from flantune.pipeline import training
from flantune.pipeline.data import build, built_card
from flantune.pipeline.folder import open_run
from flantune.pipeline.training import base_model, finetune
from flantune.recipe import AdapterSpec, Recipe, parse_recipe
from flantune.tokens import yields
from flantune.tokens.shards import ShardReader
from flantune.tokens.tokenizer import load_tokenizer

MODES = {"R": "<extra_id_97>", "X": "<extra_id_98>", "S": "<extra_id_99>"}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("adaptation") / "world")


@pytest.fixture(scope="module")
def base(world, tmp_path_factory) -> Path:
    """A tiny base with its tokenizer, as another run would leave it."""
    recipe = recipe_of(world, tmp_path_factory.mktemp("base"), init="scratch")
    folder = open_run(recipe)
    return Path(base_model(recipe, folder))


def recipe_of(world: Path, runs: Path, *, init: str, adapter: dict | None = None, **more: object) -> Recipe:
    model = {
        "family": "t5" if init == "scratch" else "auto",
        "init": init,
        "size": {"d_model": 32, "layers": 1, "heads": 2, "d_kv": 16, "d_ff": 64},
        "tokenizer": {"vocab_size": 512, "sample_mb": 0.1},
        "dropout": 0.1,
        "adapter": adapter,
    }
    train = {"steps": 6, "batch_rows": 4, "micro_rows": 2, "checkpoint_every": 2, "log_every": 1, "threads": 1}
    mixture = {"preset": "uniform", "formats": [{"setting": "zs_opt"}], **more.pop("mixture", {})}
    return parse_recipe(
        {
            "name": "run",
            "runs": str(runs),
            "collections": [
                {"path": str(world), "reader": "native", "include": ["foods_*.task.yaml", "towns_*.task.yaml"]}
            ],
            "mixture": mixture,
            "tokens": {"inputs_len": 96, "targets_len": 48, "block": 64, "shard_rows": 8},
            "model": model,
            "train": {**train, "precision": "fp32", "optimizer": {"name": "adamw", "lr": 0.01}},
            **more,
        }
    )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_adapters_alone_are_trained_kept_and_merged_and_a_resumed_run_ends_with_the_same_bits(world, base, tmp_path):
    recipe = recipe_of(world, tmp_path, init=str(base), adapter={"rank": 2, "alpha": 4, "dropout": 0.1})
    folder = open_run(recipe)
    build(recipe, folder)
    finetune(recipe, folder)
    checkpoint = sorted((folder.root / "checkpoints").glob("step-*"))[-1]
    kept = {name for file in checkpoint.glob("*.safetensors") for name in load_file(file)}
    assert kept and all(".lora_" in name for name in kept)
    merged, before = dict(load_model(str(folder.model)).named_parameters()), load_model(str(base)).named_parameters()
    changed = {name for name, p in before if not torch.equal(p, merged[name])}
    assert changed and all(
        name.endswith((".q.weight", ".k.weight", ".v.weight", ".o.weight")) or ".wi" in name or ".wo" in name
        for name in changed
    )
    assert AutoModelForSeq2SeqLM.from_pretrained(folder.model).config.d_model == 32
    adapter = folder.root / "model-adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 2
    whole = digest(folder.model / "model.safetensors"), digest(adapter / "adapter_model.safetensors")
    # The same command after the end was lost, from the checkpoint before.
    for path in (folder.model, adapter, checkpoint):
        shutil.rmtree(path)
    (folder.root / "train.json").unlink()
    finetune(recipe, folder)
    assert (digest(folder.model / "model.safetensors"), digest(adapter / "adapter_model.safetensors")) == whole


def test_adapters_beside_four_bit_weights_learn_and_are_merged_into_whole_ones(world, base, tmp_path):
    """QLoRA for real: NF4 on the CPU. What was frozen is what bitsandbytes makes of the base, and stays it."""
    four_bits = pytest.importorskip("bitsandbytes").nn.Linear4bit
    adapter = {"rank": 4, "alpha": 8, "targets": "attention", "load": "4bit"}
    recipe = recipe_of(world, tmp_path, init=str(base), adapter=adapter)
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": "bf16", "steps": 12})})
    started = training._started(recipe, str(base), load_tokenizer(base))
    frozen = {n: m.weight for n, m in started.named_modules() if isinstance(m, four_bits)}
    folder = open_run(recipe)
    build(recipe, folder)
    finetune(recipe, folder)
    losses = [json.loads(line) for line in (folder.root / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert frozen and all(weight.dtype == torch.uint8 for weight in frozen.values())
    before, merged = (dict(load_model(str(at)).named_parameters()) for at in (base, folder.model))
    learned = load_file(folder.root / "model-adapter" / "adapter_model.safetensors")
    for name, weight in before.items():
        a, b = (learned.get(f"base_model.model.{name.removesuffix('.weight')}.lora_{x}.weight") for x in "AB")
        expected = weight if a is None else weight + 2 * (b @ a)  # into the whole weight, not the four bits of it
        assert torch.equal(merged[name], expected), name
    assert len(learned) == 2 * sum(name.endswith(".base_layer") for name in frozen) == 24


def test_a_base_goes_on_with_ul2s_denoisers_before_it_is_tuned(world, base, tmp_path):
    pretrain = {
        **{"objective": "ul2r", "mode_tokens": MODES, "window": 40, "steps": 4, "batch_rows": 4, "micro_rows": 4},
        **{"threads": 1, "precision": "fp32", "optimizer": {"name": "adamw", "lr": 0.01}},
    }
    recipe = recipe_of(world, tmp_path, init=str(base), pretrain=pretrain)
    folder = open_run(recipe)
    started = base_model(recipe, folder)
    assert started == str(folder.base)
    assert digest(folder.base / "model.safetensors") != digest(base / "model.safetensors")
    shards = ShardReader(folder.pretrain / "shards")
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    modes = {t["id"] for t in tokenizer["added_tokens"] if t["content"] in MODES.values()}
    firsts = set()
    for row in shards.rows(range(len(shards))):
        starts = [0, *row.inputs_lengths.cumsum()[:-1].tolist()]
        firsts |= {int(row.inputs[s]) for s in starts}
    assert firsts == modes  # every example begins with its denoiser's token, and all three were drawn
    templates = json.loads((folder.pretrain / "shards" / "card.json").read_text())["templates"]
    total = sum(templates.values())
    assert abs(templates["S"] / total - 0.5) < 0.1 and set(templates) == {"R", "S", "X"}
    assert base_model(recipe, folder) == started  # done once


def test_mode_tokens_that_the_tokenizer_has_not_stop_the_run_with_a_mend(world, base, tmp_path):
    recipe = recipe_of(world, tmp_path, init=str(base), pretrain={"objective": "ul2r", "steps": 2, "window": 40})
    with pytest.raises(ModelError, match=r"pretrain.mode_tokens: .* \[NLG\], \[NLU\], \[S2S\]"):
        base_model(recipe, open_run(recipe))


def test_text_stands_among_the_instructions_in_its_share_and_is_counted(world, base, tmp_path):
    text = {"share": 0.2, "objective": "prefix", "window": 32}
    more = {"train": {"steps": 12, "batch_rows": 8, "micro_rows": 4}}
    recipe = recipe_of(world, tmp_path, init=str(base), mixture={"text": text}).model_copy(
        update={"train": recipe_of(world, tmp_path, init=str(base)).train.model_copy(update=more["train"])}
    )
    folder = open_run(recipe)
    card = build(recipe, folder).to_json()
    found = card["mixtures"]["text"]
    assert found["asked"] == pytest.approx(0.2)
    assert abs(found["got"] - 0.2) < 0.02
    assert sum(t["asked"] for t in card["tasks"].values()) == pytest.approx(1)
    assert card["formats"]["text prefix"] == found["examples"] == card["templates"]["prefix"]
    assert built_card(folder).to_json() == card


def test_the_share_of_the_peak_is_told_of_adapters_too(world, base, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "known_peak", lambda precision: 1e12)
    recipe = recipe_of(world, tmp_path, init=str(base))
    folder = open_run(recipe)
    build(recipe, folder)
    rows = list(ShardReader(folder.shards).rows(range(8)))
    whole = training.speed_of(load_model(str(base)), rows, "fp32", 2)
    adapted = training.speed_of(add_adapter(load_model(str(base)), AdapterSpec(rank=1), 0), rows, "fp32", 2)
    assert whole is not None and adapted is not None and whole.peak == adapted.peak == 2e12
    assert 0.6 * whole.input_token < adapted.input_token < 0.95 * whole.input_token


def test_the_card_says_what_was_asked_in_what_the_weights_count(world, base, tmp_path, monkeypatch):
    monkeypatch.setattr(yields, "SAMPLE", 4096)  # two parts of alike tasks need no more
    parts = [{"name": name, "tasks": [f"*{name}*"], "weight": weight} for name, weight in (("food", 7), ("town", 3))]
    text = {"share": 0.2, "objective": "prefix", "window": 32}
    mixture = {"preset": None, "parts": parts, "count": "target_tokens", "text": text}
    recipe = recipe_of(world, tmp_path, init=str(base), mixture=mixture)
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 60})})
    folder = open_run(recipe)
    card = build(recipe, folder).to_json()
    assert card["count"] == "target_tokens" and built_card(folder).to_json() == card
    found = card["mixtures"]
    assert {name: part["asked"] for name, part in found.items()} == {
        "food": pytest.approx(0.7),
        "text": None,
        "town": pytest.approx(0.3),
    }
    tokens = {name: part["target_tokens"] for name, part in found.items() if name != "text"}
    for name, part in found.items():
        if name == "text":
            assert part["got"] is None and part["drawn"] == 0.2
        else:
            assert part["got"] == tokens[name] / sum(tokens.values()) and abs(part["got"] - part["asked"]) < 0.02
            assert abs(part["drawn"] - part["example_share"]) < 0.02
    assert all(task["asked"] is None and task["drawn"] > 0 for task in card["tasks"].values())
    assert abs(found["food"]["drawn"] - 0.8 * 0.7) > 0.01  # else the tasks are too alike to tell tokens from draws


def test_another_share_of_text_is_another_build(world, base, tmp_path):
    from flantune.errors import StateError

    def run(share: float) -> None:
        recipe = recipe_of(world, tmp_path, init=str(base), mixture={"text": {"share": share, "window": 32}})
        build(recipe, open_run(recipe))

    run(0.1)
    with pytest.raises(StateError, match=r"mixture.text.share"):
        run(0.2)
