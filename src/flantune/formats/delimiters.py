"""The option block's literal strings: 16 heads, 87 item marks (23 bullets, 64 labels), 3 item ends. Spec 2.5.

The strings are data of the recipe; `tests/formats/test_options.py` compares them with its table.
"""

from __future__ import annotations

from dataclasses import dataclass

HEADS = (
    "",
    "OPTIONS:",
    "Possible answers:",
    "Available choices:",
    "Options:",
    "OPT:",
    "Choose from:",
    "Choose your answer from:",
    "Available options:",
    "Options are:",
    "Choices:",
    "Pick your answer from:",
    "Select from:",
    "Pick from:",
    "Select from the following.",
    "pick from the following.",
)
# What stands for each in Chinese wording: our own.
HEADS_ZH = {
    "": "",
    "OPTIONS:": "选项：",
    "Possible answers:": "可能的答案：",
    "Available choices:": "可供选择：",
    "Options:": "选项如下：",
    "OPT:": "备选：",
    "Choose from:": "请从中选择：",
    "Choose your answer from:": "请从以下选项中选出答案：",
    "Available options:": "可选项：",
    "Options are:": "选项有：",
    "Choices:": "候选答案：",
    "Pick your answer from:": "请从中挑出答案：",
    "Select from:": "从下列各项中选择：",
    "Pick from:": "从下面挑选：",
    "Select from the following.": "请在下列各项中选择。",
    "pick from the following.": "请从下面挑一个。",
}
ENDS = ("", ";", ".")
MAX_ITEMS = 26  # one per letter

_LOWER = tuple("abcdefghijklmnopqrstuvwxyz")
_UPPER = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGITS = tuple(str(i) for i in range(1, MAX_ITEMS + 1))
# fmt: off
_ROMAN = (
    "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii", "xiii",
    "xiv", "xv", "xvi", "xvii", "xviii", "xix", "xx", "xxi", "xxii", "xxiii", "xxiv", "xxv", "xxvi",
)
# fmt: on
_ROMAN_UPPER = tuple(r.upper() for r in _ROMAN)


@dataclass(frozen=True, slots=True)
class Marks:
    """The mark before each item, by position. A label scheme when the marks differ from one another."""

    items: tuple[str, ...]  # (26,)

    @property
    def are_labels(self) -> bool:
        return len(set(self.items)) == len(self.items)


def _bullet(mark: str) -> Marks:
    return Marks((mark,) * MAX_ITEMS)


def _labels(before: str, names: tuple[str, ...], after: str) -> Marks:
    return Marks(tuple(f"{before}{name}{after}" for name in names))


_LINE_BULLETS = ["\n - ", "\n -", "\n -- ", "\n --", "\n + ", "\n +", "\n * ", "\n *"]
_FLUSH_BULLETS = ["\n- ", "\n+ ", "\n* ", "\n[-] ", "\n[+] "]
_INLINE_BULLETS = [" - ", " -- ", " + ", " * ", " -", " --", " +", " *", " [+] ", " [-] "]
BULLETS = (*_LINE_BULLETS, *_FLUSH_BULLETS, *_INLINE_BULLETS)
_ROMAN_SHAPES = [("", ". "), ("[", "] "), ("(", ") "), ("(", "). ")]
# Each of these is in the recipe's list twice, the roman ones once: drawing uniformly from 87 entries keeps the weights.
_TWICE = [
    *[("\n[", n, "]. ") for n in (_LOWER, _UPPER, _DIGITS)],
    *[("\n(", n, "). ") for n in (_LOWER, _UPPER, _DIGITS)],
    *[("\n", n, "). ") for n in (_LOWER, _UPPER, _DIGITS)],
    *[("\n (", n, "). ") for n in (_LOWER, _UPPER, _DIGITS)],
    *[("\n ", n, "). ") for n in (_LOWER, _UPPER, _DIGITS)],
    *[(" (", n, "). ") for n in (_LOWER, _UPPER, _DIGITS)],
    *[(" ", n, "). ") for n in (_LOWER, _UPPER, _DIGITS)],
    *[(" ", n, ". ") for n in (_LOWER, _UPPER, _DIGITS)],
]

MARKS: tuple[Marks, ...] = (
    *[_bullet(b) for b in BULLETS],
    *[
        _labels(start + opening, names, closing)
        for names in (_ROMAN, _ROMAN_UPPER)
        for start in (" ", "\n")
        for opening, closing in _ROMAN_SHAPES
    ],
    *[_labels(*shape) for shape in _TWICE for _ in range(2)],
)
DASH = _bullet("\n- ")
