"""From collections to packed shards: read, choose the tokenizer, mix, encode, pack."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import orjson

from flantune.errors import RecipeError
from flantune.mixtures import Draw, Mixture
from flantune.mixtures.counted import Measured
from flantune.mixtures.row_order import RowOrder
from flantune.mixtures.unique import unique_store
from flantune.pipeline.folder import RunFolder, write_text
from flantune.pipeline.phases import FILE as PHASES
from flantune.pipeline.phases import kept_ends, measured_ends
from flantune.pipeline.text import collection_documents, text_documents
from flantune.recipe import Count, Recipe, TextSpec, TokensSpec
from flantune.tasks import ExampleStore, HeldOutSplit, build_store, matching_names, split_held_out
from flantune.tasks.lengths import Side, text_lengths
from flantune.templates import first_of_each_kind, templates_for
from flantune.tokens.boundaries import boundaries_of
from flantune.tokens.build import Blocks, build_shards, read_card
from flantune.tokens.card import Asked, DataCard
from flantune.tokens.compose import Composer
from flantune.tokens.encode import EncodedBatch, encode_prompts
from flantune.tokens.even import EvenShares
from flantune.tokens.shards import INDEX
from flantune.tokens.spans import BlockSpans
from flantune.tokens.text_share import DOCUMENTS, TextShare, far_from_instructions, place_of, texts_before
from flantune.tokens.text_share import TASK as TEXT
from flantune.tokens.token_store import TokenStore
from flantune.tokens.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from flantune.tokens.yields import Sampler
from flantune.types import Prompt, Task, Template
from flantune.whole import atomic_folder

if TYPE_CHECKING:
    from flantune.pipeline.parallel import Workers

SAMPLES = 48  # rendered prompts kept for the report
LENGTHS = "lengths.json"  # in the run's data folder: what sampled draws came to


class Progress(Protocol):
    """Told where a stage is. `note` is for the eye: what else can be said of it now."""

    def __call__(self, stage: str, done: int, total: int, note: str = "", /) -> None: ...


def quiet(stage: str, done: int, total: int, note: str = "", /) -> None:
    """Progress for nobody."""


@dataclass(frozen=True, slots=True)
class Data:
    """What the later stages read from: the store, what of it may be trained on, and the mixture over that."""

    store: ExampleStore
    split: HeldOutSplit
    mixture: Mixture
    unphased: Mixture | None = None  # where the mixture has phases: the same by the parts' own weights

    @property
    def for_text(self) -> Mixture:
        """What draws records as plain text: a curriculum is one of instructions."""
        return self.mixture if self.unphased is None else self.unphased


def open_store(recipe: Recipe, folder: RunFolder, progress: Progress = quiet) -> ExampleStore:
    """Read every collection into the run's store; done once, checked by fingerprint after.

    Where the recipe leaves out duplicates, the store without them, which lies beside the whole one.
    """
    store = build_store(
        recipe.collections,
        folder.store,
        recipe.max_rejected,
        on_progress=lambda p: progress("read", p.files, p.files_total),
    )
    if recipe.duplicates.drop == "none":
        return store
    train = split_held_out(store.tasks, recipe.held_out).train
    return unique_store(
        store, folder.unique, recipe.duplicates, train, lambda done, total: progress("duplicates", done, total)
    )


def open_data(recipe: Recipe, folder: RunFolder, progress: Progress = quiet) -> Data:
    return data_of(recipe, folder, open_store(recipe, folder, progress), progress)


def data_of(recipe: Recipe, folder: RunFolder, store: ExampleStore, progress: Progress = quiet) -> Data:
    """What is trained on, from a store that is whole; the collections are not looked at."""
    if not store.tasks:
        raise RecipeError(f"{recipe.name}: the collections hold no example; see {folder.store / 'rejected.jsonl'}.")
    split = split_held_out(store.tasks, recipe.held_out)
    drawn = Data(store, split, make_mixture(recipe, store, split, "draws"))
    count = recipe.mixture.count
    measured = None if count == "draws" else measure(recipe, folder, drawn, progress)
    if recipe.mixture.phases:
        ends = phase_ends(recipe, folder, drawn, measured, progress)
        return Data(store, split, make_mixture(recipe, store, split, count, measured, ends), drawn.mixture)
    return drawn if measured is None else Data(store, split, make_mixture(recipe, store, split, count, measured))


def measure(recipe: Recipe, folder: RunFolder, drawn: Data, progress: Progress = quiet) -> Measured:
    """What a mixture that counts packed examples or tokens knows of its data. `drawn` is the same by draws. The counts
    are kept in the run's folder, and sampled again only where text, tokenizer, lengths or wording are others."""
    tokenizer = open_tokenizer(recipe, folder, drawn)
    side: Side = "targets" if recipe.mixture.count == "target_tokens" else "fields"
    order = RowOrder({task: text_lengths(drawn.store, task, side) for task in drawn.mixture.sizes}, recipe.seed)
    readied = Readied(drawn, tokenizer)
    composer = composer_of(recipe, folder, readied)
    encode = encoded_draws(recipe, readied, composer)
    sampler = Sampler(drawn.mixture, order, encode, tokenizer, recipe.tokens, made_from=drawn.store.fingerprint)
    try:
        yields = sampler.yields(folder.store.parent / LENGTHS, lambda done, total: progress("measure", done, total))
    finally:
        if composer is not None:
            composer.close()  # the build opens the same tokens to add to them
    return Measured(yields, order)


