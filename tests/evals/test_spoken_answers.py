"""Answers as chat models word them: every form a person reads at once, and what nobody would take for an answer."""

from __future__ import annotations

import pytest

from flantune.evals import BENCHMARKS
from flantune.evals.benchmark import Extraction, read
from flantune.evals.competition_math import read_final
from flantune.evals.extract import SEVERAL, letter
from flantune.evals.math_answers import same_answer
from flantune.evals.mgsm import LANGUAGES
from flantune.evals.told_numbers import equal_numbers, number
from flantune.types import Item

LETTERS = ("A", "B", "C", "D")
FORMS = (
    "The answer is ({}).",
    "The answer is {}.",
    "The answer is {}!",
    "The answer is {} (some text).",
    "The answer is **{}** (some text).",
    "The answer is **{}** some text.",
    "The answer is {} - some text.",
    "The answer is option {} which is so.",
    'The answer is "{}".',
    "The correct answer is:\n\n**{}. some text**",
    "Answer:\n{}",
    "**Answer:** {}",
    "The correct choice is {}",
    "The answer must be ({})",
    "So we get $\\boxed{{{}}}$.",
    "So we get $\\boxed{{\\text{{{}}}}}$.",
    "\\boxed{{\\text{{({}) some text}}}}",
    "**{}** some text",
    "{} - some text",
    "{}, because it is so.",
    "{}\n\nSome words on it.",
    '"{}"',
    "*{}*",
    "\\({}\\)",
    "The answer is [{}].",
    "The answer is '{}'.",
    "The answer is probably {}.",
    "The answer is letter {}.",
    "The answer is answer choice {}.",
    "Final Answer\n({})",
    "{} is correct.",
    "I would choose ({}).",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LETTERS)
def test_a_letter_is_read_whichever_it_is(form: str, name: str):
    assert letter(form.format(name), LETTERS).answer == name


@pytest.mark.parametrize("name", LETTERS)
def test_a_small_letter_is_read_where_nothing_follows(name: str):
    assert letter(f"The answer is {name.lower()}.", LETTERS).answer == name
    assert letter(f"The answer is {name.lower()} dog", LETTERS).answer is None


@pytest.mark.parametrize(
    ("output", "rule"),
    [
        ("The answer is not (B).", None),
        ("The answer isn't (B).", None),
        ("(B) is wrong.", None),
        ("The answer is A dog", None),
        ("(B), (C).", SEVERAL),
        ("The answer is B, C, and D.", SEVERAL),
        ("The answer is B+C", SEVERAL),
        ("The answer is A, B or C", SEVERAL),
        ("The answer is (E), not (B)", SEVERAL),
    ],
)
def test_what_is_no_answer_or_several_is_no_letter(output: str, rule: str | None):
    found = letter(output, LETTERS)
    assert found.answer is None and rule in (None, found.rule)


@pytest.mark.parametrize(
    ("output", "value"),
    [
        *(
            (f"The answer is {n}.", "70000")
            for n in (
                "70{,}000",
                "70\\,000",
                "70,\\!000",
                "70 000",
                "70\u202f000",
                "70'000",
                "\\boxed{70{,}000}",
                "70k",
                "70 thousand",
                "7 \\times 10^4",
                "7 * 10^{4}",
                "100,000 - 30,000 = 70,000",
            )
        ),
        ("The answer is:\n\n**18**\n\nThat uses 9 eggs.", "18"),
        ("The answer is:\n\\[\n\\boxed{18}\n\\]", "18"),
        ("The answer is $9 \\times 2 = 18$.", "18"),
        ("The answer is 9 eggs * $2 = $18.", "18"),
        ("The answer is 9 · 2 = 18", "18"),
        ("The answer is $\\frac{36}{2} = \\boxed{18}$", "18"),
        ("The answer is 20% of 25 = 5.", "5"),
        ("The answer is -3 + 2 = -1.", "-1"),
        ("The answer is (-3) + 2 = -1.", "-1"),
        ("Let A - B = ?. The answer is A - B = 4 - 5 = -1", "-1"),
        ("The answer is n = 18", "18"),
        ("The answer is minus 3", "-3"),
        ("The answer is 10/2.", "5"),
        ("The answer is \\frac{10}{4}.", "2.5"),
        ("The answer is 5 1/2.", "5.5"),
        ("The answer is 5½.", "5.5"),
        ("The answer is -5/2.", "-2.5"),
        ("答案是2万", "20000"),
        ("The answer is 18 million", "18000000"),
        ("The answer is 18 dollars for 9 eggs.", "18"),
        ("The answer is 18, since 9 * 2 = 18.", "18"),
        ("The answer is $18/day.", "18"),
        ("So the answer is that Janet makes 9 * 2 = $18 each day.", "18"),
        ("The answer is that Janet makes $18 from 9 eggs.", "18"),
    ],
)
def test_a_number_is_read_with_its_scale_and_out_of_its_equation(output: str, value: str):
    assert number(output, r"answer\s+is|答案是").answer == value


