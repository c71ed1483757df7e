"""Pretraining where a recipe asks for it, then finetuning on the built shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from flantune.errors import RecipeError, StateError
from flantune.models.family import Family, family_of
from flantune.models.load import Asking, load_model, located, save_model, scratch_model
from flantune.pipeline.data import Data, Progress, is_one_sided, open_data, open_tokenizer, quiet, text_source
from flantune.pipeline.folder import RunFolder
from flantune.recipe import PretrainSpec, Recipe, TokensSpec, TrainSpec
from flantune.tokens.build import build_shards
from flantune.tokens.collate import PackedBatch
from flantune.tokens.encode import EncodedBatch
from flantune.tokens.objectives import pretraining_example, windows
from flantune.tokens.shards import ShardReader
from flantune.tokens.tokenizer import Tokenizer, load_tokenizer
from flantune.train.loop import train
from flantune.train.metrics import Metrics
from flantune.train.precision import on_best_device


def base_model(recipe: Recipe, folder: RunFolder, progress: Progress = quiet) -> str:
    """Where finetuning starts from: a folder or hub id. From scratch it is made, pretrained and saved in the run."""
    if recipe.model.init != "scratch":
        return located(recipe.model.init)
    if (folder.base / "config.json").exists():
        return str(folder.base)
    data = open_data(recipe, folder, progress)
    tokenizer = open_tokenizer(recipe, folder, data)
    family = recipe.model.family
    model = scratch_model(
        "t5" if family == "auto" else family,
        recipe.model.size,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        dropout=0.0,  # a pass over ever new text needs none; finetuning sets the recipe's
        seed=recipe.seed,
    )
    on_best_device(model)
    if recipe.pretrain is not None:
        lengths = pretrain_lengths(recipe.pretrain, recipe.tokens, is_one_sided(recipe))
        _build_text(recipe, folder, data, tokenizer, lengths, progress)
        shards = ShardReader(folder.pretrain / "shards")
        _train(model, shards, recipe.pretrain, lengths, folder.pretrain, recipe.seed, "pretrain", progress)
    save_model(model, tokenizer.hf, folder.base)
    return str(folder.base)


def pretrain_lengths(spec: PretrainSpec, tokens: TokensSpec, one_sided: bool) -> TokensSpec:
    """Row lengths that hold any corrupted window (T5's arithmetic) and any prefix split, or the longer ones asked for.

    Raises RecipeError where those asked for are too short.
    """
    if one_sided:
        inputs_len, targets_len = 2, spec.window + 1
    else:
        noise = round(spec.window * spec.noise_density)
        spans = max(1, round(noise / spec.mean_span))
        corrupted = (spec.window - noise + spans + 2, noise + spans + 3)
        split = (spec.window + 1, spec.window + 1) if spec.prefix_share > 0 else (0, 0)
        inputs_len, targets_len = (max(pair) for pair in zip(corrupted, split, strict=True))
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
                sentinel_ids=tokenizer.sentinel_ids,
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


def finetune(recipe: Recipe, folder: RunFolder, progress: Progress = quiet) -> dict[str, Any]:
    """Train on the run's shards and save the finished model. Returns the training report, empty where it was done."""
    done = folder.root / "train.json"
    if done.exists() and (folder.model / "config.json").exists():
        return dict(orjson.loads(done.read_bytes()))
    start = base_model(recipe, folder, progress)
    if not (folder.shards / "index.json").exists():
        raise StateError(f"{folder.shards}: no built shards. Run flantune build first, or flantune run for all stages.")
    tokenizer = load_tokenizer(start if recipe.model.tokenizer.path is None else recipe.model.tokenizer.path)
    model = on_best_device(load_model(start, dropout=recipe.model.dropout, vocab_size=tokenizer.vocab_size))
    report = _train(
        model, ShardReader(folder.shards), recipe.train, recipe.tokens, folder.root, recipe.seed, "train", progress
    )
    asking = Asking(prompt_eos=True, inputs_len=recipe.tokens.example_lens[0])
    save_model(model, tokenizer.hf, folder.model, asking)
    done.write_bytes(orjson.dumps(report))
    return report


def _train(
    model: Any,
    shards: ShardReader,
    spec: TrainSpec,
    lengths: TokensSpec,
    folder: Path,
    seed: int,
    stage: str,
    progress: Progress,
) -> dict[str, Any]:
    family = family_of(model)

    def on_step(metrics: Metrics) -> None:
        progress(stage, metrics.step, spec.steps)

    report = train(
        model,
        family,
        row_batches(family, model, shards, spec, lengths),
        spec,
        folder,
        seed,
        on_step=on_step,
        identity={"rows": shards.index.fingerprint},
    )
    return asdict(report)


def row_batches(
    family: Family, model: Any, shards: ShardReader, spec: TrainSpec, lengths: TokensSpec
) -> Callable[[int], Sequence[PackedBatch]]:
    """Step s (from 0) reads rows s*batch_rows onward, in micro-batches."""

    def batches(step: int) -> list[PackedBatch]:
        first = step * spec.batch_rows
        rows = list(shards.rows(range(first, first + spec.batch_rows)))
        return [
            family.collate(model, rows[at : at + spec.micro_rows], lengths.inputs_len, lengths.targets_len)
            for at in range(0, len(rows), spec.micro_rows)
        ]

    return batches
