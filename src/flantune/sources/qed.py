"""QED: Natural Questions with structured explanations, worded as rationales.

Only questions that one sentence explains carry an explanation; the others are set aside as teaching none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flantune.recipe import CollectionSpec
from flantune.sources.flan_cot import cot_task
from flantune.sources.reading import Draft, Record, TaskRows, examples_of, first_object, json_lines, text_of
from flantune.sources.rejects import BadRow, Rejects


class QedReader:
    name = "qed"
    mixture = "cot"

    def matches(self, path: Path) -> bool:
        first = first_object(path)
        return first is not None and {"question_text", "paragraph_text", "original_nq_answers", "annotation"} <= set(
            first
        )

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        task = cot_task("qed", path, spec.mixture or self.mixture, self.name)
        yield TaskRows(task, examples_of(task, path, json_lines(path), parse_qed, rejects))


def parse_qed(record: Record) -> Iterator[Draft]:
    annotation = record.get("annotation")
    if not isinstance(annotation, dict):
        raise BadRow("annotation", "an object", annotation)
    kind = annotation.get("explanation_type")
    if kind != "single_sentence":
        raise BadRow("explanation_type", "single_sentence", kind, malformed=kind not in ("none", "multi_sentence"))
    try:
        sentence = str(annotation["selected_sentence"]["string"]).strip()
        answers = [str(a["paragraph_reference"]["string"]).strip() for a in annotation["answer"]]
        equalities = [_equality(e) for e in annotation["referential_equalities"]]
    except (KeyError, TypeError, IndexError) as e:
        raise BadRow("annotation", "selected_sentence, answer, referential_equalities", repr(e)) from None
    if not sentence or not answers:
        raise BadRow("annotation", "a sentence and an answer", [sentence, answers])
    # The explanation quotes the passage, so the passage stands in the question as options do in the other sets.
    question = (
        f"Passage ({text_of(record, 'title_text')}): {text_of(record, 'paragraph_text')}\n"
        f"Question: {text_of(record, 'question_text')}"
    )
    rationale = " ".join([f"The passage says: {sentence}", *(e for e in equalities if e)])
    # A question with several answer spans asks for all of them; each alone would be half an answer.
    answer = " and ".join(dict.fromkeys(answers))
    yield Draft({"question": question}, (answer,), rationale=rationale, id=str(record.get("example_id") or ""))


def _equality(equality: dict[str, Any]) -> str:
    """One sentence saying what a phrase of the question is called in the passage's sentence.

    `bridge` is False for a phrase that stands there; else the phrase is only implied, and a preposition that would
    attach it (empty when none fits) is given in its place.
    """
    asked = str(equality["question_reference"]["string"]).strip()
    said, bridge = equality["sentence_reference"], equality["sentence_reference"]["bridge"]
    named = str(said["string"]).strip()
    if not asked:
        return ""
    if bridge is False and named:
        return f'"{asked}" in the question is "{named}" there.'
    if named:
        return f'"{named}" there speaks {bridge or "of"} "{asked}" in the question.'
    return f'The sentence is about "{asked}" in the question without naming it.'
