"""Printing the answer choices, and when the target becomes a label. Spec 2.5.

list     OPTIONS:            random   Choose from:            bullets    noon. + yes + no
         - yes                        (A). yes;
         - no                         (B). no;
target   yes                          (A).                               yes
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flantune.formats.delimiters import DASH, ENDS, HEADS, HEADS_ZH, MARKS, MAX_ITEMS, Marks


@dataclass(frozen=True, slots=True)
class OptionStyle:
    head: str
    marks: Marks
    end: str


LIST_STYLE = OptionStyle("OPTIONS:", DASH, "")


def draw_style(rng: random.Random) -> OptionStyle:
    """Head, marks and item end, each uniform and independent: P(the marks are labels) = 64/87."""
    return OptionStyle(rng.choice(HEADS), rng.choice(MARKS), rng.choice(ENDS))


def in_language(style: OptionStyle, language: str) -> OptionStyle:
    """The style with its head in the wording's language; the marks are signs and letters that stay."""
    return replace(style, head=HEADS_ZH[style.head]) if language == "zh" and style.head in HEADS_ZH else style


def usable_style(style: OptionStyle, options: Sequence[str]) -> OptionStyle:
    """The style, or the dash list where there are more than 26 choices: there are no more marks than letters."""
    return style if len(options) <= MAX_ITEMS else LIST_STYLE


def print_options(options: Sequence[str], style: OptionStyle = LIST_STYLE) -> str:
    """The block as text. It starts with the head, or with the first mark where the head is empty."""
    style = usable_style(style, options)
    marks = style.marks.items if len(options) <= MAX_ITEMS else [DASH.items[0]] * len(options)
    return style.head + "".join(f"{mark}{text}{style.end}" for mark, text in zip(marks, options, strict=False))


def worded_answer(answer: str, options: Sequence[str], style: OptionStyle = LIST_STYLE) -> str:
    """The answer as this block makes one give it.

    The trimmed mark, punctuation included, where the marks are labels and the trimmed answer is one of the trimmed
    choices (the first such); else the answer's text.
    """
    style = usable_style(style, options)
    if not style.marks.are_labels:
        return answer
    wanted = answer.strip()
    for mark, text in zip(style.marks.items, options, strict=False):
        if text.strip() == wanted:
            return mark.strip()
    return answer
