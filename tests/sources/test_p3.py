from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flantune.cli.tasks import collection_specs
from flantune.errors import DataError
from flantune.recipe import CollectionSpec
from flantune.sources import Rejects, collection_files, read_collection
from flantune.sources.p3 import FREE_TEXT, OTHER_USES, PREFIXES, hub_name, p3_dataset, task_stem
from flantune.tasks.check import check_collections
from flantune.tasks.store import build_store

END = "<|endoftext|>"


def line(prompt: str, completion: str) -> str:
    return json.dumps({"prompt": prompt, "completion": completion})


def test_one_end_mark_and_one_line_break_are_taken_off(read):
    (example,) = read("xsum_DOC_tldr.jsonl", line("Text\n\n", f" {END} twice{END}{END}")).examples
    assert example.fields == {"prompt": "Text\n"}
    assert example.targets == (f"{END} twice{END}",)


def test_an_empty_completion_is_set_aside_as_no_fault_of_the_file(read):
    got = read("trec_trec1.jsonl", "\n".join([line("a\n", END), line("b\n", f"x{END}")]))
    assert [e.where for e in got.examples] == ["trec_trec1.jsonl:2"]
    assert (got.rejects.total_rejected(), got.rejects.malformed.total()) == (1, 0)


def test_a_broken_row_is_malformed(read):
    got = read("imdb_x.jsonl", "\n".join([line("a\n", f"x{END}"), line("", f"x{END}"), '{"prompt": "a"}']))
    assert got.rejects.malformed.total() == 2


def test_repeated_rows_are_kept(read):
    assert len(read("imdb_x.jsonl", "\n".join([line("a\n", f"x{END}")] * 3)).examples) == 3


@pytest.mark.parametrize(
    ("name", "dataset", "category"),
    [
        ("adversarial_qa_dbidaf_based_on", "adversarial_qa", "Extractive QA"),
        ("cnn_dailymail_3_0_0_2_or_3_sentences", "cnn_dailymail", "Summarization"),
        ("duorc_ParaphraseRC_generate_question_by_answer", "duorc", "Question Generation"),
        ("duorc_SelfRC_title_generation", "duorc", "Title Generation"),
        ("wiki_qa_Jeopardy_style", "wiki_qa", "Question Generation"),
        ("wiki_hop_original_generate_object", "wiki_hop", "Relation Extraction"),
        ("qasc_qa_with_combined_facts_1", "qasc", "Multiple-Choice QA"),
        ("trec_fine_grained_open", "trec", "Question Classification"),
        ("mine_own", "mine_own", "P3"),
    ],
)
def test_the_dataset_is_the_longest_known_beginning_of_the_name(name, dataset, category):
    assert p3_dataset(name) == (dataset, category)


def test_a_beginning_ends_at_an_underscore():
    assert p3_dataset("imdbx_y").dataset == "imdbx_y"


def test_every_free_text_category_is_one_that_some_file_has():
    assert {k.category for k in PREFIXES.values()} | {c for _, c in OTHER_USES} >= FREE_TEXT


# As the hub has it ---------------------------------------------------------------------------------------------------


def hub_row(prompt: str, target: str, **more: Any) -> dict[str, Any]:
    """With the columns of the hub's files; `inputs` and `targets` are T5's ids."""
    return {"inputs": [1, 2], "inputs_pretokenized": prompt, "targets": [3, 1], "targets_pretokenized": target, **more}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def read_hub(root: Path, **spec: Any) -> tuple[dict[str, list[Any]], Rejects]:
    rejects = Rejects()
    collection = CollectionSpec(path=str(root), **spec)
    return {r.task.name: list(r.examples) for r in read_collection(collection, rejects, 0.0)}, rejects


def test_a_fetched_folder_is_read_as_it_is_a_task_a_folder_the_shards_of_a_split_together(tmp_path):
    sharded = tmp_path / "quarel_logic_test"
    for k in range(3):
        rows = [hub_row(f"q{k}{i}?", f"\na{k}{i}") for i in range(2)]
        write(sharded / f"train-0000{k}-of-00003.parquet", rows)
    write(tmp_path / "cnn_dailymail_3.0.0_news_stock" / "train-00000-of-00001.parquet", [hub_row("News", "Stock")])
    write(tmp_path / "xsum_DOC_tldr" / "train" / "0000.parquet", [hub_row("One", "1")])
    write(tmp_path / "xsum_DOC_tldr" / "train" / "0001.parquet", [hub_row("Two", "2")])
    tasks, rejects = read_hub(tmp_path)
    assert list(tasks) == ["t0/cnn_dailymail_3_0_0_news_stock", "t0/quarel_logic_test", "t0/xsum_DOC_tldr"]
    assert rejects.total_rejected() == 0 and rejects.total_rows() == 9 and not rejects.skipped
    told = tasks["t0/quarel_logic_test"]
    assert [(e.row, e.fields["prompt"], e.targets) for e in told] == [
        (2 * k + i, f"q{k}{i}?", (f"a{k}{i}",)) for k in range(3) for i in range(2)
    ]
    assert len({e.id for e in told}) == 6 and told[-1].where == "train-00000-of-00003.parquet:6"
    assert [e.targets for e in tasks["t0/xsum_DOC_tldr"]] == [("1",), ("2",)]
    store = build_store([CollectionSpec(path=str(tmp_path), reader="p3")], tmp_path / "out" / "store")
    assert store.sizes == {name: len(examples) for name, examples in tasks.items()}
    assert store.tasks["t0/quarel_logic_test"].dataset == "quarel"
    assert store.tasks["t0/cnn_dailymail_3_0_0_news_stock"].category == "Summarization"


