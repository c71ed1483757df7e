"""Tokenizers read without transformers, against the same ones read by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Core
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from flantune.errors import ModelError
from flantune.tokens.lazy import LazyTokenizer, read_lazily
from flantune.tokens.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

TEXTS = [
    "The ferry left at nine.",
    "渡轮九点出发。",
    "Q: how many jars? 24 </s> <extra_id_0>",
    "",
    " a  b\n\n c",
    "<s>x",
]
TRUNCATED = {"max_length": 9, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
TEMPLATE = "{% for m in messages %}<s>{{ m['content'] }}</s>{% endfor %}"


def trained(folder: Path, **how: Any) -> None:
    train_tokenizer(TEXTS * 20, 400, folder, **how)


def with_bos(folder: Path) -> None:
    """Llama 3's way: BOS by the post-processor."""
    trained(folder, prefix_space=False)
    core = Core.from_file(str(folder / "tokenizer.json"))
    core.add_special_tokens(["<s>"])
    number = core.token_to_id("<s>")
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", number)])
    hf = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE)
    hf.save_pretrained(folder)


def unigram(folder: Path) -> None:
    """Control pieces are words of its vocabulary, the best there are."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -2.0) for c in "▁TheQ:ferylt2 4</s>ab._id0xon")]
    core = Core(models.Unigram(list(dict(pieces).items()), unk_id=2))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    core.add_special_tokens(["<pad>", "</s>", "<unk>"])
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    hf = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    hf.save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], None]] = {
    "trained here": trained,
    "without a space before": lambda folder: trained(folder, prefix_space=False),
    "with BOS and a chat template": with_bos,
    "unigram": unigram,
}


def both(folder: Path, model: str = "llama") -> tuple[Tokenizer, Tokenizer]:
    (folder / "config.json").write_text(json.dumps({"model_type": model}))
    return load_tokenizer(folder, lazy=True), load_tokenizer(folder)


@pytest.mark.parametrize("model", ["llama", "qwen3"])
@pytest.mark.parametrize("maker", MAKERS)
def test_what_transformers_gives(maker: str, model: str, tmp_path: Path):
    MAKERS[maker](tmp_path)
    ours, theirs = both(tmp_path, model)
    assert isinstance(ours.hf, LazyTokenizer) and not isinstance(theirs.hf, LazyTokenizer)
    for name in ("fingerprint", "vocab_size", "eos_id", "pad_id", "sentinel_ids", "leading_bos", "has_chat_template"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for special in (False, True):
        a, b = (t.encode_batch(TEXTS, parse_special=special) for t in (ours, theirs))
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert ours.fingerprint == theirs.fingerprint  # also after it was used
    ids = theirs.encode(TEXTS[2])
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours.hf("a ferry")["input_ids"] == theirs.hf("a ferry")["input_ids"]


def test_a_chat_is_worded_by_transformers(tmp_path: Path):
    with_bos(tmp_path)
    messages = [{"role": "user", "content": "Hello"}]
    ours, theirs = (t.hf.apply_chat_template(messages, tokenize=False) for t in both(tmp_path))
    assert ours == theirs == "<s>Hello</s>"


def changed(name: str, **more: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | more))

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("config.json", model_type="qwen2"),
        changed("tokenizer_config.json", tokenizer_class="LlamaTokenizer"),
        changed("tokenizer_config.json", add_bos_token=True),
        changed("tokenizer_config.json", add_prefix_space=True),
        changed("tokenizer_config.json", extra_special_tokens=["<new>"]),
        changed("tokenizer_config.json", eos_token="<new>"),
        changed("tokenizer_config.json", added_tokens_decoder={"5": {"content": "<new>"}}),
        changed("tokenizer_config.json", chat_template=[{"name": "default", "template": "x"}]),
        changed("tokenizer_config.json", added_tokens_decoder={"x": {}}),
        changed("tokenizer.json", post_processor=None),
        changed("tokenizer.json", truncation=TRUNCATED),
        lambda folder: (folder / "special_tokens_map.json").write_text("{}"),
        lambda folder: (folder / "tokenizer.model").write_bytes(b""),
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        lambda folder: (folder / "tokenizer_config.json").unlink(),
        lambda folder: (folder / "config.json").write_text("[]"),
    ],
)
def test_what_transformers_would_change_is_left_to_it(change: Callable[[Path], Any], tmp_path: Path):
    trained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert read_lazily(tmp_path) is not None
    change(tmp_path)
    assert read_lazily(tmp_path) is None


def test_no_such_folder_is_told_as_before(tmp_path: Path):
    with pytest.raises(ModelError, match="found no such folder"):
        load_tokenizer(tmp_path / "no" / "where", lazy=True)
