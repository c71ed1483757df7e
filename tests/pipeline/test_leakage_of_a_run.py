"""The search for leaks over a run's folder: which rows count as trained on, and scores without the leaked items."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flantune.cli.app import app
from flantune.demo.files import write_world
from flantune.evals.benchmark import everything_fits
from flantune.evals.results import judge, write_items
from flantune.pipeline.contamination import (
    TrainedRows,
    check_run,
    clean_scores,
    row_text,
    stream_length,
    trained_rows,
)
from flantune.pipeline.data import Data, build, open_data
from flantune.pipeline.evaluation import run_settings
from flantune.pipeline.folder import RunFolder, open_run
from flantune.recipe import Recipe, parse_recipe
from flantune.reports import write_report
from flantune.tokens.shards import ShardReader

WORDS = ("stone", "river", "cloud", "market", "engine", "violin", "harbour", "lantern", "orchard", "copper", "planet")


def question(number: int) -> str:
    return f"In puzzle number {number} " + " ".join(WORDS[(number * 5 + k * (number % 3 + 1)) % 11] for k in range(20))


def write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """GSM8K in small, four of whose twenty test questions stand in the training collection."""
    test = [{"question": question(n), "answer": f"So. #### {n}"} for n in range(20)]
    write_lines(tmp_path / "gsm8k" / "test.jsonl", test)
    rows = [{"prompt": f"Tell me about thing {n}.", "completion": f"thing {n}"} for n in range(30)]
    rows += [{"prompt": f"Q: {question(n).upper()}", "completion": str(n)} for n in (2, 3, 5, 7)]
    write_lines(tmp_path / "in" / "web.jsonl", rows)
    return parse_recipe(
        {
            "name": "leaky",
            "runs": str(tmp_path / "runs"),
            "collections": [{"path": str(tmp_path / "in"), "reader": "p3"}],
            "eval": {
                "benchmarks": [{"name": "gsm8k", "path": str(tmp_path / "gsm8k"), "modes": ["direct"], "shots": 0}]
            },
        }
    )


def answer(recipe: Recipe, folder: RunFolder, data: Data, right: dict[str, set[int]]) -> None:
    """Both sides' items.parquet: the numbered items right, the others wrong."""
    (setting,) = run_settings(recipe, data)
    for side, numbers in right.items():
        rows = [
            judge(setting, posed, posed.item.references[0] if place in numbers else "999")
            for place, posed in enumerate(setting.pose(everything_fits))
        ]
        (folder.evals / side).mkdir(parents=True, exist_ok=True)
        write_items(folder.evals / side / "items.parquet", rows)


def test_scores_are_told_with_and_without_the_leaked_items(recipe):
    folder = open_run(recipe)
    data = open_data(recipe, folder)
    answer(recipe, folder, data, {"base": {0, 1}, "tuned": {0, 2, 3, 5, 7, 8}})
    result = check_run(recipe, folder, data)
    assert result is not None
    (entry,) = result["settings"]
    assert entry["verdicts"] == {"test_leak": 4, "same_task_train": 0, "none": 16, "unchecked": 0}
    base, tuned = entry["sides"]["base"], entry["sides"]["tuned"]
    assert (base["score"], base["clean_items"], base["clean_score"]) == (2 / 20, 16, 2 / 16)
    assert (tuned["score"], tuned["clean_items"], tuned["clean_score"]) == (6 / 20, 16, 2 / 16)
    assert entry["difference"]["mean"] == 0.0
    low, high = entry["difference"]["interval"]
    assert low < 0 < high
    items = pq.read_table(folder.evals / "contamination.parquet").to_pylist()
    assert {item["id"] for item in items if item["verdict"] == "test_leak"} == {f"test/{n}" for n in (2, 3, 5, 7)}
    assert len(items) == 20


def test_it_is_done_once_and_again_after_another_evaluation(recipe):
    folder = open_run(recipe)
    data = open_data(recipe, folder)
    answer(recipe, folder, data, {"base": {0}, "tuned": {0}})
    first = check_run(recipe, folder, data)
    path = folder.evals / "contamination.json"
    stamp = path.stat().st_mtime_ns
    assert check_run(recipe, folder, data) == first == orjson.loads(path.read_bytes())
    assert path.stat().st_mtime_ns == stamp
    answer(recipe, folder, data, {"base": {0}, "tuned": {0, 1}})
    assert check_run(recipe, folder, data) != first
    raw = recipe.model_dump(mode="json")
    off = parse_recipe(raw | {"eval": raw["eval"] | {"contamination": {"check": False}}})
    assert check_run(off, folder, data) is None


