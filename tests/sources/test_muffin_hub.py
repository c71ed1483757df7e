"""Muffin's sets in the hub's layout, written here as their cards state them, against the examples they must give."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flantune.cli.app import app
from flantune.cli.tasks import collection_specs
from flantune.errors import DataError, RecipeError
from flantune.recipe import CollectionSpec
from flantune.sources import BadRow, Rejects, read_collection
from flantune.sources.muffin_hub import hub_sets, parser_of, sets_of
from flantune.tasks.fetch import public_sources, source_of
from flantune.tasks.flan import catalog
from flantune.tasks.flan_counts import catalog_name
from flantune.templates import check_templates, templates_for
from flantune.types import Example, Task

from .hub_rows import CASES, MNLI, TRAIN, Case


def write(folder: Path, case: Case, rows: list[dict[str, Any]] | None = None, file: str = "") -> Path:
    path = folder / (file or case.file)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = case.rows if rows is None else rows
    if path.suffix == ".csv":
        with path.open("w", newline="") as out:
            table = csv.DictWriter(out, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
        return path
    made = pa.Table.from_pylist(rows)
    if case.classes:
        features = {c: {"names": names, "_type": "ClassLabel"} for c, names in case.classes.items()}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(made, path)
    return path


def read(folder: Path, **spec: Any) -> tuple[dict[str, tuple[Task, list[Example]]], Rejects]:
    rejects = Rejects()
    parts = read_collection(CollectionSpec(path=str(folder), **spec), rejects, 0.0)
    return {part.task.name: (part.task, list(part.examples)) for part in parts}, rejects


def shown(examples: list[Example]) -> list[tuple[dict[str, str], str, tuple[str, ...] | None]]:
    return [(dict(e.fields), e.targets[0], e.options) for e in examples]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_rows_of_the_hub_become_the_examples_they_say(tmp_path: Path, case: Case):
    write(tmp_path, case)
    tasks, rejects = read(tmp_path)
    ((task, examples),) = tasks.values()
    assert task.name == f"muffin/{case.name}" and task.mixture == "muffin"
    assert shown(examples) == case.expected
    assert rejects.total_rows() == len(case.rows)
    assert (rejects.total_rejected(), rejects.malformed.total()) == (case.set_aside, 0)
    assert all(set(e.fields) == set(task.fields) for e in examples)
    assert task.has_options == (case.expected[0][2] is not None)


def test_every_set_of_the_table_is_tested_and_is_the_catalogs():
    names = [s.name for s in hub_sets()]
    assert sorted(names) == sorted([*(c.name for c in CASES), "mnli_matched", "mnli_mismatched"])
    for s in hub_sets():
        task = s.task("muffin", "x")
        known = catalog_name(task.name, task.dataset)
        assert known is not None and len(templates_for(task)) >= 10
        check_templates(templates_for(task), task)
        source = source_of(known)
        assert source is not None
        if source.kind == "hub":  # the others have files of their publishers' beside it
            assert source.url == s.hub and source.reader == "muffin_hub"
            assert Path(source.folder).name in s.known_as


def test_sixty_of_the_collections_eighty_are_counted_usable_from_the_hub_alone(tmp_path: Path):
    for case in (*CASES, MNLI):
        write(tmp_path / "hub", case)
    run = CliRunner().invoke(app, ["tasks", "list", "--collection", "flan", "--data", str(tmp_path), "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["mixtures"]["muffin"]["usable"] == len(hub_sets()) == 60
    assert result["outside"] == []
    usable = {t["name"] for t in result["tasks"] if t["usable"] and t["counted"]}
    by_hub = {
        t.name
        for t in catalog()
        if t.counted and (s := source_of(t.name)) and s.kind == "hub" and s.url != "bigscience/P3"
    }
    assert by_hub - usable == {"muffin/trivia_qa_wiki_missing"}  # which rows it has is not published


def test_mnli_counts_twice_and_its_rows_once(tmp_path: Path):
    write(tmp_path, MNLI)
    tasks, rejects = read(tmp_path)
    assert list(tasks) == ["muffin/mnli_matched", "muffin/mnli_mismatched"]
    assert {t.dataset for t, _ in tasks.values()} == {"mnli"}
    assert all(shown(examples) == MNLI.expected for _, examples in tasks.values())
    assert (rejects.total_rows(), rejects.total_rejected()) == (len(MNLI.rows), 1)


@pytest.mark.parametrize("case", [c for c in CASES if c.classes], ids=lambda c: c.name)
def test_without_stated_classes_the_numbers_follow_the_hubs_order(tmp_path: Path, case: Case):
    write(tmp_path, case._replace(classes={}))
    ((_, examples),) = read(tmp_path)[0].values()
    assert shown(examples) == case.expected


def test_classes_in_another_order_are_read_in_theirs_and_other_classes_refused(tmp_path: Path):
    case = next(c for c in CASES if c.name == "trec")
    names = ["DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC"]  # an older release's
    write(tmp_path, case._replace(classes={"coarse_label": names}), [{"text": "How?", "coarse_label": 0}])
    ((_, examples),) = read(tmp_path)[0].values()
    assert examples[0].targets == ("description",)
    write(tmp_path, case._replace(classes={"coarse_label": [*names[:5], "PLACE"]}))
    with pytest.raises(DataError, match=r"trec/default/train.*'coarse_label'.*classes.*ABBR.*PLACE"):
        read(tmp_path)


@pytest.mark.parametrize("case", (*CASES, MNLI), ids=lambda c: c.name)
def test_a_missing_column_is_named_with_its_file(tmp_path: Path, case: Case):
    (hub_set, *_) = (s for s in hub_sets() if s.name == case.name)
    for column in hub_set.needed:
        rows = [{k: v for k, v in row.items() if k != column} or {"other": "x"} for row in case.rows]
        path = write(tmp_path, case, rows)
        with pytest.raises(DataError) as raised:
            read(tmp_path)
        assert str(path) in str(raised.value) and f"'{column}'" in str(raised.value), raised.value


def test_other_splits_are_skipped_with_a_reason_and_other_configurations_known_to_none(tmp_path: Path):
    case = next(c for c in CASES if c.name == "cola")
    for file in (case.file, "glue/cola/test-00000-of-00001.parquet", f"glue/ax/{TRAIN}"):
        write(tmp_path, case, file=file)
    tasks, rejects = read(tmp_path)
    assert list(tasks) == ["muffin/cola"]
    reasons = {str(Path(f).relative_to(tmp_path)): why for f, why in rejects.skipped.items()}
    assert reasons == {
        "glue/cola/test-00000-of-00001.parquet": "split 'test' is not the one trained on, 'train'",
        f"glue/ax/{TRAIN}": "no reader knows it",
    }


@pytest.mark.parametrize(
    "files",
    [
        ["cola/train-00000-of-00002.parquet", "cola/train-00001-of-00002.parquet"],
        ["cola/train/0000.parquet", "cola/train/0001.parquet"],
        [f"cola/train-0000{k}-of-00002-0123456789abcdef.parquet" for k in (0, 1)],
    ],
)
@pytest.mark.parametrize("top", ["glue", "datasets--nyu-mll--glue/snapshots/0f3a"])
def test_the_shards_of_a_split_are_one_task(tmp_path: Path, top: str, files: list[str]):
    case = next(c for c in CASES if c.name == "cola")
    for k, file in enumerate(files):
        write(tmp_path, case, [case.rows[k]], f"{top}/{file}")
    ((task, examples),) = read(tmp_path)[0].values()
    assert task.name == "muffin/cola" and shown(examples) == case.expected
    assert [e.row for e in examples] == [0, 1] and len({e.id for e in examples}) == 2
    (tmp_path / top / files[0]).unlink()
    with pytest.raises(DataError, match=r"is not there"):
        read(tmp_path)


def test_all_modules_of_the_mathematics_set_are_one_task(tmp_path: Path):
    case = next(c for c in CASES if c.name == "math_dataset")
    for k, module in enumerate(("algebra__linear_1d", "numbers__gcd")):
        write(tmp_path, case, [case.rows[k]], f"math_dataset/{module}/{TRAIN}")
    ((_, examples),) = read(tmp_path)[0].values()
    assert shown(examples) == case.expected


def test_one_file_by_itself_and_a_place_that_says_nothing(tmp_path: Path):
    case = next(c for c in CASES if c.name == "cola")
    path = write(tmp_path, case)
    assert list(read(path)[0]) == ["muffin/cola"]
    elsewhere = write(tmp_path, case, file="mine/train-00000-of-00001.parquet")
    assert sets_of(elsewhere) == ()
    with pytest.raises(DataError, match="reader surely knows"):
        read(elsewhere)
    with pytest.raises(DataError, match="below a folder of its name"):
        read(elsewhere, reader="muffin_hub")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cola", {"label": 2}),
        ("sentiment140", {"sentiment": 2}),
        ("stsb", {"label": 5.5}),
        ("arc_easy", {"answerKey": "4"}),
        ("hellaswag", {"label": "4"}),
        ("winogrande", {"answer": "3"}),
        ("winogrande", {"answer": "0"}),
        ("lambada", {"text": "door"}),
        ("coqa", {"questions": ["q"]}),
        ("quac", {"questions": ["q"]}),
        ("squad_v1", {"answers": {"text": [], "answer_start": []}}),
        ("wmt14_enfr", {"translation": {"en": "one", "fr": " "}}),
        ("record", {"answers": ["Eve"]}),
        ("dmcc_python", {"solutions": {"language": [3, 3], "solution": ["x"]}}),
    ],
)
def test_a_row_that_is_not_of_its_set_is_set_aside_and_counted(tmp_path: Path, name: str, change: dict[str, Any]):
    case = next(c for c in CASES if c.name == name)
    write(tmp_path, case, [case.rows[0], {**case.rows[0], **change}])
    rejects = Rejects()
    (part,) = read_collection(CollectionSpec(path=str(tmp_path)), rejects, 1.0)
    assert [e.targets[0] for e in part.examples][:1] == [case.expected[0][1]]
    assert (rejects.total_rows(), rejects.malformed.total()) == (2, 1)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["", "b'x", "1"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "label", "en", "value"]), inner)
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from((*CASES, MNLI)), st.data())
def test_whatever_a_cell_holds_a_row_is_read_or_set_aside(case: Case, data: st.DataObject):
    hub_set = next(s for s in hub_sets() if s.name == case.name)
    column = data.draw(st.sampled_from(hub_set.needed))
    row = {**case.rows[0], column: data.draw(anything)}
    try:
        drafts = list(parser_of(hub_set)(row))
    except BadRow as bad:
        assert bad.field and bad.expected
        return
    for draft in drafts:
        assert all(isinstance(text, str) for text in (*draft.fields.values(), *draft.targets, *(draft.options or ())))


def test_a_whole_set_takes_the_place_of_the_samples_of_it(tmp_path: Path):
    for case in CASES:
        if case.name in ("rte", "arc_easy"):
            write(tmp_path / "hub", case)
    rte = json.dumps({"premise": "p", "hypothesis": "h", "label": "entailment", "idx": 0})
    item = json.dumps({"query": "q?", "choices": ["a", "b"], "gold": 1})
    for name, line in (
        ("superglue_fewglue/RTE/train.jsonl", rte),
        ("llm_foundry_icl/arc_easy.jsonl", item),
        ("llm_foundry_icl/piqa.jsonl", item),
    ):
        path = tmp_path / "muffin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line)
    rejects, read_tasks = Rejects(), {}
    for spec in collection_specs(None, tmp_path, "auto"):
        read_tasks |= {p.task.name: p.task.path for p in read_collection(spec, rejects, 1.0, read_tasks)}
    assert set(read_tasks) == {"muffin/rte", "muffin/arc_easy", "muffin/piqa"}
    assert "hub" in Path(read_tasks["muffin/rte"]).parts and "hub" in Path(read_tasks["muffin/arc_easy"]).parts


def test_a_hub_id_of_the_table_needs_no_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets")
    case = next(c for c in CASES if c.name == "cola")
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=case.classes["label"])}
    )
    data = datasets.Dataset.from_list([*case.rows, {"sentence": "s", "label": -1}], features=features)

    def load_dataset(path: str, config: str | None, split: None) -> Any:
        assert (path, config) == ("nyu-mll/glue", "cola")
        return {"train": data}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rejects = Rejects()
    (part,) = read_collection(CollectionSpec(path="nyu-mll/glue", reader="hub", config="cola"), rejects, 0.0)
    assert part.task.name == "muffin/cola" and shown(list(part.examples)) == case.expected
    assert (rejects.total_rows(), rejects.total_rejected()) == (3, 1)
    with pytest.raises(RecipeError, match="columns"):
        list(read_collection(CollectionSpec(path="nyu-mll/glue", reader="hub", config="ax"), rejects, 0.0))


def test_the_sources_of_these_sets_say_who_reads_them():
    assert {s.reader for s in public_sources().values() if s.folder.startswith("hub/")} == {"muffin_hub"}
