"""Presets against the paper's tables and the hub's published counts; ready recipes read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flantune.errors import RecipeError
from flantune.models.family import families
from flantune.models.skeleton import skeleton
from flantune.presets import PRESETS, filled, of_base, preset
from flantune.recipe import ModelSpec, TokensSpec, TrainSpec, load_recipe, parse_recipe
from flantune.train.cost import shape_of

RECIPES = Path(__file__).parent.parent / "recipes"

# Parameters in the safetensors files on the hub, each tied matrix once.
PUBLISHED = {
    "flan-t5-small": 76_961_152,
    "flan-t5-base": 247_577_856,
    "flan-t5-large": 783_150_080,
    "flan-t5-xl": 2_849_757_184,
    "flan-t5-xxl": 11_135_332_352,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
}


def recipe_of(name: str, **more: object):
    return parse_recipe({"name": "r", "preset": name, "collections": [{"path": "x"}], **more})


def model_of(name: str) -> ModelSpec:
    return ModelSpec.model_validate(PRESETS[name].values["model"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_presets_shape_has_the_published_number_of_parameters(name):
    assert shape_of(skeleton(model_of(name))).total == PUBLISHED[name]


def test_palms_shapes_have_the_published_number_of_parameters():
    """PaLM, Table 1: 8.63B, 62.50B, 540.35B; a Llama of the shape has one more norm in every layer."""
    for name, billions in (("flan-palm-8b", 8.63), ("flan-palm-62b", 62.50), ("flan-palm-540b", 540.35)):
        total = shape_of(skeleton(model_of(name))).total
        assert abs(total / 1e9 - billions) < 0.01, name


def test_every_row_of_the_papers_table_is_a_preset_with_its_numbers(spec_dir):
    rows = json.loads((spec_dir.parent / "paper_results.json").read_text())["table22_hyperparameters"]["rows"]
    assert len(rows) == 10
    for row in rows:
        recipe = recipe_of(row["model"])
        assert recipe.train.steps == row["steps"]
        assert recipe.train.batch_rows == row["batch_size"]
        assert recipe.train.optimizer.lr == row["learning_rate"]
        assert recipe.train.optimizer.name == "adafactor" and recipe.train.optimizer.decay == "constant"
        assert recipe.train.optimizer.warmup_steps == 0
        assert recipe.model.dropout == row["dropout"]
        assert recipe.tokens.row_lens == (2048, 512)


def test_what_a_recipe_says_stands_over_its_preset():
    recipe = recipe_of("flan-t5-xl", train={"steps": 7, "optimizer": {"lr": 1e-3}}, model={"dropout": 0.2})
    assert (recipe.train.steps, recipe.train.optimizer.lr, recipe.model.dropout) == (7, 1e-3, 0.2)
    assert (recipe.train.batch_rows, recipe.model.init) == (64, "google/t5-xl-lm-adapt")


def test_filling_changes_neither_the_recipe_nor_the_preset_and_is_done_once():
    raw = {"name": "r", "preset": "flan-t5-small", "train": {"steps": 3}}
    before = json.dumps(raw)
    once = filled(raw)
    assert json.dumps(raw) == before and filled(once) == once
    assert PRESETS["flan-t5-small"].values["train"]["steps"] == 98_000
    assert filled({"name": "r"}) == {"name": "r"}


def test_an_unknown_preset_is_an_error_that_names_the_nearest():
    with pytest.raises(RecipeError, match=r"no preset 'flan-t5-xxxl'\. Did you mean 'flan-t5-xxl'"):
        recipe_of("flan-t5-xxxl")
    with pytest.raises(RecipeError, match="There are: flan-t5-small"):
        preset("no such thing at all")


MODELS = [name for name, found in PRESETS.items() if found.init is not None]


@pytest.mark.parametrize("name", MODELS)
def test_every_preset_validates_as_sections_of_a_recipe(name):
    values = PRESETS[name].values
    assert set(values) == {"model", "tokens", "train"}
    assert TrainSpec.model_validate(values["train"]).batch_rows == recipe_of(name).train.batch_rows
    TokensSpec.model_validate(values["tokens"])
    if PRESETS[name].config:
        assert of_base(PRESETS[name].init) is not None


@pytest.mark.parametrize("name", MODELS)
def test_a_presets_architecture_is_one_that_packing_is_proved_on(name):
    known = {t for family in families() for t in family.model_types}
    assert PRESETS[name].config.get("model_type", "llama") in known


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_ready_recipe_reads(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem


def test_ul2rs_continuation_is_the_specs(spec_dir):
    told = json.loads((spec_dir.parent / "paper_results.json").read_text())["ul2r"]
    spec = recipe_of("ul2r").pretrain
    assert spec is not None and spec.objective == "ul2r"
    assert (spec.steps, spec.batch_rows) == (told["steps_540b"], told["batch_540b"])
    assert (spec.inputs_len, spec.targets_len) == (told["inputs"], told["targets"])
    assert spec.steps * spec.batch_rows * (spec.inputs_len + spec.targets_len) == pytest.approx(
        told["extra_tokens"], rel=0.01
    )
    assert told["lr"] == f"{spec.optimizer.decay} 1e-4 -> 1e-6"
    assert (spec.optimizer.lr, spec.optimizer.final_lr) == (1e-4, 1e-6)


def test_of_several_presets_the_first_is_uppermost():
    recipe = parse_recipe(
        {"name": "r", "preset": ["ul2r", "flan-t5-xl", "flan-t5-xxl"], "collections": [{"path": "x"}]}
    )
    assert recipe.model.init == "google/t5-xl-lm-adapt" and recipe.train.steps == 38_000
    assert recipe.pretrain is not None and recipe.pretrain.steps == 20_000
