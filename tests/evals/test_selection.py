from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.errors import RecipeError
from flantune.evals import BENCHMARKS
from flantune.evals.benchmark import Extraction
from flantune.evals.decoding import Decoding, choose, load_scorer
from flantune.evals.selection import (
    best_of,
    complexity_vote,
    majority_vote,
    progressive_hints,
    read_samples,
    same_of,
    steps,
)
from flantune.types import Item


@given(st.lists(st.sampled_from(["A", "B", "C", None]), max_size=30))
def test_the_vote_is_the_counters_most_common_reached_first(answers: list[str | None]):
    vote = majority_vote(answers)
    counted = Counter(a for a in answers if a is not None)
    assert vote.voters == sum(counted.values()) and vote.samples == len(answers)
    if not counted:
        assert (vote.answer, vote.chosen, vote.agreement) == (None, None, None)
        return
    top = max(counted.values())
    first = next(a for a in answers if a is not None and counted[a] == top)
    assert (vote.answer, vote.votes, vote.chosen) == (first, top, answers.index(first))


def test_equal_numbers_are_one_answer_and_the_unread_have_no_vote():
    vote = majority_vote(["18.0", None, "20", "18", None, "20", "18.00"])
    assert (vote.answer, vote.votes, vote.voters, vote.samples) == ("18.0", 3, 5, 7)
    assert vote.as_extraction().rule == "majority: 3 of 5 votes" and vote.agreement == 3 / 5


def test_samples_are_read_as_the_benchmark_reads():
    item = Item(benchmark="gsm8k", mode="cot", task="gsm8k", id="x", prompt="", references=("18",))
    told = ["So 18.\nThe answer is 18.", "no idea", "The answer is 1,8. No: the answer is $18."]
    assert read_samples(BENCHMARKS["gsm8k"], item, told) == ["18", None, "18"]


def test_complexity_keeps_the_longest_rationales():
    outputs = ["short. 1", "a\nb\nc\nthe answer is 2", "a\nb\nthe answer is 3", "a\nb\nc\nd\nthe answer is 2", "x"]
    answers = ["1", "2", "3", "2", "1"]
    assert majority_vote(answers).answer == "1"
    vote = complexity_vote(outputs, answers, keep=3)
    assert (vote.answer, vote.votes, vote.voters, vote.chosen) == ("2", 2, 3, 1)
    assert [steps(o) for o in outputs] == [2, 4, 3, 5, 1] and steps("一。二。") == 2
    assert complexity_vote(outputs, answers, keep=5).answer == majority_vote(answers).answer
    with pytest.raises(ValueError, match="expected equal numbers"):
        complexity_vote(outputs, answers[:2], keep=1)


def test_best_of_takes_the_highest_and_skips_what_has_no_score():
    assert best_of(["a", "bbb", "cc", "ddd"], len) == 1
    assert best_of(["a", "bbb"], lambda o: None) is None
    assert best_of(["a", "bbb"], lambda o: None if o == "bbb" else 0.0) == 0


def test_hints_are_all_answers_so_far_until_two_agree():
    asked: list[str] = []

    def ask(text: str) -> Extraction:
        asked.append(text)
        return Extraction(["4", "6", "6.0", "9"][len(asked) - 1], "x")

    last, answers = progressive_hints(ask, "What?")
    assert (last.answer, answers) == ("6.0", ["4", "6", "6.0"])
    assert asked == [
        "What?",
        "What? (Hint: The answer is near to 4).",
        "What? (Hint: The answer is near to 4, 6).",
    ]


def test_hints_stop_at_their_limit_and_at_an_unread_answer():
    numbers = iter(range(100))
    last, answers = progressive_hints(lambda _: Extraction(str(next(numbers)), "x"), "Q", most=3)
    assert answers == ["0", "1", "2", "3"] and last.answer == "3"
    told = iter([Extraction("1", "x"), Extraction(None, "unread")])
    assert progressive_hints(lambda _: next(told), "Q")[0].answer == "1"
    assert progressive_hints(lambda _: Extraction(None, "unread"), "Q") == (Extraction(None, "unread"), [])


def math_item() -> Item:
    return Item(benchmark="math", mode="cot", task="algebra", id="algebra/0", prompt="p", references=("7",))


def test_formulas_that_hold_the_same_number_are_no_one_answer_and_those_of_one_value_are():
    same = same_of(BENCHMARKS["math"])
    vote = majority_vote(["x^2", "2", "2x", "7", "7"], same)
    assert (vote.answer, vote.votes, vote.voters) == ("7", 2, 5)
    assert majority_vote(["\\frac{1}{2}", "7", "0.5"], same).votes == 2
    assert majority_vote(["x^2", "2", "2x", "7", "7"]).answer == "7"


def test_the_longest_samples_that_can_be_read_are_kept():
    told = ["a\nb\nc\nd", "a\nb\nc\ne", "so\n\\boxed{18}", "\\boxed{18}"]
    vote = complexity_vote(told, [None, None, "18", "18"], keep=2)
    assert (vote.answer, vote.votes, vote.chosen, vote.samples) == ("18", 2, 2, 4)


def test_where_a_scorer_says_nothing_a_sample_that_can_be_read_stands():
    decoding = Decoding(samples=3, select="best-of", scorer="length")
    text, found, samples = choose(decoding, BENCHMARKS["math"], math_item(), ["?", "\\boxed{7}", "!"], [None] * 3)
    assert (text, found.answer, samples.chosen) == ("\\boxed{7}", "7", 1)


def test_a_scorer_that_says_nan_is_told_so(tmp_path: Path):
    (tmp_path / "own.py").write_text("def score(prompt, output):\n    return float('nan')\n")
    scorer = load_scorer(str(tmp_path / "own.py"))
    assert scorer is not None
    with pytest.raises(RecipeError, match="came nan"):
        scorer("p", "o")
