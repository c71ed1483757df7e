"""Exact match and ROUGE-L over several references, as Tk-Instruct scores Natural Instructions (spec 3.5).

ROUGE-L is rouge_score's F measure with stemming, best reference. Its stock tokenizer deletes every character outside
a-z and 0-9, so a Chinese answer has no tokens at all; references that hold other letters are tokenised by
`unicode_tokens` instead. References in ASCII keep the stock tokenizer, so published numbers stay comparable.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from flantune.evals.told_numbers import numbers
from flantune.types import Metric

# Scripts written without blanks between words: every character is a token of its own.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)


def score_text(metric: Metric, output: str, references: Sequence[str]) -> float:
    """In [0, 1], best over the references."""
    if not references:
        raise ValueError("no references to score against")
    one: Callable[[str, str], float] = rouge_l if metric == "rouge_l" else exact_match
    return max(one(output, reference) for reference in references)


def normalise(text: str) -> str:
    """Lower-cased, punctuation removed (ASCII's and Unicode's), blanks single. Tk-Instruct's `normalize_answer`."""
    kept = "".join(c for c in text.lower() if c not in _PUNCTUATION and not unicodedata.category(c).startswith("P"))
    return " ".join(kept.split())


_PUNCTUATION = frozenset(string.punctuation)


def exact_match(output: str, reference: str) -> float:
    """1 where the normalised texts are equal.

    Two guards: texts that are numbers are compared as numbers (without punctuation 1.5 and 15, -3 and 3 would be the
    same), and a reference of punctuation alone must be met as it stands.
    """
    left, right = _whole_number(output), _whole_number(reference)
    if left is not None and right is not None:
        return float(left == right)
    wanted = normalise(reference)
    if not wanted:
        return float(output.strip() == reference.strip())
    return float(normalise(output) == wanted)


def _whole_number(text: str) -> Any:
    text = text.strip().rstrip(".")
    if not re.fullmatch(r"[-−]?[\d,]*\.?\d+", text):
        return None
    found = numbers(text)
    return found[0] if len(found) == 1 else None


def rouge_l(output: str, reference: str) -> float:
    return float(_scorer(_foreign(reference)).score(reference, output)["rougeL"].fmeasure)


def _foreign(text: str) -> bool:
    """Does it hold a letter or digit outside ASCII? Typographic quotes and dashes alone do not count."""
    return any(c > "\x7f" and c.isalnum() for c in text)


def unicode_tokens(text: str) -> list[str]:
    """Lower-cased runs of letters, digits and marks; in scripts without blanks every character alone. No stemming."""
    tokens: list[str] = []
    run = ""
    for char in unicodedata.normalize("NFC", text.lower()):
        alone = _UNSPACED.match(char) is not None
        inside = not alone and unicodedata.category(char)[0] in "LNM"
        if inside:
            run += char
            continue
        if run:
            tokens.append(run)
            run = ""
        if alone and unicodedata.category(char)[0] in "LNM":
            tokens.append(char)
    return [*tokens, run] if run else tokens


class _UnicodeTokenizer:
    def tokenize(self, text: str) -> list[str]:
        return unicode_tokens(text)


@functools.cache
def _scorer(unicode: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # here, since it loads nltk: a second no other command needs

    if unicode:
        return RougeScorer(["rougeL"], tokenizer=_UnicodeTokenizer())
    return RougeScorer(["rougeL"], use_stemmer=True)
