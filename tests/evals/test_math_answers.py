from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.evals import BENCHMARKS
from flantune.evals.competition_math import read_final
from flantune.evals.math_answers import same_answer
from flantune.types import Item

SAME = [
    (r"\frac{1}{2}", "0.5"),
    (r"\dfrac12", r"\frac{1}{2}"),
    ("1/2", r"\frac{1}{2}"),
    (r"-\frac{2}{3}", r"\frac{-2}{3}"),
    (r"3\frac{1}{2}", r"\frac{7}{2}"),
    ("10,000", "10000"),
    (r"10{,}000", "10000"),
    (r"\$40", "40"),
    (r"90^\circ", "90"),
    (r"12\text{ cm}^2", "12"),
    (r"50\%", "50"),
    ("x = 5", "5"),
    (r"x \in [2,5)", "[2,5)"),
    (r"\left( 1, \frac{1}{2} \right)", "(1,0.5)"),
    (r"\{2, 1\}", r"\{1,2\}"),
    ("1, -2", "-2,1"),
    ("2x + 1", "1 + 2x"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    (r"\sqrt[3]{8}", "2"),
    ("2^{10}", "1024"),
    ("5!", "120"),
    (r"\frac{\pi}{2}", r"0.5\pi"),
    (r"\text{(A)}", "(A)"),
    (r"\begin{pmatrix} 1 \\ 1/2 \end{pmatrix}", r"\begin{pmatrix}1\\0.5\end{pmatrix}"),
    ("3+4i", "4i+3"),
    (".5", "0.5"),
]
OTHER = [
    ("1", "2"),
    (r"\frac{1}{2}", r"\frac{2}{1}"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "(2,1)"),
    ("1,2", "1,2,3"),
    ("1,1", "1,2"),
    ("x+1", "x+2"),
    ("2x", "x^2"),
    (r"\sqrt{3}", "3"),
    ("", "0"),
    ("0", ""),
    ("Evelyn", "Angela"),
    ("(", ")"),
    (r"\frac{1}{0}", "1"),
    ("9^{9^{9^{9}}}", "1"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_is_equal_in_value_is_the_same_answer_both_ways(one: str, other: str):
    assert same_answer(one, other) and same_answer(other, one)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_what_is_not_equal_is_not(one: str, other: str):
    assert not same_answer(one, other) and not same_answer(other, one)


@given(st.text(alphabet="0123456789+-*/^(){}[],.\\frac sqrtxpi!$%=&", max_size=40))
def test_nothing_a_model_writes_makes_it_fail_and_everything_equals_itself(text: str):
    assert same_answer(text, text)
    assert isinstance(same_answer(text, "1"), bool)


@given(st.integers(-50, 50), st.integers(1, 50), st.integers(-50, 50), st.integers(1, 50))
def test_fractions_are_compared_exactly(a: int, b: int, c: int, d: int):
    assert same_answer(rf"\frac{{{a}}}{{{b}}}", f"{c}/{d}") == (a * d == c * b)


@pytest.mark.parametrize(
    ("output", "default", "strict", "loose"),
    [
        ("So.\nFinal Answer: The final answer is $[2,5)$. I hope it is correct.", "[2,5)", "$[2,5)$", "[2,5)"),
        ("Thus the answer is $\\boxed{\\frac{1}{\\sqrt{2}}}$.", r"\frac{1}{\sqrt{2}}", None, r"\frac{1}{\sqrt{2}}"),
        ("We get \\boxed{3} and then \\boxed{4}.", "4", None, "4"),
        ("The answer is \\(x+1\\). More follows.", "x+1", None, "x+1"),
        ("The answer is **12**.", "12", None, "12"),
        ("So $x=2$ and hence $y = 3$.", None, None, "y = 3"),
        ("It is 7 or 8.", None, None, "8"),
        ("", None, None, None),
    ],
)
def test_the_final_formula_and_how_it_is_read(output: str, default: str | None, strict: str | None, loose: str | None):
    assert read_final(output).answer == default
    assert read_final(output, "strict").answer == strict
    assert read_final(output, "loose").answer == loose


def test_a_solution_of_the_benchmark_answers_its_own_problem():
    benchmark = BENCHMARKS["math"]
    item = Item(benchmark="math", mode="cot", task="algebra", id="x", prompt="", references=(r"\frac{1}{3}",))
    assert benchmark.score(item, benchmark.extract(item, r"Half of it is $\boxed{\dfrac13}$.")) == 1.0
    assert benchmark.score(item, benchmark.extract(item, "I cannot.")) is None
