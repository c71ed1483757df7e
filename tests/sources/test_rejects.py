from __future__ import annotations

import json

import pytest

from flantune.errors import DataError
from flantune.sources import Rejects


def test_every_row_set_aside_is_written_with_its_place_and_reason(tmp_path):
    with Rejects(tmp_path / "r.jsonl") as rejects:
        rejects.row("a.jsonl", 2)
        rejects.add("a.jsonl", "7", "label", "0 or 1", "\ud800" * 500)
        rejects.skip("b.txt", "no reader knows it")
    first, second = [json.loads(x) for x in (tmp_path / "r.jsonl").read_text().split("\n") if x]
    assert {k: first[k] for k in ("file", "place", "field", "expected")} == {
        "file": "a.jsonl",
        "place": "7",
        "field": "label",
        "expected": "0 or 1",
    }
    assert len(first["got"]) <= 200  # a broken row may be megabytes long
    assert second["file"] == "b.txt"


def test_reasons_are_counted_over_files_without_what_came():
    rejects = Rejects()
    for file, got in (("a", 1), ("b", 2), ("b", 3)):
        rejects.add(file, "1", "label", "text", got)
    assert rejects.reasons == {"label: expected text": 3}
    assert rejects.rejected == {"a": 1, "b": 2}


def test_the_limit_is_a_share_of_the_files_own_rows():
    rejects = Rejects()
    rejects.row("a", 100)
    rejects.add("a", "5", "label", "text", None)
    rejects.check("a", 0.01)
    rejects.add("a", "9", "label", "text", None)
    with pytest.raises(DataError) as caught:
        rejects.check("a", 0.01)
    message = str(caught.value)
    for part in ("a: ", "1.00%", "2 of 100 (2.00%)", "5: field 'label'", "max_rejected"):
        assert part in message


def test_rows_that_only_teach_nothing_do_not_count_against_the_limit():
    rejects = Rejects()
    rejects.row("a", 2)
    rejects.add("a", "1", "completion", "a target", "", malformed=False)
    rejects.check("a", 0.0)
    assert rejects.rejected["a"] == 1 and rejects.share("a") == 0


def test_a_file_without_rows_has_no_share():
    assert Rejects().share("a") is None
    Rejects().check("a", 0.0)
