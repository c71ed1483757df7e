from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from pathlib import Path

import orjson
import pytest

from flantune.formats import LIST_STYLE, OptionStyle, draw_style, print_options, worded_answer
from flantune.formats.delimiters import ENDS, HEADS, MARKS, MAX_ITEMS

LETTERS = next(m for m in MARKS if m.items[:2] == ("\n(A). ", "\n(B). "))
ROMAN = next(m for m in MARKS if m.items[:2] == ("\ni. ", "\nii. "))
PLUS = next(m for m in MARKS if m.items[0] == " + ")


def test_the_list_form_is_a_head_and_a_dash_per_choice_with_the_text_as_answer():
    assert print_options(["yes", "no"]) == "OPTIONS:\n- yes\n- no"
    assert worded_answer("yes", ["yes", "no"]) == "yes"


def test_labels_replace_the_answer_punctuation_included():
    style = OptionStyle("Choose from:", LETTERS, ";")
    assert print_options(["yes", "no"], style) == "Choose from:\n(A). yes;\n(B). no;"
    assert worded_answer("no", ["yes", "no"], style) == "(B)."
    assert worded_answer("b", ["a", "b", "c"], OptionStyle("", ROMAN, "")) == "ii."


def test_bullets_leave_the_answers_text():
    style = OptionStyle("", PLUS, "")
    assert print_options(["yes", "no"], style) == " + yes + no"
    assert worded_answer("yes", ["yes", "no"], style) == "yes"
    assert worded_answer("yes", ["yes"], style) == "yes"  # one bullet is no label


def test_an_answer_is_matched_after_trimming_and_by_the_first_equal_choice():
    style = OptionStyle("", LETTERS, "")
    assert worded_answer(" no ", ["yes", "no\n", "no"], style) == "(B)."
    assert worded_answer("No", ["yes", "no"], style) == "No"


def test_more_choices_than_letters_are_listed_with_dashes():
    many = [str(i) for i in range(MAX_ITEMS + 1)]
    style = OptionStyle("Choose from:", LETTERS, ";")
    assert print_options(many, style) == "OPTIONS:\n- " + "\n- ".join(many)
    assert worded_answer("3", many, style) == "3"
    assert worded_answer("25", many[:MAX_ITEMS], style) == "(Z)."


def test_the_strings_are_the_recipes(spec_dir: Path):
    table = orjson.loads((spec_dir / "delimiters.json").read_bytes())["options"]
    assert list(HEADS) == table["random_start_strings"]
    assert list(ENDS) == table["random_item_end_strings"]
    assert table["max_items"] == MAX_ITEMS
    theirs = Counter({(f["first"], f["second"], f["is_label"]): f["weight"] for f in table["random_item_formats"]})
    assert Counter((*m.items[:2], m.are_labels) for m in MARKS) == theirs
    assert print_options(["x", "y"], LIST_STYLE) == "{head}x{joiner}y".format(**table["deterministic"]["dash"])


def test_the_answer_becomes_a_label_with_probability_64_of_87():
    assert len(MARKS) == 87 and len({m.items for m in MARKS}) == 63
    labelled = sum(worded_answer("no", ["yes", "no"], OptionStyle("", m, "")) != "no" for m in MARKS)
    assert Fraction(labelled, len(MARKS)) == Fraction(64, 87)


def test_head_mark_and_end_are_drawn_uniformly_and_independently():
    rng = random.Random("styles")
    n = 40_000
    drawn = [draw_style(rng) for _ in range(n)]
    assert sum(s.marks.are_labels for s in drawn) / n == pytest.approx(64 / 87, abs=0.01)
    pairs = Counter((s.head, s.end) for s in drawn)
    assert len(pairs) == 48
    assert all(count / n == pytest.approx(1 / 48, abs=0.005) for count in pairs.values())
    twice = sum(s.marks == LETTERS for s in drawn) / n
    assert twice == pytest.approx(2 / 87, abs=0.004)
