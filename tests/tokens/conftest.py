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
    return train_tokenizer(TEXTS, 600, Path(tmp_path_factory.mktemp("tokenizer")))