def phase_ends(
    recipe: Recipe, folder: RunFolder, drawn: Data, measured: Measured | None, progress: Progress = quiet
) -> tuple[int, ...]:
    """The index at which each phase of the recipe's mixture ends; kept in the run's data folder."""
    spec, tokenizer, one_sided = recipe.mixture, open_tokenizer(recipe, folder, drawn), is_one_sided(recipe)
    share = spec.text.share if spec.text is not None else 0.0
    composers: list[Composer] = []

    def index(place: int) -> int:
        return place - texts_before(share, place)

    def open_phase(number: int, ends: Sequence[int]) -> Callable[[int, int], EncodedBatch]:
        begun = recipe.model_copy(update={"mixture": spec.model_copy(update={"phases": spec.phases[: number + 1]})})
        known = [index(end) for end in ends]
        known.append(max(known, default=0) + 1)  # of the phase that goes on
        mixture = make_mixture(begun, drawn.store, drawn.split, spec.count, measured, known)
        readied = Readied(Data(drawn.store, drawn.split, mixture, drawn.mixture), tokenizer, spec.text)
        while composers:
            composers.pop().close()
        composer = composer_of(recipe, folder, readied)
        composers.extend([] if composer is None else [composer])
        return encoded_places(recipe, readied, composer)

    def find() -> tuple[int, ...]:
        try:
            ends = measured_ends(recipe, one_sided, open_phase, lambda done, total: progress("phases", done, total))
        finally:
            for composer in composers:
                composer.close()  # the build opens the same tokens to add to them
        return tuple(index(end) for end in ends)

    lengths = recipe.tokens.model_dump_json(exclude={"reuse"})
    rows = f"{recipe.train.steps} x {recipe.train.batch_rows}"
    made_from = [drawn.mixture.fingerprint(), spec.model_dump_json(), lengths, rows, str(one_sided)]
    made_from += [tokenizer.fingerprint, drawn.store.fingerprint, "" if measured is None else measured.fingerprint()]
    return kept_ends(folder.root / "data" / PHASES, made_from, find)


def make_mixture(
    recipe: Recipe,
    store: ExampleStore,
    split: HeldOutSplit,
    count: Count,
    measured: Measured | None = None,
    phase_ends: Sequence[int] = (),
) -> Mixture:
    """The mixture over the tasks that may be trained on, its weights counting `count`. Without `phase_ends`, the parts'
    own weights hold throughout."""
    tasks = {name: store.tasks[name] for name in split.train}
    sizes = {name: store.size(name) for name in split.train}
    wording, most = recipe.mixture.wording, recipe.mixture.wordings
    spec = recipe.mixture.model_copy(update={"count": count, **({} if phase_ends else {"phases": ()})})

    def templates(task: Task) -> tuple[Template, ...]:
        found = templates_for(task, wording)
        return found if most is None else first_of_each_kind(found, most)

    left_out = () if not spec.only else set(tasks) - set(matching_names(tasks, spec.only, "mixture.only"))
    return Mixture(
        spec, recipe.seed, tasks, sizes, templates, held_out=left_out, measured=measured, phase_ends=phase_ends
    )


