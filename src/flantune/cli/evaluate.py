"""`flantune eval`; score and compare are in scores.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flantune.cli import scores
from flantune.cli.console import ProgressLine, emit, guarded
from flantune.cli.options import JsonOpt, open_recipe
from flantune.cli.scores import LeaksOpt, ReadingOpt, checked_modes, checked_reading, table, with_leaks
from flantune.errors import RecipeError

if TYPE_CHECKING:
    from flantune.evals import Setting
    from flantune.evals.results import ApplyTemplate

MODEL_DEFAULT_INPUTS = 2048  # tokens; the recipe's training length, spec 3.6


def register(app: typer.Typer) -> None:
    app.command("eval", epilog="Example: flantune eval runs/demo/model --benchmark mmlu,gsm8k --data DIR --limit 20")(
        evaluate
    )
    scores.register(app)


def evaluate(
    model: Annotated[
        str | None, typer.Argument(help="A model folder, a hub id, 'demo', or a recipe (*.yaml). None with --show.")
    ] = None,
    benchmark: Annotated[
        str, typer.Option("--benchmark", "-b", help="Names with commas, or a .yaml or .py file of your own.")
    ] = "mmlu",
    suite: Annotated[
        str | None, typer.Option("--suite", help="flan, core or quick: benchmarks asked together.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", help="direct, cot, or both with a comma; all when not given.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder with the benchmarks' folders.")] = None,
    path: Annotated[Path | None, typer.Option("--path", help="One benchmark's own file or folder.")] = None,
    shots: Annotated[int | None, typer.Option("--shots", min=0)] = None,
    split: Annotated[str | None, typer.Option("--split")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Items per task.")] = None,
    chat: Annotated[
        str, typer.Option("--chat", help="Through the model's chat template: single message, or dialogue turns.")
    ] = "plain",
    trigger: Annotated[
        str | None,
        typer.Option("--trigger", help="Begins a chain of thought with --shots 0: kojima, flan, zh, or the words."),
    ] = None,
    normalise: Annotated[
        str, typer.Option("--normalise", help="Of options' log-probabilities: none, length or unconditional.")
    ] = "none",
    reading: ReadingOpt = "default",
    show: Annotated[
        str | None, typer.Option("--show", help="Print the prompt of this item and leave, e.g. val/anatomy/3.")
    ] = None,
    leaks: LeaksOpt = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the results.")] = None,
    max_inputs: Annotated[
        int | None, typer.Option("--max-inputs", min=2, help="Tokens of prompt; the model's training length, or 2048.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    json: JsonOpt = False,
) -> None:
    """Ask a model a benchmark's questions; results item by item. A stopped evaluation goes on where it was."""
    with guarded():
        if model is not None and model.endswith((".yaml", ".yml")):
            _evaluate_recipe(Path(model), data, json)
            return
        missing: list[str] = []
        if suite is not None:
            from flantune.evals import suite_settings

            settings, missing = suite_settings(suite, str(data) if data else None, seed, limit)
        else:
            asked: dict[str, Any] = {
                "path": str(path) if path else None,
                "modes": checked_modes(mode),
                "shots": shots,
                "split": split,
                "limit": limit,
                "chat": _one_of("--chat", chat, ("plain", "single", "dialogue")),
                "trigger": trigger,
                "normalise": _one_of("--normalise", normalise, ("none", "length", "unconditional")),
                "reading": checked_reading(reading),
            }
            settings = _settings(benchmark, asked, data, seed)
        if show is not None:
            _show(settings, show, model, json)
            return
        if model is None:
            raise RecipeError("no model named: give a model folder, a hub id, 'demo', or a recipe.")
        _evaluate_model(model, settings, suite, missing, leaks, output, max_inputs, json)


def _settings(names: str, asked: dict[str, Any], data: Path | None, seed: int) -> list[Setting]:
    from flantune.evals import file_settings
    from flantune.recipe import BenchmarkSpec

    if asked["path"] is not None and "," in names:
        raise RecipeError("--path names one benchmark's files; give one --benchmark with it.")
    settings = []
    for name in names.split(","):
        settings += file_settings(BenchmarkSpec(name=name, **asked), str(data) if data else None, seed)
    return settings


def _one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise RecipeError(f"{option} {value}: expected {', '.join(known)}.")
    return value


