from __future__ import annotations

import json

import pytest

from flantune.errors import DataError
from flantune.sources.prompts import PAIRS, SURE_PAIRS


@pytest.mark.parametrize("pair", PAIRS)
def test_every_known_pair_of_names_is_read(read, pair):
    row = json.dumps({pair[0]: "ask", pair[1]: "answer", "id": 4})
    got = read("mine.jsonl", row, reader="auto" if pair in SURE_PAIRS else "prompts")
    (example,) = got.examples
    assert (got.task.name, example.fields, example.targets, example.id) == (
        "prompts/mine",
        {"prompt": "ask"},
        ("answer",),
        "4",
    )


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "instruction": "i", "input": "", "response": "r", "target": "t"},  # a model's predictions
        {"input": "2 + 2", "target": 4},  # MAWPS
        {"input": "2 + 2", "target": "4"},
        {"prompt": {"text": "t"}, "completion": "c"},
        {"question": "q", "answer": "a"},
        {"task_id": 1, "prompt": "def f():", "completion": "pass"},
    ],
)
def test_rows_that_may_mean_something_else_are_not_taken_without_being_told(read, row):
    with pytest.raises(DataError, match="Name the reader"):
        read("mine.jsonl", json.dumps(row))


def test_a_file_without_a_known_pair_says_which_are_known(read):
    with pytest.raises(DataError, match="prompt/completion"):
        read("mine.jsonl", '{"question": "q"}', reader="prompts")


def test_bad_rows_are_set_aside_with_their_place(read):
    rows = ['{"prompt": "a", "completion": "b"}', '{"prompt": "a"}', '{"prompt": " ", "completion": "b"}', "nonsense"]
    got = read("mine.jsonl", "\n".join([*rows, '{"prompt": "a", "completion": 3}']))
    assert (len(got.examples), got.rejects.malformed.total()) == (1, 4)


def test_the_mixture_named_by_the_collection_names_the_task_too(read):
    got = read("mine.jsonl", '{"prompt": "a", "completion": "b"}', mixture="ours")
    assert (got.task.mixture, got.task.name) == ("ours", "ours/mine")
