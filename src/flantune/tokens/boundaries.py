"""Where a text can be cut so that the ids of its parts are the ids of the whole.

    "… left at nine." | "\n\nDoes this follow:" | " The" | " ferry left"

A tokenizer splits text before it looks for pieces, and no piece crosses such a split. A split that follows from the two
characters at it alone, whatever stands before and after, is a safe cut. The rules below name only those, for splitters
whose rule is known to the letter; any other tokenizer gets no rule, and its texts are tokenised whole.

Every rule here cuts only between a character that is no white space and a blank or line break. A unit, the text between
two cuts, so begins with its white space: what splitters look ahead for (" is the run of blanks followed by a word?")
lies within the unit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from flantune.tokens.near_ties import NearTies
from flantune.tokens.tokenizer import SPACE_BEFORE, Tokenizer
from flantune.types import Tokens

EncodeUnits = Callable[[Sequence[str]], list[Tokens]]

# Splitting expressions of which the rule "alnum" is proved in the tests: after a letter or digit every alternative
# ends at white space, and punctuation takes line breaks after it along but never a blank. Llama 3, Qwen 2 and 3, and
# the same with combining marks among the letters.
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LETTERS_THEN_BREAKS = tuple(
    rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{numbers}| ?[^\s{others}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for letters, others in ((r"\p{L}", r"\p{L}\p{N}"), (r"[\p{L}\p{M}]", r"\p{L}\p{M}\p{N}"))
    for numbers in (r"\p{N}{1,3}", r"\p{N}")
)

# Before a blank or line break; `\S` here and in every splitter excludes white space by Unicode, and the four control
# characters that only Python counts as white space are left uncut.
_ANY = re.compile(r"\S(?=[ \n])")
_ALNUM = re.compile(r"[^\W_](?=[ \n])|\S(?= )")
_BLANK = re.compile(r"\S(?= )")
_PLAIN = re.compile(r"[\t\n\r -~]*")


@dataclass(frozen=True)
class Boundaries:
    """A tokenizer's safe cuts. `encode` gives the ids of units as they stand inside a text."""

    cut: re.Pattern[str]  # matches the character before each safe cut
    prefix: str  # what the tokenizer puts before a text
    encode: EncodeUnits

    def at(self, before: str, first: str) -> bool:
        """Whether the place between two characters is a safe cut."""
        return self.cut.match(before + first) is not None

    def ends(self, text: str) -> tuple[int, int] | None:
        """The text's first and last safe cut; None where it has none.

        >>> Boundaries(_ANY, "", lambda units: []).ends("The ferry left\\nat nine.")
        (3, 17)
        """
        first = self.cut.search(text)
        if first is None:
            return None
        end = len(text)
        while True:
            end = max(text.rfind(" ", 0, end), text.rfind("\n", 0, end))
            if self.cut.match(text, end - 1):
                return first.end(), end


def boundaries_of(tokenizer: Tokenizer) -> Boundaries | None:
    """The tokenizer's rule; None where none is known for it, or where something of it may reach across a cut."""
    if tokenizer.sentencepiece is not None:
        return _of_sentencepiece(tokenizer)
    backend = getattr(tokenizer.hf, "backend_tokenizer", None)
    if backend is None:
        return None
    spec = json.loads(backend.to_str())
    if any(_reaches_out(token) for token in spec.get("added_tokens", ())):
        return None
    prefix = " " if spec["normalizer"] == SPACE_BEFORE else ""
    # NFC joins a character with the marks after it; a blank stops it, so it never looks across a cut.
    if not (prefix or spec["normalizer"] in (None, {"type": "NFC"})):
        return None
    cut = _byte_level_rule(spec)
    return Boundaries(cut, prefix, tokenizer.encode_units) if cut is not None else None


def _reaches_out(token: dict[str, Any]) -> bool:
    """An added token is looked for in the whole text, before any split."""
    return bool(
        token["lstrip"] or token["rstrip"] or token["single_word"] or any(c.isspace() for c in token["content"])
    )


def _byte_level_rule(spec: dict[str, Any]) -> re.Pattern[str] | None:
    if spec["model"].get("type") != "BPE" or spec["model"].get("dropout"):
        return None
    splitter = spec["pre_tokenizer"] or {}
    steps = splitter.get("pretokenizers", [splitter])
    last = steps[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return None
    before = steps[:-1]
    if last.get("use_regex", True):
        # GPT-2's: a blank may lead what follows it, nothing takes one along from behind. Digits apart change no cut.
        return _ANY if all(s.get("type") == "Digits" for s in before) else None
    if len(before) == 1 and before[0].get("type") == "Split":
        step = before[0]
        known = step["pattern"].get("Regex") in LETTERS_THEN_BREAKS
        if known and step["behavior"] == "Isolated" and not step["invert"]:
            return _ALNUM
    return None


def _of_sentencepiece(tokenizer: Tokenizer) -> Boundaries | None:
    """Blanks become the mark of a word's beginning, one for any number of them; no piece goes on past one."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    processor = tokenizer.sentencepiece
    model: Any = pb.ModelProto.FromString(  # type: ignore[attr-defined]  # made at import time
        processor.serialized_model_proto()
    )
    normalizer, trainer = model.normalizer_spec, model.trainer_spec
    plain = normalizer.add_dummy_prefix and normalizer.remove_extra_whitespaces and normalizer.escape_whitespaces
    if not plain or trainer.treat_whitespace_as_suffix:
        return None
    if any("▁" in piece.piece[1:] for piece in model.pieces):
        return None
    breaks_are_blanks = processor.normalize("a\nb") == processor.normalize("a b")
    is_unigram = trainer.model_type == trainer.UNIGRAM
    if is_unigram and not _scores_word_by_word(tokenizer):
        return None
    ties = NearTies(model, processor.normalize) if is_unigram else None
    encode = _wrapper_decides(partial(Tokenizer.encode_sentencepiece, processor), tokenizer, ties)
    return Boundaries(_ANY if breaks_are_blanks else _BLANK, "", encode)


def _scores_word_by_word(tokenizer: Tokenizer) -> bool:
    """Whether the wrapper scores every word from nothing, so that no sum's rounding depends on what stands before."""
    splitter = json.loads(tokenizer.hf.backend_tokenizer.to_str())["pre_tokenizer"] or {}
    last = splitter.get("pretokenizers", [splitter])[-1]
    return bool(last.get("type") == "Metaspace" and last.get("split"))


def _wrapper_decides(encode: EncodeUnits, tokenizer: Tokenizer, ties: NearTies | None) -> EncodeUnits:
    """The ids of the wrapper that users load, nearly all from the library, which is several times faster.

    The wrapper is asked where the two may differ: it normalises clusters of characters where the library looks at each
    character, and the library's sums in single precision may part two ways of a word by their rounding alone.
    """

    def encoded(units: Sequence[str]) -> list[Tokens]:
        rows = encode(units)
        asked = np.array([_PLAIN.fullmatch(unit) is None for unit in units])
        if ties is not None:
            asked |= ties.tightness(units) <= ties.rounding(np.array([len(row) for row in rows]))
        places = np.flatnonzero(asked).tolist()
        for place, row in zip(places, tokenizer.as_loaded.encode_batch([units[k] for k in places]), strict=True):
            rows[place] = row
        return rows

    return encoded
