"""Read an answer out of an output: the recipe's own parser, and letter and word readers around it. Numbers are read by
told_numbers.py.

Each reader tries its rules in order and names the one that fired. None of them ever sees the right answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from flantune.evals.benchmark import Extraction

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


# "isn't" is none of them; "is not (B)" is found and then says nothing.
_SAYS = r"(?:is|(?:must|should|would|will)\s+be)\b"
PHRASE = rf"answer\s+{_SAYS}|answer\s*[:：]|(?:correct|right|best)\s+(?:choice|option)\s+is\b|final\s+answer\W{{0,4}}\n"
CHOICE = rf"{PHRASE}|\bI\s+(?:would\s+|will\s+)?(?:choose|pick|select|go\s+with)\b"
DENIED = re.compile(r"\s*(?:(?:certainly|clearly|definitely)\s+)?(?:not|never|nicht|не)\b", flags=re.IGNORECASE)


def after_phrase(output: str, phrase: str = PHRASE) -> str | None:
    """What follows the last answer phrase (a pattern, any case), else the last \\boxed{}; without marks of emphasis.

    After "answer is not" nothing is told.
    """
    text = without_emphasis(output)
    if found := list(re.finditer(phrase, text, flags=re.IGNORECASE)):
        told = text[found[-1].end() :].lstrip(" :：\t\r\n")
        return "" if DENIED.match(told) else told
    content = boxed(output)
    return None if content is None else without_emphasis(content)


def boxed(text: str) -> str | None:
    """The content of the last \\boxed{...} (or \\fbox), braces inside it counted; `\\boxed 3` says 3."""
    return _boxed_at(text, max(text.rfind("\\boxed"), text.rfind("\\fbox")))


def first_boxed(text: str) -> str | None:
    """The same of the first."""
    return _boxed_at(text, min((text.find(b) for b in ("\\boxed", "\\fbox") if b in text), default=-1))


def _boxed_at(text: str, start: int) -> str | None:
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


_WRAPPED = re.compile(
    r"\$?\\(?:boxed|fbox|text|textbf|textit|mathrm|mathbf)\s?\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}\$?"
)


def without_emphasis(text: str) -> str:
    """`**B**`, `__B__`, back-ticks, `$\\boxed{\\text{B}}$` without their marks."""
    for _ in range(3):
        text = _WRAPPED.sub(r"\1", text)
    return re.sub(r"\*\*|__|`", "", text)


# ---- choices -------------------------------------------------------------------------------------------------------

# A bare A or I may be an English word ("the answer is A dog"), so it must close its sentence, be given a reason, or
# have its text set off. In Chinese there is no such word.
_TOLD_LETTER = re.compile(
    r"\$?(?:(?:probably|likely|therefore|thus|definitely|clearly|simply)\s+)?(?:[Tt]he\s+)?(?:answer\s+)?"
    r"(?P<named>[Oo]ption\s+|[Cc]hoice\s+|[Ll]etter\s+|选项?)?"
    r"(?:[(（]\s*(?P<bracketed>[A-Za-z])\s*[)）]"
    r"|(?P<word>[AI](?=\s*(?:[.,:;!)(（$/。，、．！\n]|[-–—]\s|$|because|since|as\b|[\u4e00-\u9fff])|(?(named)\b|(?!))))"
    r"|(?P<bare>[B-HJ-Z](?![\w'’])|[A-Z](?=[\u4e00-\u9fff]))"
    r"|(?P<small>[a-z])(?=\s*[.。]?\s*$))\$?"
)
_ANOTHER = re.compile(
    r"\s*(?:,?\s*\b(?:or|and)\b|[,，+/&、]|或者?|和|及)\s*(?:option\s+)?(?:[(（][A-Z][)）]|[B-HJ-Z](?![\w'’]))"
)
# A letter that stands alone between marks is no word: it is taken for one in brackets.
_MARKED_LETTER = re.compile(
    r"(?:\*{1,2}|__?|`|\\\(|[\"'“”‘「『《【<\[])\s?\(?([A-Za-z])\)?[.:)]?\s?(?:\*{1,2}|__?|`|\\\)|[\"'“”’」』》】>\]])(?![\w*])"
)
_SET_OFF = r"[.,):、．](?:\s|$|(?=[\u4e00-\u9fff]))|\s*\n|\s[-–—]\s|\s+is\s+(?:the\s+)?(?:correct|right|answer)"
_WRONG = re.compile(r"[)）]?\s+(?:is|are|was)\s+(?:not\b|wrong|incorrect|false)", flags=re.IGNORECASE)


def letter(output: str, letters: Sequence[str], phrase: str = CHOICE, *, loose: bool = False) -> Extraction:
    """A choice such as (B), as its bare letter.

    After the answer phrase: the letter there, with or without brackets; two of them ("(A) or (B)") are no answer.
    Without the phrase: an output that is nothing but a letter, or starts with one; `loose`: else the last one named.
    """
    output = _MARKED_LETTER.sub(r"(\1)", output)
    told = after_phrase(output, phrase)
    if told is not None:
        told = _MARKED_LETTER.sub(r"(\1)", told)
        found = _TOLD_LETTER.match(told)
        if found and (answer := _letter_of(found)) in letters:
            if _ANOTHER.match(told, found.end()):
                return Extraction(None, SEVERAL)
            return Extraction(answer, "letter after phrase")
        named = {m[1] for m in re.finditer(r"\(([A-Z])\)", first_sentence(told))}
        if len(named) == 1 and named <= set(letters):
            return Extraction(named.pop(), "bracketed letter after phrase")
        if not loose:
            return Extraction(None, SEVERAL if named else UNREAD)
    text = _MARKED_LETTER.sub(r"(\1)", without_emphasis(output)).strip()
    whole = re.fullmatch(r"[(（]?\s*([A-Za-z])\s*[)）]?\s*[.:。．!！]?", text)
    if whole and (answer := whole[1].upper()) in letters:
        return Extraction(answer, "whole output")
    # An answer first and talk after it, as in direct mode: "(B) because ...", "B. Paris".
    first = re.match(rf"\(([A-Z])\)|([A-Z])(?:{_SET_OFF})", text)
    if first and told is None and (answer := first[1] or first[2]) in letters:
        if _WRONG.match(text, first.end()):
            return Extraction(None, UNREAD)
        several = _ANOTHER.match(text, first.end(1) + 1 if first[1] else first.end(2))
        return Extraction(None, SEVERAL) if several else Extraction(answer, "letter first")
    if loose and (named_last := _last_named(text, letters)):
        return Extraction(named_last, "last letter named")
    return Extraction(None, UNREAD)


def _letter_of(found: re.Match[str]) -> str:
    return next(found[name] for name in ("bracketed", "word", "bare", "small") if found[name]).upper()


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
        if re.match(rf"\s*(?:or|and|/)\s*(?:{pattern})\b", text[start.end() :], flags=re.IGNORECASE):
            return Extraction(None, SEVERAL)
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
