"""Read the number that an output tells: in any script's digits, in an equation, with its scale."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal

from flantune.evals.benchmark import Extraction, Reading
from flantune.evals.extract import DENIED, PHRASE, SEVERAL, UNREAD, boxed, without_emphasis

_LONGEST = 400  # of a line, in which a number is looked for
_CURRENCY = r"[$€£¥₹₽฿৳]|US\$|Rs\.?"
_SIGN = r"(?<![\w)\]])[-−–]\s?(?=[\d$€£¥₹₽฿৳])"  # a minus after a digit, letter or bracket is an operator: 16-3
# 1,234,567.8; 12,34,567 (grouped as in India); 1234.5; .5
_POINT = r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d{1,2}(?:,\d{2})+,\d{3}(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
_COMMA = r"\d{1,3}(?:[.\u00a0\u202f]\d{3})+(?!\d)(?:,\d+)?|\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:[.,]\d+)?"
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\{,\}|,?\\[,!;:]|\\ |['’\u2009\u202f\u00a0])\d{3})+(?!\d)")
_BLANKS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)")  # sure only where one number is told
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
    return [_value(m, decimal_mark) for m in _NUMBER[decimal_mark].finditer(_ungrouped(plain_digits(text)))]


def _ungrouped(text: str) -> str:
    """Digits without the marks between groups of three that are nothing else: 70{,}000, 70\\,000, 70'000."""
    return _GROUPED.sub(lambda m: re.sub(r"\D", "", m[0]), text).replace("{,}", ",")


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
    last one. Two of them ("18 or 19") are no answer. strict: no last resort. loose: always the last one in the output.
    """
    text = without_emphasis(output)
    if reading != "loose":
        for rule, told in _marked(text, output, phrases):
            if told is None or DENIED.match(told):
                continue
            found = told_number(told, decimal_mark)
            if found is SEVERAL:
                return Extraction(None, SEVERAL)
            if isinstance(found, Decimal):
                return Extraction(number_text(found), rule)
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


# Atomic, so that a long sum which comes to nothing is not tried in all ways there are to part it.
_UNIT = r"(?:\s?/?(?!(?:of|or|and|is|equals|which|that)\b)[A-Za-z]{2,})"
_OPERAND = (
    rf"(?>[(\[\s]*(?:[-−]\s?)?(?:(?:{_CURRENCY})\s?)?"
    rf"(?:\d[\d,.]*(?<![,.])\s?%?{_UNIT}{{0,2}}|[A-Za-z](?:\([A-Za-z0-9]\)|_?\d)?)[)\]\s]*)"
)
_OPERATOR = r"(?:[-+*/^−]|x(?=[\s\d])|of\b)"
_COMES_TO = r"(?:=|≈|,?\s*(?:which|that)\s+(?:is|equals)|equals|,\s+or\b)"
_SUM = rf"{_OPERAND}(?:{_OPERATOR}{_OPERAND})+"
# "3 * 4 = ", "9 eggs * $2 = ", "A - B = 4 - 5 = ", "20% of 25, which is "; "x = ".
_EQUATION = re.compile(
    rf"(?:{_SUM}|\s*(?:[a-z]|[A-Za-z_]\w*\s*(?=\s=))\s*){_COMES_TO}(?:{_OPERAND}(?:{_OPERATOR}{_OPERAND})*=)*"
)
_UNFINISHED = re.compile(_SUM)
_RATIO = re.compile(r"(?P<sign>[-−]\s?)?(?:(?P<whole>\d+)\s+)?(?P<over>\d+)\s?/\s?(?P<under>\d+)(?![\d/])")
_FRACTION = re.compile(r"\\[dt]?frac\s?\{\s?(-?\d+)\s?\}\s?\{\s?(\d+)\s?\}")
_HALVES = {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_SIGN_WORD = re.compile(r"\s*(?:minus|negative)\s+(?=[\d$])", flags=re.IGNORECASE)
_TEN = re.compile(r"\s*[*x]\s*10\s?\^\s?\{?(-?\d{1,2})\}?")
_SCALE = re.compile(r"\s*(thousand|million|billion|trillion)\b|(k)\b|\s?([千万亿億])", flags=re.IGNORECASE)
_ZEROS = {"k": 3, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "千": 3, "万": 4, "亿": 8, "億": 8}
_ONE_MORE = re.compile(rf"\s*(?:,?\s*\b(?:or|and|to)\b|[–—:]|,(?=\d))\s*(?:{_CURRENCY})?\d", flags=re.IGNORECASE)


def told_number(told: str, decimal_mark: str = ".") -> Decimal | str | None:
    """The first number of the first line that says something; of an equation ("3 * 4 = 12") what it comes to, with its
    scale ("18 thousand", "7 x 10^4", "5/2"). SEVERAL for two numbers ("18 or 19") and for a sum that is left undone.
    """
    line = next((piece for piece in told.split("\n") if re.search(r"\w", piece)), "")[:_LONGEST]
    line = _SIGN_WORD.sub("-", _plainly(line), count=1) if _SIGN_WORD.match(line) else _plainly(line)
    if re.match(r"\s*between\b", line):
        return SEVERAL
    if (sums := _EQUATION.match(line)) and numbers(line[sums.end() :], decimal_mark):
        line = line[sums.end() :]
    elif re.match(r"\s*[^\W\d_]{2}", line) and (sides := re.split(r"(?<=\d)[^.=]{0,20}=", line))[1:]:
        line = sides[-1] if numbers(sides[-1], decimal_mark) else line  # "she makes 9 * 2 = 18 dollars"
    if ratio := _RATIO.match(line.lstrip("($ ")):
        return _quotient(ratio)
    grouped = _BLANKS.sub(lambda m: m[0].replace(" ", ""), line)
    found = next(_NUMBER[decimal_mark].finditer(grouped), None)
    if found is None:
        return None
    if not grouped[: found.start()].strip(" ($") and _is_undone(line):
        return SEVERAL
    value, after = _value(found, decimal_mark), grouped[found.end() :]
    if ten := _TEN.match(after):
        return value.scaleb(int(ten[1]))
    if scale := _SCALE.match(after):
        return value.scaleb(_ZEROS[next(filter(None, scale.groups())).lower()])
    return SEVERAL if _ONE_MORE.match(after) else value


def _plainly(line: str) -> str:
    """LaTeX's signs and fractions as one types them; digits without marks between their groups."""
    line = _ungrouped(plain_digits(line))
    line = re.sub(r"\\(?:times|cdot)(?![A-Za-z])|[×·]", "*", re.sub(r"\\div(?![A-Za-z])|÷", "/", line))
    line = re.sub(r"\\(?:left|right)(?![A-Za-z])|\\(?=[$%])", "", line)
    for sign, ratio in _HALVES.items():
        line = line.replace(sign, f" {ratio}")
    return _FRACTION.sub(r"\1/\2", line)


def _quotient(ratio: re.Match[str]) -> Decimal | None:
    if int(ratio["under"]) == 0:
        return None
    value = Decimal(ratio["whole"] or 0) + Decimal(ratio["over"]) / Decimal(ratio["under"])
    return -value if ratio["sign"] else value


def _is_undone(line: str) -> bool:
    """The line begins with a sum and does not say what it comes to."""
    sums = _UNFINISHED.match(line)
    return sums is not None and not _TEN.search(line) and re.search(r"\d\D*[-+*/^−x]\s*[^\w\s]?\d", sums[0]) is not None


def is_number(text: str) -> bool:
    """A number and no more, but blanks and a currency sign."""
    found = _NUMBER["."].fullmatch(plain_digits(text.strip()))
    return found is not None


def equal_numbers(a: str, b: str) -> bool:
    """Both are numbers and no more, equal as exact decimals: 18 and 18.00, 2,125 and 2125."""
    return is_number(a) and is_number(b) and numbers(a) == numbers(b)