def open_tokenizer(recipe: Recipe, folder: RunFolder, data: Data) -> Tokenizer:
    """The named tokenizer, the model's own, or one trained on the run's text where the model is from scratch."""
    from flantune.models.place import located

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
        return text_documents(spec, recipe.seed, recipe.tokens.block)
    return collection_documents(data.for_text, data.store, recipe.tokens.block)


def text_share(recipe: Recipe, spec: TextSpec, data: Data, tokenizer: Tokenizer) -> TextShare:
    """The plain text among the instructions, where the recipe asks for it."""
    if spec.text == "files":
        documents = text_documents(spec, recipe.seed, DOCUMENTS)
    else:
        documents = far_from_instructions(collection_documents(data.for_text, data.store, DOCUMENTS))
    kind: Literal["encoder-decoder", "causal"] = "causal" if is_one_sided(recipe) else "encoder-decoder"
    return TextShare(spec, documents, tokenizer, kind, recipe.tokens, recipe.seed)


@dataclass(frozen=True, slots=True)
class Readied:
    """All that a block of the stream is made from."""

    data: Data
    tokenizer: Tokenizer
    text: TextSpec | None = None  # the share of plain text, where there is one

    @property
    def fingerprint(self) -> str:
        """Equal where equal blocks are made."""
        text = [] if self.text is None else [self.text.model_dump_json()]
        return _digest(self.data.mixture.fingerprint(), self.tokenizer.fingerprint, *text)


def reopen(recipe: Recipe, folder: RunFolder) -> Readied:
    """What a build has readied in the run's folder, for another process; the collections are not looked at."""
    whole = recipe.duplicates.drop == "none"
    data = data_of(recipe, folder, ExampleStore.open(folder.store if whole else folder.unique))
    return Readied(data, open_tokenizer(recipe, folder, data), recipe.mixture.text)


def encoded_blocks(recipe: Recipe, folder: RunFolder, readied: Readied) -> Callable[[int], EncodedBatch]:
    """Block b of the stream, encoded: a pure function of b. Plain text stands among the instructions where the recipe
    has a share of it."""
    places = encoded_places(recipe, readied, composer_of(recipe, folder, readied))
    spans = block_spans(recipe, readied.data.mixture)
    return lambda b: places(*spans.span(b))


def block_spans(recipe: Recipe, mixture: Mixture) -> BlockSpans:
    """Which places of the stream, plain text included, each block holds."""
    text, firsts = recipe.mixture.text, [phase.first for phase in mixture.phases[1:]]
    return BlockSpans(recipe.tokens.block, firsts if text is None else [place_of(text.share, f) for f in firsts])


def encoded_places(recipe: Recipe, readied: Readied, composer: Composer | None) -> Callable[[int, int], EncodedBatch]:
    """The stream from one place to another, encoded, plain text included."""
    instructions = encoded_spans(recipe, readied, composer)
    if recipe.mixture.text is None:
        return instructions
    text = text_share(recipe, recipe.mixture.text, readied.data, readied.tokenizer)
    return lambda start, stop: text.blend(instructions, start, stop)


def encoded_spans(recipe: Recipe, readied: Readied, composer: Composer | None) -> Callable[[int, int], EncodedBatch]:
    """The mixture's prompts from one of them to another, encoded."""
    if composer is not None:
        return lambda start, stop: composer.encode(start, stop, **lengths_of(recipe.tokens))
    encode, mixture = encoded_draws(recipe, readied), readied.data.mixture
    return lambda start, stop: encode(list(mixture.draws(start, stop)))


def encoded_draws(
    recipe: Recipe, readied: Readied, composer: Composer | None = None
) -> Callable[[Sequence[Draw]], EncodedBatch]:
    """Draws of the mixture, encoded, wherever they stand: composed where there is a composer, else rendered."""
    data, lengths = readied.data, lengths_of(recipe.tokens)
    if composer is not None:
        return lambda draws: composer.encode_draws(draws, **lengths)

    def rendered(draws: Sequence[Draw]) -> EncodedBatch:
        return encode_prompts([data.mixture.prompt_of(d, data.store) for d in draws], readied.tokenizer, **lengths)

    return rendered


