from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flantune.errors import DataError, RecipeError
from flantune.recipe import CollectionSpec
from flantune.sources import Rejects, read_collection

datasets = pytest.importorskip("datasets")
COLUMNS = {"text": "review", "answer": "label"}


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of two splits as save_to_disk leaves it; its labels are a class label's numbers."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    features = datasets.Features(
        {
            "review": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
            "n": datasets.Value("int32"),
        }
    )
    rows = {"review": ["fine", "dull", "who knows"], "label": [1, 0, -1], "n": [1, 2, 3]}
    train = datasets.Dataset.from_dict(rows, features=features)
    test = datasets.Dataset.from_dict({"review": ["late"], "label": [0], "n": [4]}, features=features)
    folder = tmp_path / "reviews"
    datasets.DatasetDict(train=train, test=test).save_to_disk(str(folder))
    return folder


def read_all(spec: CollectionSpec) -> tuple[list, Rejects]:
    rejects = Rejects()
    return [(r.task, list(r.examples)) for r in read_collection(spec, rejects, 1.0)], rejects


def test_a_saved_folder_is_recognised_and_class_labels_become_words(saved):
    ((task, examples),), rejects = read_all(CollectionSpec(path=str(saved), columns=COLUMNS))
    assert (task.name, task.fields, task.source) == ("hub/reviews", ("text",), "hub")
    assert [(e.fields["text"], e.targets) for e in examples] == [("fine", ("good",)), ("dull", ("bad",))]
    assert (rejects.total_rows(), rejects.total_rejected()) == (3, 1)  # -1 is no label


def test_the_split_asked_for_is_read(saved):
    ((_, examples),), _ = read_all(CollectionSpec(path=str(saved), reader="hub", columns=COLUMNS, split="test"))
    assert [e.fields["text"] for e in examples] == ["late"]


def test_a_split_that_is_not_there_is_named_with_those_that_are(saved):
    with pytest.raises(RecipeError, match=r"'dev' is not among train, test"):
        read_all(CollectionSpec(path=str(saved), columns=COLUMNS, split="dev"))


def test_a_folder_of_data_files_is_read_through_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text("review,label\nfine,good\n")
    ((_task, examples),), _ = read_all(CollectionSpec(path=str(tmp_path / "set"), reader="hub", columns=COLUMNS))
    assert [e.targets for e in examples] == [("good",)]


def test_what_cannot_be_loaded_is_an_error_of_ours(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        read_all(CollectionSpec(path=str(tmp_path / "empty"), reader="hub", columns=COLUMNS))


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RecipeError, match=r"pip install 'flantune\[hub\]'"):
        read_all(CollectionSpec(path="some/set", reader="hub", columns=COLUMNS))
