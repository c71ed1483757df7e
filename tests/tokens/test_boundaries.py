"""A text cut at its safe cuts has the ids of the whole, for every splitter that has a rule and any text."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from flantune.tokens.boundaries import LETTERS_THEN_BREAKS, Boundaries, boundaries_of
from flantune.tokens.near_ties import NearTies
from flantune.tokens.tokenizer import Tokenizer, wrap_tokenizer

from .unigrams import train_unigram

WORDS = [
    "the",
    "ferry",
    "left",
    "at",
    "nine",
    "aaa",
    "carcinogen",
    "100",
    "3.5%",
    "don't",
    "It's",
    "(a)",
    "naïve",
    "北京",
]
TEXTS = [" ".join(WORDS[k:] + WORDS[:k]) + end for k in range(len(WORDS)) for end in (".", "!?\n", "\n\nA: ")] * 4

# What splitters tell apart: letters, digits, marks, punctuation, every kind of white space, what is normalised away.
ALPHABET = "abAZé北0123½.,'!?()-_\"\u0301\u0308\u200b\u200d\ufeff\u00a0\u2028\u3000\x1c\x85 \n\t\r\ufdfa…▁😀<>/s"
texts = st.lists(st.sampled_from([*ALPHABET, " ", " ", "\n", "the", " nine", "'s", "aaa", "\n\n", "</s>"]), max_size=40)


def byte_level(*steps: pre_tokenizers.PreTokenizer, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    core.decoder = decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXTS, trainer)
    return wrap_tokenizer(PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>"))


def split_by(pattern: str) -> Tokenizer:
    splitter = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return byte_level(splitter, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))


def unigram(folder: Path, rule: str = "nmt_nfkc") -> Tokenizer:
    return train_unigram(folder, [t.replace("\n", " ") for t in TEXTS], 80, rule)


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: byte_level(GPT2),
    "digits": lambda: byte_level(pre_tokenizers.Digits(individual_digits=True), GPT2),
    "space before": lambda: byte_level(GPT2, normalizer=normalizers.Prepend(" ")),
    "nfc": lambda: byte_level(GPT2, normalizer=normalizers.NFC()),
    **{f"letters then breaks {k}": lambda p=p: split_by(p) for k, p in enumerate(LETTERS_THEN_BREAKS)},
}


@pytest.fixture(scope="module")
def sp(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return unigram(tmp_path_factory.mktemp("unigram"))


@pytest.fixture(scope="module", params=[*MAKERS, "unigram"])
def tokenizer(request: pytest.FixtureRequest, sp: Tokenizer) -> Tokenizer:
    return sp if request.param == "unigram" else MAKERS[request.param]()


def ids_of_units(rule: Boundaries, text: str) -> list[int]:
    """Every unit on its own, joined."""
    whole = rule.prefix + text if text else ""
    cuts = [m.end() for m in rule.cut.finditer(whole)]
    units = [whole[a:b] for a, b in pairwise([0, *cuts, len(whole)])]
    return np.concatenate([[], *rule.encode(units)]).astype(int).tolist()


@settings(max_examples=150, deadline=None)
@given(pieces=texts)
def test_units_have_the_ids_of_the_whole(tokenizer: Tokenizer, pieces: list[str]) -> None:
    text = "".join(pieces)
    rule = boundaries_of(tokenizer)
    assert rule is not None
    assert ids_of_units(rule, text) == tokenizer.as_loaded.encode(text).tolist()


@settings(max_examples=200, deadline=None)
@given(pieces=texts)
def test_first_and_last_cut(pieces: list[str]) -> None:
    text = "".join(pieces)
    rule = boundaries_of(MAKERS["letters then breaks 0"]())
    assert rule is not None
    cuts = [m.end() for m in rule.cut.finditer(text)]
    assert rule.ends(text) == ((cuts[0], cuts[-1]) if cuts else None)
    assert all(rule.at(text[c - 1], text[c]) for c in cuts)


def test_tokenizers_without_a_known_rule_have_none() -> None:
    unknown = r"\p{L}+ ?|\s+|[^\s\p{L}]+"
    assert boundaries_of(split_by(unknown)) is None
    assert boundaries_of(byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))) is None
    assert boundaries_of(byte_level(GPT2, normalizer=normalizers.Lowercase())) is None
    reaching = MAKERS["gpt2"]()
    reaching.hf.add_tokens([AddedToken("<tool call>", special=False)])
    assert boundaries_of(reaching) is None


def test_the_rule_is_needed(tmp_path: Path) -> None:
    """Without knowing that punctuation takes line breaks along, one splitter's ids would be others."""
    text = "nine.\n\nthe"
    with_breaks, gpt2 = MAKERS["letters then breaks 0"](), MAKERS["gpt2"]()
    own, other = boundaries_of(with_breaks), boundaries_of(gpt2)
    assert own is not None and other is not None
    assert own.ends(text) is None and other.ends(text) == (5, 5)