def test_a_folder_and_a_sample_of_it_give_one_task(tmp_path):
    path = write(tmp_path / "imdb_x" / "train-00000-of-00001.parquet", [hub_row("Good?", "Yes")])
    sample = tmp_path / "imdb_x.jsonl"
    sample.write_text(line("Good?\n", f"Yes{END}"))
    (hub,), (rows,) = (next(iter(read_hub(root)[0].values())) for root in (path, sample))
    assert (hub.task, hub.fields, hub.targets) == (rows.task, rows.fields, rows.targets)
    assert hub_name(path) == "imdb_x" and task_stem("cnn_dailymail_3.0.0_x") == "cnn_dailymail_3_0_0_x"


def test_other_splits_are_set_aside_and_one_of_them_can_be_asked_for(tmp_path):
    for split in ("train", "validation"):
        write(tmp_path / "imdb_x" / f"{split}-00000-of-00001.parquet", [hub_row(split, "Yes")])
    tasks, rejects = read_hub(tmp_path)
    assert [e.fields["prompt"] for e in tasks["t0/imdb_x"]] == ["train"]
    assert list(rejects.skipped.values()) == ["split 'validation' is not the one asked for, 'train'"]
    assert read_hub(tmp_path, split="validation")[0]["t0/imdb_x"][0].fields["prompt"] == "validation"


def test_a_shard_that_is_missing_is_an_error_and_one_that_is_left_out_is_not(tmp_path):
    for k in (0, 2):
        write(tmp_path / "imdb_x" / f"train-0000{k}-of-00003.parquet", [hub_row(f"{k}", "Yes")])
    with pytest.raises(DataError, match=r"train-00001-of-00003.parquet is not there"):
        read_hub(tmp_path)
    assert check_collections([CollectionSpec(path=str(tmp_path))]).problems[0].status == "malformed"
    write(tmp_path / "imdb_x" / "train-00001-of-00003.parquet", [hub_row("1", "Yes")])
    tasks, _ = read_hub(tmp_path, exclude=("*-00000-*",))
    assert [e.fields["prompt"] for e in tasks["t0/imdb_x"]] == ["1", "2"]
    alone, _ = read_hub(tmp_path / "imdb_x" / "train-00002-of-00003.parquet")
    assert [e.fields["prompt"] for e in alone["t0/imdb_x"]] == ["2"]
    check = check_collections([CollectionSpec(path=str(tmp_path))])
    assert (check.files, check.tasks, check.examples, check.problems) == (3, 1, 3, ())


@pytest.mark.parametrize("name", ["train-00007-of-00002.parquet", "train-00000-of-99999.parquet"])
def test_a_name_that_says_of_itself_what_is_not_so_is_no_crash(tmp_path, name):
    write(tmp_path / "imdb_x" / name, [hub_row("a", "b")])
    try:
        tasks, _ = read_hub(tmp_path)
    except DataError as e:
        assert "is not there" in str(e)
    else:
        assert len(tasks["t0/imdb_x"]) == 1


def test_rows_of_the_hub_are_kept_with_their_choices_or_set_aside_with_a_reason(tmp_path):
    rows = [
        hub_row("a", "\n yes", answer_choices=["yes ", "no"], is_correct=None),
        hub_row("b", "maybe", answer_choices=["yes", "no"], is_correct=True),  # not among them: free text
        hub_row("c", "yes", answer_choices=["yes"], is_correct=None),  # one is no choice
        hub_row("d", "yes", answer_choices=["yes", "no"], is_correct=False),
        hub_row("e", " \n", answer_choices=None, is_correct=None),
        hub_row(" ", "yes", answer_choices=None, is_correct=None),
        {"inputs_pretokenized": "f", "targets_pretokenized": None},
    ]
    path = write(tmp_path / "imdb_x" / "train-00000-of-00001.parquet", rows)
    rejects = Rejects()
    (told,) = read_collection(CollectionSpec(path=str(path), reader="p3"), rejects, 1.0)
    examples = list(told.examples)
    assert [(e.fields["prompt"], e.targets, e.options) for e in examples] == [
        ("a", ("yes",), ("yes", "no")),
        ("b", ("maybe",), None),
        ("c", ("yes",), None),
    ]
    assert (rejects.total_rejected(), rejects.malformed.total()) == (4, 2)


def test_a_parquet_file_without_the_hubs_columns_is_refused_by_name(tmp_path):
    path = write(tmp_path / "imdb_x" / "train-00000-of-00001.parquet", [{"inputs": "a", "targets": "b"}])
    with pytest.raises(DataError, match="inputs_pretokenized and targets_pretokenized"):
        read_hub(path, reader="p3")
    assert len(collection_files(CollectionSpec(path=str(tmp_path)))) == 1


def test_of_a_sample_and_the_whole_a_data_folder_gives_the_whole(tmp_path):
    write(tmp_path / "p3" / "imdb_x" / "train-00000-of-00001.parquet", [hub_row("whole", "Yes")])
    (tmp_path / "t0").mkdir()
    for name in ("imdb_x", "imdb_x_other"):
        (tmp_path / "t0" / f"{name}.jsonl").write_text(line("sample\n", f"Yes{END}"))
    tasks: dict[str, list[Any]] = {}
    for spec in collection_specs(None, tmp_path, "auto"):
        tasks |= {r.task.name: list(r.examples) for r in read_collection(spec, Rejects(), 0.0)}
    found = {name: examples[0].fields["prompt"] for name, examples in tasks.items()}
    assert found == {"t0/imdb_x": "whole", "t0/imdb_x_other": "sample"}
