"""Plain text for pretraining: blocks are functions of their number, nothing is lost, bad files are named."""

from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from flantune.errors import RecipeError
from flantune.pipeline.text import file_documents, plain, text_documents
from flantune.recipe import TextSpec
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


def two_groups(tmp_path, weights=(3.0, 1.0)) -> TextSpec:
    for name, count in (("prose", 12), ("code", 5)):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"{name} {i}" for i in range(count)), encoding="utf-8")
    files = [
        {"name": name, "files": [str(tmp_path / f"{name}.txt")], "weight": weight}
        for name, weight in zip(("prose", "code"), weights, strict=True)
    ]
    return TextSpec.model_validate({"share": 0.1, "text": "files", "files": files})


def test_groups_of_files_have_the_shares_of_their_weights_over_any_stretch(tmp_path):
    documents = text_documents(two_groups(tmp_path), seed=0, block=8)
    drawn = [d.split()[0] for b in range(100) for d in documents(b)]
    for start in range(0, 700, 50):
        assert abs(drawn[start : start + 100].count("code") - 25) <= 2
    assert abs(drawn.count("code") - 200) <= 3


def test_a_groups_documents_come_in_their_own_order_whatever_the_weights(tmp_path):
    def of_code(weights) -> list[str]:
        documents = text_documents(two_groups(tmp_path, weights), seed=4, block=8)
        return [d.strip() for b in range(20) for d in documents(b) if d.startswith("code")]

    some, many = of_code((3.0, 1.0)), of_code((1.0, 4.0))
    assert len(many) > len(some) > 10 and many[: len(some)] == some
    for epoch in range(len(some) // 5):
        assert sorted(some[5 * epoch : 5 * epoch + 5]) == [f"code {i}" for i in range(5)]


def test_a_block_of_groups_is_a_function_of_its_number(tmp_path):
    spec = two_groups(tmp_path)
    forward = [text_documents(spec, 1, 8)(b) for b in range(9)]
    documents = text_documents(spec, 1, 8)
    assert [documents(b) for b in reversed(range(9))] == forward[::-1]
    assert [d for own in forward for d in own] == [d for b in range(3) for d in text_documents(spec, 1, 24)(b)]


def test_files_without_groups_are_read_as_they_always_were(tmp_path):
    two_groups(tmp_path)
    paths = [tmp_path / "prose.txt", tmp_path / "code.txt"]
    spec = TextSpec.model_validate({"share": 0.1, "text": "files", "files": list(map(str, paths))})
    assert spec.model_dump(mode="json")["files"] == list(map(str, paths)) and not spec.groups
    order = random.Random("7:documents:0").sample(range(17), 17)
    whole = [f"prose {i}" for i in range(12)] + [f"code {i}" for i in range(5)]
    assert [d.strip() for d in text_documents(spec, 7, 17)(0)] == [whole[i] for i in order]


def test_groups_that_cannot_be_are_said_so(tmp_path):
    one = {"name": "a", "files": ["x"]}
    with pytest.raises(ValidationError, match="two groups have one name"):
        TextSpec.model_validate({"share": 0.1, "files": [one, one]})
    for files in ([{**one, "weight": 0}], [{"name": "a", "files": []}], [one, "y"]):
        with pytest.raises(ValidationError):
            TextSpec.model_validate({"share": 0.1, "files": files})
