"""One wrapper around any Hugging Face tokenizer: batches of plain text to ids without special tokens, and back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from flantune.errors import ModelError, RecipeError
from flantune.tokens.lazy import LazyTokenizer, read_lazily
from flantune.types import Tokens

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerBase

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"  # ids 0, 1, 2 of a tokenizer trained here, as in T5
NUM_SENTINELS = 100
MIN_VOCAB = 3 + 256 + NUM_SENTINELS  # specials, every byte, sentinels

# A noncharacter of Unicode, not for text: a piece spelt with it is out of a text's reach.
_UNREACHABLE = "\uffff"


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back. `hf` is the transformers object, for everything this class does not wrap.

    `pad_id` is the tokenizer's own, or EOS where it has none: masks are built from lengths and never look at it.
    """

    hf: PreTrainedTokenizerBase
    eos_id: int
    pad_id: int
    sentinel_ids: tuple[int, ...]  # of <extra_id_0>, <extra_id_1>, ...; empty where there are none
    sentencepiece: Any = field(default=None, repr=False, compare=False)  # the library's processor, where it is the same

    @property
    def vocab_size(self) -> int:
        """Rows an embedding needs: one more than the largest id."""
        return max(len(self.hf), 1 + max(self.hf.get_vocab().values()))

    @cached_property
    def as_loaded(self) -> Tokenizer:
        """Without the sentencepiece library: the ids of the wrapper that users load. Of two ways to read a word that
        score the same, or differ by less than the library's sums in single precision round, the two may take another.
        """
        return self if self.sentencepiece is None else replace(self, sentencepiece=None)

    @cached_property
    def leading_bos(self) -> int | None:
        """BOS, where the tokenizer as it is loaded puts it before every text."""
        bos = self.hf.bos_token_id
        if bos is None:
            return None
        told = self.hf.whole_ids("a") if isinstance(self.hf, LazyTokenizer) else self.hf("a")["input_ids"]
        return int(bos) if len(told) > 1 and told[0] == bos else None

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self.hf, "chat_template", None))

    def encode_batch(self, texts: Sequence[str], *, parse_special: bool = False) -> list[Tokens]:
        """Ids of each text, int32, without BOS (`leading_bos`), EOS or padding.

        Data is data: "</s>" or "<extra_id_0>" inside a text is spelt out like any other word, so that no row of a
        collection can end a target or pose as padding. `parse_special` reads them as control tokens instead, for text
        that a chat template wrote.
        """
        if not texts:
            return []
        if self.sentencepiece is not None and not parse_special:
            return self.encode_sentencepiece(self.sentencepiece, texts)
        backend = self._control_backend if parse_special else self._plain_backend
        if backend is None:
            rows = self.hf(list(texts), add_special_tokens=False, split_special_tokens=not parse_special)["input_ids"]
            return [np.asarray(row, dtype=np.int32) for row in rows]
        return _encode_fast(backend, texts)

    def encode_units(self, units: Sequence[str]) -> list[Tokens]:
        """Ids of texts as they stand inside a longer one: nothing is put before them. Needs a Rust tokenizer."""
        backend = self._unit_backend
        assert backend is not None
        return _encode_fast(backend, units)

    @staticmethod
    def encode_sentencepiece(processor: Any, texts: Sequence[str]) -> list[Tokens]:
        # U+0085, a line break of old, is a blank to the wrapper's splitter and unknown to the library.
        texts = [text.replace("\x85", " ") if "\x85" in text else text for text in texts]
        return [np.asarray(row, dtype=np.int32) for row in processor.encode(texts)]

    def encode(self, text: str) -> Tokens:
        return self.encode_batch([text])[0]

    def decode(self, ids: Sequence[int] | Tokens, skip_special: bool = True) -> str:
        numbers = [int(i) for i in ids]
        return str(self.hf.decode(numbers, skip_special_tokens=skip_special, clean_up_tokenization_spaces=False))

    def save(self, folder: Path | str) -> None:
        self.hf.save_pretrained(str(folder))

    @cached_property
    def fingerprint(self) -> str:
        """Equal for tokenizers that give equal ids; 16 hex digits."""
        backend = getattr(self.hf, "backend_tokenizer", None)
        core = backend.to_str() if backend is not None else json.dumps(sorted(self.hf.get_vocab().items()))
        parts = [type(self.hf).__name__ if backend is None else "", core, self.eos_id, self.pad_id, self.sentinel_ids]
        parts.append(getattr(self.hf, "chat_template", None) or "")
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()

    @cached_property
    def _control_backend(self) -> tokenizers.Tokenizer | None:
        return self._copy_backend(plain=False)

    @cached_property
    def _plain_backend(self) -> tokenizers.Tokenizer | None:
        return self._copy_backend(plain=True)

    @cached_property
    def _unit_backend(self) -> tokenizers.Tokenizer | None:
        return self._copy_backend(plain=True, inside=True)

    def _copy_backend(self, plain: bool, inside: bool = False) -> tokenizers.Tokenizer | None:
        """A copy of the Rust tokenizer that neither cuts nor pads, whatever its file says."""
        import tokenizers

        backend = getattr(self.hf, "backend_tokenizer", None)
        if backend is None:
            return None
        if isinstance(self.hf, LazyTokenizer) and plain and self.hf.is_as_it_was:
            return _without_limits(backend, plain)
        spec = json.loads(backend.to_str())
        if plain and spec["model"].get("type") == "Unigram":
            _hide_control_pieces(spec)
        if (inside or not plain) and spec["normalizer"] == SPACE_BEFORE:
            spec["normalizer"] = None  # it would add a space after every control token of a chat
        return _without_limits(tokenizers.Tokenizer.from_str(json.dumps(spec)), plain)


