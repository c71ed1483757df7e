from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import DataError
from flantune.sources.reading import (
    Draft,
    examples_of,
    first_object,
    json_lines,
    json_objects,
    load_json,
    parse_json,
    stem,
    suffix,
    table_rows,
    text_lines,
)
from flantune.sources.rejects import BadRow, Rejects
from flantune.types import Task

TASK = Task(name="t", mixture="m", dataset="d", category="c", templates="generic", fields=("x",))


def write(folder: Path, data: bytes, name: str = "f.jsonl") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_lines_end_at_line_feeds_alone(tmp_path):
    text = "a\u2028b\nc\u0085d\x0be\nlast"
    assert [line for _, line in text_lines(write(tmp_path, text.encode()))] == ["a\u2028b", "c\u0085d\x0be", "last"]


def test_blank_lines_are_no_rows_but_are_counted_as_lines(tmp_path):
    assert list(text_lines(write(tmp_path, b"a\n\n  \r\nb\r\n"))) == [("1", "a"), ("4", "b")]


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert list(text_lines(write(tmp_path, b"\xef\xbb\xbfa\nb"))) == [("1", "a"), ("2", "b")]


@given(st.lists(st.text(st.characters(exclude_characters="\n\r", codec="utf-8")).filter(str.strip), max_size=20))
@settings(max_examples=60)
def test_every_line_comes_back_as_it_was_zipped_or_not(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("lines")
    lines = [line.lstrip("\ufeff") + "." for line in lines]
    data = "\n".join(lines).encode()
    expected = [(str(i), line) for i, line in enumerate(lines, 1)]
    assert list(text_lines(write(folder, data))) == expected
    # The name does not decide: the first two bytes do.
    assert list(text_lines(write(folder, gzip.compress(data)))) == expected


def test_a_line_that_is_no_utf8_is_one_bad_row(tmp_path):
    (_, first), (place, second), (_, third) = text_lines(write(tmp_path, b"ok\n\xff\xfe\nok"))
    assert (first, third) == ("ok", "ok")
    assert isinstance(second, BadRow) and place == "2" and second.expected == "UTF-8"


def test_a_cut_gzip_file_is_named(tmp_path):
    whole = gzip.compress(b"".join(b'{"n": %d}\n' % i for i in range(10_000)))
    path = write(tmp_path, whole[: len(whole) // 2], "cut.jsonl.gz")
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz.*a whole gzip file"):
        list(json_lines(path))


def test_a_damaged_gzip_file_is_named(tmp_path):
    data = bytearray(gzip.compress(b'{"n": 1}\n' * 1000))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(DataError, match=r"bad\.gz"):
        list(json_lines(write(tmp_path, bytes(data), "bad.gz")))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json.*No such file"):
        load_json(tmp_path / "none.json")


def test_a_broken_json_file_is_named_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"f\.json:2: field 'file': expected JSON"):
        load_json(write(tmp_path, b'{\n"a": 1,\n}', "f.json"))


def test_nan_is_read_as_missing():
    assert parse_json(b'{"a": NaN, "b": [Infinity, 1]}') == {"a": None, "b": [None, 1]}


@pytest.mark.parametrize("text", [b'{"a": "\\ud800"}', b'{"a": NaN, "b": "\\ud800"}', b"{'a': 1}", b'{"a": NaN,}', b""])
def test_what_is_no_json_or_could_not_be_written_again_is_refused(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_lines_that_are_no_objects_are_bad_rows(tmp_path):
    rows = list(json_lines(write(tmp_path, b'{"a": 1}\n[1]\n{"a": \n"x"\n{"a": 2}')))
    assert [place for place, row in rows if isinstance(row, BadRow)] == ["2", "3", "4"]
    assert [row for _, row in rows if isinstance(row, dict)] == [{"a": 1}, {"a": 2}]


@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.integers(-(2**53), 2**53) | st.none(), max_size=4), max_size=8)
)
@settings(max_examples=50)
def test_an_array_and_lines_give_the_same_objects(tmp_path_factory, objects):
    folder = tmp_path_factory.mktemp("objects")
    array = write(folder, json.dumps(objects, indent=1).encode(), "a.json")
    lines = write(folder, "\n".join(json.dumps(o) for o in objects).encode(), "a.jsonl")
    assert list(json_objects(array)) == list(json_objects(lines)) == [(str(i), o) for i, o in enumerate(objects, 1)]