def test_the_report_carries_leaks_and_clean_scores_beside_the_scores(recipe):
    folder = open_run(recipe)
    data = open_data(recipe, folder)
    answer(recipe, folder, data, {"base": {0, 1}, "tuned": {0, 2, 3, 5, 7, 8}})
    assert "Search for leaks: not run" not in write_report(folder.root, folder.report).read_text(encoding="utf-8")
    for side in ("base", "tuned"):
        summary = {"results": [{"setting": "gsm8k/direct/0-shot", "benchmark": "gsm8k", "score": 0.1, "items": 20}]}
        (folder.evals / side / "summary.json").write_bytes(orjson.dumps(summary))
    assert "Search for leaks: not run" in write_report(folder.root, folder.report).read_text(encoding="utf-8")
    check_run(recipe, folder, data)
    page = write_report(folder.root, folder.report).read_text(encoding="utf-8")
    for said in ("test-set leaks", "tuned, clean items", '<td class="warning">4</td>', "12.5", "test leak", "test/7"):
        assert said in page, said


def test_a_side_that_was_not_evaluated_has_no_score():
    assert clean_scores([], {}) == []


def test_the_command_names_the_leaks(recipe, tmp_path):
    path = tmp_path / "leaky.json"
    path.write_text(json.dumps(recipe.model_dump(mode="json", exclude_defaults=True)), encoding="utf-8")
    out = tmp_path / "items.jsonl"
    command = ["tasks", "contamination", str(path), "--against", "gsm8k", "-o", str(out), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.strip().split("\n")[-1])
    assert told["benchmarks"][0]["verdicts"]["test_leak"] == 4
    assert [w["training_row"] for w in told["benchmarks"][0]["worst"][:4]] == [30, 31, 32, 33]
    lines = [json.loads(line) for line in out.read_text().split("\n") if line]
    assert sum(line["verdict"] == "test_leak" for line in lines) == 4
    shown = CliRunner().invoke(app, command[:-1])
    assert "20 items: 4 test-set leaks" in shown.stdout
    strict = CliRunner().invoke(app, [*command, "--threshold", "1", "--ngram", "5"])
    assert json.loads(strict.stdout.strip().split("\n")[-1])["benchmarks"][0]["verdicts"]["test_leak"] == 4
    wrong = CliRunner().invoke(app, ["tasks", "contamination", str(path), "--against", "mmul"])
    assert wrong.exit_code == 2


@pytest.fixture
def small(tmp_path: Path) -> Recipe:
    write_world(tmp_path / "world")
    return parse_recipe(
        {
            "name": "small",
            "runs": str(tmp_path / "runs"),
            "collections": [
                {"path": str(tmp_path / "world"), "reader": "native", "include": ["foods_*", "towns_*"]},
            ],
            "held_out": {"categories": ["towns"]},
            "mixture": {"preset": "uniform", "formats": [{"setting": "zs_opt"}, {"setting": "fs_noopt", "shots": 2}]},
            "tokens": {"inputs_len": 96, "targets_len": 48, "block": 16, "shard_rows": 2},
            "model": {"tokenizer": {"vocab_size": 400, "sample_mb": 0.05}},
            "train": {"steps": 3, "batch_rows": 2, "micro_rows": 2},
        }
    )


def test_the_rows_shown_are_those_of_the_built_stream_and_of_its_exemplars(small):
    folder = open_run(small)
    build(small, folder)
    data = open_data(small, folder)
    shards = ShardReader(folder.shards)
    last = max(int(row.indices.max()) for row in shards.rows(range(len(shards))))
    places = stream_length(folder, 16)
    assert places is not None and last < places <= last + 16 and places % 16 == 0
    shown = {
        (prompt.task, row)
        for prompt in data.mixture.prompts(range(places), data.store)
        for row in (prompt.row, *prompt.exemplars)
    }
    training, said = trained_rows(small, data, folder)
    assert {(r.task, r.row) for r in training.rows() if r.row >= 0} == shown
    assert f"{places}" in said
    for row in list(training.rows())[:50]:
        assert training.text(row.task, row.row) == row.text
    everything, _ = trained_rows(small, data, folder, everything=True)
    assert everything.num_rows == sum(data.mixture.sizes.values()) > len(shown)


def test_before_a_build_every_row_of_the_mixture_counts_and_pretraining_text_too(small, tmp_path):
    text = tmp_path / "book.txt"
    text.write_text("First page.\n\nSecond page, longer.\n\n\n\nThird.", encoding="utf-8")
    raw = small.model_dump(mode="json") | {"pretrain": {"text": "files", "files": [str(text)]}}
    recipe = parse_recipe(raw)
    folder = open_run(recipe)
    data = open_data(recipe, folder)
    training, said = trained_rows(recipe, data, folder)
    rows = list(training.rows())
    assert [r.text.strip() for r in rows[-3:]] == ["First page.", "Second page, longer.", "Third."]
    assert training.text(rows[-1].task, 2) == rows[-1].text
    assert "1 files" in said and {r.task for r in rows[:-3]} == set(data.mixture.sizes)
    assert not [r for r in rows if "towns" in r.task]


def test_a_rows_text_holds_all_that_it_brings_into_a_prompt(small):
    folder = open_run(small)
    data = open_data(small, folder)
    name = next(iter(data.mixture.sizes))
    example = data.store.example(name, 0)
    told = row_text(example)
    assert all(part in told for part in (*example.fields.values(), *example.targets, *(example.options or ())))
    assert TrainedRows(data.store, {name: [0]}).num_rows == 1
