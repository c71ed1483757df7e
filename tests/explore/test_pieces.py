from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.explore.pieces import piece_texts, visible
from flantune.models.place import located
from flantune.tokens.tokenizer import Tokenizer, load_tokenizer, wrap_tokenizer


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    return load_tokenizer(located("demo"))


@pytest.fixture(scope="module")
def unigram() -> Tokenizer:
    """A SentencePiece-like vocabulary with byte fallback."""
    from tokenizers import Tokenizer as Core
    from tokenizers import decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<pad>", "</s>", "<unk>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", "\u2581the", "cat", "s"]
    core = Core(models.Unigram([(p, -float(i)) for i, p in enumerate(pieces)], unk_id=2, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    hf = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    return wrap_tokenizer(hf)


@given(text=st.text(st.characters(max_codepoint=0x7E, exclude_characters="<>")))
def test_pieces_of_ascii_join_to_the_text(byte_level: Tokenizer, text: str) -> None:
    # The tokenizer reads every text as if a space stood before it.
    assert "".join(piece_texts(byte_level.encode(text), byte_level)) == (f" {text}" if text else "")


def test_a_broken_character_is_shown_in_hex_and_a_whole_one_as_itself(byte_level: Tokenizer) -> None:
    pieces = piece_texts(byte_level.encode("é雨伞 😀"), byte_level)
    spelt = b"".join(
        bytes.fromhex(part[1:-1]) if part.startswith("<") else part.encode()
        for piece in pieces
        for part in _parts(piece)
    )
    assert spelt.decode() == " é雨伞 😀"


def _parts(piece: str) -> list[str]:
    head, bracket, tail = piece.partition("<")
    inner, closing, rest = tail.partition(">")
    return [head, *([f"<{inner}>", *_parts(rest)] if bracket and closing else [])] if piece else []


def test_control_tokens_are_named(byte_level: Tokenizer) -> None:
    assert piece_texts([byte_level.eos_id, byte_level.pad_id], byte_level) == ("</s>", "<pad>")


def test_sentencepiece_marks_become_spaces_and_byte_pieces_hex_or_text(unigram: Tokenizer) -> None:
    assert piece_texts(unigram.encode("the cats"), unigram) == (" the", " ", "cat", "s")
    ids = [unigram.hf.convert_tokens_to_ids(p) for p in ("<0x41>", "<0xC3>", "<0x0A>")]
    assert piece_texts(ids, unigram) == ("A", "<C3>", "\n")


def test_white_space_can_be_seen() -> None:
    assert visible(" a\n\tb") == "·a⏎⇥b"
