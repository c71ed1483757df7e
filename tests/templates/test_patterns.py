from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.errors import TemplateError
from flantune.templates import fill, fill_text, parse_pattern, slots, without_words
from flantune.templates.patterns import Literal, Slot

texts = st.text(alphabet=st.sampled_from('a{}\n\t "%$\\0中é\u2028'), max_size=12)


def test_a_pattern_is_literals_and_slots_in_order():
    assert parse_pattern("Q: {question}\nA:") == (Literal("Q: "), Slot("question"), Literal("\nA:"))


def test_doubled_braces_are_braces():
    assert fill_text('{{"a": {x}}}', {"x": "1"}) == '{"a": 1}'


@pytest.mark.parametrize("broken", ["{", "a } b", "{x", "x}", "{}", "{ x}", "{{x}", "{a{b}}", "{a\nb}"])
def test_a_broken_pattern_is_refused_with_the_place(broken: str):
    with pytest.raises(TemplateError, match=r"character \d+"):
        parse_pattern(broken)


def test_slots_are_named_once_in_order_of_first_appearance():
    assert slots("{b} {a} {b}") == ("b", "a")


@given(st.lists(st.one_of(texts.map(Literal), st.sampled_from(["x", "y", "a b"]).map(Slot)), max_size=6), texts, texts)
def test_filling_joins_literals_and_field_texts_and_changes_none(parts: list[Literal | Slot], x: str, y: str):
    values = {"x": x, "y": y, "a b": "{x}"}
    pattern = "".join(
        p.text.replace("{", "{{").replace("}", "}}") if isinstance(p, Literal) else "{" + p.name + "}" for p in parts
    )
    assert fill_text(pattern, values) == "".join(p.text if isinstance(p, Literal) else values[p.name] for p in parts)


@pytest.mark.parametrize(
    ("pattern", "with_options", "without"),
    [
        ("{q}\n\n{options_}", "why?\n\nOPTIONS:", "why?"),
        ("{q}{options_}", "why?\nOPTIONS:", "why?"),
        ("{q}\n{options_}\nAnswer:", "why?\nOPTIONS:\nAnswer:", "why?\nAnswer:"),
        ("{options_}\n{q}", "OPTIONS:\nwhy?", "why?"),
        ("Pick. \n {options_}", "Pick. \n OPTIONS:", "Pick."),
    ],
)
def test_without_options_their_slot_goes_and_the_blank_before_it(pattern: str, with_options: str, without: str):
    assert fill_text(pattern, {"q": "why?"}, "OPTIONS:") == with_options
    assert fill_text(pattern, {"q": "why?"}, None) == without


def test_without_options_a_fields_own_line_breaks_stay():
    assert fill_text("{q}\n\n{options_}", {"q": "why?\n\n"}) == "why?\n\n"


def test_an_inline_block_stays_on_the_line():
    assert fill_text("{q}{options_}", {"q": "noon."}, " + yes + no") == "noon. + yes + no"


def test_a_missing_value_is_an_error():
    with pytest.raises(KeyError):
        fill("{x}", {})


@pytest.mark.parametrize(
    ("pattern", "wordless"),
    [
        ("Read this.\n\n{passage}\n\nNow answer: {question}", "{passage}\n\n{question}"),
        ("{a} versus {b}?", "{a}\n{b}"),
        ("{a}\n{b}", "{a}\n{b}"),
        ('"{a}" - "{b}"', '"{a}" - "{b}"'),
        ("{definition}\n\n{input}", "{input}"),
        ("{q}\n{options_}\n\nAnswer:", "{q}\n{options_}"),
        ("请回答：{q}", "{q}"),
    ],
)
def test_taking_the_words_out_leaves_slots_and_the_line_breaks_between(pattern: str, wordless: str):
    assert without_words(pattern) == wordless
    assert without_words(wordless) == wordless
