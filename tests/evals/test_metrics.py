from __future__ import annotations

import csv
import json
import string
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.evals.metrics import exact_match, normalise, rouge_l, score_text, unicode_tokens
from flantune.evals.normalised import (
    CHANCE_BOUNDS,
    PUBLISHED_BOUNDS,
    lower_bound,
    normalised,
    normalised_average,
    normalised_mean,
)


def tk_instruct_normal(text: str) -> str:
    """Tk-Instruct's normalize_answer, step for step: lower, without string.punctuation, single blanks."""
    return " ".join("".join(c for c in text.lower() if c not in set(string.punctuation)).split())


@given(st.text(alphabet=string.ascii_letters + " .,!?'-\n", max_size=40), st.text(alphabet="abAB .,!-", max_size=6))
def test_exact_match_is_tk_instructs_on_ascii_words(output: str, reference: str):
    assert normalise(output) == tk_instruct_normal(output)
    if tk_instruct_normal(reference):
        assert exact_match(output, reference) == float(tk_instruct_normal(output) == tk_instruct_normal(reference))


@pytest.mark.parametrize(
    ("output", "reference", "score"),
    [
        ("Yes.", "yes", 1),
        ("  the  Cat ", "The cat!", 1),
        ("1.5", "15", 0),
        ("-3", "3", 0),
        ("1,000", "1000", 1),
        ("18.00", "18", 1),
        ("] )", "] }", 0),
        ("] }", "] }", 1),
        ("", "!", 0),
        ("九点。", "九点", 1),
        ("“九点”", "九点", 1),
        ("八点", "九点", 0),
    ],
)
def test_exact_match(output: str, reference: str, score: float):
    assert exact_match(output, reference) == score


def lcs_f(output: list[str], reference: list[str]) -> float:
    """F measure of the longest common subsequence, by the textbook's table."""
    table = [[0] * (len(reference) + 1) for _ in range(len(output) + 1)]
    for i, a in enumerate(output):
        for j, b in enumerate(reference):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    common = table[-1][-1]
    if not common:
        return 0.0
    precision, recall = common / len(output), common / len(reference)
    return 2 * precision * recall / (precision + recall)


words = st.lists(st.sampled_from(["cat", "sat", "mat", "on", "九点", "渡轮"]), min_size=1, max_size=8)


@given(words, words)
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence(output: list[str], reference: list[str]):
    told, wanted = " ".join(output), " ".join(reference)
    if wanted.isascii():
        expected = lcs_f([w for w in output if w.isascii()], reference)
    else:
        expected = lcs_f(unicode_tokens(told), unicode_tokens(wanted))
    assert rouge_l(told, wanted) == pytest.approx(expected)


def test_rouge_l_stems_english_and_sees_chinese():
    assert rouge_l("the ferries were leaving", "the ferry was leaving") == pytest.approx(0.75)
    assert rouge_l("渡轮九点出发。", "渡轮九点出发") == 1.0
    assert 0.5 < rouge_l("渡轮八点出发", "渡轮九点出发") < 1.0
    assert rouge_l("anything", "渡轮") == 0.0
    assert unicode_tokens("Élan vital: 渡轮 โต๊ะ नमस्ते") == ["élan", "vital", "渡", "轮", "โ", "ต", "๊", "ะ", "नमस्ते"]


def test_typographic_quotes_alone_do_not_change_the_english_tokenizer():
    assert rouge_l("the ferries’ keys", "the ferry’s keys") == rouge_l("the ferries' keys", "the ferry's keys")


def test_the_best_reference_counts():
    assert score_text("exact_match", "no", ("yes", "No.")) == 1.0
    assert score_text("rouge_l", "a b c", ("x", "a b d")) == rouge_l("a b c", "a b d")
    with pytest.raises(ValueError, match="no references"):
        score_text("exact_match", "no", ())


def test_lower_bounds_are_the_recipes_tables(spec_dir: Path):
    with (spec_dir / "bbh_random_baselines.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {r["task"]: float(r["baseline_reproducing_paper"]) for r in rows} == dict(PUBLISHED_BOUNDS)
    assert {r["task"]: float(r["chance_from_options"]) for r in rows} == dict(CHANCE_BOUNDS)


def test_normalised_averages_of_seven_published_models_come_out_within_a_twentieth(spec_dir: Path):
    bbh: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: {"direct": {}, "cot": {}})
    with (spec_dir / "paper_bbh_per_task.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for mode in ("direct", "cot"):
                bbh[row["model"]][mode][row["task"]] = float(row[mode])
    assert {len(modes["cot"]) for modes in bbh.values()} == {27}
    published = {}
    for row in json.loads((spec_dir.parent / "paper_results.json").read_bytes())["table5_models"]["rows"]:
        published |= {row.get("base_model"): row.get("base"), row.get("flan_model"): row.get("flan")}
    for model, modes in bbh.items():
        paper = published[model]
        components = [
            normalised(paper["mmlu_direct"], 25),
            normalised(paper["mmlu_cot"], 25),
            *(normalised_mean("bbh", modes[mode]) for mode in ("direct", "cot")),
            paper["tydiqa"],
            paper["mgsm"],
        ]
        assert abs(normalised_average(components) - paper["norm_avg"]) <= 0.0501 + 1e-9, model
    assert len(bbh) == 7
    assert normalised_mean("bbh", bbh["Flan-T5-XXL"]["direct"]) == pytest.approx(26.25, abs=0.01)
    assert normalised_mean("bbh", bbh["Flan-T5-XXL"]["cot"]) == pytest.approx(20.48, abs=0.01)


def test_a_task_without_score_or_bound_leaves_no_normalised_mean():
    assert normalised_mean("bbh", {"navigate": 50.0, "hyperbaton": None}) is None
    assert normalised_mean("bbh", {"a_new_task": 50.0}) is None
    assert normalised_mean("held_out", {"navigate": 50.0}) is None
    assert normalised_mean("bbh", {}) is None
    assert normalised_mean("mmlu", {"anatomy": 25.0, "virology": 100.0}) == 50.0
    assert lower_bound("bbh", "penguins_in_a_table", "chance") == 20.03
