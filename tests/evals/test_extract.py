from __future__ import annotations

import csv
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.evals import BENCHMARKS
from flantune.evals.benchmark import Extraction
from flantune.evals.extract import SEVERAL, first_sentence, free_text, letter, parse_answer, word
from flantune.evals.mgsm import LANGUAGES
from flantune.evals.told_numbers import equal_numbers, number, number_text, numbers, plain_digits
from flantune.types import Item

LETTERS = ("A", "B", "C", "D")


@pytest.mark.parametrize(
    ("output", "parsed"),
    [
        ("6 * 4 = 24. The answer is 24.", "24"),
        ("The answer is (B).", "B"),
        ("The answer is no, the final answer is yes!", "yes!"),
        ("Answer: 7", "7"),
        ("the answer is: 12 ?", "12"),
        ("answer is x. Final answer y?", "y"),
        ("plain", "plain"),
        ("", ""),
        ("  .", ""),
        ("The answer is", ""),
    ],
)
def test_the_recipes_parser(output: str, parsed: str):
    assert parse_answer(output) == parsed


def test_the_recipes_parser_leaves_brackets_to_bbh():
    assert parse_answer("So the answer is (B).", brackets=False) == "(B)"


@given(st.text(max_size=60))
def test_no_reader_fails_on_any_output(output: str):
    parse_answer(output)
    found = [letter(output, LETTERS), word(output, ("yes", "no")), free_text(output), number(output)]
    found += [number(output, "x", ","), number(output, "答案是"), letter(output, LETTERS, loose=True)]
    assert all((e.answer is None) == (e.rule in ("unread", SEVERAL)) for e in found)


@pytest.mark.parametrize(
    "output",
    [
        "Birds fly. The answer is (B).",
        "Birds fly. The answer is (B)",
        "Birds fly. The answer is B.",
        "Birds fly. The answer is B",
        "Birds fly. The answer is **(B)**.",
        "Birds fly. The answer is **B**.",
        "Birds fly. THE ANSWER IS (B).",
        "Birds fly. Answer: B",
        "Birds fly. Answer: (b)",
        "Birds fly. The answer is (B). I hope that this helps; (A) would be wrong.",
        "Birds fly. The answer is B because (A) has no wings.",
        "The answer is (A)? No. The answer is (B).",
        "The answer is option (B).",
        "The answer is $\\boxed{B}$.".replace("$", ""),
        "(B)",
        "B",
        " (B) ",
        "B.",
        "B. Newts",
        "(B) Newts, since (A) sinks",
    ],
)
def test_a_letter_is_read_however_it_is_dressed(output: str):
    assert letter(output, LETTERS).answer == "B"


def test_two_answers_are_none_and_the_last_letter_named_is_a_loose_reading():
    for output in (
        "The answer is (A) or (B).",
        "So the answer is (A), (B), and (D).",
        "(A) and (C)",
        "The answer is A/B.",
    ):
        assert letter(output, LETTERS) == Extraction(None, SEVERAL)
    assert letter("The answer is B and I am sure.", LETTERS).answer == "B"
    guess = "It is not (A), so it must be (B)"
    assert letter(guess, LETTERS).answer is None
    assert letter(guess, LETTERS, loose=True) == Extraction("B", "last letter named")
    assert word("The answer is yes or no", ("yes", "no")).rule == SEVERAL
    assert word("The answer is not valid.", ("valid", "invalid")).answer is None


@pytest.mark.parametrize(
    "output", ["", "The answer is (E).", "The answer is A frog", "Birds fly.", "I think so", "B52"]
)
def test_where_no_choice_is_named_no_letter_is_read(output: str):
    assert letter(output, LETTERS).answer is None


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("So the answer is No.", "No"),
        ("So the answer is **no**. As said above, yes is wrong.", "No"),
        ("yes", "Yes"),
        ("Yes.", "Yes"),
        ("Maybe", None),
        ("The answer is unclear.", None),
        ("Not sure", None),
    ],
)
def test_words_of_a_closed_set_come_back_spelled_as_in_the_set(output: str, answer: str | None):
    assert word(output, ("Yes", "No")).answer == answer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-$1,200.50", ["-1200.50"]),
        ("$-5", ["-5"]),
        ("16-3=13", ["16", "3", "13"]),
        ("it fell to -3 and −4", ["-3", "-4"]),
        ("1,234,567 of 12,34", ["1234567", "12", "34"]),
        ("10 20", ["10", "20"]),
        ("dollars every day…, ... .", []),
        (".5 and 3.", ["0.5", "3"]),
        ("£2,000 or US$30", ["2000", "30"]),
        ("১৮, ๑๒, १,२३४ and １，２３４．５", ["18", "12", "1234", "1234.5"]),
        ("18%", ["18"]),
    ],
)
def test_numbers_are_read_exactly(text: str, expected: list[str]):
    assert numbers(text) == [Decimal(e) for e in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2.125", "2125"),
        ("2,125", "2125"),
        ("3,5", "3.5"),
        ("1.234,5", "1234.5"),
        ("2\u202f125", "2125"),
        ("3.5", "3.5"),
    ],
)
def test_a_decimal_comma_makes_the_dot_a_thousands_mark(text: str, expected: str):
    assert numbers(text, ",") == [Decimal(expected)]