def test_the_first_object_is_found_in_lines_and_in_arrays(tmp_path):
    assert first_object(write(tmp_path, b'{"a": 1}\n{"b": 2}')) == {"a": 1}
    assert first_object(write(tmp_path, b'[\n  {\n "a": 1\n},\n {"b": 2}]')) == {"a": 1}
    for other in (b"", b"[]", b"[1]", b"text", b'"text"', b"\xff\xfe", b"\x1f\x8bbroken"):
        assert first_object(write(tmp_path, other)) is None


def test_a_first_object_longer_than_what_is_sniffed_is_still_found_in_lines(tmp_path):
    assert first_object(write(tmp_path, json.dumps({"a": "x" * 500_000}).encode())) == {"a": "x" * 500_000}


def test_cells_stay_the_text_they_are(tmp_path):
    data = b'a,b\r\nNone,007\r\n" x ","NaN"\r\n"two\nlines","say ""hi"""\r\n'
    rows = [row for _, row in table_rows(write(tmp_path, data, "f.csv"), ",")]
    assert rows == [
        {"a": "None", "b": "007"},
        {"a": " x ", "b": "NaN"},
        {"a": "two\nlines", "b": 'say "hi"'},
    ]


def test_a_table_row_is_placed_by_its_first_physical_line(tmp_path):
    rows = table_rows(write(tmp_path, b'a,b\n"1\n2",x\n3\n4,y\n', "f.csv"), ",")
    assert [place for place, _ in rows] == ["2", "4", "5"]


def test_a_row_with_too_few_cells_is_a_bad_row(tmp_path):
    (_, row), (_, bad) = table_rows(write(tmp_path, b"a,b\n1,2\n3\n", "f.csv"), ",")
    assert row == {"a": "1", "b": "2"}
    assert isinstance(bad, BadRow) and bad.expected == "2 cells"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'a,b\n"never closed,1\n', "well-formed CSV"),
        (b"a,b\n\xff,1\n", "UTF-8"),
        (b"a,a\n1,2\n", "column names that differ"),
    ],
)
def test_a_broken_table_is_named(tmp_path, data, message):
    with pytest.raises(DataError, match=rf"f\.csv.*{message}"):
        list(table_rows(write(tmp_path, data, "f.csv"), ","))


def test_names_without_their_suffixes():
    assert stem(Path("a/task1.v2.json.gz")) == "task1.v2"
    assert suffix(Path("a/b.JSONL.gz")) == ".jsonl"


def check(draft: Draft) -> tuple[list, Rejects]:
    rejects = Rejects()
    return list(examples_of(TASK, Path("f"), [("1", None)], lambda _: [draft], rejects)), rejects


def test_targets_lose_edges_blanks_and_repeats_but_not_their_order():
    (example,), _ = check(Draft({"x": "q"}, (" b", "", "a\n", "b", " ", "a")))
    assert example.targets == ("b", "a")


@pytest.mark.parametrize(
    ("draft", "field"),
    [
        (Draft({"x": "q"}, ("", " \n")), "target"),
        (Draft({"x": "q"}, ("c",), options=("a", "b")), "target"),
        (Draft({"x": "q"}, ("a",), options=("a",)), "options"),
        (Draft({"x": "q"}, ("a",), options=("a", " ")), "options"),
    ],
)
def test_a_row_without_a_usable_answer_is_set_aside(draft, field):
    examples, rejects = check(draft)
    assert examples == []
    assert rejects.total_rejected() == 1
    assert next(iter(rejects.reasons)).startswith(f"{field}:")


def test_kept_rows_are_numbered_without_gaps_and_know_their_line():
    rows = [("1", "a"), ("2", BadRow("x", "text", 3)), ("3", "b"), ("4", "cc")]
    rejects = Rejects()
    examples = list(
        examples_of(TASK, Path("dir/f.jsonl"), rows, lambda text: [Draft({"x": c}, (c,)) for c in text], rejects)
    )
    assert [(e.row, e.where, e.id) for e in examples] == [
        (0, "f.jsonl:1", "f-1"),
        (1, "f.jsonl:3", "f-3"),
        (2, "f.jsonl:4", "f-4-0"),
        (3, "f.jsonl:4", "f-4-1"),
    ]
    assert (rejects.total_rows(), rejects.total_rejected()) == (4, 1)
