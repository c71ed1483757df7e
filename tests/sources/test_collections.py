from __future__ import annotations

import json
from pathlib import Path

import pytest

from flantune.errors import DataError, RecipeError
from flantune.recipe import CollectionSpec
from flantune.sources import READERS, Rejects, collection_files, read_collection

PAIR = '{"prompt": "a", "completion": "b"}'


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".jsonl").write_text(text)


def names(spec: CollectionSpec, rejects: Rejects | None = None, **kwargs: object) -> list[str]:
    found = []
    for rows in read_collection(spec, rejects or Rejects(), 0.01, **kwargs):  # type: ignore[arg-type]
        list(rows.examples)
        found.append(rows.task.name)
    return found


def test_readers_have_names_of_their_own():
    assert len({r.name for r in READERS}) == len(READERS)


def test_a_folder_is_read_whole_and_in_sorted_order(tmp_path):
    write(tmp_path, b=PAIR, a=PAIR, sub__c=PAIR)
    assert names(CollectionSpec(path=str(tmp_path))) == ["prompts/a", "prompts/b", "prompts/c"]


def test_include_and_exclude_are_globs_on_name_and_path(tmp_path):
    write(tmp_path, a1=PAIR, a2=PAIR, sub__a3=PAIR, b=PAIR)
    spec = CollectionSpec(path=str(tmp_path), include=("a*",), exclude=("a2*", "sub/*"))
    assert [p.name for p in collection_files(spec)] == ["a1.jsonl"]


def test_a_selection_of_nothing_is_the_callers_error(tmp_path):
    write(tmp_path, a=PAIR)
    with pytest.raises(RecipeError, match=r"no file is selected by include \['x\*'\]"):
        collection_files(CollectionSpec(path=str(tmp_path), include=("x*",)))


def test_a_path_that_is_not_there_is_the_callers_error(tmp_path):
    with pytest.raises(RecipeError, match="no such file or folder"):
        names(CollectionSpec(path=str(tmp_path / "none")))


def test_an_unknown_reader_is_the_callers_error(tmp_path):
    write(tmp_path, a=PAIR)
    with pytest.raises(RecipeError, match="unknown reader 'nvi2'"):
        names(CollectionSpec(path=str(tmp_path), reader="nvi2"))


def test_in_a_folder_unknown_and_empty_files_are_skipped_and_listed(tmp_path):
    write(tmp_path, a=PAIR, b="", c='{"canary": "x"}')
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden").write_text("hello")
    rejects = Rejects()
    assert names(CollectionSpec(path=str(tmp_path)), rejects) == ["prompts/a"]
    assert {Path(p).name: why for p, why in rejects.skipped.items()} == {
        "b.jsonl": "empty file",
        "c.jsonl": "no reader knows it",
        "notes.txt": "no reader knows it",
    }


@pytest.mark.parametrize("text", ["", "hello", '{"canary": "x"}'])
def test_a_file_named_by_itself_must_be_readable(tmp_path, text):
    write(tmp_path, a=text)
    with pytest.raises(DataError, match=r"a\.jsonl"):
        names(CollectionSpec(path=str(tmp_path / "a.jsonl")))


def test_a_folder_of_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="that a reader knows"):
        names(CollectionSpec(path=str(tmp_path)))


def test_too_many_malformed_rows_stop_the_reading(tmp_path):
    write(tmp_path, a="\n".join([PAIR] * 99 + ['{"prompt": "a"}']), b="\n".join([PAIR] * 98 + ["{}", "{}"]))
    with pytest.raises(DataError) as caught:
        names(CollectionSpec(path=str(tmp_path)))
    assert "b.jsonl" in str(caught.value) and "2 of 100 (2.00%)" in str(caught.value)


def test_two_files_of_one_task_name_are_an_error_naming_both(tmp_path):
    write(tmp_path, one__a=PAIR, two__a=PAIR)
    with pytest.raises(DataError) as caught:
        names(CollectionSpec(path=str(tmp_path)))
    assert "one/a.jsonl" in str(caught.value) and "two/a.jsonl" in str(caught.value)


def test_names_are_watched_over_collections_too(tmp_path):
    write(tmp_path, a=PAIR)
    seen: dict[str, str] = {}
    spec = CollectionSpec(path=str(tmp_path))
    names(spec, seen=seen)
    with pytest.raises(DataError, match="task name"):
        names(spec, seen=seen)
    assert names(CollectionSpec(path=str(tmp_path), mixture="other"), seen=seen) == ["other/a"]


def test_rows_are_read_as_they_are_asked_for(tmp_path):
    write(tmp_path, a="\n".join(json.dumps({"prompt": str(i), "completion": "x"}) for i in range(1000)))
    rejects = Rejects()
    (rows,) = read_collection(CollectionSpec(path=str(tmp_path)), rejects, 0.01)
    for _ in range(10):
        next(rows.examples)
    assert rejects.total_rows() == 10
