from __future__ import annotations

import json

import pytest

ROWS = [
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {"instruction": "Greet.", "input": "", "output": "Hello", "text": "Below is…"},
    {"instruction": "Greet.", "output": "Hi"},
    {"instruction": "", "input": "x", "output": "y"},
    {"instruction": "Add.", "input": None, "output": "y"},
    {"instruction": "Add.", "input": "x", "output": " "},
]


@pytest.mark.parametrize("array", [True, False])
def test_an_array_and_lines_give_the_same_examples(read, array):
    text = json.dumps(ROWS, indent=2) if array else "\n".join(map(json.dumps, ROWS))
    got = read("alpaca.json" if array else "alpaca.jsonl", text)
    assert got.task.name == "alpaca/alpaca"
    assert [(e.fields["instruction"], e.fields["input"], e.targets) for e in got.examples] == [
        ("Add.", "1 2", ("3",)),
        ("Greet.", "", ("Hello",)),
        ("Greet.", "", ("Hi",)),
    ]
    assert got.rejects.malformed.total() == 3
