from __future__ import annotations

import gzip
import json

import pytest

from flantune.errors import DataError
from flantune.sources.niv2 import dataset_name

OFFICIAL = {
    "Contributors": ["A"],
    "Source": ["snli"],
    "URL": ["https://example.org"],
    "Categories": ["Textual Entailment"],
    "Reasoning": [],
    "Definition": [" Say whether it follows. "],
    "Input_language": ["English"],
    "Output_language": ["English"],
    "Positive Examples": [
        {"input": "p1", "output": "yes", "explanation": "because"},
        {"input": "", "output": "no", "explanation": "a placeholder"},
        {"input": "p3", "output": "no", "explanation": ""},
    ],
    "Negative Examples": [{"input": "n", "output": "maybe", "explanation": "wrong"}],
    "Instances": [
        {"id": "task1-a", "input": " x1 ", "output": ["yes ", "no", "yes"]},
        {"id": "task1-b", "input": "x2", "output": [""]},
        {"id": "task1-c", "input": " ", "output": ["no"]},
        {"id": "task1-d", "input": "x4", "output": ["", "no"]},
        {"id": "task1-e", "input": "x5", "output": 3},
    ],
    "Instance License": ["MIT"],
}
EARLY = {
    "Contributors": ["A"],
    "Source": ["scan (https://github.com/brendenlake/SCAN)"],
    "Categories": ["Structured Text Generation"],
    "Definition": "Turn commands into actions.",
    "Positive Examples": [{"input": "jump", "output": "I_JUMP", "explanation": "one action"}],
    "Negative Examples": [],
    "Instances": [{"input": "walk", "output": ["I_WALK"]}],
}


def test_the_official_layout_gives_task_and_examples(read):
    got = read("task1_snli.json", json.dumps(OFFICIAL, indent=1))
    task = got.task
    assert (task.name, task.mixture, task.dataset, task.category) == (
        "niv2/task1_snli",
        "niv2",
        "snli",
        "Textual Entailment",
    )
    assert (task.definition, task.language, task.licence) == ("Say whether it follows.", "en", "MIT")
    assert [(e.id, e.row, e.targets) for e in got.examples] == [("task1-a", 0, ("yes", "no")), ("task1-d", 1, ("no",))]
    assert got.examples[0].fields == {"input": " x1 "}  # only targets are stripped
    assert got.examples[1].where == "task1_snli.json:Instances[3]"
    assert (got.rejects.total_rows(), got.rejects.total_rejected()) == (5, 3)


def test_positive_examples_become_demonstrations_counted_down_from_minus_one(read):
    shown = read("task1_snli.json", json.dumps(OFFICIAL)).task.demonstrations
    assert [(e.row, e.fields["input"], e.targets, e.rationale) for e in shown] == [
        (-1, "p1", ("yes",), "because"),
        (-2, "p3", ("no",), None),
    ]


def test_the_early_layout_is_read_and_named_apart(read):
    got = read("task126_scan.json.gz", gzip.compress(json.dumps(EARLY).encode()))
    assert (got.task.name, got.task.dataset) == ("niv2_early/task126_scan", "scan")
    assert got.task.definition == "Turn commands into actions."
    assert [(e.id, e.targets) for e in got.examples] == [("task126_scan-Instances[0]", ("I_WALK",))]


@pytest.mark.parametrize(
    ("category", "metric"),
    [("Textual Entailment", "exact_match"), ("Word Analogy", "exact_match"), ("Title Generation", "rouge_l")],
)
def test_six_categories_are_scored_by_exact_match(read, category, metric):
    assert read("t.json", json.dumps({**OFFICIAL, "Categories": [category]})).task.metric == metric


@pytest.mark.parametrize(("language", "code"), [("English", "en"), ("Chinese", "zh"), ("Igbo", "igbo")])
def test_the_input_language_is_a_code_where_one_is_known(read, language, code):
    assert read("t.json", json.dumps({**OFFICIAL, "Input_language": [language]})).task.language == code


def test_a_field_that_is_nan_reads_as_missing(read):
    text = json.dumps({**OFFICIAL, "URL": [float("nan")]})
    assert "NaN" in text
    assert len(read("t.json", text).examples) == 2


@pytest.mark.parametrize("change", [{"Definition": []}, {"Instances": {}}, {"Categories": None}])
def test_a_task_without_its_parts_is_a_malformed_file(read, change):
    with pytest.raises(DataError, match=f"t.json.*{next(iter(change))}"):
        read("t.json", json.dumps({**OFFICIAL, **change}), reader="niv2")


def test_source_names_lose_addresses_and_stray_commas():
    assert dataset_name("scan (https://github.com/brendenlake/SCAN)") == "scan"
    assert dataset_name("librispeech_asr,") == "librispeech_asr"
    assert dataset_name("question_&_answer_zre") == "question_&_answer_zre"
