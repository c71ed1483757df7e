from __future__ import annotations

import json
from typing import Any

import pytest

from flantune.errors import DataError

RTE = {"premise": "p", "hypothesis": "h", "label": "not_entailment", "idx": 3}
BOOLQ = {"question": "is it", "passage": "It is.", "label": True, "idx": 1}
WIC = {"word": "w", "sentence1": "a w", "sentence2": "b w", "label": False, "idx": 0}
WSC = {"text": "The cat saw it.", "target": {"span1_text": "The cat", "span2_text": "it"}, "label": True, "idx": 0}
COPA = {"premise": "p", "choice1": "c1", "choice2": "c2", "question": "effect", "label": 1, "idx": 0}
MULTIRC = {
    "idx": 5,
    "version": 1.1,
    "passage": {
        "text": "Once.",
        "questions": [
            {
                "question": "q?",
                "idx": 2,
                "answers": [{"text": "a", "idx": 8, "label": 0}, {"text": "b", "idx": 9, "label": 1}],
            }
        ],
    },
}
RECORD = {
    "source": "s",
    "idx": 4,
    "passage": {"text": "Ann met Bob.", "entities": [{"start": 0, "end": 2}, {"start": 8, "end": 10}]},
    "qas": [{"query": "@placeholder left", "idx": 6, "answers": [{"text": "Bob", "start": 8, "end": 10}]}],
}


def superglue(read: Any, name: str, *rows: dict[str, Any]) -> Any:
    return read(f"{name}/train.jsonl", "\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(
    ("folder", "row", "task", "fields", "target", "options"),
    [
        ("RTE", RTE, "rte", {"premise": "p", "hypothesis": "h"}, "not entailment", ("entailment", "not entailment")),
        ("CB", {**RTE, "label": "neutral"}, "cb", {"premise": "p", "hypothesis": "h"}, "neutral",
         ("entailment", "contradiction", "neutral")),
        ("BoolQ", BOOLQ, "boolq", {"passage": "It is.", "question": "is it"}, "yes", ("yes", "no")),
        ("WiC", WIC, "wic", {"sentence1": "a w", "sentence2": "b w", "word": "w"}, "no", ("yes", "no")),
        ("WSC", WSC, "wsc", {"text": "The cat saw it.", "span1": "The cat", "span2": "it"}, "yes", ("yes", "no")),
        ("COPA", COPA, "copa", {"premise": "p", "question": "effect"}, "c2", ("c1", "c2")),
        ("ReCoRD", RECORD, "record", {"passage": "Ann met Bob.", "query": "@placeholder left"}, "Bob", ("Ann", "Bob")),
    ],
)  # fmt: skip
def test_superglue_labels_become_words_among_options(read, folder, row, task, fields, target, options):
    got = superglue(read, folder, row)
    assert (got.task.name, got.task.templates, got.task.mixture) == (f"muffin/{task}", f"muffin_{task}", "muffin")
    (example,) = got.examples
    assert (example.fields, example.targets, example.options) == (fields, (target,), options)
    assert set(got.task.fields) == set(fields)


def test_multirc_asks_for_every_candidate_answer(read):
    got = superglue(read, "MultiRC", MULTIRC)
    assert [(e.id, e.fields["candidate"], e.targets) for e in got.examples] == [
        ("5-2-8", "a", ("no",)),
        ("5-2-9", "b", ("yes",)),
    ]
    assert got.rejects.total_rows() == 1


@pytest.mark.parametrize(
    ("folder", "good", "bad"),
    [
        ("RTE", RTE, {"label": "maybe"}),
        ("RTE", RTE, {"label": True}),
        ("WiC", WIC, {"label": 1}),  # equal to True in Python, yet no label of this set
        ("COPA", COPA, {"label": 2}),
        ("COPA", COPA, {"label": True}),
        ("WSC", WSC, {"target": "it"}),
        ("MultiRC", MULTIRC, {"passage": {"text": "t", "questions": []}}),
        ("ReCoRD", RECORD, {"passage": {"text": "Ann", "entities": [{"start": 0, "end": 3}]}}),
        ("ReCoRD", RECORD, {"qas": [{"query": "q", "answers": [{"text": "Eve"}]}]}),
    ],
)
def test_a_row_that_is_not_of_its_set_is_set_aside(read, folder, good, bad):
    got = superglue(read, folder, good, {**good, **bad})
    assert got.rejects.malformed.total() == 1
    assert {e.where for e in got.examples} == {"train.jsonl:1"}


