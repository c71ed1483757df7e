"""The command line: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flantune.cli.options import parse_change
from flantune.demo.files import write_world
from flantune.errors import RecipeError
from flantune.recipe import parse_recipe


def flantune(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flantune", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("cli") / "world")


def test_help_and_version_need_no_model_library():
    code = "import sys; from flantune.cli.app import app; assert not {'torch', 'transformers'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    done = flantune("--version")
    assert done.returncode == 0 and done.stdout.startswith("flantune 0.")


@pytest.mark.parametrize("command", ["run", "demo", "build", "train", "preview", "report", "eval", "compare", "score"])
def test_every_command_has_help_with_an_example(command):
    done = flantune(command, "--help")
    assert done.returncode == 0 and "Example: flantune" in done.stdout


def test_check_counts_what_a_folder_holds_and_prints_one_json_object_last(world):
    done = flantune("tasks", "check", str(world), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().split("\n")[-1])
    assert result["tasks"] == 90 and result["rejected"] == 0 and result["examples"] > 4000


def test_check_names_a_malformed_file_and_leaves_with_1(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    done = flantune("tasks", "check", str(tmp_path / "bad.jsonl"), "--reader", "prompts", "--json")
    result = json.loads(done.stdout.strip().split("\n")[-1])
    assert done.returncode == 1
    assert result["problems"][0]["file"].endswith("bad.jsonl")


def test_a_wrong_call_leaves_with_2_and_says_how_to_mend_it(tmp_path, world):
    missing = flantune("run", str(tmp_path / "none.yaml"))
    assert missing.returncode == 2 and "no such recipe" in missing.stderr
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"name: r\ncollections: [{{path: {world}}}]\ntrain: {{stepz: 3}}\n")
    unknown = flantune("run", str(recipe))
    assert unknown.returncode == 2 and "train.stepz" in unknown.stderr and "steps" in unknown.stderr
    assert flantune("tasks", "check", str(tmp_path / "nowhere")).returncode == 2
    assert flantune("nonsense").returncode == 2
    task = flantune("tasks", "show", "demo/food_color", str(world))
    assert task.returncode == 2 and "demo/foods_color" in task.stderr


def test_preview_shows_roles_and_the_same_text_for_the_same_seed(world):
    arguments = ("tasks", "preview", "demo/foods_color", str(world), "--format", "fs_opt", "--seed", "3", "--json")
    first, second = flantune(*arguments), flantune(*arguments)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    prompts = json.loads(first.stdout.strip().split("\n")[-1])["prompts"]
    assert {s["role"] for s in prompts[0]["segments"]} >= {"exemplar", "query", "target"}


def test_set_reads_yaml_values_and_refuses_what_is_no_pair():
    assert parse_change("train.steps=20") == ("train.steps", 20)
    assert parse_change("held_out.tasks=[a, b]") == ("held_out.tasks", ["a", "b"])
    with pytest.raises(RecipeError, match="KEY=VALUE"):
        parse_change("train.steps")


def test_a_variable_without_a_value_is_an_error_that_says_how_to_give_it():
    with pytest.raises(RecipeError, match="--data DIR"):
        parse_recipe({"name": "x", "collections": [{"path": "${data}/niv2"}]})
