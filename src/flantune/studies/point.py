"""A point of a study: one recipe, its name by content, where its files lie, and what came of it.

root/points/NAME/        the run of one training part; evals/ASKED/ of one evaluation part each
     bases/NAME/         a base model that points start from (made here, or only asked), and its evaluations
     shared/NAME/        the store of examples and its tokens, for all points of equal collections
     STUDY/              study.json, points.json, report.html: which points a study is made of, and what they say
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from flantune.pipeline.folder import RunFolder
from flantune.recipe import Recipe

Label = str | int | float

# What no figure of a point hangs on: names, places, threads, how often something is written down.
_NAMES = ("name", "runs", "vars", "preset", "eval")
_HABITS = ("threads", "checkpoint_every", "keep_checkpoints", "log_every", "watch")
# What the items of an evaluation, their wording or the reading of their answers hang on.
_ASKED = ("collections", "max_rejected", "held_out", "duplicates", "eval")


@dataclass(frozen=True, slots=True)
class Point:
    """One place of a study's grid.

    `labels`: its place on each axis. `base`: a recipe whose base model finetuning starts from, where several points
    share one that has to be made first; the point's own otherwise. `asked_with`: the seed that draws and words the
    evaluation's items, equal over a study so that points are compared item by item.
    """

    labels: Mapping[str, Label]
    recipe: Recipe
    base: Recipe | None = None
    asked_with: int = 0

    @property
    def start(self) -> Recipe:
        """The recipe whose base model finetuning starts from."""
        return self.recipe if self.base is None else self.base

    @property
    def name(self) -> str:
        return point_name(self.recipe, self.base)


def makes_base(recipe: Recipe) -> bool:
    """Whether the recipe's base model has to be made first; else it is there, as a folder or hub id."""
    return recipe.model.init == "scratch" or recipe.pretrain is not None


def point_name(recipe: Recipe, base: Recipe | None = None) -> str:
    """16 hex digits of what decides the trained model. Evaluations are named apart."""
    content = training_part(recipe)
    del content["pretrain"]
    for own in ("init", "size", "tokenizer"):  # the base's name says them
        del content["model"][own]
    return digest_of("point", content, base_name(recipe if base is None else base))


def training_part(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe without what changes no weight of the model."""
    content = recipe.model_dump(mode="json")
    for name in _NAMES:
        del content[name]
    del content["tokens"]["reuse"]
    for section in ("train", "pretrain"):
        for habit in _HABITS if content[section] is not None else ():
            del content[section][habit]
    return content


def base_name(recipe: Recipe) -> str:
    """16 hex digits of a base model: of what it is made from where it is made, else of where it lies."""
    if not makes_base(recipe):
        return digest_of("base", recipe.model.init, recipe.model.tokenizer.path)
    content = training_part(recipe)
    del content["train"], content["selection"]
    for own in ("dropout", "adapter"):  # finetuning's: a base is made without
        del content["model"][own]
    return digest_of("made base", content)


def asked_name(point: Point) -> str:
    """16 hex digits of which items are asked, how, and within which lengths; of benchmarks of the user's own also by
    what their files hold."""
    content = point.recipe.model_dump(mode="json", include=set(_ASKED))
    content["eval"].pop("batch_tokens")
    content["eval"].pop("contamination")
    data = point.recipe.vars.get("data")
    lengths = point.recipe.tokens.example_lens[0]
    chosen_on = point.recipe.selection.model_dump(mode="json")["tasks"]
    from flantune.evals.settings import content_digest

    own = [content_digest(b.name) for b in point.recipe.eval.benchmarks]
    return digest_of(content, data, lengths, chosen_on, point.start.model.tokenizer.path, point.asked_with, own)


def store_name(recipe: Recipe) -> str:
    """16 hex digits of what a store of examples is read from."""
    return digest_of(recipe.model_dump(mode="json", include={"collections", "max_rejected"}))


def digest_of(*content: Any) -> str:
    return hashlib.blake2b(orjson.dumps(content, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


# `slots=True` would make a class anew that the property overrides' super() does not know.
@dataclass(frozen=True)
class PointFolder(RunFolder):
    """A run's folder whose examples and tokens lie where other points find them, and that keeps several evaluations."""

    shared: Path = Path()  # of the store
    texts: str = ""  # which tokens: of one tokenizer, and of the store with or without duplicates
    asked: str = ""

    @property
    def store(self) -> Path:
        return self.shared / "examples"

    @property
    def unique(self) -> Path:
        return self.shared / f"unique-{self.texts}"

    @property
    def tokens(self) -> Path:
        return self.shared / f"tokens-{self.texts}"

    @property
    def evals(self) -> Path:
        return self.root / "evals" / self.asked

    @property
    def comparison(self) -> Path:
        return self.evals / "compare.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie under a studies' root."""

    root: Path

    def point(self, point: Point) -> PointFolder:
        return self._folder(self.root / "points" / point.name, point)

    def base(self, point: Point) -> PointFolder:
        return self._folder(self.root / "bases" / base_name(point.start), point)

    def study(self, name: str) -> Path:
        return self.root / name

    def _folder(self, folder: Path, point: Point) -> PointFolder:
        recipe = point.recipe
        unlike = recipe.model_dump(mode="json", include={"duplicates", "held_out"})
        without = unlike if recipe.duplicates.drop != "none" else None
        texts = digest_of(base_name(point.start), without)
        shared = self.root / "shared" / store_name(recipe)
        return PointFolder(folder, shared=shared, texts=texts, asked=asked_name(point))


Status = Literal["done", "failed"]
NOT_RUN, BEGUN = "it has not been run", "it was begun and not finished"  # reasons of what never failed


@dataclass(frozen=True, slots=True, kw_only=True)
class PointResult:
    """What came of a point. Where it failed, `reason` says why and the rest is empty.

    `scores`, `base_scores`: a row for each setting (task None) and for each of its tasks, with benchmark, mode, shots,
    task, category, ability, metric, items, score, interval and extraction_rate. `items`, `base_items`: items.parquet
    of the tuned model and of the base. `composition`: by mixture, the shares asked and got.
    """

    labels: Mapping[str, Label]
    name: str
    folder: Path
    status: Status
    reason: str = ""
    scores: Sequence[Mapping[str, Any]] = ()
    items: Path | None = None
    base: str = ""
    base_scores: Sequence[Mapping[str, Any]] = ()
    base_items: Path | None = None
    seconds: float = 0.0  # of training alone
    wall_seconds: float = 0.0  # of everything: build, training, evaluation; the parts of every attempt
    flops: float = 0.0  # of finetuning, by our account
    steps: int = 0
    tokens: int = 0  # input and target tokens trained on, without padding
    composition: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    formats: Mapping[str, int] = field(default_factory=dict)  # examples packed in each

    @property
    def done(self) -> bool:
        return self.status == "done"

    @property
    def missing(self) -> bool:
        """Neither done nor failed: the study was stopped before."""
        return not self.done and self.reason in (NOT_RUN, BEGUN)

    def score(self, setting: str) -> float | None:
        """Of the tuned model in a whole setting, as "held_out/direct/0-shot"."""
        found = (row["score"] for row in self.scores if row["setting"] == setting and row["task"] is None)
        return next(found, None)
