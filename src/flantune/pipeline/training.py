"""Pretraining where a recipe asks for it, then finetuning on the built shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import orjson
import torch
from transformers import PreTrainedModel

from flantune.errors import RecipeError, StateError
from flantune.models.adapt import (
    add_adapter,
    check_precision,
    has_adapter,
    merge_adapter,
    quantised,
    save_adapter,
)
from flantune.models.check import require_packing
from flantune.models.family import Family, family_of
from flantune.models.load import load_model, save_model, scratch_model, without_weights
from flantune.models.place import Asking, located
from flantune.pipeline.data import Data, Progress, is_one_sided, open_data, open_tokenizer, quiet, reopen, text_source
from flantune.pipeline.folder import RunFolder
from flantune.pipeline.selection import attended_lengths, open_selection
from flantune.recipe import PretrainSpec, Recipe, TokensSpec, TrainSpec
from flantune.tokens.build import build_shards
from flantune.tokens.collate import PackedBatch
from flantune.tokens.encode import EncodedBatch
from flantune.tokens.objectives import longest_sides, pretraining_example, windows
from flantune.tokens.shards import ShardReader
from flantune.tokens.tokenizer import Tokenizer, load_tokenizer
from flantune.tokens.ul2 import special_ids
from flantune.train.checkpoint import Checkpoint, checkpoint_of, load_weights
from flantune.train.cost import Tokens, row_flops, shape_of
from flantune.train.hardware import HARDWARE
from flantune.train.loop import CHECKPOINTS, TrainReport, train
from flantune.train.metrics import Metrics, Speed
from flantune.train.parallel import ALONE, Ranks
from flantune.train.precision import Precision, best_device, choose_precision, on_best_device
from flantune.train.selection import Selection
from flantune.types import Packed
from flantune.whole import write_whole


def base_model(recipe: Recipe, folder: RunFolder, progress: Progress = quiet, ranks: Ranks = ALONE) -> str:
    """Where finetuning starts from: a folder or hub id. From scratch it is made, pretrained and saved in the run; with
    `pretrain` another base goes on from what it knows (UL2R, spec 7.5)."""
    from_scratch = recipe.model.init == "scratch"
    if not from_scratch and recipe.pretrain is None:
        return located(recipe.model.init)
    if ranks.tell((folder.base / "config.json").exists()):
        return str(folder.base)
    data = ranks.first(lambda: open_data(recipe, folder, progress))
    ranks.first(lambda: open_tokenizer(recipe, folder, data))  # type: ignore[arg-type]
    tokenizer = open_tokenizer(recipe, folder, data)  # type: ignore[arg-type]  # it is there: no data is read
    family = recipe.model.family

    def begun() -> PreTrainedModel:
        hollow = not ranks.main
        if not from_scratch:
            return load_model(recipe.model.init, dropout=0.0, vocab_size=tokenizer.vocab_size, hollow=hollow)
        with without_weights() if hollow else nullcontext():
            return scratch_model(
                "t5" if family == "auto" else family,
                recipe.model.size,
                vocab_size=tokenizer.vocab_size,
                eos_id=tokenizer.eos_id,
                pad_id=tokenizer.pad_id,
                dropout=0.0,  # a pass over ever new text needs none; finetuning sets the recipe's
                seed=recipe.seed,
            )

    model = ranks.together(begun)
    if recipe.pretrain is not None:
        lengths = pretrain_lengths(recipe.pretrain, recipe.tokens, is_one_sided(recipe))
        ranks.first(lambda: _build_text(recipe, folder, data, tokenizer, lengths, progress))  # type: ignore[arg-type]
        shards = ShardReader(folder.pretrain / "shards")
        run = _Run(recipe.pretrain, lengths, folder.pretrain, recipe, "pretrain", progress, ranks)
        report = _train(model, shards, run)
        if ranks.size > 1:  # what was trained lies in shards; rank 0 puts a whole one together
            model = ranks.together(begun)
            ranks.first(lambda: load_weights(_chosen(folder.pretrain, report), model))
    ranks.first(lambda: save_model(model, tokenizer.hf, folder.base))
    return str(folder.base)


def pretrain_lengths(spec: PretrainSpec, tokens: TokensSpec, one_sided: bool) -> TokensSpec:
    """Row lengths that hold any example of the objective (T5's arithmetic), or the longer ones asked for.

    Raises RecipeError where those asked for are too short.
    """
    needed = longest_sides(spec, "causal" if one_sided else "encoder-decoder", spec.window)
    inputs_len, targets_len = (max(2, most) for most in needed)
    asked = {"inputs_len": spec.inputs_len or inputs_len, "targets_len": spec.targets_len or targets_len}
    if asked["inputs_len"] < inputs_len or asked["targets_len"] < targets_len:
        raise RecipeError(
            f"pretrain: a window of {spec.window} tokens needs rows of {inputs_len}/{targets_len}, got "
            f"{asked['inputs_len']}/{asked['targets_len']}. Raise inputs_len and targets_len, or lower window."
        )
    return tokens.model_copy(update=asked)


def _build_text(
    recipe: Recipe, folder: RunFolder, data: Data, tokenizer: Tokenizer, lengths: TokensSpec, progress: Progress
) -> None:
    """Packed rows of the pretraining objective, in the run's pretrain/shards."""
    spec = recipe.pretrain
    assert spec is not None
    documents = text_source(recipe, data)
    one_sided = is_one_sided(recipe)
    sentinel_ids, mode_ids = special_ids(spec, tokenizer, "pretrain")

    def block(b: int) -> EncodedBatch:
        cut = windows(tokenizer.encode_batch(documents(b)), spec.window, tokenizer.eos_id)
        examples = tuple(
            pretraining_example(
                window,
                # Windows to a block vary; a stride keeps each window's number its own whatever came before.
                b * _STRIDE + place,
                seed=recipe.seed,
                spec=spec,
                eos_id=tokenizer.eos_id,
                sentinel_ids=sentinel_ids,
                mode_ids=mode_ids,
                kind="causal" if one_sided else "encoder-decoder",
            )
            for place, window in enumerate(cut)
        )
        return EncodedBatch(examples=examples, dropped=(), formats=())

    made_from = [tokenizer.fingerprint, data.mixture.fingerprint(), spec.model_dump(mode="json"), recipe.seed]
    build_shards(
        block,
        spec.steps * spec.batch_rows,
        lengths,
        folder.pretrain / "shards",
        one_sided=one_sided,
        fingerprint=hashlib.blake2b(orjson.dumps(made_from), digest_size=8).hexdigest(),
        on_progress=lambda rows, total, _: progress("pretraining text", rows, total),
    )


_STRIDE = 1 << 20


def finetune(recipe: Recipe, folder: RunFolder, progress: Progress = quiet, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Train on the run's shards and save the finished model, of the step that the recipe chooses. Returns the training
    report, the one kept where it was done. Called on every rank."""
    done = folder.root / "train.json"
    if ranks.tell(done.exists() and (folder.model / "config.json").exists()):
        return dict(orjson.loads(done.read_bytes()))
    start = base_model(recipe, folder, progress, ranks)
    if not (folder.shards / "index.json").exists():
        raise StateError(f"{folder.shards}: no built shards. Run flantune build first, or flantune run for all stages.")
    tokenizer = load_tokenizer(start if recipe.model.tokenizer.path is None else recipe.model.tokenizer.path)

    def export(checkpoint: Checkpoint, to: Path) -> None:
        """On rank 0 alone: the checkpoint's model as it is asked."""
        whole = _started(recipe, start, tokenizer)
        load_weights(checkpoint, whole)
        _save(recipe, whole, tokenizer, start, to)

    model = ranks.together(lambda: _started(recipe, start, tokenizer, hollow=not ranks.main))
    run = _Run(recipe.train, recipe.tokens, folder.root, recipe, "train", progress, ranks)
    selection = _selection(recipe, folder, tokenizer, model, export, progress)
    report = _train(model, ShardReader(folder.shards), run, selection)

    def save() -> None:
        if ranks.size == 1:
            _save(recipe, model, tokenizer, start, folder.model)
        else:
            export(_chosen(folder.root, report), folder.model)
        write_whole(done, lambda file: file.write(orjson.dumps(asdict(report))))

    ranks.first(save)
    return asdict(report)


def _started(recipe: Recipe, start: str, tokenizer: Tokenizer, hollow: bool = False) -> PreTrainedModel:
    """The model as training finds it, on the CPU (in four bits: on the GPU, if there is one): whole, or frozen with new
    adapters. On a rank that is sent its part of the weights, `hollow`."""
    adapter = recipe.model.adapter
    if adapter is not None:
        check_precision(adapter, choose_precision(recipe.train.precision, best_device()))
    how = quantised(adapter) if adapter is not None else {}
    model = load_model(
        start, dropout=recipe.model.dropout, vocab_size=tokenizer.vocab_size, how=how, hollow=hollow and not how
    )
    return model if adapter is None else add_adapter(model, adapter, recipe.seed)


def _save(recipe: Recipe, model: PreTrainedModel, tokenizer: Tokenizer, start: str, to: Path) -> None:
    """Whole, in Hugging Face format. What adapters learned is merged into it, and lies beside it on its own."""
    if recipe.model.adapter is not None:
        save_adapter(model, recipe.model.adapter, start, to.with_name(f"{to.name}-adapter"))
        model = merge_adapter(model, load_model(start), recipe.model.adapter)
    save_model(
        model,
        tokenizer.hf,
        to,
        Asking(prompt_eos=True, inputs_len=recipe.tokens.example_lens[0], attention=recipe.model.attention),
    )


def _chosen(folder: Path, report: TrainReport) -> Checkpoint:
    return checkpoint_of(folder / CHECKPOINTS, report.chosen_step)


def _selection(
    recipe: Recipe,
    folder: RunFolder,
    tokenizer: Tokenizer,
    model: PreTrainedModel,
    export: Callable[[Checkpoint, Path], None],
    progress: Progress,
) -> Selection | None:
    if recipe.selection.by == "last":
        return None
    family, lengths = family_of(model, recipe.model.attention), recipe.tokens.row_lens
    data = reopen(recipe, folder).data
    return open_selection(
        recipe, folder, data, tokenizer, lambda rows: family.collate(model, rows, *lengths), family, export, progress
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """One training: of the stage named, with its files in `folder`."""

    spec: TrainSpec
    lengths: TokensSpec
    folder: Path
    recipe: Recipe
    stage: str
    progress: Progress
    ranks: Ranks


def _train(model: PreTrainedModel, shards: ShardReader, run: _Run, selection: Selection | None = None) -> TrainReport:
    family = family_of(model, run.recipe.model.attention)
    if run.ranks.size == 1:
        on_best_device(model)  # several ranks each move their own part
    rows = list(shards.rows(range(min(_SAMPLE, len(shards)))))
    adapter = run.recipe.model.adapter
    if adapter is None or adapter.load == "fp32":  # products of rounded weights differ by more than packing may
        run.ranks.first(lambda: require_packing(model, family, rows))

    def on_step(metrics: Metrics) -> None:
        run.progress(run.stage, metrics.step, run.spec.steps, live_note(metrics))

    return train(
        model,
        family,
        row_batches(family, model, shards, run.spec, run.lengths, run.ranks.size),
        run.spec,
        run.folder,
        run.recipe.seed,
        on_step=on_step,
        identity={"rows": shards.index.fingerprint},
        ranks=run.ranks,
        selection=selection,
        speed=speed_of(model, rows, choose_precision(run.spec.precision, best_device()), run.ranks.size),
    )


_SAMPLE = 256  # packed rows that say how long the examples are


def live_note(metrics: Metrics) -> str:
    """What stands behind the step count and the time left."""
    share = "" if metrics.peak_share is None else f", {metrics.peak_share:.0%} of peak"
    return f"loss {metrics.loss:.3f}, {metrics.tokens_per_second:,.0f} tokens/s{share}"


def speed_of(model: PreTrainedModel, rows: Sequence[Packed], precision: Precision, ranks: int) -> Speed | None:
    """None on hardware whose peak is not known by its name."""
    peak = known_peak(precision)
    if peak is None:
        return None
    shape, lengths = shape_of(model), attended_lengths(rows)
    adapters = sum(p.numel() for p in model.parameters() if p.requires_grad) if has_adapter(model) else None

    def flops(inputs: int, targets: int) -> float:
        tokens = Tokens(inputs_len=inputs, targets_len=targets, example_inputs=lengths[0], example_targets=lengths[1])
        return row_flops(shape, tokens, adapters)

    return Speed(input_token=flops(1, 0), target_token=flops(0, 1), peak=peak * ranks)


def known_peak(precision: Precision) -> float | None:
    """Of this machine's GPU, by its name, in FLOP/s; None for one that is not in the table, and for a CPU."""
    if not torch.cuda.is_available():
        return None
    words = torch.cuda.get_device_name().lower().replace("-", " ").split()
    device = next((HARDWARE[word] for word in words if word in HARDWARE), None)
    return None if device is None else device.peak(precision)


def row_batches(
    family: Family, model: Any, shards: ShardReader, spec: TrainSpec, lengths: TokensSpec, ranks: int = 1
) -> Callable[[int], Sequence[PackedBatch]]:
    """Step s (from 0) reads rows s*batch_rows onward, in micro-batches that are made when they are asked for.

    Micro-batches are smaller than `spec.micro_rows` where some of the ranks would have none. Raises RecipeError where
    there are fewer rows than ranks.
    """
    if spec.batch_rows < ranks:
        raise RecipeError(
            f"train.batch_rows: expected a packed row for each of the {ranks} processes at least, got "
            f"{spec.batch_rows}."
        )
    size = min(spec.micro_rows, -(-spec.batch_rows // ranks))

    def batches(step: int) -> Sequence[PackedBatch]:
        first = step * spec.batch_rows
        places = range(first, first + spec.batch_rows)

        def micro(number: int) -> PackedBatch:
            rows = list(shards.rows(places[number * size : (number + 1) * size]))
            return family.collate(model, rows, lengths.inputs_len, lengths.targets_len)

        return _Made(-(-spec.batch_rows // size), micro)

    return batches


class _Made(Sequence[PackedBatch]):
    """A sequence whose elements are made when they are asked for, each once."""

    def __init__(self, length: int, make: Callable[[int], PackedBatch]) -> None:
        self._made: list[PackedBatch | None] = [None] * length
        self._make = make

    def __len__(self) -> int:
        return len(self._made)

    @overload
    def __getitem__(self, place: int) -> PackedBatch: ...
    @overload
    def __getitem__(self, place: slice) -> list[PackedBatch]: ...
    def __getitem__(self, place: int | slice) -> PackedBatch | list[PackedBatch]:
        if isinstance(place, slice):
            return [self[p] for p in range(len(self))[place]]
        found = self._made[place]  # raises IndexError past the end, which ends a loop over it
        if found is None:
            found = self._made[place] = self._make(range(len(self))[place])
        return found
