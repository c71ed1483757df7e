"""What a checkpoint is chosen on: held-out tasks or benchmarks of their own, worded as the evaluation words them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from math import fsum
from pathlib import Path
from typing import Any

import numpy as np

from flantune.errors import RecipeError, StateError
from flantune.evals import Setting, asked_specs, run_evaluation
from flantune.models.family import Family
from flantune.pipeline.data import Data, Progress
from flantune.pipeline.evaluation import HELD_OUT, file_settings, open_backend, selection_tasks, task_settings
from flantune.pipeline.folder import RunFolder
from flantune.recipe import BenchmarkSpec, Recipe
from flantune.tokens.collate import PackedBatch
from flantune.tokens.encode import end_with_eos
from flantune.tokens.packing import pack_examples
from flantune.tokens.tokenizer import Tokenizer
from flantune.train.checkpoint import Checkpoint
from flantune.train.selection import Evaluation, Measure, Moment, Selection, loss_measure
from flantune.types import Encoded, Packed

FOLDER = "selection"  # in the run's folder: answers of each measured step, where a score chooses
Export = Callable[[Checkpoint, Path], None]  # a checkpoint's model, ready to be asked, into a folder


def selection_settings(recipe: Recipe, data: Data) -> list[Setting]:
    """Raises RecipeError where a benchmark would choose on the very split it reports."""
    spec, settings = recipe.selection, list[Setting]()
    if spec.tasks:
        tasks = selection_tasks(recipe, data.split.held_out)
        asked = BenchmarkSpec(name=HELD_OUT, limit=spec.limit, modes=("direct",) if spec.by == "loss" else ())
        settings += task_settings(asked, data.store, tasks, recipe.seed)
    for benchmark in spec.benchmarks:
        limited = benchmark.model_copy(update={"limit": benchmark.limit or spec.limit})
        settings += file_settings(limited, recipe.vars.get("data"), recipe.seed)
    reported = {
        (s.benchmark.name, s.split or s.benchmark.default_split)
        for b in asked_specs(recipe)
        if b.name != HELD_OUT
        for s in file_settings(b, recipe.vars.get("data"), recipe.seed)
    }
    for setting in settings:
        split = setting.split or setting.benchmark.default_split
        if (setting.benchmark.name, split) in reported:
            raise RecipeError(
                f"selection.benchmarks: {setting.benchmark.name} would choose on its split '{split}', which "
                "eval.benchmarks reports. Give one of them another 'split'."
            )
    return settings


def open_selection(
    recipe: Recipe,
    folder: RunFolder,
    data: Data,
    tokenizer: Tokenizer,
    collate: Callable[[Sequence[Packed]], PackedBatch],
    family: Family,
    export: Export,
    progress: Progress,
) -> Selection | None:
    """None where the recipe trains to a fixed step. `export` is called on rank 0 alone."""
    spec = recipe.selection
    if spec.by == "last":
        return None
    settings = selection_settings(recipe, data)
    split: dict[str, Any] = {
        "tasks": list(selection_tasks(recipe, data.split.held_out)),
        "benchmarks": [b.model_dump(mode="json", exclude_defaults=True) for b in spec.benchmarks],
        "limit": spec.limit,
    }
    if spec.by == "score":
        return Selection(spec, _score_measure(recipe, folder, settings, export, progress), split)
    rows = selection_rows(recipe, settings, tokenizer, family.one_sided)
    size = recipe.train.micro_rows
    return Selection(spec, loss_measure([collate(rows[at : at + size]) for at in range(0, len(rows), size)]), split)


def selection_rows(recipe: Recipe, settings: Sequence[Setting], tokenizer: Tokenizer, one_sided: bool) -> list[Packed]:
    """Every item with its first reference as the target, trimmed to the training lengths and packed."""
    inputs_len, targets_len = recipe.tokens.example_lens

    def fits(prompt: str) -> bool:
        return len(tokenizer.encode(prompt)) < inputs_len

    items = [posed.item for setting in settings for posed in setting.pose(fits)]
    prompts = tokenizer.encode_batch([item.prompt for item in items])
    answers = tokenizer.encode_batch([item.references[0] for item in items])
    examples = [
        Encoded(
            inputs=end_with_eos(prompt, inputs_len, tokenizer.eos_id),
            targets=end_with_eos(answer, targets_len, tokenizer.eos_id),
            index=place,
            task=item.task,
        )
        for place, (item, prompt, answer) in enumerate(zip(items, prompts, answers, strict=True))
    ]
    return pack_examples(examples, *recipe.tokens.row_lens, one_sided=one_sided)


def _score_measure(
    recipe: Recipe, folder: RunFolder, settings: Sequence[Setting], export: Export, progress: Progress
) -> Measure:
    """The mean of the settings' scores. Rank 0 asks; the others wait. Answers are kept, the step's model is not."""

    def ask(checkpoint: Checkpoint) -> dict[str, float]:
        own = folder.root / FOLDER / f"step-{checkpoint.step}"
        export(checkpoint, own / "model")
        backend = open_backend(
            str(own / "model"), recipe.eval, recipe.tokens.example_lens[0], recipe.model.tokenizer.path
        )
        stage = f"measure step {checkpoint.step}"
        summary = run_evaluation(backend, settings, own, on_progress=lambda done, of: progress(stage, done, of))
        shutil.rmtree(own / "model")
        missing = [e["setting"] for e in summary["results"] if e["score"] is None]
        if missing:
            raise StateError(
                f"step {checkpoint.step}: expected a score for every selection benchmark, got none for "
                f"{', '.join(missing)}: no answer could be read. Choose by loss, or on other tasks."
            )
        return {e["setting"]: float(e["score"]) for e in summary["results"]}

    def measure(moment: Moment) -> Evaluation:
        parts = moment.ranks.tell(moment.ranks.first(lambda: ask(moment.checkpoint)))
        assert parts is not None
        return Evaluation(step=moment.checkpoint.step, value=fsum(parts.values()) / len(parts), parts=parts)

    return measure


def attended_lengths(rows: Sequence[Packed]) -> tuple[float, float]:
    """How long the example is in which a token stands, on average, inputs and targets: what attention costs it."""
    sides = [np.concatenate([getattr(r, name) for r in rows]) for name in ("inputs_lengths", "targets_lengths")]
    inputs, targets = (float((side.astype(np.float64) ** 2).sum() / max(1, side.sum())) for side in sides)
    return inputs, targets
