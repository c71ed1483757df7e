"""Plain text among the instructions: a share of the stream's places, filled with windows of documents.

place         0    1    2    3    4    5    6    7         share 0.25: place i is text where floor of (i + 1) / 4
              i0   i1   i2   t0   i3   i4   i5   t1        is one more than floor of i / 4
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Literal

import numpy as np

from flantune.errors import RecipeError
from flantune.recipe import TextSpec, TokensSpec
from flantune.tokens.encode import EncodedBatch, end_with_eos
from flantune.tokens.objectives import keyed_generator, longest_sides, pretraining_example
from flantune.tokens.tokenizer import Tokenizer
from flantune.tokens.ul2 import special_ids
from flantune.types import Encoded, Tokens

TASK = "text"  # in the data card, as task and as mixture
DOCUMENTS = 64  # read at a time
_FAR = 1 << 30  # blocks of documents away from the instructions' own rows

Span = Callable[[int, int], EncodedBatch]  # instructions from one place of theirs to another


@dataclass(frozen=True)
class TextShare:
    """Which places are text, and what stands there: functions of the place alone.

    An instruction keeps the place it has in the mixture's own stream; text number k has index -1 - k.
    """

    spec: TextSpec
    documents: Callable[[int], list[str]]  # a block of DOCUMENTS
    tokenizer: Tokenizer
    kind: Literal["encoder-decoder", "causal"]
    lengths: TokensSpec
    seed: int

    def __post_init__(self) -> None:
        needed, most = longest_sides(self.spec, self.kind, self.spec.window), self.lengths.example_lens
        together = self.kind == "causal"  # both sides in one sequence
        fits = sum(needed) <= sum(most) if together else needed[0] <= most[0] and needed[1] <= most[1]
        if not fits:
            raise RecipeError(
                f"mixture.text.window: windows of {self.spec.window} tokens need up to {needed[0]} of inputs and "
                f"{needed[1]} of targets, and an example may have {most[0]} and {most[1]}. Lower mixture.text.window."
            )

    def before(self, place: int) -> int:
        """How many of the first `place` places are text."""
        return texts_before(self.spec.share, place)

    @cached_property
    def _special(self) -> tuple[tuple[int, ...], dict[str, int]]:
        return special_ids(self.spec, self.tokenizer, "mixture.text")

    def blend(self, instructions: Span, start: int, stop: int) -> EncodedBatch:
        """Places from `start` to `stop`: what instructions make of theirs, and text in between."""
        first, last = self.before(start), self.before(stop)
        made = instructions(start - first, stop - last)
        formats = dict(zip((e.index for e in made.examples), made.formats, strict=False))
        by_index = {e.index: e for e in made.examples}
        texts = self.texts(first, last)
        examples: list[Encoded] = []
        for place in range(start, stop):
            number = self.before(place)
            if self.before(place + 1) > number:
                examples.append(texts[number - first])
            elif (found := by_index.get(place - number)) is not None:
                examples.append(found)
        names = tuple(formats.get(e.index, f"text {e.template}") for e in examples)
        told = bool(formats) or not made.examples  # either all formats are told or none
        return EncodedBatch(examples=tuple(examples), dropped=made.dropped, formats=names if told else ())

    def texts(self, first: int, last: int) -> list[Encoded]:
        """Numbers `first` to `last` of the text."""
        documents: list[str] = []
        for block in range(first // DOCUMENTS, -(-last // DOCUMENTS)):
            documents += self.documents(block)
        offset = first - first // DOCUMENTS * DOCUMENTS
        tokens = self.tokenizer.encode_batch(documents[offset : offset + last - first])
        sentinels, modes = self._special
        return [
            pretraining_example(
                self._window(ids, number),
                -1 - number,
                seed=self.seed,
                spec=self.spec,
                eos_id=self.tokenizer.eos_id,
                sentinel_ids=sentinels,
                mode_ids=modes,
                kind=self.kind,
                task=TASK,
            )
            for number, ids in enumerate(tokens, start=first)
        ]

    def _window(self, ids: Tokens, number: int) -> Tokens:
        """A document that is longer gives a piece of it, from a random place; a shorter one itself, and EOS."""
        if len(ids) < self.spec.window:
            ended = end_with_eos(ids, len(ids) + 1, self.tokenizer.eos_id)
            return ended if len(ended) > 1 else np.repeat(ended, 2)  # a window has two tokens at the least
        at = int(keyed_generator(self.seed, number, "window").integers(0, len(ids) - self.spec.window + 1))
        return ids[at : at + self.spec.window]


def texts_before(share: float, place: int) -> int:
    """How many of the first `place` places are text."""
    exact = Fraction(repr(share))  # 0.1 is a tenth, not what is nearest to it in binary
    return place * exact.numerator // exact.denominator


def place_of(share: float, index: int) -> int:
    """Where instruction `index` stands, the text counted."""
    exact = Fraction(repr(share))
    place = index * exact.denominator // (exact.denominator - exact.numerator)
    while place - texts_before(share, place) < index or texts_before(share, place + 1) > texts_before(share, place):
        place += 1
    return place


def far_from_instructions(documents: Callable[[int], list[str]]) -> Callable[[int], list[str]]:
    """Documents made of the mixture's own draws, from a part of the stream that no build reaches: else number k of the
    text would be the record of instruction k."""
    return lambda block: documents(block + _FAR)
