"""Plain text for pretraining: blocks are functions of their number, nothing is lost, bad files are named."""

from __future__ import annotations

import pytest

from flantune.errors import RecipeError
from flantune.pipeline.text import file_documents, plain
from flantune.types import Example


def test_every_document_comes_once_an_epoch(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(f"document {i}\nline two" for i in range(10)) + "\n", encoding="utf-8")
    documents = file_documents([path], seed=0, block=5)
    first, second = documents(0) + documents(1), documents(2) + documents(3)
    assert sorted(d.strip() for d in first) == sorted(f"document {i}\nline two" for i in range(10))
    assert sorted(first) == sorted(second) and first != second
    assert documents(0) == file_documents([path], seed=0, block=5)(0)


def test_a_file_that_is_missing_empty_or_not_utf8_is_named(tmp_path):
    empty, latin = tmp_path / "empty.txt", tmp_path / "latin.txt"
    empty.write_bytes(b"")
    latin.write_bytes("caf\xe9".encode("latin-1"))
    for path in (tmp_path / "none.txt", empty):
        with pytest.raises(RecipeError, match=path.name):
            file_documents([path], seed=0, block=5)
    with pytest.raises(RecipeError, match=r"latin\.txt: byte 3: not UTF-8"):
        file_documents([latin], seed=0, block=1)(0)


def test_a_field_that_repeats_another_is_written_once():
    example = Example(task="t", row=0, id="0", fields={"text": "a b c", "part": "b"}, targets=("d",), rationale="b c")
    assert plain(example) == "a b c\nd"
