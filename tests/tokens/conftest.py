from __future__ import annotations

from pathlib import Path

import pytest

from flantune.tokens.tokenizer import Tokenizer, train_tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog. What does the fox jump over?\n\nAnswer: the dog",
    "Question: how much is 12 + 345?\nAnswer: 357\n\nOPTIONS:\n- {a}\n- <b>\n- `c`",
    "问题：北京是哪个国家的首都？\n答案：中国",
] * 10


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Without the space before a text, so that a test can count on a text's own characters alone."""
    return train_tokenizer(TEXTS, 600, Path(tmp_path_factory.mktemp("tokenizer")), prefix_space=False)


@pytest.fixture(scope="session")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """As a recipe trains it by default."""
    return train_tokenizer(TEXTS, 600, Path(tmp_path_factory.mktemp("spaced")))
