"""What can be wrong with what `flantune eval` and `score` are given: a clear error, or a count; never a silent zero."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flantune.cli.app import app
from flantune.evals import read_items
from flantune.tokens.tokenizer import load_tokenizer
from tiny import saved_decoder

FILES = Path(__file__).parents[1] / "data" / "benchmarks"


def run(*arguments: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == code, (done.output, done.stderr)
    return " ".join(done.output.split("\n"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_decoder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return shutil.copytree(FILES, tmp_path / "files")


def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text())["results"][0])


def test_a_folder_without_weights_or_without_a_tokenizer_is_named(model: Path, tmp_path: Path):
    hollow = shutil.copytree(model, tmp_path / "hollow", ignore=shutil.ignore_patterns("*.safetensors"))
    message = run("eval", hollow, "-b", "mmlu", "--data", FILES, "--mode", "direct", code=1)
    assert "hollow" in message and "safetensors" in message
    mute = shutil.copytree(model, tmp_path / "mute", ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    assert "mute" in run("eval", mute, "-b", "mmlu", "--data", FILES, "--mode", "direct", code=1)
    assert "expected a folder that holds a model" in run(
        "eval", tmp_path / "none", "-b", "mmlu", "--data", FILES, "--mode", "direct", code=1
    ) or "no such" in run("eval", tmp_path / "none", "-b", "mmlu", "--data", FILES, "--mode", "direct", code=1)


def test_a_tokenizer_without_a_pad_token_gives_the_same_answers(model: Path, tmp_path: Path):
    bare = shutil.copytree(model, tmp_path / "bare")
    settings = json.loads((bare / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (bare / "tokenizer_config.json").write_text(json.dumps(settings))
    for path in (bare / "special_tokens_map.json",):
        path.unlink(missing_ok=True)
    assert load_tokenizer(str(bare)).hf.pad_token is None
    ask = ("-b", "mmlu,bbh", "--mode", "direct", "--shots", "1", "--data", FILES)
    for folder, name in ((model, "with"), (bare, "without")):
        run("eval", folder, *ask, "-o", tmp_path / name)
    one, two = (
        [(r.result.output, r.result.option_scores) for r in read_items(tmp_path / name / "items.parquet")]
        for name in ("with", "without")
    )
    assert one == two and len(one) == 6


@pytest.mark.parametrize(("row", "words"), [
    ("What floats?,a,b,c,A\n", "row 2: field '(row)': expected 6 columns"),
    ("What floats?,a,b,c,d,E\n", "row 2: field 'answer': expected A, B, C or D, got 'E'"),
    ("What floats?,a,b,c,d,\n", "row 2: field 'answer'"),
])  # fmt: skip
def test_a_missing_column_and_a_key_outside_the_options_are_named(files: Path, tmp_path: Path, row: str, words: str):
    file = next((files / "mmlu/val").glob("*.csv"))
    file.write_text("Which floats?,Duckweed,Flint,Sand,None,A\n" + row)
    message = run(
        "eval",
        "m",
        "--backend",
        "mock",
        "-b",
        "mmlu",
        "--mode",
        "direct",
        "--data",
        files,
        "-o",
        tmp_path / "e",
        code=1,
    )
    assert file.name in message and words in message
    assert not (tmp_path / "e/items.parquet").exists() and not (tmp_path / "e/summary.json").exists()


def test_a_file_of_ones_own_without_the_column_it_names_is_said(tmp_path: Path):
    (tmp_path / "ponds.csv").write_text("question,key\nWhat floats?,x\n")
    (tmp_path / "ponds.yaml").write_text(
        "name: ponds\nitems: {test: ponds.csv}\nanswer: gold\nprompt: {direct: '{question}'}\nread: line\n"
    )
    message = run("eval", "m", "--backend", "mock", "-b", tmp_path / "ponds.yaml", "-o", tmp_path / "e", code=1)
    assert "ponds.csv:row 1: field 'gold': expected a column of this name; there are question" in message


def test_an_item_longer_than_the_context_loses_exemplars_then_words_and_is_counted(model: Path, tmp_path: Path):
    ask = ("eval", model, "-b", "bbh", "--mode", "direct", "--data", FILES)
    whole = load_tokenizer(str(model))
    run(*ask, "-o", tmp_path / "all")
    rows = read_items(tmp_path / "all/items.parquet")
    entry = summary(tmp_path / "all")
    assert entry["truncated"] == entry["shots_dropped"] == 0 and "longer" not in str(entry["warnings"])
    longest = max(len(whole.encode(r.result.item.prompt)) for r in rows)
    run(*ask, "-o", tmp_path / "less", "--max-inputs", longest - 1)
    entry = summary(tmp_path / "less")
    assert entry["truncated"] == 0 and entry["shots_dropped"] > 0 and entry["items_with_shots_dropped"] > 0
    told = run(*ask, "-o", tmp_path / "cut", "--max-inputs", "12")
    entry = summary(tmp_path / "cut")
    assert entry["truncated"] == len(rows) and entry["shots_dropped"] == sum(r.result.item.shots for r in rows) > 0
    assert f"{len(rows)} prompts were longer than the model's input and were cut" in told


@pytest.mark.parametrize(("lines", "words"), [
    ([{"id": "pebble_counting/0", "output": "a"}] * 2, "row 2: field 'id': expected one output per item"),
    ([{"id": "pebble_counting/99", "output": "a"}], "row 1: field 'id': expected an item of bbh/cot/3-shot such as"),
    ([{"id": "pebble_counting/0"}], "field 'output': expected text"),
    ([{"output": "a"}], "field 'input'"),
    ([], "expected at least one row"),
])  # fmt: skip
def test_outputs_with_repeated_unknown_or_no_ids_are_named_by_row(tmp_path: Path, lines: list[Any], words: str):
    (tmp_path / "o.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert words in run("score", "bbh", tmp_path / "o.jsonl", "--mode", "cot", "--data", FILES, code=1)


def test_items_without_an_output_are_missing_and_in_no_figure(tmp_path: Path):
    (tmp_path / "o.jsonl").write_text('{"id": "pebble_counting/1", "output": "So the answer is 3."}\n')
    told = run("score", "bbh", tmp_path / "o.jsonl", "--mode", "cot", "--data", FILES)
    assert "items have no output" in told and " 1.000 " in told


def test_a_damaged_and_a_foreign_folder_are_refused(tmp_path: Path):
    ask = ("eval", "m", "--backend", "mock", "-b", "gsm8k", "--mode", "cot", "--shots", "1", "--data", FILES)
    run(*ask, "-o", tmp_path / "e", "--no-reuse")
    foreign = ("eval", "other", *ask[2:])
    assert "began with another model" in run(*foreign, "-o", tmp_path / "e", code=1)
    lines = (tmp_path / "e/items.jsonl").read_bytes().split(b"\n")
    (tmp_path / "e/items.jsonl").write_bytes(b"\n".join([b'{"key": 1}', *lines[1:]]))
    assert "items.jsonl:1: not an answer of ours" in run(*ask, "-o", tmp_path / "e", code=1)