def _without_limits(backend: tokenizers.Tokenizer, plain: bool) -> tokenizers.Tokenizer:
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = plain
    return backend


SPACE_BEFORE = {"type": "Prepend", "prepend": " "}


def _encode_fast(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[Tokens]:
    rows = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.asarray(row.ids, dtype=np.int32) for row in rows]


def _hide_control_pieces(spec: dict[str, Any]) -> None:
    # A Unigram vocabulary lists "</s>" as a piece with score 0, the best there is, so the Viterbi search finds it in
    # plain text even when special tokens are switched off. Respelling the piece keeps its id and every score.
    special = {t["content"] for t in spec["added_tokens"] if t["special"]}
    for token in spec["added_tokens"]:
        if token["special"]:
            token["content"] = _UNREACHABLE + token["content"]
    vocab = spec["model"]["vocab"]
    spec["model"]["vocab"] = [[_UNREACHABLE + p if p in special else p, score] for p, score in vocab]
    spec["post_processor"] = None  # it names tokens by their old spelling, and special tokens are not added anyway


def load_tokenizer(path_or_id: str | Path, *, lazy: bool = False) -> Tokenizer:
    """From a local folder or, where no such folder exists, a hub id. No remote code. Raises ModelError.

    `lazy`: transformers is loaded when it is needed and not before, where the folder allows (`lazy.py`).
    """
    if lazy and (found := read_lazily(Path(path_or_id).expanduser())) is not None:
        return wrap_tokenizer(cast(Any, found), where=str(path_or_id))
    from transformers import AutoTokenizer

    name = str(path_or_id)
    folder = Path(name).expanduser()
    if not folder.is_dir() and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ModelError(f"{name}: expected a folder that holds a tokenizer, or a hub id; found no such folder.")
    local = folder.is_dir()
    try:
        hf = AutoTokenizer.from_pretrained(
            str(folder) if local else name, local_files_only=local, trust_remote_code=False
        )
    except Exception as e:  # transformers raises a dozen kinds, down to bare Exception from the Rust side
        kind = "folder" if local else "hub id (there is no such folder here)"
        first_line = str(e).strip().split("\n")[0][:200]
        raise ModelError(f"{name}: expected a tokenizer in this {kind}, got {type(e).__name__}: {first_line}") from e
    return wrap_tokenizer(hf, where=name)


