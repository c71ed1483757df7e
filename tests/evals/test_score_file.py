"""Outputs written elsewhere: by id, question, query or whole prompt; GSM8K's labelled solutions as they are."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flantune.errors import DataError
from flantune.evals import BENCHMARKS, Setting, holds_solutions, score_file, score_outputs, score_solutions
from flantune.evals.bbh import ALGORITHMIC, NLP, TASKS
from flantune.evals.benchmark import TaskScore
from flantune.evals.leaks import add_clean_scores, read_verdicts
from flantune.evals.results import MISSING


def write(path: Path, rows: list[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture
def bbh(benchmarks: Path) -> Setting:
    return Setting(benchmark=BENCHMARKS["bbh"], path=benchmarks / "bbh", mode="cot")


def test_an_input_may_be_the_question_the_query_or_a_prompt_with_other_exemplars(bbh: Setting, tmp_path: Path):
    first, second, third = bbh.pose(lambda p: True)
    assert first.question == "Blood is\nOptions:\n(A) red\n(B) grey\n(C) white"
    rows = [
        {"task": "colour_choice", "input": first.question, "output": "So the answer is (A)."},
        {"input": f"Other words.\n\nQ: a\nA: b\n\n{second.asked}", "output": "So the answer is 4."},
        {"task": "pebble_counting", "input": third.asked, "output": "I\ncannot tell."},
    ]
    scored = score_outputs(bbh, write(tmp_path / "o.jsonl", rows))
    assert [r.result.item.id for r in scored] == [p.item.id for p in (first, second, third)]
    assert [r.result.score for r in scored] == [1.0, float(second.item.references[0] == "4"), None]
    assert scored[0].result.rule == "letter after phrase"


def test_an_input_that_two_items_share_is_answered_once_for_both_or_in_order(benchmarks: Path, tmp_path: Path):
    data = json.loads((benchmarks / "bbh/pebble_counting.json").read_text())
    data["examples"] = [{"input": "Same?", "target": "1"}, {"input": "Same?", "target": "2"}]
    (tmp_path / "bbh/cot-prompts").mkdir(parents=True)
    (tmp_path / "bbh/pebble_counting.json").write_text(json.dumps(data))
    prompts = "cot-prompts/pebble_counting.txt"
    (tmp_path / "bbh" / prompts).write_text((benchmarks / "bbh" / prompts).read_text())
    setting = Setting(benchmark=BENCHMARKS["bbh"], path=tmp_path / "bbh", mode="cot")
    rows = [{"input": "Same?", "output": f"So the answer is {n}."} for n in (1, 2)]
    assert [r.result.score for r in score_outputs(setting, write(tmp_path / "two.jsonl", rows))] == [1.0, 1.0]
    assert [r.result.score for r in score_outputs(setting, write(tmp_path / "one.jsonl", rows[:1]))] == [1.0, 0.0]
    with pytest.raises(DataError, match="2 outputs for this input"):
        score_outputs(setting, write(tmp_path / "three.jsonl", [*rows, rows[0]]))


def test_faults_of_the_file_are_named_with_their_row(bbh: Setting, tmp_path: Path):
    for row, message in (
        ({"task": "colours", "input": "x", "output": "y"}, "field 'task'"),
        ({"task": "colour_choice", "input": "Four pebbles, one lost.", "output": "y"}, "field 'input'"),
        ({"id": "pebble_counting/9", "output": "y"}, "row 1: field 'id'"),
    ):
        with pytest.raises(DataError, match=message):
            score_outputs(bbh, write(tmp_path / "o.jsonl", [row]))


def test_every_score_comes_with_its_readings_and_the_unread_are_listed(bbh: Setting, tmp_path: Path):
    ids = [p.item.id for p in bbh.pose(lambda p: True)]
    golds = {p.item.id: p.item.references[0] for p in bbh.pose(lambda p: True)}
    rows = [
        {"id": ids[0], "output": f"So the answer is {golds[ids[0]]} or (B)."},
        {"id": ids[1], "output": f"So the answer is **{golds[ids[1]]}**."},
    ]
    summary = score_file(bbh, write(tmp_path / "o.jsonl", rows), tmp_path / "out")
    entry = summary["results"][0]
    assert (entry["items"], entry["missing"], entry["extraction_rate"]) == (2, 1, 0.5)
    scores = {k: v["score"] for k, v in entry["readings"].items()}
    assert scores == {"strict": 0.0, "default": 0.5, "loose": 0.5}
    assert entry["readings"]["default"]["score"] == entry["score"]
    assert len(entry["warnings"]) == 1 and "1 of 2 outputs" in entry["warnings"][0]
    assert entry["unread"][0]["id"] == ids[0] and entry["unread"][0]["reason"] == "several answers in it"
    unread = [json.loads(line) for line in (tmp_path / "out/unread.jsonl").read_text().splitlines()]
    assert [u["id"] for u in unread] == [ids[0]] and unread[0]["output"] == rows[0]["output"]
    strict = Setting(benchmark=bbh.benchmark, path=bbh.path, mode="cot", reading="strict")
    again = score_file(strict, tmp_path / "o.jsonl", tmp_path / "strict")["results"][0]
    assert (again["setting"], again["score"]) == ("bbh/cot/3-shot+strict", 0.0)


def test_bbhs_three_averages_are_what_their_names_say_and_missing_is_missing():
    scores = {task: TaskScore(place / 100, 250) for place, task in enumerate(TASKS)}
    scores |= {"penguins_in_a_table": TaskScore(0.9, 146), "snarks": TaskScore(0.1, 178)}
    scores |= {"causal_judgement": TaskScore(0.5, 187)}
    found = BENCHMARKS["bbh"].averages(scores)
    values = {task: s.score for task, s in scores.items()}
    assert found["macro_27"] == pytest.approx(sum(values.values()) / 27)
    assert found["micro"] == pytest.approx(sum(s.score * s.items for s in scores.values()) / 6511)
    merged = [sum(values[f"{f}_{n}_objects"] for n in ("three", "five", "seven")) / 3 for f in FAMILIES]
    single = [v for t, v in values.items() if not t.endswith("_objects") or t == "reasoning_about_colored_objects"]
    assert len(single) == 21 and found["macro_23"] == pytest.approx((sum(single) + sum(merged)) / 23)
    assert (len(NLP), len(ALGORITHMIC), len(TASKS)) == (12, 15, 27)
    assert found["nlp_12"] == pytest.approx(sum(values[t] for t in NLP) / 12)
    del scores["dyck_languages"]
    less = BENCHMARKS["bbh"].averages(scores)
    assert [less[k] for k in ("macro_27", "micro", "macro_23", "algorithmic_15")] == [None] * 4
    assert less["nlp_12"] == found["nlp_12"]


FAMILIES = ("logical_deduction", "tracking_shuffled_objects")


def solutions(path: Path, rows: int = 3) -> Path:
    lines = []
    for n in range(rows):
        line: dict[str, Any] = {"question": f"What is {n} + 1000?", "ground_truth": f"{n} + 1000\nA: {n + 1000:,}"}
        line["6b"] = {"is_correct": n != 1, "solution": f"Sum.\nA: {n + 1000 + (n == 1)}"}
        line["175b"] = {"is_correct": True, "solution": f"#### {n + 1000:,}.00"}
        lines.append(line)
    return write(path, lines)


def test_labelled_solutions_are_scored_without_the_benchmarks_files(tmp_path: Path):
    file = solutions(tmp_path / "s.jsonl")
    assert holds_solutions(file)
    summary = score_solutions(file, tmp_path / "out")
    assert [(m["model"], m["items"], m["right"], m["agree"], m["differ"]) for m in summary["labels"]] == [
        ("6b", 3, 2, 3, []),
        ("175b", 3, 3, 3, []),
    ]
    assert [e["score"] for e in summary["results"]] == [pytest.approx(2 / 3), 1.0]
    broken = json.loads(file.read_text().split("\n")[0])
    broken["6b"]["is_correct"] = False
    broken["ground_truth"] = "none"
    write(tmp_path / "b.jsonl", [broken])
    with pytest.raises(DataError, match="row 1: field 'answer'"):
        score_solutions(tmp_path / "b.jsonl", tmp_path / "out")


def test_a_label_that_is_not_reproduced_is_named(tmp_path: Path):
    rows = [json.loads(line) for line in solutions(tmp_path / "s.jsonl").read_text().splitlines()]
    rows[2]["6b"]["is_correct"] = False
    labels = score_solutions(write(tmp_path / "t.jsonl", rows), tmp_path / "out")["labels"]
    assert (labels[0]["agree"], labels[0]["differ"]) == (2, ["test/2"])


def test_all_labels_of_the_published_solutions_are_reproduced(data_dir: Path, tmp_path: Path):
    """The data may hold the publisher's 1,319 rows or the first of them."""
    file = data_dir / "gsm8k" / "example_model_solutions.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).decode().split("\n") if line]
    summary = score_solutions(file, tmp_path / "out")
    assert len(summary["labels"]) == 4
    for entry in summary["labels"]:
        assert (entry["items"], entry["agree"], entry["differ"]) == (len(rows), len(rows), [])
        assert entry["right"] == sum(row[entry["model"]]["is_correct"] for row in rows)


