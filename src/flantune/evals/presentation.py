"""An engine asked through its tokenizer's own chat template."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from flantune.evals.results import ApplyTemplate
from flantune.formats.chat import Message


def template_of(engine: Any) -> ApplyTemplate | None:
    """Messages to the text that ends where the assistant speaks; None where the tokenizer has no chat template."""
    tokenizer = getattr(engine, "tokenizer", None)
    if tokenizer is None or not tokenizer.has_chat_template:
        return None

    def apply(messages: list[Message]) -> str:
        return str(tokenizer.hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    return apply


def chat_engine(engine: Any) -> Any:
    """The engine, reading the control tokens that a chat template writes as tokens and not as text."""
    if not hasattr(engine, "tokenizer"):
        return engine
    own = copy.copy(engine)
    own.tokenizer = _WithControlTokens(engine.tokenizer)
    return own


class _WithControlTokens:
    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def encode_batch(self, texts: Sequence[str]) -> Any:
        return self._tokenizer.encode_batch(texts, parse_special=True)
