"""A sentencepiece Unigram model in a T5 tokenizer's folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from flantune.tokens.tokenizer import Tokenizer, load_tokenizer


def train_unigram(folder: Path, lines: Iterable[str], vocab_size: int, rule: str = "nmt_nfkc") -> Tokenizer:
    """Trained on the lines; `rule` normalises text."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(folder / "spiece"),
        vocab_size=vocab_size,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        normalization_rule_name=rule,
        minloglevel=2,
    )
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "extra_ids": 100}')
    return load_tokenizer(folder)
