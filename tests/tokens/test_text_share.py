"""Plain text among the instructions: places, order, nothing lost of either stream."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import RecipeError
from flantune.recipe import TextSpec, TokensSpec
from flantune.tokens.encode import EncodedBatch
from flantune.tokens.text_share import DOCUMENTS, TextShare, far_from_instructions, place_of, texts_before
from flantune.types import Encoded

EOS = 1


class Letters:
    """A tokenizer of characters."""

    eos_id = EOS
    sentinel_ids = ()

    class hf:
        @staticmethod
        def get_vocab():
            return {f"<extra_id_{k}>": 900 + k for k in range(20)}

    def encode_batch(self, texts):
        return [np.array([ord(c) for c in text], dtype=np.int32) for text in texts]


def documents(block: int) -> list[str]:
    return [f"document {block * DOCUMENTS + k} " * (1 + k % 5) for k in range(DOCUMENTS)]


def share_of(share: float, kind: str = "encoder-decoder", **more) -> TextShare:
    spec = TextSpec(share=share, **{"objective": "prefix", "window": 24, **more})
    return TextShare(spec, documents, Letters(), kind, TokensSpec(inputs_len=64, targets_len=64), seed=3)


def instructions(start: int, stop: int) -> EncodedBatch:
    """Number i says i; every seventh is dropped."""
    kept = [i for i in range(start, stop) if i % 7]
    one = np.array([5, EOS], dtype=np.int32)
    return EncodedBatch(
        examples=tuple(Encoded(inputs=one, targets=one, index=i, task="task", mixture="m") for i in kept),
        dropped=tuple((i, "seventh") for i in range(start, stop) if i % 7 == 0),
        formats=("zs",) * len(kept),
    )


@settings(deadline=None, max_examples=60)
@given(share=st.sampled_from([0.01, 0.1, 0.25, 1 / 3, 0.5, 0.9]), cuts=st.lists(st.integers(1, 400), max_size=6))
def test_any_cutting_of_the_stream_gives_the_same_examples_and_loses_none(share, cuts):
    text = share_of(share)
    ends = [0, *np.cumsum(cuts).tolist()]
    stop = ends[-1] or 1
    whole = text.blend(instructions, 0, stop)
    pieces = [text.blend(instructions, a, b) for a, b in pairwise(ends)] if cuts else [whole]
    assert [e.index for p in pieces for e in p.examples] == [e.index for e in whole.examples]
    assert [f for p in pieces for f in p.formats] == list(whole.formats)
    texts = int(stop * Fraction(repr(share)))
    assert [e.index for e in whole.examples if e.index < 0] == [-1 - k for k in range(texts)]
    assert [e.index for e in whole.examples if e.index >= 0] == [i for i in range(stop - texts) if i % 7]
    assert len(whole.dropped) == len([i for i in range(stop - texts) if i % 7 == 0])
    for a, b in zip((e for p in pieces for e in p.examples), whole.examples, strict=True):
        assert a.inputs.tolist() == b.inputs.tolist() and a.targets.tolist() == b.targets.tolist()


@pytest.mark.parametrize("start", [0, 999, 10**9])
def test_the_share_is_exact_over_any_stretch(start):
    text = share_of(0.1)
    for length in (10, 100, 12_345):
        assert abs(text.before(start + length) - text.before(start) - length * 0.1) < 1
    assert text.before(10**12) == 10**11


@settings(deadline=None)
@given(share=st.sampled_from([0.01, 0.1, 1 / 3, 0.5, 0.95]), index=st.integers(0, 10**12))
def test_an_instructions_place_is_found_again(share, index):
    place = place_of(share, index)
    assert place - texts_before(share, place) == index
    assert texts_before(share, place + 1) == texts_before(share, place)  # no text stands there


def test_a_long_document_gives_a_piece_and_a_short_one_itself():
    whole = [d for block in range(3) for d in documents(block)]
    for number, made in enumerate(share_of(0.5, window=40).texts(0, 3 * DOCUMENTS)):
        assert made.task == made.mixture == "text" and made.template == "prefix" and made.index == -1 - number
        text = "".join(chr(t) for t in [*made.inputs[:-1], *made.targets[:-1]] if t != EOS)
        assert text in whole[number]
        assert len(made.inputs) + len(made.targets) - 2 == min(40, len(whole[number]) + 1)


def test_a_decoder_and_the_denoisers_are_served_too():
    plain = share_of(0.5, "causal", objective="auto").texts(0, 8)
    assert all(len(e.inputs) == 0 and e.template == "lm" for e in plain)
    mixed = share_of(0.5, objective="ul2r", mode_tokens={}).texts(0, 200)
    assert {e.template for e in mixed} == {"R", "S", "X"}


def test_windows_that_do_not_fit_an_example_are_refused_before_the_build():
    with pytest.raises(RecipeError, match=r"mixture.text.window: windows of 65 tokens need up to 65 of inputs"):
        share_of(0.1, window=65, objective="prefix")
    share_of(0.1, "causal", window=128, objective="auto")
    with pytest.raises(RecipeError, match=r"Lower mixture\.text\.window"):
        share_of(0.1, "causal", window=129, objective="auto")


def test_an_empty_document_is_a_window_of_nothing_but_ends():
    text = TextShare(
        TextSpec(share=0.5, objective="prefix", window=24),
        lambda block: [""] * DOCUMENTS,
        Letters(),
        "encoder-decoder",
        TokensSpec(inputs_len=64, targets_len=64),
        seed=3,
    )
    assert [e.inputs.tolist() + e.targets.tolist() for e in text.texts(0, 2)] == [[EOS] * 4] * 2


def test_documents_made_of_draws_come_from_far_away():
    assert far_from_instructions(lambda block: [str(block)])(2) == [str(2 + (1 << 30))]
