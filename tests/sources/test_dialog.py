from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.errors import DataError
from flantune.recipe import CollectionSpec
from flantune.sources import read_collection, reader_for
from flantune.sources.dialog import MAX_EXCHANGES, cut_dialogue
from flantune.sources.rejects import BadRow, Rejects
from flantune.types import Example, Task


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def read(path: Path, reader: str = "auto", rejects: Rejects | None = None) -> tuple[Task, list[Example]]:
    ((task, examples),) = [
        (rows.task, list(rows.examples))
        for rows in read_collection(CollectionSpec(path=str(path), reader=reader), rejects or Rejects(), 1.0)
    ]
    return task, examples


@given(st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=60))
def test_a_cut_is_a_pure_function_within_the_first_exchanges(turns: list[str]) -> None:
    before, after = cut_dialogue(turns)
    assert (before, after) == cut_dialogue(list(turns))
    assert 1 <= len(before) <= min(len(turns) - 1, 2 * MAX_EXCHANGES)
    assert list(before) == turns[: len(before)] and after == turns[len(before)]


def test_cuts_are_uniform_over_even_and_odd_boundaries() -> None:
    counts = [0] * 6
    for i in range(5_000):
        counts[len(cut_dialogue([f"{i}", "b", "c", "d", "e", "f"])[0])] += 1
    assert counts[0] == 0 and all(c / 5_000 == pytest.approx(0.2, abs=0.03) for c in counts[1:])


def test_one_turn_cannot_be_cut() -> None:
    with pytest.raises(BadRow):
        cut_dialogue(["alone"])


def test_wiki_dialog(tmp_path: Path) -> None:
    rows = [{"pid": f"p{i}", "title": "T", "utterances": [f"q{i}", "two\nlines", "c", "d"], "author_num": [0, 1, 0, 1]}
            for i in range(30)]  # fmt: skip
    path = written(tmp_path / "wiki.jsonl", rows)
    assert reader_for(path, CollectionSpec(path=str(path))).name == "dialog"  # type: ignore[union-attr]
    task, examples = read(path)
    assert (task.name, task.mixture, task.source, task.templates) == ("muffin/wiki", "muffin", "dialog", "dialog")
    assert len(examples) == 30 and examples[3].id == "p3"
    assert {len(e.fields["turns"].split("\n")) for e in examples} == {1, 2, 3}
    for i, e in enumerate(examples):
        assert [*e.fields["turns"].split("\n"), e.targets[0]] == [f"q{i}", "two lines", "c", "d"][
            : e.fields["turns"].count("\n") + 2
        ]


def test_task_master_joins_neighbouring_utterances_of_one_speaker(tmp_path: Path) -> None:
    said = [("U", "Hi."), ("U", "A table, please."), ("A", "For two?")]
    row = {"conversation_id": "c1", "utterances": [{"speaker": s, "text": t} for s, t in said]}
    _, (example,) = read(written(tmp_path / "tm.json", [row]))
    assert (example.fields["turns"], example.targets) == ("Hi. A table, please.", ("For two?",))


def test_qrecc_keeps_late_turns_and_counts_the_others(tmp_path: Path) -> None:
    rows = [
        {"Context": ["a", "b"] * n, "Question": f"q{n}", "Rewrite": "r", "Answer": "" if n == 8 else f"a{n}",
         "Conversation_no": 5, "Turn_no": n + 1}
        for n in range(1, 10)
    ]  # fmt: skip
    rejects = Rejects()
    path = written(tmp_path / "qrecc.jsonl", rows)
    task, examples = read(path, rejects=rejects)
    assert task.dataset == "qrecc"
    assert [e.id for e in examples] == ["5-7", "5-8", "5-10"]
    assert examples[0].fields["turns"].split("\n") == ["a", "b"] * 6 + ["q6"] and examples[0].targets == ("a6",)
    assert rejects.rows[str(path)] == 9 and rejects.rejected[str(path)] == 6 and rejects.malformed[str(path)] == 0


@pytest.mark.parametrize(
    "row",
    [
        {"utterances": ["only one"]},
        {"utterances": ["a", 3]},
        {"utterances": []},
        {"utterances": "text"},
        {},
    ],
)
def test_a_row_that_is_no_conversation_is_set_aside(tmp_path: Path, row: Any) -> None:
    path = written(tmp_path / "w.jsonl", [{"utterances": ["a", "b", "c"]}, row])
    rejects = Rejects()
    _, examples = read(path, rejects=rejects)
    assert len(examples) == 1 and rejects.malformed[str(path)] == 1


def test_a_file_of_something_else_is_an_error_that_names_the_keys(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="utterances"):
        read(written(tmp_path / "x.jsonl", [{"messages": []}]), reader="dialog")
