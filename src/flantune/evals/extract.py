"""Read an answer out of an output: the recipe's own parser, and number, letter and word readers around it.

Each reader tries its rules in order and names the one that fired. None of them ever sees the right answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal

from flantune.evals.benchmark import Extraction

UNREAD = "unread"

# ---- the recipe's parser (spec 6.6) --------------------------------------------------------------------------------

_PHRASES = ("answer is", "final answer", "Final answer", "answer:", "Answer:")


def parse_answer(output: str, *, brackets: bool = True) -> str:
    """The final answer by the public code's rule. `brackets`: also remove one surrounding pair ( ), as for MMLU.

    >>> parse_answer("6 * 4 = 24. The answer is (B).")
    'B'
    """
    text = output.strip()
    if text and text[-1] in ".,? ":
        text = text[:-1]
    for phrase in _PHRASES:
        if phrase in text:
            text = text.rsplit(phrase, 1)[1].strip()
    if text and text[0] in ".,?: ":
        text = text[1:]
    if text and text[-1] in ".,?: ":
        text = text[:-1]
    text = text.strip()
    if brackets and len(text) >= 2 and text[0] == "(" and text[-1] == ")":
        text = text[1:-1]
    return text


def after_phrase(output: str, phrase: str = r"answer\s+is|answer\s*:") -> str | None:
    """What follows the last occurrence of the phrase (a pattern, in any case), marks of emphasis removed; else None."""
    plain = without_emphasis(output)
    found = list(re.finditer(phrase, plain, flags=re.IGNORECASE))
    return plain[found[-1].end() :].lstrip(" :\t") if found else None


def without_emphasis(text: str) -> str:
    """`**B**`, `__B__`, `$\\boxed{B}$` and back-ticks without their marks."""
    text = re.sub(r"\\boxed\{([^{}]*)\}", r"\1", text)
    return re.sub(r"\*\*|__|`", "", text)


# ---- choices -------------------------------------------------------------------------------------------------------


# A bare A or I may be an English word ("the answer is A dog"), so it must close its sentence or be given a reason.
_TOLD_LETTER = re.compile(
    r"(?:[Oo]ption\s+|[Cc]hoice\s+)?"
    r"(?:\(\s*([A-Za-z])\s*\)|([AI](?=\s*(?:[.,:;)\n]|$|because|since|as\b))|[B-HJ-Z](?![\w'’])))"
)


def letter(output: str, letters: Sequence[str]) -> Extraction:
    """A choice such as (B), as its bare letter.

    After the answer phrase: the letter there, with or without brackets. Without the phrase: an output that is nothing
    but a letter, or starts with one; else the last letter in brackets.
    """
    told = after_phrase(output)
    if told is not None:
        found = _TOLD_LETTER.match(told)
        if found and (answer := (found[1] or found[2]).upper()) in letters:
            return Extraction(answer, "letter after phrase")
        found = _last_bracketed(told, letters)
        if found:
            return Extraction(found[1], "bracketed letter after phrase")
    plain = without_emphasis(output).strip()
    whole = re.fullmatch(r"\(?\s*([A-Za-z])\s*\)?\s*[.:]?", plain)
    if whole and (answer := whole[1].upper()) in letters:
        return Extraction(answer, "whole output")
    # An answer first and talk after it, as in direct mode: "(B) because ...", "B. Paris".
    first = re.match(r"\(([A-Z])\)|([A-Z])[.):](?:\s|$)", plain)
    if first and told is None and (answer := first[1] or first[2]) in letters:
        return Extraction(answer, "letter first")
    found = _last_bracketed(plain, letters)
    if found and told is None:
        return Extraction(found[1], "last bracketed letter")
    return Extraction(None, UNREAD)


def _last_bracketed(text: str, letters: Sequence[str]) -> re.Match[str] | None:
    found = [m for m in re.finditer(r"\(([A-Z])\)", text) if m[1] in letters]
    return found[-1] if found else None


def word(output: str, words: Sequence[str]) -> Extraction:
    """One of a closed set of words, spelled as in the set.

    After the answer phrase: the first of the words there. Without the phrase: an output that is or starts with a word.
    """
    pattern = "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))
    spelled = {w.lower(): w for w in words}
    told = after_phrase(output)
    if told is not None:
        found = re.search(rf"\b({pattern})\b", told, flags=re.IGNORECASE)
        if found:
            return Extraction(spelled[found[1].lower()], "word after phrase")
        return Extraction(None, UNREAD)
    plain = without_emphasis(output).strip()
    found = re.match(rf"({pattern})\b", plain, flags=re.IGNORECASE)
    if found:
        return Extraction(spelled[found[1].lower()], "whole output" if found.end() >= len(plain) - 1 else "word first")
    return Extraction(None, UNREAD)


def free_text(output: str) -> Extraction:
    """After the answer phrase: the rest of its sentence, one final full stop removed. Without it: a one-line output."""
    told = after_phrase(output)
    if told is not None:
        answer = first_sentence(told)
        return Extraction(answer, "sentence after phrase") if answer else Extraction(None, UNREAD)
    plain = without_emphasis(output).strip()
    if plain and "\n" not in plain:
        return Extraction(plain.removesuffix(".").strip(), "whole output")
    return Extraction(None, UNREAD)


def first_sentence(text: str) -> str:
    """Up to a line break or a full stop that a new sentence follows; one final full stop removed."""
    line = text.strip().split("\n")[0]
    line = re.split(r"\.\s+(?=[A-Z])", line)[0].strip()
    return line.removesuffix(".").strip()


# ---- numbers -------------------------------------------------------------------------------------------------------

_CURRENCY = r"[$€£¥₹₽฿৳]|US\$|Rs\.?"
_SIGN = r"(?<![\w)\]])[-−–]\s?(?=[\d$€£¥₹₽฿৳])"  # a minus after a digit, letter or bracket is an operator: 16-3
_POINT = r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_COMMA = r"\d{1,3}(?:[.\u00a0\u202f]\d{3})+(?!\d)(?:,\d+)?|\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:[.,]\d+)?"
_NUMBER = {
    mark: re.compile(rf"(?P<sign>{_SIGN})?(?:(?:{_CURRENCY})\s?(?P<inner>-)?)?(?P<digits>{body})")
    for mark, body in {".": _POINT, ",": _COMMA}.items()
}


def plain_digits(text: str) -> str:
    """Every script's decimal digits as 0-9, full-width and Arabic separators as , and .

    >>> plain_digits("১৮ ๑๒ １，２３４")
    '18 12 1,234'
    """
    return "".join(_plain(c) if c > "\x7f" else c for c in text)


def _plain(char: str) -> str:
    if unicodedata.category(char) == "Nd":
        return str(unicodedata.decimal(char))
    return {"，": ",", "٬": ",", "．": ".", "٫": ".", "＄": "$", "－": "-"}.get(char, char)


def numbers(text: str, decimal_mark: str = ".") -> list[Decimal]:
    """All numbers of a text, exactly, left to right: thousands separators and currency signs removed.

    `decimal_mark` "," reads 2.125 as 2125 and 3,5 as 3.5; a comma before exactly three digits stays a thousands mark.

    >>> numbers("-$1,200.50, then 16-3 and 18.")
    [Decimal('-1200.50'), Decimal('16'), Decimal('3'), Decimal('18')]
    """
    return [_value(m, decimal_mark) for m in _NUMBER[decimal_mark].finditer(plain_digits(text))]


def _value(match: re.Match[str], decimal_mark: str) -> Decimal:
    digits = match["digits"].replace("\u00a0", "").replace("\u202f", "")
    if decimal_mark == ".":
        digits = digits.replace(",", "")
    elif re.fullmatch(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?", digits):
        digits = digits.replace(".", "").replace(",", ".")
    elif re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    else:
        digits = digits.replace(",", ".")
    return -Decimal(digits) if match["sign"] or match["inner"] else Decimal(digits)


def number_text(value: Decimal) -> str:
    """One spelling per value: 18.00 is 18, 1E+3 is 1000, -0 is 0."""
    text = format(value, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def number(output: str, phrases: str = r"answer\s+is|answer\s*:", decimal_mark: str = ".") -> Extraction:
    """The final number: after `####`; else after the last answer phrase; else on a line "A: ..."; else the last one."""
    output = without_emphasis(output)
    places = [
        ("after ####", list(re.finditer(r"####", output))),
        ("after phrase", list(re.finditer(phrases, output, flags=re.IGNORECASE))),
        ("after A:", list(re.finditer(r"^A:", output, flags=re.MULTILINE))),
    ]
    for rule, found in places:
        if found:
            told = output[found[-1].end() :].lstrip().split("\n")[0]
            if values := numbers(told, decimal_mark):
                return Extraction(number_text(values[0]), rule)
    if values := numbers(output, decimal_mark):
        return Extraction(number_text(values[-1]), "last number")
    return Extraction(None, UNREAD)


def equal_numbers(a: str, b: str) -> bool:
    """Equal as exact decimals, each read as a whole: 18 and 18.00, 2,125 and 2125."""
    left, right = numbers(a), numbers(b)
    return len(left) == 1 and len(right) == 1 and left[0] == right[0]
