"""The benchmarks' own files: every row is read, and every answer that is known to be right is found right."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

from flantune.evals import BENCHMARKS
from flantune.evals.bbh import CLOSING, THINK, read_examples, read_prompt
from flantune.evals.extract import parse_answer
from flantune.evals.files import read_json_lines
from flantune.evals.mgsm import read_exemplars
from flantune.evals.mmlu import cot_prompt, read_questions, subjects
from flantune.types import Item


def test_all_14125_mmlu_rows_are_read_with_four_choices_each(data_dir: Path):
    rows = {
        split: [
            q
            for s in subjects(data_dir / "mmlu", split)
            for q in read_questions(data_dir / "mmlu" / split / f"{s}_{split}.csv")
        ]
        for split in ("dev", "val", "test")
    }
    assert {split: len(questions) for split, questions in rows.items()} == {"dev": 245, "val": 1367, "test": 12513}
    everything = [q for questions in rows.values() for q in questions]
    assert all(len(q.choices) == 4 and all(q.choices) for q in everything)
    assert sum(choice.strip().lower() == "none" for q in everything for choice in q.choices) >= 13


def test_mmlu_prompt_texts_have_five_exemplars_but_for_two(data_dir: Path):
    path = data_dir / "mmlu" / "mmlu-cot.json"
    texts = json.loads(path.read_bytes())
    counts = {subject: len(cot_prompt(texts, subject, path)[1]) for subject in texts}
    assert {s: n for s, n in counts.items() if n != 5} == {"college_chemistry": 4, "human_aging": 4}
    for subject in texts:
        header, blocks = cot_prompt(texts, subject, path)
        topic = subject.replace("_", " ")
        assert header.lower() == f"the following are multiple choice questions (with answers) about {topic}."
        for shot in blocks:
            block = shot.asked + shot.told
            # One text says "(E)", which is no choice at all.
            assert parse_answer(block) in ("A", "B", "C", "D") or (subject, parse_answer(block)) == (
                "college_chemistry",
                "E",
            )


def test_all_mmlu_items_have_distinct_ids_and_whole_prompts(data_dir: Path):
    for mode in ("direct", "cot"):
        items = [p.item for p in BENCHMARKS["mmlu"].items(data_dir / "mmlu", mode, split="test")]
        assert len(items) == len({i.id for i in items}) == 12513
        assert Counter(i.task for i in items).most_common(1)[0][0] == "professional_law"


def test_all_5646_bbh_rows_are_asked_without_canary(data_dir: Path):
    for mode in ("direct", "cot"):
        items = [p.item for p in BENCHMARKS["bbh"].items(data_dir / "bbh", mode)]
        assert len(items) == len({i.id for i in items}) == 5646
        assert len({i.task for i in items}) == 23 and {i.shots for i in items} == {3}
        assert not any("canary" in i.prompt.lower() or "-----" in i.prompt for i in items)


def published_bbh_answer(output: str) -> str:
    """Spec 6.3, which gives all 54 published Codex scores."""
    return output.rsplit("answer is ", 1)[-1].strip().removesuffix(".") if "answer is " in output else output.strip()


def test_a_bbh_answer_right_by_the_published_rule_is_right_here(data_dir: Path):
    benchmark = BENCHMARKS["bbh"]
    for mode in ("cot", "direct"):
        items = [p.item for p in benchmark.items(data_dir / "bbh", mode, shots=0)]
        for item in items:
            target = item.references[0]
            output = f"First this.\nThen that. {CLOSING}{target}." if mode == "cot" else f" {target}"
            assert published_bbh_answer(output) == target
            assert benchmark.score(item, benchmark.extract(item, output)) == 1.0, (item.id, output)


def test_a_bbh_answer_of_another_item_of_the_task_is_wrong(data_dir: Path):
    benchmark = BENCHMARKS["bbh"]
    items = [p.item for p in benchmark.items(data_dir / "bbh", "cot", shots=0)]
    for one, other in itertools.pairwise(items):
        if one.task == other.task:
            score = benchmark.score(one, benchmark.extract(one, f"{CLOSING}{other.references[0]}."))
            assert (score == 1.0) == (one.references == other.references)


def test_bbh_exemplars_answer_their_own_questions(data_dir: Path):
    benchmark = BENCHMARKS["bbh"]
    read = 0
    for file in sorted((data_dir / "bbh").glob("*.json")):
        _, blocks = read_prompt(data_dir / "bbh" / "cot-prompts" / f"{file.stem}.txt")
        known = dict(read_examples(file))
        for block in blocks:
            question, told = block.removeprefix("Q: ").split(f"\n{THINK}")
            item = Item(benchmark="bbh", mode="cot", task=file.stem, id="", prompt=f"x\n\nQ: {question}", references=())
            answer = benchmark.extract(item, told).answer
            assert answer == published_bbh_answer(told), (file.stem, answer)
            read += question in known
    assert read < 69  # exemplars are not the test questions


def test_mgsm_exemplars_give_their_own_answers_in_all_eight_languages(data_dir: Path):
    path = data_dir / "mgsm" / "exemplars.json"
    gold = [str(n) for n in json.loads(path.read_bytes())["EXEMPLAR_NUMBER_ANSWERS"]]
    blocks = read_exemplars(path)
    assert sorted(blocks) == ["bn", "de", "en", "es", "ja", "ru", "th", "zh"]
    for language, shown in blocks.items():
        for (_, block), answer in zip(shown, gold, strict=True):
            item = Item(benchmark="mgsm", mode="cot", task=language, id="", prompt="", references=(answer,))
            found = BENCHMARKS["mgsm"].extract(item, block)
            assert found.rule == "after phrase" and BENCHMARKS["mgsm"].score(item, found) == 1.0, (language, block)


def test_every_mgsm_gold_is_a_number_and_answers_its_item(data_dir: Path):
    items = [p.item for p in BENCHMARKS["mgsm"].items(data_dir / "mgsm", "cot")]
    assert len(items) == 2000 and {i.shots for i in items} == {8}
    for item in items:
        gold = item.references[0]
        for spelled in (gold, gold.replace(",", ""), f"{gold} $"):
            found = BENCHMARKS["mgsm"].extract(item, f"1 + 1 = 2. The answer is {spelled}.")
            assert BENCHMARKS["mgsm"].score(item, found) == 1.0


@pytest.mark.parametrize("name", ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"])
def test_the_labels_of_1019_real_solutions_are_reproduced_without_an_error(data_dir: Path, name: str):
    benchmark = BENCHMARKS["gsm8k"]
    rows = read_json_lines(data_dir / "gsm8k" / "example_model_solutions.jsonl.gz")
    items = [p.item for p in benchmark.items(data_dir / "gsm8k", "cot", shots=0)]
    assert len(rows) == len(items) == 1019
    correct = 0
    for row, item in zip(rows, items, strict=True):
        assert row["question"].strip() in item.prompt
        score = benchmark.score(item, benchmark.extract(item, row[name]["solution"]))
        assert (score == 1.0) == row[name]["is_correct"], row[name]["solution"]
        correct += score == 1.0
    assert (
        correct
        == {"6b_finetuning": 223, "6b_verification": 409, "175b_finetuning": 355, "175b_verification": 585}[name]
    )


def test_gsm8k_gold_solutions_are_right_and_the_exemplars_are_the_papers(data_dir: Path):
    benchmark = BENCHMARKS["gsm8k"]
    solutions = read_json_lines(data_dir / "gsm8k" / "test.jsonl.gz")
    items = [p.item for p in benchmark.items(data_dir / "gsm8k", "cot")]
    for row, item in zip(solutions, items, strict=True):
        assert benchmark.score(item, benchmark.extract(item, row["answer"])) == 1.0
    assert {i.shots for i in items} == {8}
    assert items[0].prompt.startswith("Question: There are 15 trees in the grove.")
    assert "<<" not in items[0].prompt