@given(st.decimals(min_value=-(10**9), max_value=10**9, places=2))
def test_a_number_survives_every_usual_spelling(value: Decimal):
    grouped = f"{value:,}"
    for text in (str(value), grouped, f"so {grouped}.", f"{grouped} jars", f"= {grouped}"):
        assert numbers(text) == [value]
    assert equal_numbers(grouped, number_text(value))


@given(st.integers(0, 10**7))
def test_digits_of_any_script_are_the_same_number(value: int):
    for zero in "০๐०０٠":
        native = "".join(chr(ord(zero) + int(d)) for d in str(value))
        assert plain_digits(native) == str(value)
        assert number(f"42. উত্তর হল {native}।", "উত্তর হল").answer == str(value)


@pytest.mark.parametrize(
    ("output", "answer", "rule"),
    [
        ("2 + 3 = 5\n#### 5", "5", "after ####"),
        ("It is 5. The answer is $18.00.", "18", "after phrase"),
        ("The answer is 3. No, the answer is 4. That is 2 times 2.", "4", "after phrase"),
        ("2 + 3 = 5\nA: 1,005", "1005", "after A:"),
        ("first 2, then 7 jars", "7", "last number"),
        ("The answer is seven, or 8 - 1.", "8", "after phrase"),
        ("The answer is **1,234**", "1234", "after phrase"),
        ("no number here", None, "unread"),
        ("####", None, "unread"),
        ("#### none\nThe answer is 4", "4", "after phrase"),
    ],
)
def test_the_final_number_and_the_rule_that_read_it(output: str, answer: str | None, rule: str):
    found = number(output)
    assert (found.answer, found.rule) == (answer, rule)


def test_the_first_sentence_keeps_decimals_and_brackets():
    assert first_sentence("] ) ).") == "] ) )"
    assert first_sentence("3.5 jars. There are more.") == "3.5 jars"
    assert first_sentence(" 12\nnext") == "12"


def test_the_mgsm_phrases_are_those_of_the_recipes_table(spec_dir: Path):
    with (spec_dir / "mgsm_prompt_strings.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {r["lang"] for r in rows} == set(LANGUAGES)
    for row in rows:
        language = LANGUAGES[row["lang"]]
        assert (language.question, language.answer) == (row["question_prefix"], row["cot_answer_prefix"])
        for form in row["final_answer_forms"].split(" | "):
            output = f"10 - 3. {form.replace('{n}', '1,007')} 99 = 99"
            found = number(output, "|".join((*language.phrases, r"answer\s+is")), language.decimal_mark)
            assert (found.answer, found.rule) == ("1007", "after phrase")


PERTURBED: dict[str, Callable[[str], str]] = {
    "as it is": lambda t: f"Step by step. So the answer is {t}.",
    "no final full stop": lambda t: f"Step by step. So the answer is {t}",
    "bold": lambda t: f"Step by step. So the answer is **{t}**.",
    "capitals": lambda t: f"Step by step. The Answer is {t}.",
    "one more sentence": lambda t: f"Step by step. So the answer is {t}. This follows from what was said.",
    "blank at the end": lambda t: f"Step by step. So the answer is {t}. \n",
}


@pytest.mark.parametrize("how", PERTURBED)
@pytest.mark.parametrize("name", ["bbh", "gsm8k", "mgsm", "mmlu"])
def test_on_real_benchmarks_a_right_answer_is_read_under_every_perturbation(data_dir: Path, name: str, how: str):
    benchmark = BENCHMARKS[name]
    items = [p.item for p in benchmark.items(data_dir / name, "cot", shots=0)]
    wrong = [i.id for i in items if benchmark.score(i, benchmark.extract(i, PERTURBED[how](spelled(i)))) != 1.0]
    assert len(wrong) <= 0.005 * len(items) if how == "one more sentence" else not wrong


def spelled(item: Item) -> str:
    return f"({item.references[0]})" if item.benchmark == "mmlu" else item.references[0]
