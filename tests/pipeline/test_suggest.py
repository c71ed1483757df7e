"""Suggested row capacities, and rows longer than their examples, on a few tasks of the embedded world."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from flantune.cli.app import app
from flantune.demo.files import write_world
from flantune.pipeline.data import build
from flantune.pipeline.folder import open_run
from flantune.pipeline.suggest import suggest
from flantune.recipe import parse_recipe
from flantune.tokens.shards import ShardReader

SAMPLE = 512  # prompts; enough for two blocks


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


def recipe_of(world: Path, runs: Path, family: str = "t5", **tokens: int) -> dict[str, Any]:
    return {
        "name": "small",
        "runs": str(runs),
        "collections": [{"path": str(world), "reader": "native", "include": ["foods_*.task.yaml"]}],
        "mixture": {"preset": "uniform", "formats": [{"setting": "zs_opt"}, {"setting": "fs_noopt", "shots": 2}]},
        "tokens": {"inputs_len": 96, "targets_len": 48, "few_shot_margin": 16, "block": 256, **tokens},
        "model": {"family": family, "tokenizer": {"vocab_size": 512, "sample_mb": 0.02}},
        "train": {"steps": 10, "batch_rows": 4},
    }


def test_a_suggestion_followed_gives_the_fill_it_promised(world: Path, tmp_path: Path) -> None:
    raw = recipe_of(world, tmp_path / "runs")
    found = suggest(parse_recipe(raw), sample=SAMPLE)
    assert found.examples + found.dropped == SAMPLE
    assert not (tmp_path / "runs").exists()  # nothing is claimed: the recipe may still change
    longer, now = found.longer_rows, found.now
    assert longer.inputs_len > 96 and longer.slots_fill > now.slots_fill > found.now_next_fit.slots_fill

    settings = {key.removeprefix("tokens."): value for key, value in found.settings["longer_rows"].items()}
    followed = parse_recipe(recipe_of(world, tmp_path / "runs", **settings))
    folder = open_run(followed)
    card = build(followed, folder)
    reader = ShardReader(folder.shards)
    rows = list(reader.rows(range(len(reader))))
    assert max(int(r.inputs_lengths.max()) for r in rows) <= 96
    assert max(int(r.targets_lengths.max()) for r in rows) <= 48
    assert max(len(r.inputs) for r in rows) > 96
    assert card.fill()["inputs"] == pytest.approx(longer.inputs_fill, abs=0.03)
    assert suggest(followed, sample=SAMPLE).now == longer  # from the run's own folder this time


def test_of_decoder_only_rows_the_whole_length_is_suggested(world: Path, tmp_path: Path) -> None:
    found = suggest(parse_recipe(recipe_of(world, tmp_path / "runs", family="llama")), sample=SAMPLE)
    assert found.one_sided and found.now.inputs_len == 144 and found.now.targets_fill is None
    for settings in found.settings.values():
        parse_recipe(recipe_of(world, tmp_path, "llama", **{k.removeprefix("tokens."): v for k, v in settings.items()}))
    assert found.settings["same_inputs"]["tokens.inputs_len"] == 96


def test_the_command_prints_it_and_builds_nothing(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flantune.pipeline.suggest.suggest", partial(suggest, sample=SAMPLE))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(world, tmp_path / "runs")))
    shown = CliRunner().invoke(app, ["build", str(path), "--suggest"])
    assert shown.exit_code == 0, shown.output
    assert "next fit (seqio)" in shown.stdout and "--set tokens.targets_len=" in shown.stdout
    told = json.loads(CliRunner().invoke(app, ["build", str(path), "--suggest", "--json"]).stdout.splitlines()[-1])
    assert told["capacities"]["now"]["inputs_len"] == 96
    assert list(np.diff(list(told["quantiles"]["inputs"].values())) >= 0) == [True] * 4
    assert not (tmp_path / "runs").exists()
    refused = CliRunner().invoke(app, ["build", str(path), "--suggest", "--fresh"])
    assert refused.exit_code == 2
