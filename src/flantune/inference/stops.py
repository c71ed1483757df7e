"""Where a text ends: at EOS, before its first stop string, or when it is long enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flantune.tokens.tokenizer import Tokenizer


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text before the first occurrence of any stop string."""
    places = [text.find(s) for s in stop if s]
    return text[: min((p for p in places if p >= 0), default=len(text))]


class StopStrings:
    """Looks for stop strings as tokens come. A token is looked at closer only where its own letters could end one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._pieces: dict[int, str] = {}

    def is_reached(self, tokens: Sequence[int], stop: Sequence[str]) -> bool:
        """Whether the last token completes a stop string in the text of all."""
        stop = [s for s in stop if s]
        if not stop or not self._could_end(tokens[-1], stop):
            return False
        # A character is four bytes and so four tokens at most; a few more, since some tokens have no text.
        tail = tokens[-(4 * max(map(len, stop)) + 8) :]
        if not self._holds(tail, stop):
            return False
        return len(tail) == len(tokens) or self._holds(tokens, stop)

    def _holds(self, tokens: Sequence[int], stop: Sequence[str]) -> bool:
        text = self.tokenizer.decode(tokens)
        return any(s in text for s in stop)

    def _could_end(self, token: int, stop: Sequence[str]) -> bool:
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self.tokenizer.decode([token])
        # Alone, a token may lose the blanks at its ends, and a part of a character is no character yet.
        return "\ufffd" in piece or any(s[-1] in piece or s[-1].isspace() for s in stop)