def test_rte_and_cb_are_told_apart_by_the_folder_and_refused_without(read):
    with pytest.raises(DataError):
        superglue(read, "elsewhere", RTE)


def icl(read: Any, name: str, **row: Any) -> Any:
    return read(f"{name}.jsonl", json.dumps({"query": "Question: q?\n", "choices": ["a", "b"], "gold": 1, **row}))


@pytest.mark.parametrize(
    ("name", "task", "field"),
    [
        ("arc_easy", "arc_easy", "question"),
        ("arc_challenge", "arc_challenge", "question"),
        ("openbook_qa", "openbook_qa", "question"),
        ("piqa", "piqa", "goal"),
        ("boolq", "boolq_icl", "query"),
        ("copa", "copa_icl", "query"),
    ],
)
def test_multiple_choice_files_lose_the_words_put_around_the_question(read, name, task, field):
    got = icl(read, name)
    assert got.task.name == f"muffin/{task}"
    (example,) = got.examples
    assert (example.fields, example.targets, example.options) == ({field: "q?"}, ("b",), ("a", "b"))


@pytest.mark.parametrize("gold", [2, -1, "b", None, True, 1.0])
def test_a_gold_index_out_of_range_is_set_aside(read, gold):
    assert icl(read, "piqa", gold=gold).rejects.malformed.total() == 1


def test_winogrande_is_put_back_into_a_sentence_with_a_blank(read):
    row = {"context_options": ["So Ann", "So the aunt"], "continuation": "won.", "gold": 0}
    (example,) = read("winogrande.jsonl", json.dumps(row)).examples
    assert (example.fields, example.targets, example.options) == (
        {"sentence": "So _ won."},
        ("Ann",),
        ("Ann", "the aunt"),
    )


def test_nq_open_keeps_every_accepted_answer(read):
    (example,) = read("nq.jsonl", json.dumps({"question": "when", "answer": ["1969", "July 1969"]})).examples
    assert example.targets == ("1969", "July 1969")


def test_question_and_one_text_answer_is_not_nq_open(read):
    with pytest.raises(DataError):
        read("train.jsonl", json.dumps({"question": "How many?", "answer": "Half.\n#### 72"}))


def test_dart_words_triples_one_a_line_with_every_annotation(read):
    row = {
        "tripleset": [["A", "IN", "B"], ["B", "HAS", "1"]],
        "annotations": [{"source": "s", "text": t} for t in "xyx"],
    }
    bad = {"tripleset": [["A", "IN"]], "annotations": [{"source": "s", "text": "x"}]}
    got = read("dart.json", json.dumps([row, bad], indent=2))
    (example,) = got.examples
    assert (example.fields, example.targets) == ({"triples": "A | IN | B\nB | HAS | 1"}, ("x", "y"))
    assert got.rejects.malformed.total() == 1


def test_cosmos_qa_labels_name_one_of_four_answers(read):
    header = "id,context,question,answer0,answer1,answer2,answer3,label\r\n"
    got = read("valid.csv", header + 'i,"c, c",q,a0,a1,a2,None,3\r\ni,c,q,a0,a1,a2,a3,4\r\n')
    (example,) = got.examples
    assert (example.id, example.targets, example.options) == ("i", ("None",), ("a0", "a1", "a2", "None"))
    assert got.rejects.malformed.total() == 1


def test_e2e_rows_of_one_meaning_join_their_references(read):
    got = read("devset.csv", 'mr,ref\nm1,"a, b"\nm2,c\nm1,d\nm1,"a, b"\nm2, \n,e\n')
    assert got.task.name == "muffin/e2e_nlg_dev"
    assert [(e.fields["mr"], e.targets, e.where) for e in got.examples] == [
        ("m1", ("a, b", "d"), "devset.csv:2"),
        ("m2", ("c",), "devset.csv:3"),
    ]
    assert (got.rejects.total_rows(), got.rejects.total_rejected()) == (6, 2)
