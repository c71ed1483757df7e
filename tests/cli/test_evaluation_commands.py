"""`flantune eval`, `score` and `compare` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flantune.cli.app import app
from flantune.cli.scores import EXIT_DROPPED
from flantune.evals.results import Answered, write_items
from flantune.types import Item, Result

FILES = Path(__file__).parents[1] / "data" / "benchmarks"


def run(*arguments: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == code, (done.output, done.stderr)
    return done.output


def last_object(text: str) -> Any:
    return json.loads(text.strip().split("\n")[-1])


def test_show_prints_the_prompt_of_an_item_in_every_mode_without_a_model():
    text = run("eval", "-b", "bbh", "--data", FILES, "--shots", "1", "--show", "pebble_counting/1")
    assert (
        "== bbh/direct/1-shot · pebble_counting/1 · 1 shots\n"
        "Count the pebbles.\n\nQ: Two pebbles and one more.\nA: 3\n\n"
        "Q: One pebble\nand two.\nA:⏎\n== answer: 3\n== stops at: ['\\n\\n', 'Q:']"
    ) in text
    assert "== bbh/cot/1-shot" in text
    shown = last_object(
        run("eval", "-b", "mmlu", "--mode", "direct", "--data", FILES, "--show", "val/pond_biology/0", "--json")
    )
    assert shown["items"][0]["options"] == [" (A)", " (B)", " (C)", " (D)"]
    assert "ids look like" in run("eval", "-b", "bbh", "--data", FILES, "--show", "nothing/1", code=2)


def test_show_words_a_chat_by_the_named_models_template():
    ask = ("eval", "-b", "gsm8k", "--data", FILES, "--shots", "1", "--chat", "dialogue", "--show", "test/0")
    assert "name the model too" in run(*ask, code=2)
    assert "has no chat template" in run("eval", "demo", *ask[1:], code=2)


def test_wrong_calls_leave_with_2_and_say_how_to_mend_them():
    assert "no model named" in run("eval", "-b", "bbh", "--data", FILES, code=2)
    assert "expected plain, single, dialogue" in run(
        "eval", "x", "-b", "bbh", "--data", FILES, "--chat", "loud", code=2
    )
    assert "expected strict, default, loose" in run("eval", "x", "--data", FILES, "--reading", "lax", code=2)
    assert "no suite 'big'" in run("eval", "x", "--suite", "big", "--data", FILES, code=2)
    assert "mmlu_original" in run("eval", "x", "-b", "mlmu", "--data", FILES, code=2)
    assert "0 shots" in run(
        "eval", "-b", "bbh", "--mode", "cot", "--trigger", "flan", "--data", FILES, "--show", "x", code=2
    )


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    rows = [
        {
            "task": "colour_choice",
            "input": "Blood is\nOptions:\n(A) red\n(B) grey\n(C) white",
            "output": "The answer is (A).",
        },
        {"id": "pebble_counting/0", "output": "I count.\nSo it is 3"},
        {"id": "pebble_counting/1", "output": "So the answer is 3."},
    ]
    path = tmp_path / "outputs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_score_tells_readings_averages_and_what_could_not_be_read(outputs: Path):
    text = run("score", "bbh", outputs, "--mode", "cot", "--data", FILES)
    assert "by reading: strict" in text and "loose" in text
    assert "macro_27 –, micro –, macro_23 –, nlp_12 –, algorithmic_15 –" in text
    assert (
        "warning: no answer could be read in 1 of 3 outputs" in text and "unread pebble_counting/0: ...'I count" in text
    )
    folder = outputs.with_name("outputs.jsonl.scored")
    assert {f.name for f in folder.iterdir()} == {"items.parquet", "summary.json", "unread.jsonl"}
    result = last_object(
        run("score", "bbh", outputs, "--mode", "cot", "--data", FILES, "--json", "--reading", "strict")
    )
    assert result["results"][0]["setting"] == "bbh/cot/3-shot+strict"
    assert result["results"][0]["extraction_rate"] == 1.0


def test_score_takes_gsm8ks_solutions_without_any_data_folder(tmp_path: Path):
    line = {
        "question": "1+1?",
        "ground_truth": "1+1\nA: 2",
        "6b": {"is_correct": True, "solution": "1+1\nA: 2"},
        "175b": {"is_correct": False, "solution": "1+1\nA: 3"},
    }
    (tmp_path / "s.jsonl").write_text(json.dumps(line) + "\n")
    text = run("score", "gsm8k", tmp_path / "s.jsonl", "--mode", "cot")
    assert "6b: 1 of 1 labels reproduced" in text and "175b: 1 of 1 labels reproduced" in text


def test_score_refuses_two_modes_and_unknown_ids(outputs: Path, tmp_path: Path):
    assert "one file holds the outputs of one mode" in run(
        "score", "bbh", outputs, "--mode", "direct,cot", "--data", FILES, code=2
    )
    (tmp_path / "bad.jsonl").write_text('{"id": "pebble_counting/77", "output": "x"}\n')
    message = run("score", "bbh", tmp_path / "bad.jsonl", "--mode", "cot", "--data", FILES, code=1)
    assert "bad.jsonl:row 1" in message.replace("\n", "")


def side(path: Path, right: int) -> Path:
    """Sixty items of GSM8K, the first `right` of them right."""
    rows = []
    for n in range(60):
        item = Item(benchmark="gsm8k", mode="cot", task="gsm8k", id=f"test/{n}", prompt="p", references=("1",))
        result = Result(item=item, output="1", extracted="1", score=float(n < right))
        rows.append(Answered("gsm8k/cot/8-shot", 8, 0, False, result))
    path.mkdir()
    write_items(path / "items.parquet", rows)
    return path


def test_compare_fails_on_a_sure_drop_alone_when_asked(tmp_path: Path):
    good, bad, near = side(tmp_path / "a", 50), side(tmp_path / "b", 20), side(tmp_path / "c", 49)
    assert "by ability" in run("compare", good, bad)
    text = run("compare", good, bad, "--fail-on-drop", "--by-task", code=EXIT_DROPPED)
    assert "surely fell: gsm8k/cot/8-shot" in text and "tasks that fell: 1" in text
    run("compare", good, near, "--fail-on-drop")
    run("compare", bad, good, "--fail-on-drop")
    result = last_object(run("compare", good, bad, "--json"))
    assert result["dropped"] == ["gsm8k/cot/8-shot"]
    assert result["abilities"][0]["ability"] == "reasoning" and result["abilities"][0]["difference"] == -0.5


def test_a_benchmark_of_ones_own_stands_under_the_ability_it_states(tmp_path: Path):
    (tmp_path / "ponds.yaml").write_text(
        "name: ponds\nitems: {test: ponds.jsonl}\nanswer: a\nprompt: {direct: '{q}'}\nability: code\n"
    )
    (tmp_path / "ponds.jsonl").write_text('{"q": "1", "a": "one"}\n{"q": "2", "a": "two"}\n')
    for name, said in (("a", ("one", "x")), ("b", ("one", "two"))):
        lines = [json.dumps({"id": f"test/ponds/{n}", "output": text}) for n, text in enumerate(said)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        scored = (tmp_path / f"{name}.jsonl", "--mode", "direct", "-o", tmp_path / name)
        run("score", tmp_path / "ponds.yaml", *scored)
    told = last_object(run("compare", tmp_path / "a", tmp_path / "b", "--json"))
    assert [(r["ability"], r["difference"]) for r in told["abilities"]] == [("code", 0.5)]


def test_names_that_are_none_and_a_file_in_the_way(tmp_path: Path):
    ask = ("eval", "demo", "--mode", "direct", "--data", FILES, "--limit", "1")
    for names in ("", "mmlu,", " "):
        assert "no benchmark ''" in run(*ask, "-b", names, code=2)
    (tmp_path / "taken").write_text("")
    for output in (tmp_path / "taken", tmp_path / "taken" / "below"):
        told = run(*ask, "-b", "mmlu", "-o", output, code=1)
        assert f"{output}: a file stands where a folder is wanted" in told.replace("\n", "")
    twice = run(*ask, "-b", "mmlu, mmlu,bbh", "-o", tmp_path / "o", code=2)
    assert "asked twice in one way: mmlu/direct/5-shot." in twice
