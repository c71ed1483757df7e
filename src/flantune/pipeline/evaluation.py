"""Ask the base and the tuned model the same questions, compare pair by pair."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flantune.errors import RecipeError, StateError
from flantune.evals import (
    Setting,
    as_rows,
    asked_specs,
    compare,
    compare_abilities,
    compare_groups,
    file_settings,
    run_evaluation,
    settings_of,
    suite_settings,
    write_comparison,
)
from flantune.evals.collection import Tasks
from flantune.inference import Engine
from flantune.inference.answers import opened
from flantune.inference.backends import Backend, Ours
from flantune.inference.mapped import MappedDecoder
from flantune.inference.opening import open_model
from flantune.models.family import family_of
from flantune.models.place import how_to_ask, located, model_type
from flantune.pipeline.data import Data, Progress, quiet
from flantune.pipeline.folder import RunFolder
from flantune.recipe import BenchmarkSpec, EvalSpec, Recipe
from flantune.tasks import ExampleStore
from flantune.tokens.tokenizer import load_tokenizer
from flantune.train.precision import best_device, choose_precision

if TYPE_CHECKING:
    from flantune.pipeline.parallel import Workers

HELD_OUT = "held_out"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the models a run evaluates."""

    name: str  # "base", "tuned"
    model: str  # folder or hub id


