"""Read an answer out of an output: the recipe's own parser, and number, letter and word readers around it.

Each reader tries its rules in order and names the one that fired. None of them ever sees the right answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from decimal import Decimal

from flantune.evals.benchmark import Extraction, Reading

UNREAD = "unread"
SEVERAL = "several answers"  # more than one, so none

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


PHRASE = r"answer\s+is|answer\s*:"


def after_phrase(output: str, phrase: str = PHRASE) -> str | None:
    """What follows the last answer phrase (a pattern, any case), else the last \\boxed{}; without marks of emphasis."""
    text = without_emphasis(output)
    if found := list(re.finditer(phrase, text, flags=re.IGNORECASE)):
        return text[found[-1].end() :].lstrip(" :：\t")
    return boxed(output)


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{...} (or \\fbox), braces inside it counted; `\\boxed 3` says 3."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if start < 0:
        return None
    place = text.find("d" if text.startswith("\\boxed", start) else "x", start + 5) + 1
    if place < len(text) and text[place] == "{":
        return _inside(text, place)
    return re.split(r"[$\n]", text[place:])[0].strip() or None


def _inside(text: str, opening: int) -> str | None:
    depth = 0
    for place in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[opening + 1 : place]
    return None


_WRAPPED = re.compile(r"\$?\\(?:boxed|fbox|text|textbf|mathrm|mathbf)\s?\{((?:[^{}]|\{[^{}]*\})*)\}\$?")


def without_emphasis(text: str) -> str:
    """`**B**`, `__B__`, back-ticks, `$\\boxed{\\text{B}}$` without their marks."""
    for _ in range(3):
        text = _WRAPPED.sub(r"\1", text)
    return re.sub(r"\*\*|__|`", "", text)


# ---- choices -------------------------------------------------------------------------------------------------------

# A bare A or I may be an English word ("the answer is A dog"), so it must close its sentence or be given a reason.
_TOLD_LETTER = re.compile(
    r"\$?(?:[Tt]he\s+)?(?:[Oo]ption\s+|[Cc]hoice\s+|选项?)?"
    r"(?:[(（]\s*([A-Za-z])\s*[)）]"
    r"|([AI](?=\s*(?:[.,:;)$/。，\n]|$|because|since|as\b))|[B-HJ-Z](?![\w'’])|[A-Z](?=[\u4e00-\u9fff])))\$?"
)
_ANOTHER = re.compile(
    r"\s*(?:,\s*\([A-Z]\)\s*)*(?:,?\s*\b(?:or|and)\b|/|&|[和或、])\s*(?:option\s+)?(?:\([A-Z]\)|[B-HJ-Z](?![\w'’]))"
)


def letter(output: str, letters: Sequence[str], phrase: str = PHRASE, *, loose: bool = False) -> Extraction:
    """A choice such as (B), as its bare letter.

    After the answer phrase: the letter there, with or without brackets; two of them ("(A) or (B)") are no answer.
    Without the phrase: an output that is nothing but a letter, or starts with one; `loose`: else the last one named.
    """
    told = after_phrase(output, phrase)
    if told is not None:
        found = _TOLD_LETTER.match(told)
        if found and (answer := (found[1] or found[2]).upper()) in letters:
            if _ANOTHER.match(told, found.end()):
                return Extraction(None, SEVERAL)
            return Extraction(answer, "letter after phrase")
        named = {m[1] for m in re.finditer(r"\(([A-Z])\)", first_sentence(told)) if m[1] in letters}
        if len(named) == 1:
            return Extraction(named.pop(), "bracketed letter after phrase")
        if not loose:
            return Extraction(None, SEVERAL if named else UNREAD)
    text = without_emphasis(output).strip()
    whole = re.fullmatch(r"[(（]?\s*([A-Za-z])\s*[)）]?\s*[.:。]?", text)
    if whole and (answer := whole[1].upper()) in letters:
        return Extraction(answer, "whole output")
    # An answer first and talk after it, as in direct mode: "(B) because ...", "B. Paris".
    first = re.match(r"\(([A-Z])\)|([A-Z])[.):、](?:\s|$|(?=[\u4e00-\u9fff]))", text)
    if first and told is None and (answer := first[1] or first[2]) in letters:
        several = _ANOTHER.match(text, first.end())
        return Extraction(None, SEVERAL) if several else Extraction(answer, "letter first")
    if loose and (named_last := _last_named(text, letters)):
        return Extraction(named_last, "last letter named")
    return Extraction(None, UNREAD)


def _last_named(text: str, letters: Sequence[str]) -> str | None:
    bracketed = [m[1] for m in re.finditer(r"\(([A-Z])\)", text) if m[1] in letters]
    bare = [m[1] for m in re.finditer(r"(?<![\w'’])([B-HJ-Z])(?![\w'’])", text) if m[1] in letters]
    found = bracketed or bare
    return found[-1] if found else None


def word(output: str, words: Sequence[str], *, loose: bool = False) -> Extraction:
    """One of a closed set of words, spelled as in the set.

    After the answer phrase: the one of the words in its sentence; two of them, or "not" before it, are no answer.
    Without the phrase: an output that is or starts with a word; `loose`: else the last one anywhere.
    """
    pattern = "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))
    spelled = {w.lower(): w for w in words}
    told = after_phrase(output)
    if told is not None:
        sentence = first_sentence(told)
        found = [(m[1] or "", spelled[m[2].lower()]) for m in _words_in(sentence, pattern)]
        if len({w for _, w in found}) == 1 and not found[0][0]:
            return Extraction(found[0][1], "word after phrase")
        if not loose:
            return Extraction(None, SEVERAL if len({w for _, w in found}) > 1 else UNREAD)
    text = without_emphasis(output).strip()
    start = re.match(rf"({pattern})\b", text, flags=re.IGNORECASE)
    if start and told is None:
        rule = "whole output" if start.end() >= len(text) - 1 else "word first"
        return Extraction(spelled[start[1].lower()], rule)
    if loose and (anywhere := list(_words_in(text, pattern))):
        return Extraction(spelled[anywhere[-1][2].lower()], "last word named")
    return Extraction(None, UNREAD)


def _words_in(text: str, pattern: str) -> Iterator[re.Match[str]]:
    return re.finditer(rf"\b(not\s+)?({pattern})\b", text, flags=re.IGNORECASE)


def free_text(output: str, phrase: str = PHRASE, *, loose: bool = False) -> Extraction:
    """After the answer phrase: the rest of its sentence, one final full stop removed. Without it: a one-line output.

    `loose`: without the phrase, the last line.
    """
    told = after_phrase(output, phrase)
    if told is not None:
        answer = first_sentence(told)
        return Extraction(answer, "sentence after phrase") if answer else Extraction(None, UNREAD)
    text = without_emphasis(output).strip()
    if text and "\n" not in text and (answer := first_sentence(text)):
        return Extraction(answer, "whole output")
    if loose and text:
        return Extraction(text.split("\n")[-1].strip().removesuffix("."), "last line")
    return Extraction(None, UNREAD)


def first_sentence(text: str) -> str:
    """Up to a line break or a full stop that a new sentence follows; one final full stop removed."""
    line = text.strip().split("\n")[0]
    line = re.split(r"\.\s+(?=[A-Z])|。", line)[0].strip()
    return line.removesuffix(".").strip()


def told_verbatim(output: str, phrase: str = "answer is ") -> Extraction:
    """Strict reading: what follows the phrase's last occurrence to the output's end, one final full stop removed."""
    rule = "verbatim after phrase" if phrase in output else "whole output"
    text = output.rsplit(phrase, 1)[-1].strip().removesuffix(".").strip()
    return Extraction(text, rule) if text else Extraction(None, UNREAD)


# ---- numbers -------------------------------------------------------------------------------------------------------

_CURRENCY = r"[$€£¥₹₽฿৳]|US\$|Rs\.?"
_SIGN = r"(?<![\w)\]])[-−–]\s?(?=[\d$€£¥₹₽฿৳])"  # a minus after a digit, letter or bracket is an operator: 16-3
# 1,234,567.8; 12,34,567 (grouped as in India); 1234.5; .5
_POINT = r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
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


def number(output: str, phrases: str = PHRASE, decimal_mark: str = ".", reading: Reading = "default") -> Extraction:
    """The final number: after `####`; else after the last answer phrase; else in a box or on a line "A: ..."; else the
    last one. strict: no last resort. loose: always the last one in the output.
    """
    text = without_emphasis(output)
    if reading != "loose":
        for rule, told in _marked(text, output, phrases):
            if told is not None and (value := _told_number(told, decimal_mark)) is not None:
                return Extraction(number_text(value), rule)
    if reading != "strict" and (values := numbers(text, decimal_mark)):
        return Extraction(number_text(values[-1]), "last number")
    return Extraction(None, UNREAD)


def _marked(text: str, output: str, phrases: str) -> Iterator[tuple[str, str | None]]:
    """What follows each kind of mark, the surest first."""
    for rule, pattern in (("after ####", r"####"), ("after phrase", phrases)):
        found = list(re.finditer(pattern, text, flags=re.IGNORECASE))
        yield rule, text[found[-1].end() :] if found else None
    yield "boxed", boxed(output)
    found = list(re.finditer(r"^A:", text, flags=re.MULTILINE))
    yield "after A:", text[found[-1].end() :] if found else None


_TERM = r"[(\s]*[$€£]?\d(?:[\d,.]*\d)?[)\s%]*"
_SIDE = rf"{_TERM}(?:[-+*/×÷x−]{_TERM})*"
_EQUATION = re.compile(rf"(?:\s*[xy]\s*|{_SIDE})=(?:{_SIDE}=)*")  # "3 * 4 = ", "x = "


def _told_number(told: str, decimal_mark: str) -> Decimal | None:
    """The first number of the line; of an equation ("3 * 4 = 12") the one it comes to."""
    line = told.lstrip().split("\n")[0]
    if (sums := _EQUATION.match(plain_digits(line))) and (
        values := numbers(plain_digits(line)[sums.end() :], decimal_mark)
    ):
        return values[0]
    values = numbers(line, decimal_mark)
    return values[0] if values else None


def equal_numbers(a: str, b: str) -> bool:
    """Equal as exact decimals, each read as a whole: 18 and 18.00, 2,125 and 2125."""
    left, right = numbers(a), numbers(b)
    return len(left) == 1 and len(right) == 1 and left[0] == right[0]
