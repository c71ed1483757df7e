from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flantune.errors import DataError, RecipeError
from flantune.recipe import CollectionSpec
from flantune.sources import Rejects, read_part

COLUMNS = {"question": "q", "answer": "a"}


def test_columns_are_renamed_to_roles_and_stay_text(read):
    got = read("t.csv", "q,a,other\r\nWhat?,None,x\r\n007,1e5,\r\n", columns=COLUMNS)
    assert [(e.fields, e.targets) for e in got.examples] == [
        ({"question": "What?"}, ("None",)),
        ({"question": "007"}, ("1e5",)),
    ]
    assert (got.task.name, got.task.templates, got.task.fields) == ("table/t", "generic", ("question",))


def test_a_tsv_may_hold_rationales_options_and_ids(read):
    columns = {**COLUMNS, "rationale": "r", "options": "o", "id": "i"}
    rows = [
        "x\tyes\tso\tyes|no\tn1",
        'y\tb\t\t"[""a|a"", ""b""]"\tn2',
        "z\tc\t\t\tn3",
        "w\td\t\tyes|no\tn4",
        "v\te\t\t[1\tn5",
    ]
    text = "\n".join(["q\ta\tr\to\ti", *rows])
    got = read("t.tsv", text, columns=columns)
    assert [(e.id, e.rationale, e.options) for e in got.examples] == [
        ("n1", "so", ("yes", "no")),
        ("n2", None, ("a|a", "b")),
        ("n3", None, None),
    ]
    assert got.rejects.malformed.total() == 2
    assert (got.task.has_rationale, got.task.has_options) == (True, True)


def test_json_lines_can_be_mapped_too(read):
    got = read("t.jsonl", '{"q": "Q", "a": "A"}\n{"q": "Q", "a": ["A", "B"]}\n{"q": "Q"}', columns=COLUMNS)
    assert [e.targets for e in got.examples] == [("A",), ("A", "B")]
    assert got.rejects.malformed.total() == 1


def test_parquet_numbers_and_lists_become_text_and_missing_cells_bad_rows(tmp_path: Path):
    table = pa.table({"q": ["x", "y", None], "a": [1, 2, 3], "o": [["1", "5"], None, None], "unused": [b"\xff"] * 3})
    pq.write_table(table, tmp_path / "t.parquet")
    spec = CollectionSpec(path=str(tmp_path / "t.parquet"), columns={**COLUMNS, "options": "o"})
    rejects = Rejects()
    (rows,) = read_part(Path(spec.path), spec, rejects)
    assert [(e.targets, e.options, e.where) for e in rows.examples] == [
        (("1",), ("1", "5"), "t.parquet:1"),
        (("2",), None, "t.parquet:2"),
    ]
    assert rejects.malformed.total() == 1


def test_a_broken_parquet_file_is_named(read):
    with pytest.raises(DataError, match=r"t\.parquet"):
        read("t.parquet", b"PAR1 and no more", columns=COLUMNS)


def test_a_column_that_is_not_there_is_named(read):
    with pytest.raises(DataError, match=r"t\.csv.*\['a'\]"):
        read("t.csv", "q,b\n1,2\n", columns=COLUMNS)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"question": "q"},
        {"answer": "a"},
        {"answer": "a", "rationale": "q"},
        {"q": "q", "answer": "a", "target": "a"},
    ],
)
def test_a_mapping_without_answer_or_field_is_the_callers_error(read, columns):
    with pytest.raises(RecipeError, match="columns"):
        read("t.csv", "q,a\n1,2\n", reader="table", columns=columns)


def test_a_table_is_never_guessed(read):
    with pytest.raises(DataError, match="columns"):
        read("t.csv", "q,a\n1,2\n")
