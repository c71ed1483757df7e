"""Are two final answers of competition mathematics the same? Written alike, or equal in value.

Answers are LaTeX as models and books write it. First both are brought to one spelling; if that does not settle it they
are read as lists, intervals and expressions and compared by value, exactly where fractions suffice, else to 1e-9 at
three fixed values of every variable. Nothing is ever evaluated as code; what cannot be read is compared as text.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial

Value = Fraction | complex

_SPACES = re.compile(r"(?<!\\)\\[!,;: ]|\\q?quad|~|\s+")
_WRAPPERS = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|overline|boxed|fbox)\{([^{}]*)\}")
_UNITS = re.compile(
    r"(?<=[\d)}])(?:\\?(?:cm|mm|km|m|ft|feet|foot|inch(?:es)?|in\.|miles?|mph|hours?|minutes?|seconds?|days?|weeks?|years?"
    r"|dollars?|cents?|pounds?|kg|g|units?|squareunits?|cubicunits?|degrees?|points?|ways|meters?|yards?)(?:\^\{?[23]\}?)?)$"
)


def same_answer(answer: str, reference: str) -> bool:
    """
    >>> same_answer(r"\\dfrac{1}{2}", "0.5"), same_answer("(1, 2]", r"\\left(1,2\\right]"), same_answer("3", "4")
    (True, True, False)
    """
    left, right = spelled(answer), spelled(reference)
    if not left or not right:
        return left == right
    if "=" in left and "=" not in right and len(_split(left)) == 1:  # "f(2) = 6", "1 + 2 + 3 = 6"
        left = left.rsplit("=", 1)[1] or left
    return left == right or _same(left, right)


def spelled(text: str) -> str:
    """One spelling for what is set differently: blanks, sizes, wrappers, units, short fractions, thousands commas."""
    text = text.strip().strip("$").strip()
    text = text.removeprefix("\\(").removesuffix("\\)").removeprefix("\\[").removesuffix("\\]")
    text = text.rstrip(".").replace("\\$", "").replace("$", "").replace("{,}", ",").replace("−", "-")
    text = re.sub(r"\\(?:left|right|big|Big|bigg|displaystyle|limits)(?![a-zA-Z])", "", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = re.sub(r"\^\{?\\circ\}?|\\degree|°|\\?%|\\%", "", text)
    text = re.sub(r",\\!(?=\d)", ",", text)
    text = re.sub(r"\\(?:text|textbf|textit|mbox)\{[^{}]*\}", _lower_words, text)
    for _ in range(3):
        text = _WRAPPERS.sub(r"\1", text)
    text = _SPACES.sub("", text)
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(\d)\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\{[^{}]*\})(\w)", r"\1{\2}", text)
    text = re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\d.])\.(?=\d)", "0.", text)
    text = re.sub(r"_\{(\w)\}", r"_\1", text)
    # Words alike in any case; what has one letter or two may be a name of something else.
    text = re.sub(r"(?<![A-Za-z\\])[A-Za-z]{3,}", lambda m: m[0].lower(), text)
    text = re.sub(r"^(?:[a-zA-Z](?:\([a-zA-Z]\))?|[a-z]\\in)=", "", text).removeprefix("x\\in")
    text = _UNITS.sub("", text).rstrip(".")
    return text.replace(",", "") if re.fullmatch(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?", text) else text


def _lower_words(found: re.Match[str]) -> str:
    """In what is set as text a word has two letters."""
    return re.sub(r"(?<![A-Za-z])[A-Za-z]{2,}", lambda m: m[0].lower(), found[0])


def _same(left: str, right: str) -> bool:
    if "\\begin{" in left or "\\begin{" in right:
        one, other = _matrix(left), _matrix(right)
        return one is not None and other is not None and _all_same(one, other)
    if (left.count("\\pm"), right.count("\\pm")) in ((0, 1), (1, 0)):
        left, right = _both_signs(left), _both_signs(right)
    one_list, other_list = _listed(left), _listed(right)
    if one_list or other_list:
        if one_list is None or other_list is None or one_list[0] != other_list[0]:
            return False
        brackets, ones = one_list
        return _all_same(ones, other_list[1], ordered=brackets not in ("{}", ""))
    try:
        return _equal_values(left, right)
    except (ValueError, ZeroDivisionError, OverflowError, IndexError, RecursionError):
        return False


def _both_signs(text: str) -> str:
    """What \\pm stands for, as a list."""
    if "\\pm" not in text:
        return text
    return f"{text.replace(chr(92) + 'pm', '+').removeprefix('+')},{text.replace(chr(92) + 'pm', '-')}"


def _all_same(ones: list[str], others: list[str], ordered: bool = True) -> bool:
    if len(ones) != len(others):
        return False
    if ordered:
        return all(same_answer(a, b) for a, b in zip(ones, others, strict=True))
    left = list(others)
    for one in ones:
        match = next((other for other in left if same_answer(one, other)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _matrix(text: str) -> list[str] | None:
    found = re.fullmatch(r"\\begin\{([a-z]*matrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", text, flags=re.DOTALL)
    return [cell for row in found[2].split("\\\\") for cell in (*row.split("&"), ";")] if found else None


def _listed(text: str) -> tuple[str, list[str]] | None:
    """The brackets around a list and its parts at the top level; None for a single expression."""
    plain = text.replace("\\{", "{").replace("\\}", "}")
    opened = plain[0] in "([{" and _closes(plain) == len(plain) - 1
    brackets, inside = (plain[0] + plain[-1], plain[1:-1]) if opened else ("", plain)
    parts = _split(inside)
    if len(parts) > 1:
        return brackets, parts
    return (brackets, parts) if text.startswith("\\{") else None


def _closes(text: str) -> int:
    depth = 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return place
    return -1


def _split(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [p.removeprefix("and") for p in (*parts, text[start:])]


def _equal_values(left: str, right: str) -> bool:
    for point in (0.7310586, 1.3247179, 1.9021605):
        one, other = (_Reader(text, partial(_at, point)).whole() for text in (left, right))
        if isinstance(one, Fraction) and isinstance(other, Fraction):
            if one != other:
                return False
            continue
        if not cmath.isclose(complex(one), complex(other), rel_tol=1e-9, abs_tol=1e-12):
            return False
    return True


def _at(point: float, name: str) -> complex:
    return complex(point + sum(map(ord, name)) / 97)


class _Reader:
    """Recursive descent over + - * / ^ ! fractions, roots, pi and one-letter variables. Raises ValueError."""

    def __init__(self, text: str, value_of: Callable[[str], complex]) -> None:
        self.text, self.at, self.value_of = text, 0, value_of

    def whole(self) -> Value:
        value = self.sum()
        if self.at != len(self.text):
            raise ValueError(self.text[self.at :])
        return value

    def has(self, *starts: str) -> str:
        for start in starts:
            if self.text.startswith(start, self.at):
                self.at += len(start)
                return start
        return ""

    def sum(self) -> Value:
        sign = self.has("+", "-")
        value = self.product()
        value = -value if sign == "-" else value
        while sign := self.has("+", "-"):
            term = self.product()
            value = value + term if sign == "+" else value - term
        return value

    def product(self) -> Value:
        value = self.power()
        while True:
            if self.has("\\cdot", "\\times", "*"):
                value = value * self.power()
            elif self.has("\\div", "/"):
                value = value / self.power()
            elif self.at < len(self.text) and (self.text[self.at].isalpha() or self.text[self.at] in "\\({"):
                mixed = isinstance(value, Fraction) and self.text[self.at - 1].isdigit() and self.mixed()
                value = value + self.power() if mixed else value * self.power()
            else:
                return value

    def mixed(self) -> bool:
        """Does a fraction of plain numbers follow, as in 3\\frac{1}{2}?"""
        return re.match(r"\\frac\{\d+\}\{\d+\}", self.text[self.at :]) is not None

    def power(self) -> Value:
        value = self.base()
        while self.has("!"):
            if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 170:
                raise ValueError("factorial")
            value = Fraction(math.factorial(int(value)))
        if not self.has("^"):
            return value
        exponent = self.group()
        if isinstance(value, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
            if abs(exponent) * max(value.numerator.bit_length(), value.denominator.bit_length()) < 20_000:
                return value ** int(exponent)
            raise ValueError("too large a power")
        return complex(value) ** complex(exponent)

    def group(self) -> Value:
        """What a brace holds, or the next single sign."""
        if self.has("{"):
            value = self.sum()
            if not self.has("}"):
                raise ValueError("brace")
            return value
        if self.at < len(self.text) and self.text[self.at].isdigit():
            self.at += 1
            return Fraction(int(self.text[self.at - 1]))
        return self.base()

    def base(self) -> Value:
        if number := re.match(r"\d+(?:\.\d+)?", self.text[self.at :]):
            self.at += number.end()
            return Fraction(number[0])
        if self.has("\\frac"):
            return self.group() / self.group()
        if self.has("\\sqrt"):
            return self.root()
        if self.has("\\pi", "π"):
            return complex(math.pi)
        if opening := self.has("(", "{"):
            value = self.sum()
            if not self.has({"(": ")", "{": "}"}[opening]):
                raise ValueError("bracket")
            return value
        if name := re.match(r"[A-Za-z](?:_\{?\w+\}?)?|\\(?:alpha|beta|theta|phi|lambda)", self.text[self.at :]):
            self.at += name.end()
            return complex(0, 1) if name[0] == "i" else complex(math.e) if name[0] == "e" else self.value_of(name[0])
        raise ValueError(self.text[self.at :])

    def root(self) -> Value:
        degree = Fraction(2)
        if index := re.match(r"\[(\d+)\]", self.text[self.at :]):
            self.at += index.end()
            degree = Fraction(int(index[1]))
        value = self.group()
        if isinstance(value, Fraction) and value >= 0 and degree == 2:
            top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
            if top * top == value.numerator and bottom * bottom == value.denominator:
                return Fraction(top, bottom)
        return complex(value) ** (1 / float(degree))
