"""A run that chooses its checkpoint: on tasks of its own, which are neither trained on nor reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from flantune.demo.files import write_world
from flantune.errors import RecipeError
from flantune.pipeline.data import build
from flantune.pipeline.folder import open_run
from flantune.pipeline.run import run
from flantune.pipeline.training import finetune
from flantune.recipe import parse_recipe
from tiny import tiny_recipe


def raw_recipe(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    sections: dict[str, Any] = {
        "name": "choosing",
        "mixture": {"preset": "uniform", "formats": [{"setting": "zs_opt"}]},
        "train": {"steps": 6, "batch_rows": 3, "micro_rows": 2, "checkpoint_every": 4, "log_every": 1, "threads": 1},
        "eval": {
            "benchmarks": [{"name": "held_out", "shots": 0, "modes": ["direct"], "limit": 2, "max_new_tokens": 4}]
        },
    }
    return tiny_recipe(tmp_path, tasks=("foods", "towns"), **{**sections, **changes})


def towns(tmp_path: Path) -> list[str]:
    """Names of the held-out tasks."""
    from flantune.pipeline.data import open_data

    recipe = parse_recipe(raw_recipe(tmp_path))
    return list(open_data(recipe, open_run(recipe)).split.held_out)


def test_the_best_step_on_tasks_of_their_own_becomes_the_model_and_those_are_not_reported(tmp_path: Path):
    write_world(tmp_path / "world")
    names = towns(tmp_path)
    chosen_on = names[0]
    raw = raw_recipe(tmp_path, name="best", selection={"by": "loss", "every": 2, "tasks": [chosen_on], "limit": 5})
    recipe = parse_recipe(raw)
    run(recipe)
    told = json.loads((recipe.folder / "selection.json").read_text())
    assert [e["step"] for e in told["evaluations"]] == [2, 4, 6]
    best = min(told["evaluations"], key=lambda e: e["value"])["step"]
    report = json.loads((recipe.folder / "train.json").read_text())
    assert told["chosen"] == report["chosen_step"] == best
    own = load_file(recipe.folder / "model" / "model.safetensors")
    saved = load_file(recipe.folder / "checkpoints" / f"step-{best}" / "model.safetensors")
    assert all(torch.equal(own[name], saved[name]) for name in saved)
    tasks = set(pq.read_table(recipe.folder / "evals" / "tuned" / "items.parquet")["task"].to_pylist())
    assert tasks == set(names) - {chosen_on}
    assert chosen_on in (recipe.folder / "report.html").read_text(encoding="utf-8")


def test_a_score_chooses_too_and_keeps_its_answers(tmp_path: Path):
    write_world(tmp_path / "world")
    raw = raw_recipe(
        tmp_path, name="score", selection={"by": "score", "every": 3, "tasks": [towns(tmp_path)[0]], "limit": 2}
    )
    recipe = parse_recipe(raw)
    folder = open_run(recipe)
    build(recipe, folder)
    report = finetune(recipe, folder)
    told = json.loads((folder.root / "selection.json").read_text())
    best = max(told["evaluations"], key=lambda e: (e["value"], -e["step"]))
    assert report["chosen_step"] == best["step"]
    for evaluation in told["evaluations"]:
        own = folder.root / "selection" / f"step-{evaluation['step']}"
        scores = [e["score"] for e in json.loads((own / "summary.json").read_text())["results"]]
        assert evaluation["value"] == pytest.approx(sum(scores) / len(scores))
        assert not (own / "model").exists()


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({"by": "loss", "tasks": ["towers_*"]}, "selection.tasks: 'towers_.*' matches no held-out task. Held out: "),
        ({"by": "loss", "tasks": ["*"]}, "none is left"),
    ],
)
def test_a_split_that_cannot_choose_is_refused(selection: dict[str, Any], said: str, tmp_path: Path):
    write_world(tmp_path / "world")
    with pytest.raises(RecipeError, match=said):
        run(parse_recipe(raw_recipe(tmp_path, selection=selection)))


def test_a_benchmark_may_not_choose_on_the_split_it_reports(tmp_path: Path, data_dir: Path):
    from flantune.pipeline.data import open_data
    from flantune.pipeline.selection import selection_settings

    write_world(tmp_path / "world")
    mmlu = {"name": "mmlu", "path": str(data_dir / "mmlu"), "modes": ["direct"], "limit": 1}
    for split, allowed in (("test", True), ("val", False), (None, False)):
        raw = raw_recipe(
            tmp_path,
            name=f"mmlu-{split}",
            selection={"by": "score", "benchmarks": [{**mmlu, "split": "val"}]},
            eval={"benchmarks": [{**mmlu, "split": split}]},
        )
        recipe = parse_recipe(raw)
        data = open_data(recipe, open_run(recipe))
        if allowed:
            assert len(selection_settings(recipe, data)) == 1
        else:
            with pytest.raises(RecipeError, match="mmlu would choose on its split 'val'"):
                selection_settings(recipe, data)


@pytest.mark.parametrize(
    "selection", [{"by": "loss"}, {"tasks": ["a"]}, {"by": "last", "patience": 2}], ids=lambda s: "-".join(s)
)
def test_a_selection_that_says_two_things_is_refused(selection: dict[str, Any], tmp_path: Path):
    with pytest.raises(RecipeError, match=r"by '(loss|last)'"):
        parse_recipe(raw_recipe(tmp_path, selection=selection))


@pytest.mark.slow
def test_the_command_under_torchrun_gives_the_model_of_one_process(tmp_path: Path):
    """Build, pretraining, finetuning and the choice, two ranks; then the same in one process."""
    write_world(tmp_path / "world")
    name = towns(tmp_path)[0]
    models = {}
    for size in (1, 2):
        raw = raw_recipe(
            tmp_path,
            name=f"ranks-{size}",
            selection={"by": "loss", "every": 2, "tasks": [name], "limit": 4},
            pretrain={"steps": 4, "batch_rows": 4, "micro_rows": 2, "window": 32, "threads": 1, "precision": "fp32"},
        )
        raw["train"] = {**raw["train"], "batch_rows": 4, "precision": "fp32"}
        path = tmp_path / f"ranks-{size}.yaml"
        path.write_text(yaml.safe_dump(raw))
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if size > 1 else []
        done = subprocess.run(
            [sys.executable, *start, "-m", "flantune", "train", str(path), "--json"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        told = [line for line in done.stdout.split("\n") if line.startswith("{")]
        assert len(told) == 1  # rank 0 alone
        folder = tmp_path / "runs" / f"ranks-{size}"
        models[size] = (json.loads(told[0]), load_file(folder / "model" / "model.safetensors"), folder)
    (one, first, _), (two, second, folder) = models[1], models[2]
    assert one["chosen_step"] == two["chosen_step"]
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    assert (one["examples"], one["target_tokens"]) == (two["examples"], two["target_tokens"])
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=2e-5 * float(first[key].abs().max()))
    assert list((folder / "checkpoints" / "step-6").glob("shard-00002-*.safetensors"))