def composer_of(recipe: Recipe, folder: RunFolder, readied: Readied) -> Composer | None:
    """From the run's token store, where the recipe reuses tokens and the tokenizer allows it."""
    data, tokenizer = readied.data, readied.tokenizer
    boundaries = boundaries_of(tokenizer) if recipe.tokens.reuse else None
    if boundaries is None:
        return None
    tokens = TokenStore(data.store, boundaries, folder.tokens, tokenizer.fingerprint)
    return Composer(data.mixture, data.store, tokenizer, tokens)


def lengths_of(spec: TokensSpec) -> dict[str, int]:
    """What one example may have, as `encode_prompts` names it."""
    inputs_len, targets_len = spec.example_lens
    return {"inputs_len": inputs_len, "targets_len": targets_len, "few_shot_margin": spec.few_shot_margin}


def build(recipe: Recipe, folder: RunFolder, progress: Progress = quiet, workers: Workers | None = None) -> DataCard:
    """Exactly as many packed rows as training will read, with the data card and samples of the prompts.

    `workers` make the blocks ahead, here or on other machines; the bytes written are the same.
    """
    data = open_data(recipe, folder, progress)
    readied = Readied(data, open_tokenizer(recipe, folder, data), recipe.mixture.text)
    write_samples(data, folder.samples)
    one_sided = is_one_sided(recipe)
    with block_source(recipe, folder, readied, one_sided, workers) as blocks:
        return build_shards(
            blocks,
            recipe.train.steps * recipe.train.batch_rows,
            recipe.tokens,
            folder.shards,
            one_sided=one_sided,
            fingerprint=readied.fingerprint,
            asked=asked(recipe, data),
            even=even_shares(recipe, data),
            phase_of=block_spans(recipe, data.mixture).phase if data.mixture.phases else None,
            on_progress=lambda rows, total, _: progress("build", rows, total),
        )


def even_shares(recipe: Recipe, data: Data) -> EvenShares | None:
    """What keeps the mixtures' shares of the tokens even from block to block, where the weights count tokens."""
    count, mixture = recipe.mixture.count, data.mixture
    if count not in ("input_tokens", "target_tokens"):
        return None
    if not mixture.phases:
        return EvenShares(count, mixture.asked_mixture_shares())
    shares = [mixture.asked_in_phase(number) for number in range(len(mixture.phases))]
    firsts = block_spans(recipe, mixture).first_blocks
    return EvenShares(count, shares[0], list(zip(firsts[1:], shares[1:], strict=True)))


def asked(recipe: Recipe, data: Data) -> Asked:
    """What the recipe asked of the rows. Plain text has its share of the examples, and the tasks what that leaves; of
    tokens the recipe asks for shares among the instructions, and for none of plain text."""
    count, text, mixture = recipe.mixture.count, recipe.mixture.text, data.mixture
    left = 1 - (text.share if text is not None else 0)
    draws: dict[str, dict[str, float]] = {}
    for leaf in mixture.leaves:
        own = draws.setdefault(leaf.mixture, {})
        own[leaf.task] = own.get(leaf.task, 0.0) + left * leaf.probability
    of_examples = count in ("draws", "examples")

    def with_text(shares: Mapping[str, float]) -> dict[str, float | None]:
        told: dict[str, float | None] = {n: share * (left if of_examples else 1) for n, share in shares.items()}
        if text is not None:
            told[TEXT] = text.share if of_examples else None
        return told

    if text is not None:
        draws[TEXT] = {TEXT: text.share}
    return Asked(
        count=count,
        mixtures=with_text(mixture.asked_mixture_shares()),
        draws=draws,
        phases=[with_text(mixture.asked_in_phase(number)) for number in range(len(mixture.phases))],
    )


def block_source(
    recipe: Recipe, folder: RunFolder, readied: Readied, one_sided: bool, workers: Workers | None
) -> AbstractContextManager[Blocks]:
    """Blocks made here, or ahead of their time by workers. A folder that is whole asks for none and starts none."""
    if workers is None or (folder.shards / INDEX).exists():
        return nullcontext(encoded_blocks(recipe, folder, readied))
    from flantune.pipeline.parallel import Job, hire

    return hire(workers, Job.of(recipe, folder, readied, one_sided))


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


def is_one_sided(recipe: Recipe) -> bool:
    """Whether inputs and targets share one sequence: decoder-only models."""
    from flantune.models.family import family_of_type
    from flantune.models.place import model_type

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
