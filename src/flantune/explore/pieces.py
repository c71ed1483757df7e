"""Token ids as the text each stands for, to look at."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flantune.tokens.tokenizer import Tokenizer

_WORD_START = "\u2581"  # SentencePiece's mark of a space


def piece_texts(ids: Iterable[int], tokenizer: Tokenizer) -> tuple[str, ...]:
    """The text of each id, spaces being spaces; bytes of a broken character as <E4 B8>, control tokens by name."""
    pieces = tokenizer.hf.convert_ids_to_tokens([int(i) for i in ids])
    added = set(tokenizer.hf.get_added_vocab())
    spell = _byte_level if _is_byte_level(tokenizer.hf) else _sentencepiece
    return tuple(p if p in added else spell(p) for p in pieces)


def visible(piece: str) -> str:
    """White space as marks, so that a piece of it can be seen: " a" -> "·a"."""
    return piece.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")


def _is_byte_level(hf: Any) -> bool:
    backend = getattr(hf, "backend_tokenizer", None)
    return backend is not None and '"type":"ByteLevel"' in _decoder_json(backend.decoder)


def _decoder_json(decoder: Any) -> str:
    return "" if decoder is None else bytes(decoder.__getstate__()).decode()


def _byte_level(piece: str) -> str:
    table = _byte_of_character()
    try:
        raw = bytes(table[c] for c in piece)
    except KeyError:  # an added token that is spelt as it is
        return piece
    return _as_text(raw)


def _sentencepiece(piece: str) -> str:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return _as_text(bytes([int(piece[3:5], 16)]))
        except ValueError:
            return piece
    return piece.replace(_WORD_START, " ")


def _as_text(raw: bytes) -> str:
    """Whole characters as they are, the bytes of broken ones in hex."""
    text = ""
    while raw:
        try:
            return text + raw.decode("utf-8")
        except UnicodeDecodeError as e:
            text += f"{raw[: e.start].decode('utf-8')}<{raw[e.start : e.end].hex(' ').upper()}>"
            raw = raw[e.end :]
    return text


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones as themselves, the others from U+0100 up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(b): b for b in printable}
    rest = [b for b in range(256) if b not in set(printable)]
    return table | {chr(0x100 + n): b for n, b in enumerate(rest)}
