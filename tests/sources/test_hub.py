from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flantune.errors import DataError, FlantuneError, RecipeError
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


# Rows of any kind ----------------------------------------------------------------------------------------------------

NAMES = ["bad", "good"]
words = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
# Columns of one type each, as Arrow has them; every one may hold nulls.
TYPES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "text": (pa.string(), words),
    "large text": (pa.large_string(), words),
    "whole number": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "decimal": (pa.float64(), st.floats()),
    "truth": (pa.bool_(), st.booleans()),
    "bytes": (pa.binary(), st.binary(max_size=4)),
    "time": (pa.timestamp("ns"), st.integers(-(2**62), 2**62)),
    "list": (pa.list_(pa.string()), st.lists(st.none() | words, max_size=3)),
    "list of lists": (pa.list_(pa.list_(pa.int64())), st.lists(st.none() | st.lists(st.integers(0, 9)), max_size=3)),
    "record": (
        pa.struct({"text": pa.list_(pa.string())}),
        st.fixed_dictionaries({"text": st.none() | st.lists(words)}),
    ),
    "nothing": (pa.null(), st.none()),
    "label": (None, st.integers(-2, 3)),
    "no UTF-8": ("bad text", st.binary(max_size=4)),
}


@st.composite
def sets(draw: st.DrawFn) -> tuple[int, dict[str, tuple[str, list[Any]]], dict[str, str]]:
    """(rows, column -> its type and values, roles -> columns); some roles name columns that are not there."""
    rows = draw(st.integers(1, 6))
    columns = {}
    for name in ("a", "b", "c"):
        kind = draw(st.sampled_from([*TYPES, *["text"] * 20]))
        columns[name] = (kind, draw(st.lists(st.none() | TYPES[kind][1], min_size=rows, max_size=rows)))
    roles = {"text": draw(st.sampled_from("ab")), "answer": draw(st.sampled_from("abc"))}
    for role in ("options", "rationale", "id"):
        if draw(st.booleans()):
            roles[role] = draw(st.sampled_from("abc" + "z" * draw(st.booleans())))
    return rows, columns, roles


def saved_set(folder: str, columns: dict[str, tuple[str, list[Any]]]) -> None:
    arrays, features = {}, {}
    for name, (kind, values) in columns.items():
        if kind == "label":
            arrays[name] = pa.array(values, pa.int64())
            features[name] = datasets.ClassLabel(names=NAMES)
        elif kind == "no UTF-8":
            arrays[name] = pa.array(values, pa.binary()).view(pa.string())
            features[name] = datasets.Value("string")
        else:
            arrays[name] = pa.array(values, TYPES[kind][0])
            features[name] = datasets.features.features.generate_from_arrow_type(TYPES[kind][0])
    table = pa.table(arrays)
    data = datasets.Dataset(
        datasets.table.InMemoryTable(table), info=datasets.DatasetInfo(features=datasets.Features(features))
    )
    data.save_to_disk(folder)


def shown(kind: str, value: Any) -> str | None:
    """What a cell says, as text; None where it says nothing a reader could take."""
    if kind == "label":
        return NAMES[value] if value in (0, 1) else None
    if kind == "no UTF-8":
        kind, value = "text", None if value is None else value.decode()
    if kind in ("text", "large text"):
        return value
    return str(value) if kind in ("whole number", "decimal", "truth") and value is not None and value == value else None


def expected_of(columns: dict[str, tuple[str, list[Any]]], roles: dict[str, str], row: int) -> Any:
    """(text, targets, options, rationale) of a row said the slow way; None where it must be set aside."""
    if any(
        kind == "no UTF-8" and values[row] is not None and not utf8(values[row])
        for name, (kind, values) in columns.items()
        if name in roles.values()
    ):
        return None
    cells = {role: (columns[name][0], columns[name][1][row]) for role, name in roles.items()}
    text = shown(*cells["text"])
    kind, answer = cells["answer"]
    answers = answer if kind == "list" and answer else [shown(kind, answer)]
    if text is None or not text.strip() or any(a is None for a in answers):
        return None
    targets = tuple(dict.fromkeys(a.strip() for a in answers if a.strip()))
    rationale = shown(*cells["rationale"]) if "rationale" in roles else ""
    if not targets or rationale is None or ("id" in roles and shown(*cells["id"]) is None):
        return None
    options = None
    if "options" in roles:
        options = options_said(*cells["options"])
        if options == "bad" or (options is not None and not set(targets) & set(options)):
            return None
    return text, targets, options, rationale.strip() or None


def options_said(kind: str, value: Any) -> tuple[str, ...] | str | None:
    if kind == "label":
        value = NAMES[value] if value in (0, 1) else None
    if kind == "no UTF-8" and value is not None:
        value = value.decode()
    if isinstance(value, str):
        if not value.strip():
            return None
        if not value.strip().startswith("["):
            value = value.strip().split("|")
        else:
            try:
                value = json.loads(value.strip())
            except ValueError:
                return "bad"
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(v, (str, int, float)) for v in value):
        return "bad"
    said = tuple(str(v).strip() for v in value)
    return said if len(said) > 1 and all(said) else "bad"


def utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(deadline=None, max_examples=150)
@example((1, {"a": ("no UTF-8", [b"\xff"]), "b": ("text", ["x"]), "c": ("text", ["x"])}, {"text": "a", "answer": "b"}))
@example((2, {"a": ("text", ["q", "q"]), "b": ("label", [1, -1]), "c": ("nothing", [None, None])},
          {"text": "a", "answer": "b", "options": "c"}))  # fmt: skip
@given(sets())
def test_every_row_of_any_kind_is_an_example_or_set_aside_with_a_reason(drawn):
    rows, columns, roles = drawn
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        saved_set(f"{folder}/set", columns)
        ledger = Path(folder) / "rejected.jsonl"
        spec = CollectionSpec(path=f"{folder}/set", reader="hub", columns=roles)
        with Rejects(ledger) as rejects:
            try:
                examples = [e for r in read_collection(spec, rejects, 1.0) for e in r.examples]
            except FlantuneError as e:
                assert set(roles.values()) - set(columns) and "the columns ['z'" in str(e)
                return
        aside = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert "z" not in roles.values()
    wanted = [expected_of(columns, roles, row) for row in range(rows)]
    assert [(e.fields["text"], e.targets, e.options, e.rationale) for e in examples] == [w for w in wanted if w]
    assert [e.row for e in examples] == list(range(len(examples)))
    assert [int(r["place"]) for r in aside] == [row + 1 for row, w in enumerate(wanted) if w is None]
    assert all(r["field"] and r["expected"] for r in aside) and rejects.total_rows() == rows
