"""From collections to packed shards: read, choose the tokenizer, mix, encode, pack."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import orjson

from flantune.errors import RecipeError
from flantune.mixtures import Mixture
from flantune.pipeline.folder import RunFolder, write_text
from flantune.pipeline.text import collection_documents, file_documents
from flantune.recipe import Recipe
from flantune.tasks import ExampleStore, HeldOutSplit, build_store, split_held_out
from flantune.templates import templates_for
from flantune.tokens.build import build_shards, read_card
from flantune.tokens.card import DataCard
from flantune.tokens.encode import EncodedBatch, encode_prompts
from flantune.tokens.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from flantune.types import Prompt
from flantune.whole import atomic_folder

SAMPLES = 48  # rendered prompts kept for the report
Progress = Callable[[str, int, int], None]  # stage, done, of


def quiet(stage: str, done: int, total: int) -> None:
    """Progress for nobody."""


@dataclass(frozen=True, slots=True)
class Data:
    """What the later stages read from: the store, what of it may be trained on, and the mixture over that."""

    store: ExampleStore
    split: HeldOutSplit
    mixture: Mixture


def open_store(recipe: Recipe, folder: RunFolder, progress: Progress = quiet) -> ExampleStore:
    """Read every collection into the run's store; done once, checked by fingerprint after."""
    return build_store(
        recipe.collections,
        folder.store,
        recipe.max_rejected,
        on_progress=lambda p: progress("read", p.files, p.files_total),
    )


def open_data(recipe: Recipe, folder: RunFolder, progress: Progress = quiet) -> Data:
    store = open_store(recipe, folder, progress)
    if not store.tasks:
        raise RecipeError(f"{recipe.name}: the collections hold no example; see {folder.store / 'rejected.jsonl'}.")
    split = split_held_out(store.tasks, recipe.held_out)
    return Data(store, split, make_mixture(recipe, store, split))


def make_mixture(recipe: Recipe, store: ExampleStore, split: HeldOutSplit) -> Mixture:
    """The mixture over the tasks that may be trained on."""
    tasks = {name: store.tasks[name] for name in split.train}
    sizes = {name: store.size(name) for name in split.train}
    language = recipe.mixture.language
    return Mixture(recipe.mixture, recipe.seed, tasks, sizes, lambda task: templates_for(task, language))


def open_tokenizer(recipe: Recipe, folder: RunFolder, data: Data) -> Tokenizer:
    """The named tokenizer, the model's own, or one trained on the run's text where the model is from scratch."""
    from flantune.models.load import located

    spec = recipe.model
    if spec.tokenizer.path:
        return load_tokenizer(spec.tokenizer.path)
    if spec.init != "scratch":
        return load_tokenizer(located(spec.init))
    if not (folder.tokenizer / "tokenizer.json").exists():
        texts = _up_to(plain_text(recipe, data), int(spec.tokenizer.sample_mb * 1e6))
        with atomic_folder(folder.tokenizer) as temporary:
            train_tokenizer(texts, spec.tokenizer.vocab_size, temporary, prefix_space=spec.tokenizer.prefix_space)
    return load_tokenizer(folder.tokenizer)


def plain_text(recipe: Recipe, data: Data) -> Iterator[str]:
    """Documents in the order pretraining sees them, without end."""
    documents = text_source(recipe, data)
    block = 0
    while True:
        yield from documents(block)
        block += 1


def text_source(recipe: Recipe, data: Data) -> Callable[[int], list[str]]:
    """Block b of the plain text: a pure function, from the trainable tasks or from text files."""
    spec = recipe.pretrain
    if spec is not None and spec.text == "files":
        return file_documents([Path(f) for f in spec.files], recipe.seed, recipe.tokens.block)
    return collection_documents(data.mixture, data.store, recipe.tokens.block)


def build(recipe: Recipe, folder: RunFolder, progress: Progress = quiet) -> DataCard:
    """Exactly as many packed rows as training will read, with the data card and samples of the prompts."""
    data = open_data(recipe, folder, progress)
    tokenizer = open_tokenizer(recipe, folder, data)
    spec = recipe.tokens

    def block(b: int) -> EncodedBatch:
        return encode_prompts(
            list(data.mixture.prompts(range(b * spec.block, (b + 1) * spec.block), data.store)),
            tokenizer,
            inputs_len=spec.inputs_len,
            targets_len=spec.targets_len,
            few_shot_margin=spec.few_shot_margin,
        )

    write_samples(data, folder.samples)
    card = build_shards(
        block,
        recipe.train.steps * recipe.train.batch_rows,
        spec,
        folder.shards,
        one_sided=is_one_sided(recipe),
        fingerprint=_digest(data.mixture.fingerprint(), tokenizer.fingerprint),
        asked_shares=data.mixture.shares(),
        on_progress=lambda rows, total, _: progress("build", rows, total),
    )
    return card


def built_card(folder: RunFolder) -> DataCard:
    return read_card(folder.shards)


def write_samples(data: Data, path: Path) -> None:
    """The stream's first prompts of as many different mixtures and templates, segment by segment."""
    lines: list[bytes] = []
    seen: set[tuple[str, str]] = set()
    for prompt in data.mixture.prompts(range(SAMPLES * 4), data.store):
        if (prompt.task, prompt.template) in seen:
            continue
        seen.add((prompt.task, prompt.template))
        lines.append(orjson.dumps(sample(prompt)))
        if len(lines) == SAMPLES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, b"\n".join(lines).decode() + "\n")


def sample(prompt: Prompt) -> dict[str, object]:
    return {
        "index": prompt.index,
        "mixture": prompt.mixture,
        "task": prompt.task,
        "row": prompt.row,
        "template": prompt.template,
        "exemplars": list(prompt.exemplars),
        "segments": [{"role": s.role, "text": s.text} for s in prompt.segments],
    }


def preview_prompts(recipe: Recipe, folder: RunFolder, indices: Iterable[int]) -> Iterator[Prompt]:
    """The stream's prompts at the places asked."""
    data = open_data(recipe, folder)
    for i in indices:
        yield data.mixture.prompt(i, data.store)


def is_one_sided(recipe: Recipe) -> bool:
    """Whether inputs and targets share one sequence: decoder-only models."""
    from flantune.models.family import family_of_type
    from flantune.models.load import model_type

    spec = recipe.model
    if spec.init == "scratch":
        return family_of_type("t5" if spec.family == "auto" else spec.family).one_sided
    return family_of_type(model_type(spec.init), where=spec.init).one_sided


def _up_to(texts: Iterator[str], size: int) -> Iterator[str]:
    """Texts until `size` bytes or 200,000 documents, whichever comes first."""
    total = 0
    for text in islice(texts, 200_000):
        yield text
        total += len(text.encode())
        if total >= size:
            return


def _digest(*parts: str) -> str:
    return hashlib.blake2b(":".join(parts).encode(), digest_size=8).hexdigest()