@pytest.mark.parametrize("told", ["18 or 19", "18 and 20", "between 18 and 20", "18 to 20", "18 + 5", "18:30", "18,5"])
def test_two_numbers_and_a_sum_left_undone_are_no_answer(told: str):
    assert number(f"The answer is {told}.") == Extraction(None, SEVERAL)


def test_what_the_answer_is_not_is_passed_over():
    assert number("The answer is not 18 but 20.").answer == "20"


def test_only_a_number_and_no_more_equals_a_number():
    assert equal_numbers("18.00", "$18") and equal_numbers("2,125", "2125")
    assert not any(equal_numbers(a, "2") for a in ("x^2", "2x", "[2]", "'2'", "A2"))


@pytest.mark.parametrize(
    ("output", "gold"),
    [
        ("The final answer is\n\n\\[\n\\boxed{\\frac{36}{2}}\n\\]", "18"),
        ("The final answer is\n$$\\boxed{\\dfrac{9}{7}}$$", "\\frac{9}{7}"),
        ("The answer is therefore $6$.", "6"),
        ("The answer is the sum, which is $6$.", "6"),
        ("**Answer:** The value of $x$ is $6$.", "6"),
        ("### Final Answer\n$6$", "6"),
        ("The answer is *6*.", "6"),
        ("The answer is $2*3$.", "6"),
        ("The answer is $1+2+3 = 6$.", "6"),
        ("$\\boxed{f(2) = 6}$", "6"),
        ("$\\boxed{a_3 = 6}$", "6"),
        ("The answer is $\\boxed{6}$. The check gives \\boxed{7}? No.", "6"),
        ("The answer is $2$ and $3$.", "2,3"),
        ("The answer is $x=2$ or $x=3$.", "2,3"),
        ("The answer is $2, -2$.", "\\pm 2"),
        ("The answer is $2516_{8}$.", "2516_8"),
        ("The answer is $39°$.", "39^\\circ"),
        ("The answer is $70,000\\text{ dollars}$.", "70000"),
        ("The answer is Even.", "\\text{even}"),
    ],
)
def test_a_formula_is_found_and_is_the_golds(output: str, gold: str):
    found = read_final(output).answer
    assert found is not None and same_answer(found, gold)


@pytest.mark.parametrize(
    ("output", "gold"),
    [
        ("The answer is $6$ or $7$.", "6"),
        ("The answer is $6$ and $7$.", "6"),
        ("The answer is not $6$.", "6"),
        ("$\\boxed{y = x + 6}$", "6"),
        ("The answer is $\\text{(A)}$.", "\\text{(a)}"),
    ],
)
def test_a_formula_that_is_not_the_golds_stays_wrong(output: str, gold: str):
    found = read_final(output).answer
    assert found is None or not same_answer(found, gold)


LABELS = {
    "bn": "উত্তর",
    "de": "Antwort",
    "en": "Answer",
    "es": "Respuesta final",
    "fr": "Réponse",
    "ja": "答え",
    "ru": "Ответ",
    "sw": "Jibu",
    "te": "సమాధానం",
    "th": "คำตอบ",
    "zh": "**答案",
}


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_label_tells_the_answer_in_every_language_but_not_the_one_that_begins_the_steps(code: str):
    item = Item(benchmark="mgsm", mode="cot", task=code, id=f"{code}/0", prompt="p", references=("18",))
    mgsm = BENCHMARKS["mgsm"]
    assert mgsm.extract(item, f"9 * 2\n{LABELS[code]}: 18. (3)").answer == "18"
    if code != "te":  # whose own phrase is the word that begins the steps
        assert mgsm.extract(item, f"{LANGUAGES[code].answer}9 + 9\n18").answer == "18"


def test_what_a_model_thought_is_not_what_it_said():
    item = Item(benchmark="mmlu", mode="cot", task="anatomy", id="x/0", prompt="p", references=("B",))
    thought = "<think>\nMaybe the answer is (C)? No.\n</think>\n\n"
    for said in ("(B)", "**B**", "The answer is (B)."):
        assert read(BENCHMARKS["mmlu"], item, thought + said).answer == "B"
    assert read(BENCHMARKS["mmlu"], item, "<think>The answer is (C)").answer == "C"  # it never came to an end


@pytest.mark.parametrize(
    "piece",
    [
        "1 + ",
        "1 apples + ",
        "(1 ",
        "[1] * ",
        "1 abcdefghij - ",
        "x = ",
        "$1, ",
        "{",
        "\\text{",
        "\\boxed{",
        "**",
        "1/",
        "A, ",
        "- ",
    ],
)
def test_long_nonsense_is_read_in_no_time(piece: str):
    """Every reader, on a thousand repetitions: a pattern that tries all ways to part them would not come back."""
    for output in (piece * 1_000, f"The answer is {piece * 1_000}", f"\\boxed{{{piece * 300}}}", f"#### {piece * 300}"):
        number(output)
        letter(output, LETTERS)
        read_final(output)