def test_sentencepiece_itself_gives_the_wrappers_ids(sp: Tokenizer) -> None:
    assert sp.sentencepiece is not None
    wrapper = Tokenizer(hf=sp.hf, eos_id=sp.eos_id, pad_id=sp.pad_id, sentinel_ids=sp.sentinel_ids)
    odd = [*TEXTS[:40], "</s> <pad> <extra_id_0>", "\ufdfa\u200b x \u0308", "", " ", "\n", "▁a▁", "😀😀", "\x00\x01"]
    for text, ours, theirs in zip(odd, sp.encode_batch(odd), wrapper.encode_batch(odd), strict=True):
        assert ours.tolist() == theirs.tolist(), text


def test_a_model_that_the_wrapper_reads_otherwise_is_left_to_the_wrapper(tmp_path: Path) -> None:
    """Without normalisation SentencePiece keeps line breaks, which the wrapper splits at: what users load decides."""
    other = unigram(tmp_path, rule="identity")
    assert other.sentencepiece is None and boundaries_of(other) is None
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    assert other.encode("a\nb").tolist() == other.hf("a\nb", add_special_tokens=False)["input_ids"]
    assert other.encode("a\nb").tolist() != library.encode("a\nb")


def test_near_ties_by_trying_every_way(sp: Tokenizer) -> None:
    """The tightness against all ways to read a word, scored one by one."""
    model: Any = sentencepiece_model_pb2.ModelProto.FromString(sp.sentencepiece.serialized_model_proto())
    ties = NearTies(model, sp.sentencepiece.normalize)
    pieces = {sp.sentencepiece.id_to_piece(k): sp.sentencepiece.get_score(k) for k in range(3, len(sp.sentencepiece))}
    words = ["aaa", "aaaa", "nine", "left", "carcinogen", "qqq", "☃☃", "3.5%", "naïve", "北京"]
    found = ties.of_words(words)
    for word, tightness in zip(words, found, strict=True):
        ways = sorted(all_ways(pieces, sp.sentencepiece.normalize(word)), reverse=True)
        (best, taken), others = ways[0], ways[1:]
        expected = min(((best - score) / max(1, (taken + count) / 2) for score, count in others), default=np.inf)
        assert tightness == pytest.approx(expected, abs=1e-9), word
    longer = "aaa" * 40
    assert ties.of_words([longer])[0] <= ties.of_words(["aaa"])[0]
    assert ties.tightness(["aaa nine", "", "left"]).tolist() == pytest.approx(
        [min(found[0], found[2]), np.inf, found[3]]
    )


def all_ways(pieces: dict[str, float], text: str) -> list[tuple[float, int]]:
    """(score, number of pieces) of every way to read a text."""
    if not text:
        return [(0.0, 0)]
    unknown = min(pieces.values()) - 10
    ways = []
    for end in range(1, len(text) + 1):
        score = pieces.get(text[:end], unknown if end == 1 else None)
        if score is not None:
            ways += [(score + rest, count + 1) for rest, count in all_ways(pieces, text[end:])]
    return ways
