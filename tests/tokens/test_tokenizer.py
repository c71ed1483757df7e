from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from flantune.errors import ModelError, RecipeError
from flantune.tokens.tokenizer import MIN_VOCAB, Tokenizer, load_tokenizer, train_tokenizer, wrap_tokenizer

from .conftest import TEXTS


def test_the_layout_is_t5s(tokenizer: Tokenizer) -> None:
    vocab = tokenizer.hf.get_vocab()
    assert (tokenizer.pad_id, tokenizer.eos_id, vocab["<unk>"]) == (0, 1, 2)
    last = tokenizer.vocab_size - 1
    assert tokenizer.sentinel_ids == tuple(range(last, last - 100, -1))
    assert sorted(vocab.values()) == list(range(tokenizer.vocab_size))


@settings(deadline=None)
@given(text=st.text())
def test_any_text_survives_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(deadline=None)
@given(text=st.text())
def test_any_text_survives_the_round_trip_with_a_space_before_it(spaced: Tokenizer, text: str) -> None:
    assert spaced.decode(spaced.encode(text)) == text


def test_a_first_word_has_the_id_it_has_inside_text(spaced: Tokenizer) -> None:
    assert spaced.encode("fox").tolist() == spaced.encode("the fox").tolist()[1:]
    assert spaced.encode("fox").tolist() == spaced.encode("the fox").tolist()[-1:]


def test_text_of_a_chat_template_gets_no_space_after_its_control_tokens(spaced: Tokenizer) -> None:
    (ids,) = spaced.encode_batch(["<pad>fox</s>fox"], parse_special=True)
    assert spaced.decode(ids, skip_special=False) == "<pad>fox</s>fox"


@pytest.mark.parametrize("text", ["a\n\n b\r\n\tc  d", "{ } < > ~ ^ \\ `", "你好，世界", "\x85\u2028", " .", "e\u0301"])
def test_what_t5s_vocabulary_loses_survives(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("357357357")) == 9


def test_control_tokens_in_a_text_are_spelt_out(tokenizer: Tokenizer) -> None:
    text = "a</s> <pad><extra_id_0>"
    ids = tokenizer.encode(text)
    assert not {tokenizer.eos_id, tokenizer.pad_id, *tokenizer.sentinel_ids} & set(ids.tolist())
    assert tokenizer.decode(ids) == text
    parsed = tokenizer.encode_batch([text], parse_special=True)[0].tolist()
    assert {tokenizer.eos_id, tokenizer.pad_id, tokenizer.sentinel_ids[0]} < set(parsed)


def unigram() -> Tokenizer:
    """Shaped as T5's: control pieces stand in the vocabulary with score 0."""
    control = ["<pad>", "</s>", "<unk>"]
    pieces = [(p, 0.0) for p in control] + [("▁a", -2.0), ("a", -3.0), ("/", -4.0), ("s", -4.0), ("▁", -3.5)]
    core = tokenizers.Tokenizer(models.Unigram([*pieces, ("<extra_id_0>", 0.0)], unk_id=2))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.add_special_tokens([*control, "<extra_id_0>"])
    return wrap_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    )


def test_control_pieces_of_a_unigram_vocabulary_are_out_of_a_texts_reach() -> None:
    tokenizer = unigram()
    # The trap that this guards against: the plain library call finds EOS in the text even with specials switched off.
    assert 1 in tokenizer.hf("a</s>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ids = [row.tolist() for row in tokenizer.encode_batch(["a</s>a", "<pad>", "<extra_id_0>", "as a"])]
    assert not {0, 1, 8} & {i for row in ids for i in row}
    assert ids[3] == tokenizer.hf("as a", add_special_tokens=False)["input_ids"]  # other texts are untouched


def test_a_files_own_truncation_and_padding_are_not_applied(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    path.write_text(json.dumps(spec))
    loaded = load_tokenizer(tmp_path)
    long = "the lazy dog jumps over the quick brown fox"
    assert [r.tolist() for r in loaded.encode_batch([long, "a"])] == [
        r.tolist() for r in tokenizer.encode_batch([long, "a"])
    ]


def test_the_saved_folder_is_a_transformers_tokenizer_that_ends_with_eos(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    hf = AutoTokenizer.from_pretrained(tmp_path)
    text = "Question: 12 {a}\n你好"
    assert hf(text)["input_ids"] == [*tokenizer.encode(text).tolist(), tokenizer.eos_id]
    assert hf.decode(hf(text)["input_ids"], skip_special_tokens=True) == text
    assert hf.pad_token_id == 0
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint


def test_equal_texts_train_equal_files(tokenizer: Tokenizer, tmp_path: Path) -> None:
    again = train_tokenizer(TEXTS, 600, tmp_path / "a", prefix_space=False)
    other = train_tokenizer([*TEXTS, "zzz zzz zzz"], 600, tmp_path / "b", prefix_space=False)
    assert again.fingerprint == tokenizer.fingerprint != other.fingerprint
    first = Path(tokenizer.hf.name_or_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (first / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_a_vocabulary_too_small_for_every_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"at least {MIN_VOCAB}"):
        train_tokenizer(TEXTS, MIN_VOCAB - 1, tmp_path)


def test_without_eos_there_is_no_tokenizer(tmp_path: Path) -> None:
    core = tokenizers.Tokenizer(models.BPE())
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="end-of-sequence"):
        load_tokenizer(tmp_path)


def test_without_pad_eos_pads() -> None:
    core = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 7}, unk_token="a"))
    tokenizer = wrap_tokenizer(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>"))
    assert tokenizer.pad_id == tokenizer.eos_id == 7
    assert tokenizer.vocab_size == 8  # the embedding must reach id 7
    assert tokenizer.sentinel_ids == ()


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c"])
def test_a_missing_folder_is_named(name: str) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_tokenizer(name)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


def test_real_text_survives_the_round_trip(data_dir: Path, tmp_path: Path) -> None:
    lines = [
        line
        for folder, kind, opener in (("mgsm", "*.tsv", open), ("cot", "*.tsv.gz", gzip.open))
        for path in sorted((data_dir / folder).glob(kind))
        for line in opener(path, "rb").read().decode("utf-8").split("\n")[:40]
    ]
    assert len(lines) > 500
    tokenizer = train_tokenizer(lines[::2], 2000, tmp_path)
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(lines)] == lines
    assert tokenizer.vocab_size == 2000
