"""The fuzzer over real files, with fixed seeds; and one regression for each thing it found."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flantune.errors import DataError
from flantune.recipe import CollectionSpec
from flantune.sources import Rejects, collection_files, read_part
from flantune.sources.niv2 import dataset_name
from flantune.sources.reading import first_object

from .fuzzing import csv_places, fuzz, seeds_of
from .test_niv2 import OFFICIAL


@pytest.fixture(scope="module")
def seeds(data_dir):
    return seeds_of(data_dir)


def check(found: dict) -> None:
    assert found["failures"] == []
    readers = {"alpaca", "chat", "flan_cot", "muffin", "native", "niv2", "p3", "prompts", "qed", "table"}
    assert set(found["readers"]) == readers
    # Both ways out are taken, or the mutations do nothing (or too much).
    assert found["rows_kept"] > 10 * found["cases"] and found["rows_set_aside"] > found["cases"] / 2
    assert found["cases"] / 10 < found["files_refused"] < found["cases"] * 0.6


def test_mutated_real_files_neither_crash_nor_hang_nor_lose_a_row(seeds):
    check(fuzz(seeds, 20221020, iter(range(250))))


@pytest.mark.slow
def test_many_mutated_real_files(seeds):
    check(fuzz(seeds, 11416, iter(range(12_000))))


def test_the_fuzzer_sees_a_row_that_is_lost(seeds, monkeypatch):
    from flantune.sources import qed

    rows = qed.json_lines
    monkeypatch.setattr(qed, "json_lines", lambda path: (row for i, row in enumerate(rows(path)) if i != 3))
    found = fuzz([s for s in seeds if s.reader == "qed"], 1, iter(range(12)))
    assert any("rows counted" in f["failure"] for f in found["failures"])


def test_rows_of_a_csv_are_counted_by_hand():
    text = 'a,b\r\n1,"two\nlines ""quoted"""\n\n3,4 "inches"\r"5, no row","6"\n'
    assert csv_places(text, ",") == ["2", "5", "6"]


# What it found -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [5, True, 1.5, "text", {"a": 1}, [[], {}, None], None, []])
@pytest.mark.parametrize("key", ["Positive Examples", "Instance License", "Input_language"])
def test_keys_read_for_what_they_are_worth_may_hold_anything(read, key, value):
    got = read("task1_x.json", json.dumps(OFFICIAL | {key: value}))
    assert len(got.examples) == 2


def test_a_licence_that_is_one_text_is_not_taken_letter_by_letter(read):
    assert read("task1_x.json", json.dumps(OFFICIAL | {"Instance License": "MIT"})).task.licence == "MIT"


def test_a_source_of_many_blanks_or_brackets_takes_no_time():
    assert dataset_name("x" + " " * 400_000 + "y").endswith("y")
    assert dataset_name("x " + "(http://" * 50_000 + "!").startswith("x (http")
    assert dataset_name("scan (https://github.com/a/b) ") == "scan"


def test_an_array_nested_too_deep_is_no_first_object(tmp_path):
    (tmp_path / "a.json").write_text("[" * 100_000)
    assert first_object(tmp_path / "a.json") is None


def test_an_index_of_thousands_of_digits_is_out_of_range(read):
    rows = [{"query": "q", "choices": ["a", "b"], "gold": gold} for gold in ("1", "9" * 5000)]
    got = read("piqa.jsonl", "\n".join(map(json.dumps, rows)))
    assert [e.targets for e in got.examples] == [("b",)] and got.rejects.total_rejected() == 1


@pytest.mark.parametrize("text", ["[" * 5000, "name: 2020-99-99", "name: \x00", "? [a]\n: b"])
def test_a_yaml_that_cannot_be_made_is_named(tmp_path, text):
    path = tmp_path / "t.task.yaml"
    path.write_text(text)
    (tmp_path / "t.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"t\.task\.yaml"):
        list(read_part(path, CollectionSpec(path=str(path)), Rejects()))


def test_parquet_text_that_is_no_utf8_is_a_bad_row(tmp_path):
    cells = pa.array([b"fine", b"\xff\xfe", b"good"]).view(pa.string())
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"q": cells, "a": ["1", "2", "3"]}), path)
    rejects = Rejects()
    spec = CollectionSpec(path=str(path), reader="table", columns={"question": "q", "answer": "a"})
    ((_, examples),) = [(r.task, list(r.examples)) for r in read_part(path, spec, rejects)]
    assert [e.fields["question"] for e in examples] == ["fine", "good"]
    assert (rejects.total_rows(), rejects.total_rejected()) == (3, 1)


def test_rows_without_a_meaning_are_each_set_aside(read):
    got = read("devset.csv", 'mr,ref\n,one\n" ",two\nx,\nx,three\nx,four\n')
    assert [(e.fields["mr"], e.targets) for e in got.examples] == [("x", ("three", "four"))]
    assert (got.rejects.total_rows(), got.rejects.total_rejected()) == (5, 3)


@pytest.mark.parametrize("header", ['mr,"ref', '"mr,ref', "mr,ref\r"])
def test_a_header_that_two_readings_see_differently_loses_nothing_unsaid(tmp_path, header):
    path = tmp_path / "devset.csv"
    path.write_bytes(f"{header}\nx,one\ny,two\n".encode())
    rejects = Rejects()
    try:
        kept = [
            e
            for rows in read_part(path, CollectionSpec(path=str(path), reader="muffin"), rejects)
            for e in rows.examples
        ]
    except DataError as e:
        assert "devset.csv" in str(e)
    else:
        assert len(kept) == rejects.total_rows() - rejects.total_rejected()


@pytest.mark.skipif(os.name == "nt", reason="file names are bytes on POSIX alone")
def test_a_file_whose_name_is_no_utf8_is_skipped_and_listed(tmp_path):
    row = json.dumps({"prompt": "q", "completion": "a"})
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.jsonl")).write_text(row)
    except OSError:
        pytest.skip("this file system takes no such name")
    (tmp_path / "a.jsonl").write_text(row)
    spec = CollectionSpec(path=str(tmp_path), include=("*.jsonl",))
    with tempfile.TemporaryDirectory() as folder, Rejects(Path(folder) / "ledger") as rejects:
        found = [[r.task.name for r in read_part(p, spec, rejects)] for p in collection_files(spec)]
    assert found == [["prompts/a"], []] and list(rejects.skipped.values()) == ["its name is no UTF-8"]
    bad = next(p for p in collection_files(spec) if p.name != "a.jsonl")
    with pytest.raises(DataError, match="file name") as e:
        list(read_part(bad, CollectionSpec(path=str(bad)), Rejects()))
    str(e.value).encode()