def _evaluate_model(
    model: str,
    settings: list[Setting],
    suite: str | None,
    missing: list[str],
    leaks: Path | None,
    output: Path | None,
    max_inputs: int | None,
    json: bool,
) -> None:
    from flantune.evals import as_rows, run_evaluation
    from flantune.evals.leaks import marks_beside
    from flantune.models.load import how_to_ask
    from flantune.pipeline.evaluation import open_engine
    from flantune.recipe import EvalSpec

    length = max_inputs or how_to_ask(model, one_sided=False).inputs_len or MODEL_DEFAULT_INPUTS
    engine, fingerprint = open_engine(model, EvalSpec(), length)
    where = output or Path("runs") / "evals" / f"{Path(model).name}-{fingerprint[:8]}"
    progress = ProgressLine()
    summary = run_evaluation(
        engine, settings, where, model=fingerprint, on_progress=lambda d, t: progress("eval", d, t), suite=suite
    )
    progress.close()
    rows = as_rows(with_leaks(summary, where, leaks or marks_beside(model)))
    told = [table(rows), *_suite_lines(summary.get("suite"), missing), f"per item: {where}/items.parquet"]
    result = {"results": rows, "suite": summary.get("suite"), "missing": missing, "folder": str(where)}
    emit(json, result, text="\n".join(told))


def _suite_lines(suite: dict[str, Any] | None, missing: list[str]) -> list[str]:
    lines = [f"not asked, no files: {', '.join(missing)}"] if missing else []
    if suite is None or "components" not in suite:
        return lines
    whole, part = suite["normalised_average"], suite["over_present"]
    if whole is not None:
        return [*lines, f"normalised average: {whole:.1f}"]
    lines += [f"missing for the normalised average: {line}" for line in suite["missing"]]
    return lines if part is None else [*lines, f"over what is there (not the paper's figure): {part:.1f}"]


def _show(settings: list[Setting], item_id: str, model: str | None, json: bool) -> None:
    """The item's prompt in every setting that has it, exactly as a model is given it."""
    from dataclasses import asdict

    from flantune.evals.benchmark import everything_fits

    apply = _template_of(model) if any(s.chat != "plain" for s in settings) else None
    found = [(s.key, p.item) for s in settings for p in s.pose(everything_fits, apply) if p.item.id == item_id]
    if not found:
        example = settings[0].pose(everything_fits, apply)[0].item.id
        raise RecipeError(f"--show {item_id}: no such item; ids look like {example}.")
    text = "\n\n".join(
        f"== {key} · {item.id} · {item.shots} shots\n{item.prompt}⏎\n== answer: {' | '.join(item.references)}"
        + (f"\n== options scored: {list(item.options)}" if item.options else f"\n== stops at: {list(item.stop)}")
        for key, item in found
    )
    emit(json, {"items": [{"setting": key, **asdict(item)} for key, item in found]}, text=text)


def _template_of(model: str | None) -> ApplyTemplate | None:
    from flantune.models.load import located
    from flantune.tokens.tokenizer import load_tokenizer

    if model is None:
        raise RecipeError("--chat words the prompt by a model's own chat template: name the model too.")
    from types import SimpleNamespace

    from flantune.evals.presentation import template_of

    return template_of(SimpleNamespace(tokenizer=load_tokenizer(located(model))))


def _evaluate_recipe(path: Path, data: Path | None, json: bool) -> None:
    from flantune.pipeline import base_model, open_run
    from flantune.pipeline.data import open_data
    from flantune.pipeline.evaluation import Side, as_rows, comparison_rows, evaluate_run

    recipe = open_recipe(path, data, None, None)
    folder = open_run(recipe)
    if not (folder.model / "config.json").exists():
        raise RecipeError(f"{folder.model}: no finished model yet. Run flantune train {path} first.")
    progress = ProgressLine()
    sides = [Side("base", base_model(recipe, folder, progress)), Side("tuned", str(folder.model))]
    summaries = evaluate_run(recipe, folder, open_data(recipe, folder, progress), sides, progress)
    progress.close()
    marks = folder.evals / "contamination.parquet"
    found = {s: with_leaks(v, folder.evals / s, marks if marks.exists() else None) for s, v in summaries.items()}
    rows = {side: as_rows(summary) for side, summary in found.items()}
    text = "\n".join(f"{side}\n{table(r)}" for side, r in rows.items())
    emit(json, {"results": rows, "comparison": comparison_rows(folder.comparison)}, text=text)
