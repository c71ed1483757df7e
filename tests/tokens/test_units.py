"""Texts tokenised unit by unit have the ids of the whole, remembered or not."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.tokens.boundaries import boundaries_of
from flantune.tokens.units import KnownUnits

from .test_boundaries import ALPHABET, GPT2, LETTERS_THEN_BREAKS, byte_level, split_by

PIECES = st.sampled_from([*ALPHABET, " ", " ", "\n", "the", " nine", "'s", "\n\n", "</s>", " " + "x" * 99])
TOKENIZERS = [byte_level(GPT2), split_by(LETTERS_THEN_BREAKS[0])]


@settings(max_examples=100, deadline=None)
@given(batches=st.lists(st.lists(st.lists(PIECES, max_size=20).map("".join), max_size=5), max_size=4))
def test_ids_and_counts_are_those_of_the_whole_texts(batches: list[list[str]]) -> None:
    for tokenizer in TOKENIZERS:
        rule = boundaries_of(tokenizer)
        assert rule is not None
        for most in (1 << 20, 3):  # 3: forgotten again and again
            known = KnownUnits(rule, most)
            for texts in batches:
                ids, counts = known.encode(texts)
                expected = [tokenizer.encode_units([text])[0] for text in texts]
                assert counts.tolist() == [len(row) for row in expected]
                assert ids.tolist() == np.concatenate([[], *expected]).astype(int).tolist()


def test_a_unit_is_given_to_the_tokenizer_once() -> None:
    rule = boundaries_of(TOKENIZERS[0])
    assert rule is not None
    asked: list[str] = []
    encode = rule.encode
    object.__setattr__(rule, "encode", lambda units: asked.extend(units) or encode(units))
    known = KnownUnits(rule)
    known.encode(["left at nine", "left at nine at"])
    known.encode(["right at nine"])
    assert asked == ["left", " at", " nine", "right"]
