"""`flantune check packing`: packed against one at a time, on a model and the user's own rows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flantune.cli.console import EXIT_FAILED, ProgressLine, emit, guarded
from flantune.cli.options import DataOpt, JsonOpt, SetOpt, open_recipe, parse_change
from flantune.errors import RecipeError, StateError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from flantune.models.check import PackingCheck
    from flantune.models.family import Family
    from flantune.recipe import Recipe
    from flantune.types import Packed

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
_DRAWN = 256  # prompts drawn where there are no packed rows yet


@app.callback()
def _top() -> None:
    """Proofs on a model of yours, before it is trained."""


@app.command(
    epilog="Example: flantune check packing demo runs/demo\n\n"
    "Example: flantune check packing google/flan-t5-small my_recipe.yaml --data DIR"
)
def packing(
    model: Annotated[str, typer.Argument(help="Model folder, hub id, or 'demo'.", show_default=False)],
    examples: Annotated[
        Path,
        typer.Argument(
            help="What to pack: a run's folder, a recipe, or a file or folder of examples.", show_default=False
        ),
    ],
    rows: Annotated[int, typer.Option("--rows", min=1, help="Packed rows to compare.")] = 2,
    attention: Annotated[
        str, typer.Option("--attention", help="Of a decoder: causal, or prefix for a prefix-LM.")
    ] = "causal",
    float64: Annotated[
        bool, typer.Option("--float64", help="In double precision: what is left then is no rounding of float32.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            help="Largest relative difference; 1e-4, or 1e-7 with --float64.",
        ),
    ] = None,
    data: DataOpt = None,
    change: SetOpt = None,
    json: JsonOpt = False,
) -> None:
    """Logits, loss and gradients of packed rows against the stock model on each of their examples alone.

    Every attention that training may use is compared. Exit code 1 where one differs: training would refuse too.
    """
    with guarded():
        from flantune.models.check import EXACT, TOLERANCE, measure_paths

        limit = tolerance if tolerance is not None else (EXACT if float64 else TOLERANCE)
        loaded, family = _load(model, attention, float64)
        packed = _packed(loaded, family, model, examples, rows, data, change)
        checks = measure_paths(loaded, packed, family)
        agrees = all(c.agrees(limit) for c in checks)
        emit(
            json,
            {
                "model": model,
                "family": family.name,
                "examples": checks[0].examples,
                "rows": checks[0].rows,
                "tolerance": limit,
                "agrees": agrees,
                "paths": [{**asdict(c), "agrees": c.agrees(limit)} for c in checks],
            },
            text=_table(checks, limit),
        )
        if not agrees:
            raise SystemExit(EXIT_FAILED)


def _load(model: str, attention: str, float64: bool) -> tuple[PreTrainedModel, Family]:
    import torch

    from flantune.models.family import family_of
    from flantune.models.load import load_model
    from flantune.train.precision import on_best_device

    if attention not in ("causal", "prefix"):
        raise RecipeError(f"--attention {attention}: expected causal or prefix.")
    loaded = on_best_device(load_model(model, dropout=0.0))
    if float64:
        torch.nn.Module.to(loaded, torch.float64)
    return loaded, family_of(loaded, attention)  # type: ignore[arg-type]  # looked at above


def _packed(
    model: PreTrainedModel,
    family: Family,
    name: str,
    examples: Path,
    rows: int,
    data: Path | None,
    change: list[str] | None,
) -> list[Packed]:
    if not examples.exists():
        raise RecipeError(f"{examples}: no such file or folder.")
    built = [folder for folder in (examples, examples / "data" / "shards") if (folder / "index.json").exists()]
    if built:
        if change or data:
            raise RecipeError(f"{examples}: holds packed rows already; --set and --data would change nothing.")
        from flantune.tokens.shards import ShardReader

        reader = ShardReader(built[0])
        packed = list(reader.rows(range(min(rows, len(reader)))))
    else:
        if examples.suffix in (".yaml", ".yml"):
            recipe = open_recipe(examples, data, change, None)
        else:
            from flantune.recipe import parse_recipe, set_dotted

            raw: dict[str, Any] = {"name": "check", "collections": [{"path": str(examples)}]}
            for key, value in map(parse_change, change or []):
                set_dotted(raw, key, value)
            recipe = parse_recipe(raw, where=str(examples))
        packed = _drawn(recipe, name, family.one_sided)[:rows]
    embedding: Any = model.get_input_embeddings()
    vocabulary = embedding.weight.shape[0]
    largest = max(max(int(side.max(initial=0)) for side in (row.inputs, row.targets)) for row in packed)
    if largest >= vocabulary:
        raise StateError(
            f"{examples}: holds the token id {largest}, and {name} has {vocabulary} embeddings: the rows were made "
            "with another tokenizer. Give the recipe or the examples instead."
        )
    return packed


def _drawn(recipe: Recipe, model: str, one_sided: bool) -> list[Packed]:
    """The stream's first prompts, in the model's tokens, packed."""
    import tempfile

    from flantune.models.place import located
    from flantune.pipeline.data import open_data
    from flantune.pipeline.folder import RunFolder
    from flantune.tokens.encode import encode_prompts
    from flantune.tokens.packing import pack_examples
    from flantune.tokens.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(recipe.model.tokenizer.path or located(model))
    progress = ProgressLine()
    with tempfile.TemporaryDirectory() as temporary:
        data = open_data(recipe, RunFolder(Path(temporary)), progress)
        prompts = list(data.mixture.prompts(range(_DRAWN), data.store))
    progress.close()
    inputs_len, targets_len = recipe.tokens.example_lens
    encoded = encode_prompts(
        prompts,
        tokenizer,
        inputs_len=inputs_len,
        targets_len=targets_len,
        few_shot_margin=recipe.tokens.few_shot_margin,
    )
    rule = "best_fit" if recipe.tokens.packing == "none" else recipe.tokens.packing
    return pack_examples(list(encoded.examples), *recipe.tokens.row_lens, rule, one_sided=one_sided)


def _table(checks: list[PackingCheck], limit: float) -> str:
    lines: list[Any] = [
        f"{checks[0].examples} examples in {checks[0].rows} packed rows against one at a time; relative differences, "
        f"of at most {limit:g}:",
        f"  {'attention':<18}{'logits':>10}{'loss':>10}{'gradients':>11}",
    ]
    for c in checks:
        verdict = "agree" if c.agrees(limit) else f"DIFFER; worst in {c.worst_parameter}"
        lines.append(f"  {c.attention:<18}{c.logits:>10.1e}{c.loss:>10.1e}{c.gradient:>11.1e}  {verdict}")
    return "\n".join(lines)
