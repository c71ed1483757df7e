from __future__ import annotations

import json

import pytest

from flantune.errors import RecipeError
from flantune.recipe import CollectionSpec
from flantune.tasks import check_collections

PAIR = '{"prompt": "a", "completion": "b"}'


def test_every_file_gets_a_line_whatever_is_wrong_with_it(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text("\n".join([PAIR] * 200 + ["{}"]))
    (folder / "b.jsonl").write_text("\n".join([PAIR] * 3 + ["{}"]))
    (folder / "c.jsonl.gz").write_bytes(b"\x1f\x8bbroken")
    (folder / "d.txt").write_text("hello")
    (folder / "sub").mkdir()
    (folder / "sub" / "a.jsonl").write_text(PAIR)
    seen = []
    report = check_collections([CollectionSpec(path=str(folder))], 0.01, tmp_path / "rejected.jsonl", seen.append)
    assert [(line.path.rpartition("/")[2], line.status, line.examples, line.rejected) for line in report.lines] == [
        ("a.jsonl", "read", 200, 1),
        ("b.jsonl", "over the limit", 3, 1),
        ("c.jsonl.gz", "malformed", 0, 0),
        ("d.txt", "skipped", 0, 0),
        ("a.jsonl", "malformed", 0, 0),  # its task has the name of another
    ]
    assert (report.files, report.tasks, report.examples, report.rejected) == (5, 2, 203, 2)
    assert report.reasons == {"prompt: expected the key": 2}
    assert [p.status for p in report.problems] == ["over the limit", "malformed", "malformed"]
    assert tuple(seen) == report.lines
    rejected = [json.loads(x) for x in (tmp_path / "rejected.jsonl").read_text().strip().split("\n")]
    assert [(r["file"].rpartition("/")[2], r["place"]) for r in rejected] == [
        ("a.jsonl", "201"),
        ("b.jsonl", "4"),
        ("d.txt", ""),
    ]


def test_a_path_that_is_not_there_is_the_callers_error(tmp_path):
    with pytest.raises(RecipeError, match="no such file or folder"):
        check_collections([CollectionSpec(path=str(tmp_path / "none"))])