def test_an_item_nobody_answered_is_missing_and_no_zero(bbh: Setting, tmp_path: Path):
    ids = [p.item.id for p in bbh.pose(lambda p: True)]
    rows = score_outputs(bbh, write(tmp_path / "o.jsonl", [{"id": ids[0], "output": "So the answer is (A)."}]))
    assert [r.result.reason == MISSING for r in rows] == [False, True, True]
    entry = score_file(bbh, tmp_path / "o.jsonl", tmp_path / "out")["results"][0]
    assert entry["score"] == 1.0 and entry["missing"] == 2 and set(entry["tasks"]) == {"colour_choice"}


def test_marks_of_leaks_give_the_score_without_the_leaked_items(bbh: Setting, tmp_path: Path):
    posed = bbh.pose(lambda p: True)
    rows = [{"id": p.item.id, "output": f"So the answer is {p.item.references[0]}."} for p in posed]
    rows[0]["output"] = "So the answer is (B)."
    marks = [
        {"benchmark": "bbh", "id": posed[0].item.id, "verdict": "test_leak"},
        {"benchmark": "bbh", "id": posed[1].item.id, "verdict": "none"},
        {"benchmark": "mmlu", "id": posed[2].item.id, "verdict": "test_leak"},
    ]
    verdicts = read_verdicts(write(tmp_path / "marks.jsonl", marks))
    summary = score_file(bbh, write(tmp_path / "o.jsonl", rows), tmp_path / "out")
    entry = add_clean_scores(summary, tmp_path / "out", verdicts)["results"][0]
    assert entry["score"] == 0.5
    assert (entry["clean"]["score"], entry["clean"]["items"]) == (1.0, 2)
    assert entry["clean"]["verdicts"] == {"none": 1, "test_leak": 1, "unchecked": 1}
    assert json.loads((tmp_path / "out/summary.json").read_text())["results"][0]["clean"] == entry["clean"]
    unsearched = add_clean_scores(summary, tmp_path / "out", {})["results"][0]
    assert unsearched["clean"] is None
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="Parquet with benchmark, id, verdict"):
        read_verdicts(tmp_path / "torn.parquet")