def wrap_tokenizer(hf: PreTrainedTokenizerBase, where: str = "tokenizer") -> Tokenizer:
    """Raises ModelError where there is no EOS: nothing would end an input, a target or a generation."""
    if hf.eos_token_id is None:
        raise ModelError(
            f"{where}: expected a tokenizer with an end-of-sequence token, got none. Set eos_token in the folder's "
            f"tokenizer_config.json (T5 uses '</s>'), or set model.tokenizer.path to another tokenizer."
        )
    pad_id = hf.pad_token_id if hf.pad_token_id is not None else hf.eos_token_id
    vocab = hf.get_vocab()
    sentinels: list[int] = []
    while (piece := f"<extra_id_{len(sentinels)}>") in vocab:
        sentinels.append(int(vocab[piece]))
    made = Tokenizer(hf=hf, eos_id=int(hf.eos_token_id), pad_id=int(pad_id), sentinel_ids=tuple(sentinels))
    processor = _same_sentencepiece(made)
    return made if processor is None else replace(made, sentencepiece=processor)


# What implementations of SentencePiece have differed on: white space at the ends and in runs, line breaks, control
# pieces spelt out, characters that are normalised away or into several, unknown ones in a row, ties between pieces.
_PROBES = (
    *("The ferry left at nine.", " lead", "trail ", "", " ", "\n", "a  b\n\nc", "tab\there", "foo</s> bar"),
    *("<extra_id_0> x", "<pad>", "<unk>x", "x \u0308y", "e\u0301t\u00e9", "a\u200bb", "\ufdfa", "\u2026\u2026"),
    *("\u2460\uff21\uff11", "0000000", "----------------", "aaaaaaaaa", "\u4f60\u597d\uff0c\u4e16\u754c\u3002"),
    *("\u0926\u0947\u0935", "a\x85b", "\x85", "a \x85\x85. \x85"),
    *("\U0001f600\U0001f600 \U0001f600", "{}<>~^\\`", "\u2581x \u2581"),
)


def _same_sentencepiece(tokenizer: Tokenizer) -> Any:
    """The sentencepiece library on the tokenizer's own model file, several times faster than the wrapper around it.

    None where there is no such file, or where the two number a piece or read a probe differently.
    """
    path = Path(getattr(tokenizer.hf, "vocab_file", None) or "")
    if path.suffix != ".model" or not path.is_file():
        return None
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(path))
    size = processor.get_piece_size()
    pieces = [processor.id_to_piece(i) for i in range(size)]
    if tokenizer.hf.convert_ids_to_tokens(list(range(size))) != pieces:
        return None
    theirs = tokenizer.encode_batch(_PROBES)
    ours = Tokenizer.encode_sentencepiece(processor, _PROBES)
    return processor if all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)) else None


def put_space_before(core: tokenizers.Tokenizer) -> None:
    """Make a byte-level tokenizer read every text as if a space stood before it, and take the space off again.

    A text's first word then has the id it has inside text, as with SentencePiece's dummy prefix. Without that an answer
    of one word is spelled in pieces that pretraining hardly ever met, and what was learned of the word is out of reach.
    """
    from tokenizers import decoders, normalizers

    core.normalizer = normalizers.Prepend(" ")
    core.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, folder: Path | str, *, prefix_space: bool = True
) -> Tokenizer:
    """Byte-level BPE over `texts`, saved in `folder` as AutoTokenizer reads it. Equal texts give equal files.

    Lossless: every byte has a piece, so line breaks, braces and Chinese survive the round trip, which T5's own
    vocabulary does not offer (spec 3.7). Digits are single tokens. Layout as T5's: <pad> 0, </s> 1, <unk> 2 (never
    produced) ... <extra_id_0> last. Little text fills less than `vocab_size`. Called without special arguments the
    saved tokenizer appends </s>, as training does. `prefix_space`: see `put_space_before`.
    """
    import tokenizers
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < MIN_VOCAB:
        raise RecipeError(
            f"model.tokenizer.vocab_size: expected at least {MIN_VOCAB} (3 specials, 256 bytes, {NUM_SENTINELS} "
            f"sentinels), got {vocab_size}."
        )
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    if prefix_space:
        put_space_before(core)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - NUM_SENTINELS,
        special_tokens=[PAD, EOS, UNK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    sentinels = [f"<extra_id_{k}>" for k in range(NUM_SENTINELS)]
    core.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in reversed(sentinels)])
    core.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, core.token_to_id(EOS))]
    )
    hf = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens=sentinels,
        clean_up_tokenization_spaces=False,
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    hf.save_pretrained(str(folder))
    return load_tokenizer(folder)
