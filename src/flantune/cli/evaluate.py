"""`flantune eval`, `compare` and `score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flantune.cli.console import ProgressLine, emit, guarded
from flantune.cli.options import JsonOpt, open_recipe
from flantune.errors import RecipeError

MODEL_DEFAULT_INPUTS = 2048  # tokens; the recipe's training length, spec 3.6


def register(app: typer.Typer) -> None:
    app.command("eval", epilog="Example: flantune eval runs/demo/model --benchmark mmlu,gsm8k --data DIR --limit 20")(
        evaluate
    )
    app.command(epilog="Example: flantune compare runs/demo/evals/base runs/demo/evals/tuned")(compare)
    app.command(epilog="Example: flantune score gsm8k outputs.jsonl --mode cot --data DIR")(score)


def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder, a hub id, 'demo', or a recipe (*.yaml).")],
    benchmark: Annotated[
        str, typer.Option("--benchmark", "-b", help="Names, with commas: mmlu,bbh,gsm8k,mgsm.")
    ] = "mmlu",
    mode: Annotated[
        str | None, typer.Option("--mode", help="direct, cot, or both with a comma; all when not given.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder with the benchmarks' folders.")] = None,
    path: Annotated[Path | None, typer.Option("--path", help="One benchmark's own file or folder.")] = None,
    shots: Annotated[int | None, typer.Option("--shots", min=0)] = None,
    split: Annotated[str | None, typer.Option("--split")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Items per task.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the results.")] = None,
    max_inputs: Annotated[
        int | None, typer.Option("--max-inputs", min=2, help="Tokens of prompt; the model's training length, or 2048.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed")] = 0,
    json: JsonOpt = False,
) -> None:
    """Ask a model a benchmark's questions; results item by item. A stopped evaluation goes on where it was."""
    with guarded():
        if model.endswith((".yaml", ".yml")):
            _evaluate_recipe(Path(model), data, json)
            return
        from flantune.evals import run_evaluation
        from flantune.models.load import how_to_ask
        from flantune.pipeline.evaluation import as_rows, file_settings, open_engine
        from flantune.recipe import BenchmarkSpec, EvalSpec

        names = benchmark.split(",")
        if path is not None and len(names) > 1:
            raise RecipeError("--path names one benchmark's files; give one --benchmark with it.")
        modes = checked_modes(mode)
        settings = []
        for name in names:
            spec = BenchmarkSpec(
                name=name, path=str(path) if path else None, modes=modes, shots=shots, split=split, limit=limit
            )
            settings += file_settings(spec, str(data) if data else None, seed)
        length = max_inputs or how_to_ask(model, one_sided=False).inputs_len or MODEL_DEFAULT_INPUTS
        engine, fingerprint = open_engine(model, EvalSpec(), length)
        where = output or Path("runs") / "evals" / f"{Path(model).name}-{fingerprint[:8]}"
        progress = ProgressLine()
        summary = run_evaluation(
            engine, settings, where, model=fingerprint, on_progress=lambda d, t: progress("eval", d, t)
        )
        progress.close()
        rows = as_rows(summary)
        emit(json, {"results": rows, "folder": str(where)}, text=f"{_table(rows)}\nper item: {where}/items.parquet")


def checked_modes(text: str | None) -> tuple[Literal["direct", "cot"], ...]:
    known: dict[str, Literal["direct", "cot"]] = {"direct": "direct", "cot": "cot"}
    for mode in text.split(",") if text else ():
        if mode not in known:
            raise RecipeError(f"--mode {mode}: expected direct or cot.")
    return tuple(known[mode] for mode in text.split(",")) if text else ()


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
    rows = {side: as_rows(summary) for side, summary in summaries.items()}
    text = "\n".join(f"{side}\n{_table(r)}" for side, r in rows.items())
    emit(json, {"results": rows, "comparison": comparison_rows(folder.comparison)}, text=text)


def compare(
    a: Annotated[Path, typer.Argument(help="An evaluation's folder or its items.parquet.")],
    b: Annotated[Path, typer.Argument(help="Another evaluation of the same items.")],
    by_task: Annotated[bool, typer.Option("--by-task", help="A line for every task too.")] = False,
    json: JsonOpt = False,
) -> None:
    """Paired differences, b - a, with 95 % intervals."""
    with guarded():
        from dataclasses import asdict

        from flantune.evals import compare as compare_items

        files = [p / "items.parquet" if p.is_dir() else p for p in (a, b)]
        for file in files:
            if not file.exists():
                raise RecipeError(f"{file}: no such file; a finished evaluation writes it.")
        rows = [r for r in compare_items(*files) if by_task or r.task is None]
        lines = [
            f"{r.setting + (' ' + r.task if r.task else ''):<48} {r.score_a:.3f} -> {r.score_b:.3f} "
            f"({r.difference:+.3f} [{r.interval[0]:+.3f}, {r.interval[1]:+.3f}], {r.items} items, "
            f"{r.rose} rose, {r.fell} fell)"
            for r in rows
        ]
        emit(json, {"rows": [asdict(r) for r in rows]}, text="\n".join(lines))


def score(
    benchmark: Annotated[str, typer.Argument(help="mmlu, bbh, gsm8k or mgsm.")],
    outputs: Annotated[Path, typer.Argument(help="JSON lines with 'output' and 'id' or 'input'.")],
    mode: Annotated[str, typer.Option("--mode", help="direct or cot.")] = "direct",
    data: Annotated[Path | None, typer.Option("--data", help="Folder with the benchmark's folder.")] = None,
    path: Annotated[Path | None, typer.Option("--path", help="The benchmark's own file or folder.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for per-item results.")] = None,
    json: JsonOpt = False,
) -> None:
    """Score outputs that some model wrote elsewhere."""
    with guarded():
        from flantune.evals import score_file
        from flantune.pipeline.evaluation import as_rows, file_settings
        from flantune.recipe import BenchmarkSpec

        if not outputs.exists():
            raise RecipeError(f"{outputs}: no such file.")
        spec = BenchmarkSpec(name=benchmark, path=str(path) if path else None, modes=checked_modes(mode))
        settings = file_settings(spec, str(data) if data else None, 0)
        if len(settings) != 1:
            raise RecipeError(f"--mode {mode}: one file holds the outputs of one mode; give direct or cot.")
        setting = settings[0]
        summary = score_file(setting, outputs, output or outputs.with_suffix(".scored"))
        rows = as_rows(summary)
        emit(json, {"results": rows}, text=_table(rows))


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'benchmark':<24} {'score':>6}  95 % interval     items  read"]
    for r in rows:
        low, high = r["interval"] or (float("nan"), float("nan"))
        score_text = "–" if r["score"] is None else f"{r['score']:.3f}"
        read = "–" if r["extraction_rate"] is None else f"{r['extraction_rate']:.1%}"
        name = f"{r['benchmark']} {r['mode']} {r['shots']}-shot"
        lines.append(f"{name:<24} {score_text:>6}  [{low:.3f}, {high:.3f}]  {r['items']:>6,}  {read}")
    return "\n".join(lines)