def test_a_question_that_items_ask_with_other_options_needs_its_id_or_the_whole_query(benchmarks: Path, tmp_path: Path):
    for split in ("dev", "val"):
        (tmp_path / "mmlu" / split).mkdir(parents=True)
        text = "Which?,a,b,c,d,A\nWhich?,b,a,c,d,B\n"
        (tmp_path / "mmlu" / split / f"anatomy_{split}.csv").write_text(text)
    setting = Setting(benchmark=BENCHMARKS["mmlu"], path=tmp_path / "mmlu", mode="direct", shots=0)
    with pytest.raises(DataError, match="val/anatomy/0, val/anatomy/1 share it and are asked differently"):
        score_outputs(setting, write(tmp_path / "o.jsonl", [{"input": "Which?", "output": "(A)"}]))
    asked = [{"input": p.asked, "output": "(B)"} for p in setting.pose(lambda p: True)][::-1]
    assert [r.result.score for r in score_outputs(setting, write(tmp_path / "q.jsonl", asked))] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"input": "{second}"}, "the question of colour_choice/0, or no input"),
        ({"task": "pebble_counting"}, "the task of colour_choice/0"),
        ({"id": [5]}, "an item of"),
        ({"id": {"a": 1}}, "an item of"),
        ({"task": ["x"]}, "a task of"),
    ],
)
def test_a_line_that_contradicts_itself_is_an_error(bbh: Setting, tmp_path: Path, more: dict[str, Any], words: str):
    first, second, *_ = bbh.pose(lambda p: True)
    row = {"id": first.item.id, "output": "x", **more}
    if row.get("input") == "{second}":
        row["input"] = second.question
    with pytest.raises(DataError, match=words):
        score_outputs(bbh, write(tmp_path / "o.jsonl", [row]))


def test_a_file_with_a_byte_order_mark_and_an_empty_id_is_read(bbh: Setting, tmp_path: Path):
    first = bbh.pose(lambda p: True)[0]
    line = json.dumps({"id": None, "input": first.asked, "output": "So the answer is (A)."})
    (tmp_path / "o.jsonl").write_text("\ufeff" + line + "\n", encoding="utf-8")
    assert score_outputs(bbh, tmp_path / "o.jsonl")[0].result.score == 1.0
