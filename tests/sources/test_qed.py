from __future__ import annotations

import json
from typing import Any


def row(**annotation: Any) -> str:
    return json.dumps(
        {
            "example_id": 7,
            "title_text": "Nobel laureates",
            "question_text": "who got the first prize",
            "paragraph_text": "The first Prize went to Röntgen . Others followed .",
            "original_nq_answers": [],
            "annotation": {"explanation_type": "single_sentence", **annotation},
        }
    )


def reference(asked: str, said: str, bridge: object = False) -> dict[str, Any]:
    return {"question_reference": {"string": asked}, "sentence_reference": {"string": said, "bridge": bridge}}


WHOLE = {
    "selected_sentence": {"string": "The first Prize went to Röntgen . "},
    "answer": [{"paragraph_reference": {"string": "Röntgen"}}],
    "referential_equalities": [reference("the first prize", "The first Prize")],
}


def test_the_rationale_is_the_sentence_and_what_the_question_calls_things(read):
    (example,) = read("qed.jsonlines", row(**WHOLE)).examples
    assert example.fields["question"] == (
        "Passage (Nobel laureates): The first Prize went to Röntgen . Others followed .\n"
        "Question: who got the first prize"
    )
    assert example.targets == ("Röntgen",)
    assert example.rationale == (
        "The passage says: The first Prize went to Röntgen . "
        '"the first prize" in the question is "The first Prize" there.'
    )


def test_a_bridge_is_worded_by_its_preposition(read):
    equalities = [reference("the war", "its end", "of"), reference("the song", "", "")]
    (example,) = read("qed.jsonlines", row(**{**WHOLE, "referential_equalities": equalities})).examples
    assert '"its end" there speaks of "the war" in the question.' in (example.rationale or "")
    assert 'The sentence is about "the song" in the question without naming it.' in (example.rationale or "")


def test_several_answer_spans_are_one_answer(read):
    answers = [{"paragraph_reference": {"string": s}} for s in ("Röntgen", "Lorentz", "Röntgen")]
    (example,) = read("qed.jsonlines", row(**{**WHOLE, "answer": answers})).examples
    assert example.targets == ("Röntgen and Lorentz",)


def test_questions_without_an_explanation_are_set_aside_as_no_fault_of_the_file(read):
    got = read(
        "qed.jsonlines", "\n".join([row(**WHOLE), row(explanation_type="none"), row(explanation_type="multi_sentence")])
    )
    assert (len(got.examples), got.rejects.total_rejected(), got.rejects.malformed.total()) == (1, 2, 0)


def test_a_broken_annotation_is_malformed(read):
    got = read("qed.jsonlines", "\n".join([row(**WHOLE), row(), row(explanation_type="new")]))
    assert got.rejects.malformed.total() == 2
