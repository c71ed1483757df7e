from __future__ import annotations

import json

import pytest

from flantune.sources.p3 import FREE_TEXT, OTHER_USES, PREFIXES, p3_dataset

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
