from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.errors import DataError
from flantune.sources.flan_cot import parse_line


def test_the_columns_are_question_answer_rationale(read):
    got = read("gsm8k_train.tsv", "How many?\t72\tHalf of 144 is 72.\n")
    assert (got.task.name, got.task.templates, got.task.mixture, got.task.has_rationale) == (
        "cot/gsm8k", "cot_gsm8k", "cot", True)  # fmt: skip
    (example,) = got.examples
    assert (example.fields, example.targets, example.rationale) == (
        {"question": "How many?"}, ("72",), "Half of 144 is 72.")  # fmt: skip


def test_only_backslash_n_is_an_escape(read):
    (example,) = read("aqua_train.tsv", "\\frac{1}{2} é \\ x\\\\y?\\n(A) 1\t(A)\tBy \\times\\nso\n").examples
    assert example.fields["question"] == "\\frac{1}{2} é \\ x\\\\y?\n(A) 1"
    assert example.rationale == "By \\times\nso"


@given(*[st.text(st.characters(exclude_characters="\t\n\\", codec="utf-8")).filter(str.strip)] * 3)
def test_cells_without_escapes_come_back_but_for_their_edges(question, answer, rationale):
    (draft,) = parse_line(f"{question}\t{answer}\t{rationale}")
    assert (draft.fields["question"], draft.targets, draft.rationale) == (
        question.strip(), (answer.strip(),), rationale.strip())  # fmt: skip


def test_quotes_are_text(read):
    (example,) = read("creak_train.tsv", 'Claim: "one\tyes\t"two" and "three\n').examples
    assert (example.fields["question"], example.rationale) == ('Claim: "one', '"two" and "three')


def test_rows_of_other_than_three_cells_and_blank_cells_are_set_aside(read):
    got = read("qasc_train.tsv", "q\ta\tr\nq\ta\nq\ta\tr\tx\n\ta\tr\nq\t \tr\nq\ta\t \n")
    assert len(got.examples) == 1
    assert got.rejects.total_rejected() == 5


def test_a_table_of_another_name_is_not_taken_without_being_told(read):
    with pytest.raises(DataError, match="Name the reader"):
        read("mine.tsv", "q\ta\tr\n")
    assert read("mine.tsv", "q\ta\tr\n", reader="flan_cot").task.name == "cot/mine"