def evaluate_run(
    recipe: Recipe,
    folder: RunFolder,
    data: Data,
    sides: Sequence[Side],
    progress: Progress = quiet,
    *,
    store: Path | None = None,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Every benchmark of the recipe on every side; with two sides, compare.json too; then the search for leaks.

    `store`: the file of answers that runs share; none when not given. Summaries by side.
    """
    if not asked_specs(recipe):
        return {}
    settings = run_settings(recipe, data)
    missing = suite_settings(recipe.eval.suite, recipe.vars.get("data"), recipe.seed)[1] if recipe.eval.suite else []
    summaries = {}
    for side in sides:
        with _side_backend(recipe, side, workers) as backend, opened(store) as answers:
            summaries[side.name] = run_evaluation(
                backend,
                settings,
                folder.evals / side.name,
                store=answers,
                on_progress=partial(progress, f"eval {side.name}"),
                suite=recipe.eval.suite,
                not_asked=missing,
            )
    if len(sides) == 2:
        first, second = (folder.evals / s.name / "items.parquet" for s in sides)
        groups, abilities = compare_groups(first, second), compare_abilities(first, second)
        write_comparison(compare(first, second), folder.comparison, groups, abilities)
    from flantune.pipeline.contamination import check_run  # which makes settings as this module does

    check_run(recipe, folder, data, progress)
    return summaries


@contextmanager
def _side_backend(recipe: Recipe, side: Side, workers: Workers | None) -> Iterator[Backend]:
    inputs_len, tokenizer = recipe.tokens.example_lens[0], recipe.model.tokenizer.path
    if workers is None:
        yield open_backend(side.model, recipe.eval, inputs_len, tokenizer)
        return
    from flantune.pipeline.asking import Shared

    with Shared(side.model, inputs_len, workers, recipe.eval, tokenizer) as shared:
        yield shared


def run_settings(recipe: Recipe, data: Data) -> list[Setting]:
    """The recipe's benchmarks; `held_out` is its own held-out tasks."""
    settings: list[Setting] = []
    for spec in recipe.eval.benchmarks:
        if spec.name == HELD_OUT:
            if not data.split.held_out:
                raise RecipeError("eval.benchmarks: 'held_out' needs held-out tasks; state them under 'held_out'.")
            settings += task_settings(spec, data.store, reported_tasks(recipe, data.split.held_out), recipe.seed)
        else:
            settings += file_settings(spec, recipe.vars.get("data"), recipe.seed)
    if recipe.eval.suite:
        asked = {s.key for s in settings}
        of_suite, _ = suite_settings(recipe.eval.suite, recipe.vars.get("data"), recipe.seed)
        settings += [s for s in of_suite if s.key not in asked]  # the recipe's own entry goes before the suite's
    return settings


def selection_tasks(recipe: Recipe, held_out: Sequence[str]) -> tuple[str, ...]:
    """The held-out tasks that choose the checkpoint. Raises RecipeError for a pattern that matches none."""
    chosen: set[str] = set()
    for pattern in recipe.selection.tasks:
        matched = {name for name in held_out if fnmatchcase(name, pattern)}
        if not matched:
            raise RecipeError(
                f"selection.tasks: '{pattern}' matches no held-out task. Held out: {', '.join(held_out) or 'none'}."
            )
        chosen |= matched
    return tuple(name for name in held_out if name in chosen)


def reported_tasks(recipe: Recipe, held_out: Sequence[str]) -> tuple[str, ...]:
    """The other held-out tasks: what was chosen on is not reported."""
    chosen = selection_tasks(recipe, held_out)
    left = tuple(name for name in held_out if name not in chosen)
    if not left:
        raise RecipeError(
            "selection.tasks: all held-out tasks choose the checkpoint, none is left for eval.benchmarks 'held_out'. "
            "Leave some out of it."
        )
    return left


def task_settings(spec: BenchmarkSpec, store: ExampleStore, tasks: tuple[str, ...], seed: int) -> list[Setting]:
    lengths = {"direct": spec.max_new_tokens or 128, "cot": spec.max_new_tokens or 256}
    benchmark = Tasks(store, tasks, name=HELD_OUT, max_new_tokens=lengths)
    with_rationale = any(store.tasks[t].has_rationale for t in tasks)
    if not spec.modes:
        modes = ("direct", "cot") if with_rationale else ("direct",)
        spec = spec.model_copy(update={"modes": modes})
    return settings_of(spec, benchmark, Path(), seed)


def open_backend(model: str, spec: EvalSpec, inputs_len: int, tokenizer: str | None = None) -> Ours:
    """The model ready to be asked. Prompts are cut at `spec.max_inputs` tokens, else at `inputs_len`."""
    where = located(model)
    if Path(where).is_dir():
        model_type(where)  # where it is no model at all, that is said, and not that it has no tokenizer
    words = load_tokenizer(tokenizer or where, lazy=True)
    precision = choose_precision(spec.precision, best_device())
    loaded = open_model(where, words.vocab_size, precision)
    one_sided = isinstance(loaded, MappedDecoder) or family_of(loaded).one_sided
    asking = how_to_ask(where, one_sided)
    engine = Engine(
        loaded,
        words,
        asking.attention if one_sided else "encoder-decoder",
        max_inputs=spec.max_inputs or inputs_len,
        batch_tokens=spec.batch_tokens,
        prompt_eos=asking.prompt_eos,
        precision=precision,
        trained_inputs=asking.inputs_len,
        # What was tuned here never saw one; any other decoder goes on with a text as its own tokenizer begins texts.
        prompt_bos=None if asking.prompt_eos else words.leading_bos,
    )
    revision = getattr(loaded.config, "_commit_hash", None)
    return Ours(engine, model_fingerprint(where, words.fingerprint, revision))


def model_fingerprint(model: str, tokenizer: str, revision: str | None = None) -> str:
    """Of the bytes of a local folder's weights and configuration; a hub id stands for itself, at its revision."""
    digest = hashlib.blake2b(tokenizer.encode(), digest_size=8)
    folder = Path(model)
    if not folder.is_dir():
        digest.update(f"{model}@{revision}".encode())
        return digest.hexdigest()
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise StateError(f"{folder}: holds no *.safetensors weights.")
    settings = [folder / name for name in ("config.json", "generation_config.json")]
    for path in [*weights, *(p for p in settings if p.exists())]:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def comparison_rows(path: Path) -> list[dict[str, Any]]:
    """The whole-setting rows of compare.json."""
    import orjson

    if not path.exists():
        return []
    return [r for r in orjson.loads(path.read_bytes())["rows"] if r["task"] is None]


__all__ = [
    "Side",
    "as_rows",
    "comparison_rows",
    "evaluate_run",
    "file_settings",
    "open_backend",
    "run_settings",
]
