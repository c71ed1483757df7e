"""A run's folder: where each stage's files lie, and the resolved recipe that all of them belong to."""

from __future__ import annotations

import platform
import shutil
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

import flantune
from flantune.errors import StateError, shorten
from flantune.recipe import Recipe
from flantune.whole import write_whole

# What may change between two calls without making earlier stages' files another run's.
_FREE = ("eval", "runs", "vars", "max_rejected", "preset")  # a preset's values stand in the recipe by now
_FREE_ENDINGS = ("tokens.reuse", ".threads", ".checkpoint_every", ".keep_checkpoints", ".log_every", ".watch")
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pyarrow", "safetensors")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """`runs/NAME` and what lies in it."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def store(self) -> Path:
        return self.root / "data" / "examples"

    @property
    def unique(self) -> Path:
        """The store without duplicates, where the recipe leaves them out."""
        return self.root / "data" / "unique"

    @property
    def tokens(self) -> Path:
        """The store's texts in tokens."""
        return self.root / "data" / "tokens"

    @property
    def shards(self) -> Path:
        return self.root / "data" / "shards"

    @property
    def samples(self) -> Path:
        return self.root / "data" / "samples.jsonl"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer"

    @property
    def pretrain(self) -> Path:
        return self.root / "pretrain"

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def evals(self) -> Path:
        return self.root / "evals"

    @property
    def comparison(self) -> Path:
        return self.root / "compare.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"


def open_run(recipe: Recipe, *, fresh: bool = False) -> RunFolder:
    """The recipe's folder, claimed for it: the resolved recipe is written there, or must be the one already there.

    Raises StateError naming the keys that changed since the folder was begun.
    """
    folder = RunFolder(recipe.folder)
    if fresh and folder.root.exists():
        _clear(folder)
    resolved = recipe.model_dump(mode="json")
    if folder.recipe.exists():
        _check_same(folder, resolved)
    document = {**resolved, "versions": versions()}
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        write_text(folder.recipe, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    except OSError as e:
        raise StateError(
            f"{folder.root}: cannot be written: {e.strerror or e}. Give another folder with --runs."
        ) from e
    return folder


def _clear(folder: RunFolder) -> None:
    """Throw a run away but for what is the same for any recipe of these collections: examples and their tokens, which
    know by their fingerprints what they were made from."""
    kept = {folder.store, folder.unique, folder.tokens}
    for path in (*folder.root.iterdir(), *folder.store.parent.glob("*")):
        if path in kept or path == folder.store.parent:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _check_same(folder: RunFolder, resolved: dict[str, Any]) -> None:
    try:
        before = yaml.safe_load(folder.recipe.read_text(encoding="utf-8"))
        before.pop("versions", None)
        # A key that an earlier version did not know had what is now its default.
        with suppress(ValidationError):
            before = Recipe.model_validate(before).model_dump(mode="json")
    except (OSError, yaml.YAMLError, AttributeError) as e:
        raise StateError(f"{folder.recipe}: cannot be read: {shorten(str(e))}. Give --fresh to begin anew.") from None
    changes = [
        line
        for key in sorted({*before, *resolved} - set(_FREE))
        for line in differences(before.get(key), resolved.get(key), key)
        if not line.partition(" ")[0].endswith(_FREE_ENDINGS)
    ]
    if changes:
        raise StateError(
            f"{folder.root}: was begun with another recipe; changed since: {'; '.join(changes[:5])}. "
            "Give the recipe another name, or --fresh to throw the run away (its examples and their tokens are kept)."
        )


def differences(old: Any, new: Any, key: str) -> list[str]:
    """Dotted keys whose values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [d for k in sorted({*old, *new}) for d in differences(old.get(k), new.get(k), f"{key}.{k}")]
    return [] if old == new else [f"{key} ({shorten(old, 40)} -> {shorten(new, 40)})"]


def versions() -> dict[str, str]:
    found = {"flantune": flantune.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_text(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))
