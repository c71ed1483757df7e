"""The whole path on a few tasks of the embedded world: skipped when done, stopped and gone on, refused when changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from flantune.demo.files import write_world
from flantune.errors import RecipeError, StateError
from flantune.pipeline.data import build
from flantune.pipeline.folder import open_run
from flantune.pipeline.run import run
from flantune.recipe import Recipe, load_recipe, parse_recipe
from tiny import tiny_recipe


def recipe_of(tmp_path: Path, **changes: object) -> dict[str, object]:
    sections: dict[str, object] = {
        "name": "small",
        "pretrain": {"steps": 4, "batch_rows": 4, "micro_rows": 4, "window": 32, "checkpoint_every": 2, "threads": 1},
        "train": {"steps": 6, "batch_rows": 4, "micro_rows": 2, "checkpoint_every": 2, "log_every": 1, "threads": 1},
        "eval": {"benchmarks": [{"name": "held_out", "shots": [0, 2], "limit": 2, "max_new_tokens": 4}]},
    }
    return tiny_recipe(tmp_path, **{**sections, **changes})


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    write_world(tmp_path / "world")
    return parse_recipe(recipe_of(tmp_path))


def weights(recipe: Recipe) -> dict[str, object]:
    return load_file(recipe.folder / "model" / "model.safetensors")


def test_a_run_leaves_every_file_the_structure_page_names_and_a_second_call_repeats_nothing(recipe):
    result = run(recipe)
    folder = recipe.folder
    for name in (
        "recipe.yaml",
        "data/examples/rejected.jsonl",
        "data/shards/card.json",
        "data/shards/index.json",
        "data/samples.jsonl",
        "tokenizer/tokenizer.json",
        "base/model.safetensors",
        "model/model.safetensors",
        "metrics.jsonl",
        "evals/base/items.parquet",
        "evals/tuned/summary.json",
        "compare.json",
        "report.html",
    ):
        assert (folder / name).is_file(), name
    assert {r["shots"] for r in result.comparison} == {0, 2}
    assert all(r["num_tasks"] == 5 for r in result.comparison)
    before = {p: p.stat().st_mtime_ns for p in (folder / "model").iterdir()}
    answers = (folder / "evals/tuned/items.jsonl").read_bytes()
    again = run(recipe)
    assert {p: p.stat().st_mtime_ns for p in (folder / "model").iterdir()} == before
    assert (folder / "evals/tuned/items.jsonl").read_bytes() == answers
    assert again.comparison == result.comparison
    assert AutoModelForSeq2SeqLM.from_pretrained(folder / "model").config.d_model == 32


def test_no_held_out_task_is_in_the_training_rows(recipe):
    folder = open_run(recipe)
    card = build(recipe, folder)
    assert card.tasks and not [t for t in card.tasks if "towns" in t]
    samples = [json.loads(line) for line in folder.samples.read_text().split("\n") if line]
    assert samples and not [s for s in samples if "towns" in s["task"]]


def test_equal_recipes_give_equal_models(recipe, tmp_path):
    run(recipe)
    other = parse_recipe(recipe_of(tmp_path, runs=str(tmp_path / "other")))
    run(other)
    first, second = weights(recipe), weights(other)
    assert first.keys() == second.keys()
    assert all((first[k] == second[k]).all() for k in first)


def test_a_decoder_runs_the_same_path(tmp_path):
    write_world(tmp_path / "world")
    raw = recipe_of(tmp_path)
    model = {**raw["model"], "family": "llama"}  # type: ignore[dict-item]
    recipe = parse_recipe({**raw, "model": model})
    result = run(recipe)
    assert {r["shots"] for r in result.comparison} == {0, 2}
    asked = json.loads((recipe.folder / "model" / "flantune.json").read_text())
    assert asked == {"prompt_eos": True, "inputs_len": 96, "attention": "causal"}
    headers = [json.loads((recipe.folder / "evals" / s / "header.json").read_text()) for s in ("base", "tuned")]
    assert [h["prompt_eos"] for h in headers] == [False, True]  # the untuned base continues text, the tuned one answers
    assert AutoModelForCausalLM.from_pretrained(recipe.folder / "model").config.hidden_size == 32


def test_a_changed_recipe_is_refused_with_the_key_that_changed(recipe, tmp_path):
    open_run(recipe)
    changed = parse_recipe(recipe_of(tmp_path, seed=1))
    with pytest.raises(StateError, match=r"seed \(0 -> 1\)"):
        open_run(changed)
    open_run(parse_recipe(recipe_of(tmp_path, eval={})))  # what is asked may change
    open_run(changed, fresh=True)


def test_an_empty_selection_says_what_matched_nothing(tmp_path):
    write_world(tmp_path / "world")
    wrong = parse_recipe(recipe_of(tmp_path, held_out={"categories": ["towers"]}))
    with pytest.raises(RecipeError, match=r"towers.*towns"):
        build(wrong, open_run(wrong))


def test_killed_at_any_stage_the_same_command_ends_with_the_same_model(tmp_path):
    write_world(tmp_path / "world")
    path = tmp_path / "small.yaml"
    whole = parse_recipe(recipe_of(tmp_path, runs=str(tmp_path / "whole")))
    run(whole)
    path.write_text(yaml.safe_dump(recipe_of(tmp_path)))
    command = [sys.executable, "-m", "flantune", "run", str(path), "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "runs" / "small"
    stages = ("data/shards/index.json", "pretrain/checkpoints/step-2", "checkpoints/step-2", "evals/base/header.json")
    for stage in stages:
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (folder / stage).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.strip().split("\n")[-1])
    assert Path(last["report"]).is_file()
    assert len(last["evals"]["tuned"]) == 2
    recipe = load_recipe(path)
    first, second = weights(whole), weights(recipe)
    assert all((first[k] == second[k]).all() for k in first)
