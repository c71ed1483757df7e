from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from flantune.errors import DataError
from flantune.recipe import CollectionSpec
from flantune.sources import Rejects, collection_files, read_collection

TASK = {
    "name": "mine/capital",
    "dataset": "facts",
    "category": "QA",
    "fields": ["country"],
    "templates": [
        {"inputs": "Capital of {country}?", "targets": "{answer}"},
        {
            "kind": "rationale",
            "inputs": "{country}?",
            "targets": "{rationale} {answer}",
            "few_shot": {"inputs": "{country}", "targets": "{answer}", "delimiter": " -> "},
        },
    ],
}
ROWS = [
    {"id": "fr", "fields": {"country": "France"}, "target": "Paris", "options": ["Paris", "Lyon"], "rationale": "So."},
    {"fields": {"country": "Bolivia"}, "targets": ["Sucre", "La Paz"]},
]


def write(folder: Path, task: object, rows: list[object], name: str = "capital") -> CollectionSpec:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.task.yaml").write_text(yaml.safe_dump(task))
    (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    return CollectionSpec(path=str(folder))


def test_the_yaml_gives_the_task_and_the_lines_its_examples(tmp_path):
    spec = write(tmp_path / "t", TASK, ROWS)
    ((task, examples),) = [(r.task, list(r.examples)) for r in read_collection(spec, Rejects(), 0)]
    assert (task.name, task.dataset, task.mixture, task.has_rationale, task.has_options) == (
        "mine/capital", "facts", "native", True, True)  # fmt: skip
    assert [(e.id, e.targets, e.options, e.rationale) for e in examples] == [
        ("fr", ("Paris",), ("Paris", "Lyon"), "So."),
        ("capital-2", ("Sucre", "La Paz"), None, None),
    ]


def test_templates_are_named_and_default_to_the_zero_shot_patterns(tmp_path):
    spec = write(tmp_path / "t", TASK, ROWS)
    ((first, second),) = [r.task.own_templates for r in read_collection(spec, Rejects(), 0)]
    assert (first.name, second.name) == ("mine/capital/direct/0", "mine/capital/rationale/1")
    assert (first.few_shot.inputs, first.few_shot.delimiter) == ("Capital of {country}?", "\n")
    assert (second.few_shot.inputs, second.few_shot.delimiter) == ("{country}", " -> ")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"licens": "MIT"}, "licens"),
        ({"templates": [{"inputs": "x", "targets": "y", "shots": 3}]}, "templates.0.shots"),
        ({"templates": [{"inputs": "x", "targets": "y", "few_shot": {"inputs": "x", "targets": "y", "sep": ""}}]},
         "templates.0.few_shot.sep"),
        ({"fields": []}, "fields"),
        ({"metric": "f1"}, "metric"),
        ({"name": None}, "name"),
    ],
)  # fmt: skip
def test_a_key_that_is_unknown_or_wrong_is_an_error_naming_file_and_key(tmp_path, change, key):
    spec = write(tmp_path / "t", {**TASK, **change}, ROWS)
    with pytest.raises(DataError, match=rf"capital\.task\.yaml: field '{re.escape(key)}'"):
        list(read_collection(spec, Rejects(), 0))


def test_a_task_without_its_rows_is_an_error(tmp_path):
    spec = write(tmp_path / "t", TASK, ROWS)
    (tmp_path / "t" / "capital.jsonl").unlink()
    with pytest.raises(DataError, match=r"capital\.jsonl beside it"):
        list(read_collection(spec, Rejects(), 0))


@pytest.mark.parametrize(
    "row",
    [
        {"fields": {"country": "X"}, "target": "a", "targets": ["a"]},
        {"fields": {"country": "X"}},
        {"fields": {"country": "X"}, "target": " "},
        {"fields": {"land": "X"}, "target": "a"},
        {"fields": {"country": "X", "more": "y"}, "target": "a"},
        {"fields": {"country": 3}, "target": "a"},
        {"fields": {"country": " "}, "target": "a"},
        {"fields": {"country": "X"}, "target": "a", "options": ["b", "c"]},
        {"fields": {"country": "X"}, "target": "a", "option": ["a", "c"]},
        ["no object"],
    ],
)
def test_a_row_that_breaks_a_rule_is_set_aside(tmp_path, row):
    spec = write(tmp_path / "t", TASK, [*ROWS, row])
    rejects = Rejects()
    ((_, examples),) = [(r.task, list(r.examples)) for r in read_collection(spec, rejects, 1.0)]
    assert (len(examples), rejects.malformed.total()) == (2, 1)


def test_the_limit_counts_the_rows_beside_the_yaml(tmp_path):
    spec = write(tmp_path / "t", TASK, [*ROWS, {}])
    with pytest.raises(DataError, match=r"capital\.jsonl.*1 of 3"):
        for rows in read_collection(spec, Rejects(), 0.01):
            list(rows.examples)


def test_rows_beside_a_yaml_are_no_file_of_their_own(tmp_path):
    spec = write(tmp_path / "t", TASK, [{"prompt": "p", "completion": "c"}])
    assert [p.name for p in collection_files(spec)] == ["capital.task.yaml"]


def test_the_documented_example_is_what_the_reader_reads(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "native-tasks.md"
    blocks = dict(re.findall(r"## (NAME\.\S+)\n.*?```\w+\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    (tmp_path / "NAME.task.yaml").write_text(blocks["NAME.task.yaml"])
    (tmp_path / "NAME.jsonl").write_text(blocks["NAME.jsonl"])
    rejects = Rejects()
    ((task, examples),) = [
        (r.task, list(r.examples)) for r in read_collection(CollectionSpec(path=str(tmp_path)), rejects, 0)
    ]
    assert (task.name, len(task.own_templates), len(examples)) == ("mine/capital_of", 2, 2)
