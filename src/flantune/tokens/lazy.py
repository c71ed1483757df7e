"""A folder's tokenizer as its files state it, read by the `tokenizers` library alone.

transformers takes a second and 100 MiB to load, and of a tokenizer that is whole in tokenizer.json it changes nothing.
Where it would, or might, `read_lazily` leaves it to it. Whatever else is asked of the object, transformers answers.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
# Of other kinds of model transformers may take a class of its own instead, whatever the file says.
_MODELS = ("llama", "qwen3")
# With these a tokenizer is changed when it is loaded.
_CHANGING = ("add_bos_token", "add_eos_token", "add_prefix_space", "split_special_tokens", "auto_map")
_OLDER = ("special_tokens_map.json", "added_tokens.json", "additional_chat_templates")
_MOST = 100_000  # pieces; of larger vocabularies transformers looks at the model they come from
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class LazyTokenizer:
    """Stands where transformers' object stands."""

    vocab_file = None

    def __init__(self, folder: Path, stated: dict[str, Any], core: Any) -> None:
        self._folder, self._stated, self.backend_tokenizer = folder, stated, core
        self._ids = {name: core.token_to_id(_content(stated.get(name))) for name in _SPECIAL if stated.get(name)}

    @property
    def is_as_it_was(self) -> bool:
        """Nothing in it reads plain text otherwise than text: so nobody needs a copy that does."""
        import tokenizers

        core = self.backend_tokenizer
        return core.normalizer is None and not isinstance(core.model, tokenizers.models.Unigram)

    @property
    def eos_token_id(self) -> int | None:
        return self._ids.get("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        return self._ids.get("bos_token")

    @property
    def pad_token_id(self) -> int | None:
        return self._ids.get("pad_token")

    @cached_property
    def chat_template(self) -> str | None:
        path = self._folder / "chat_template.jinja"
        return path.read_text(encoding="utf-8") if path.is_file() else self._stated.get("chat_template")

    def get_vocab(self) -> dict[str, int]:
        return dict(self.backend_tokenizer.get_vocab(with_added_tokens=True))

    def whole_ids(self, plain: str) -> list[int]:
        """Of text that spells no control token, with what is put before and behind every text."""
        return list(self.backend_tokenizer.encode(plain).ids)

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._loaded(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._loaded, name)

    @cached_property
    def _loaded(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(self._folder), local_files_only=True, trust_remote_code=False)


def read_lazily(folder: Path) -> LazyTokenizer | None:
    """None where the files say more than this module knows, or cannot be read."""
    import tokenizers

    try:
        stated = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        model = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        plain = (
            stated["tokenizer_class"] in _CLASSES
            and model in _MODELS
            and not any(stated.get(name) for name in _CHANGING)
            and not any((folder / name).exists() for name in _OLDER)
            and not any(folder.glob("*.model"))
            and isinstance(stated.get("chat_template"), (str, type(None)))
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not plain:
        return None
    try:
        core = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # the Rust side raises bare ones; transformers tells them
        return None
    limited = core.truncation is not None or core.padding is not None
    if limited or core.post_processor is None or core.get_vocab_size() > _MOST or not _are_known(stated, core):
        return None
    return LazyTokenizer(folder, stated, core)


def _are_known(stated: dict[str, Any], core: Any) -> bool:
    """Every token that the configuration names is a control token of the file: else it would be added."""
    known = core.get_added_tokens_decoder()
    control = {token.content for token in known.values() if token.special}
    named = [stated.get(name) for name in _SPECIAL]
    more = stated.get("extra_special_tokens") or stated.get("additional_special_tokens") or []
    older = stated.get("added_tokens_decoder") or {}
    if not isinstance(more, list) or not isinstance(older, dict):
        return False
    spelled = {str(i): token.content for i, token in known.items()}
    same = all(spelled.get(i) == _content(token) for i, token in older.items())
    return same and all(_content(token) in control for token in (*named, *more) if token is not None)


def _content(token: Any) -> str:
    return str(token.get("content") if isinstance(token, dict) else token)
