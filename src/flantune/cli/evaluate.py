"""`flantune eval`; score and compare are in scores.py, the groups of options in asking.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flantune.cli import scores
from flantune.cli.asking import HowAsked, Reuse, WhatAsked, WhoAnswers
from flantune.cli.console import ProgressLine, emit, guarded
from flantune.cli.options import JsonOpt, open_recipe, with_groups_spread
from flantune.cli.scores import LeaksOpt, table, with_leaks
from flantune.errors import RecipeError

if TYPE_CHECKING:
    from flantune.cli.backends import Answering
    from flantune.evals import Setting
    from flantune.evals.results import ApplyTemplate
    from flantune.pipeline.parallel import Workers

EXAMPLE = "Example: flantune eval runs/demo/model --benchmark mmlu,gsm8k --data DIR --limit 20"


def register(app: typer.Typer) -> None:
    app.command("eval", epilog=EXAMPLE)(with_groups_spread(evaluate))
    scores.register(app)


def evaluate(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A model folder, hub id, 'demo', a server's model, or a recipe (*.yaml). None with --show."
        ),
    ] = None,
    *,
    what: WhatAsked,
    how: HowAsked,
    show: Annotated[
        str | None, typer.Option("--show", help="Print the prompt of this item and leave, e.g. val/anatomy/3.")
    ] = None,
    who: WhoAnswers,
    reuse: Reuse,
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
        asked, single = how.spec_keys(), what.spec_keys()
        answering, store = who.answering(model, max_inputs), reuse.path()
        if model is not None and model.endswith((".yaml", ".yml")):
            refused = {**asked, **single, "benchmark": what.benchmark, "suite": what.suite, "show": show}
            _refuse(refused, "a recipe says it itself")
            _evaluate_recipe(Path(model), what.data, store, answering.workers if answering else None, json)
            return
        files, missing = str(what.data) if what.data else None, list[str]()
        if what.suite is not None:
            from flantune.evals import suite_settings

            _refuse({**single, "benchmark": what.benchmark}, "a suite says it itself")
            settings, missing = suite_settings(what.suite, files, seed, asked)
        else:
            settings = _settings("mmlu" if what.benchmark is None else what.benchmark, {**asked, **single}, files, seed)
        if show is not None:
            _show(settings, show, answering, json)
            return
        if answering is None:
            raise RecipeError("no model named: give a model folder, a hub id, 'demo', or a recipe.")
        _evaluate_model(answering, settings, what.suite, missing, leaks, output, store, json)


def _refuse(given: dict[str, Any], why: str) -> None:
    """Options that would do nothing here."""
    named = [
        f"--{name.replace('_', '-')}"
        for name, value in given.items()
        if value is not None and value is not False and value != ()
    ]
    if named:
        raise RecipeError(f"{', '.join(named)}: not taken here, {why}.".replace("--modes", "--mode"))


def _settings(names: str, asked: dict[str, Any], data: str | None, seed: int) -> list[Setting]:
    from flantune.evals import file_settings
    from flantune.recipe import BenchmarkSpec

    if asked["path"] is not None and "," in names:
        raise RecipeError("--path names one benchmark's files; give one --benchmark with it.")
    settings = []
    for name in names.split(","):
        settings += file_settings(BenchmarkSpec(name=name.strip(), **asked), data, seed)
    return settings


def _evaluate_model(
    who: Answering,
    settings: list[Setting],
    suite: str | None,
    missing: list[str],
    leaks: Path | None,
    output: Path | None,
    store_path: Path | None,
    json: bool,
) -> None:
    from flantune.cli.backends import opened_backend
    from flantune.evals import as_rows, run_evaluation
    from flantune.evals.leaks import marks_beside, read_verdicts
    from flantune.inference.answers import opened

    if leaks is not None:
        read_verdicts(leaks)  # what is wrong with it is said before anything is asked
    progress = ProgressLine()
    with opened_backend(who) as backend, opened(store_path) as store:
        name = str(backend.identity["model"])
        where = output or Path("runs") / "evals" / f"{Path(who.model).name}-{name[:8]}"
        summary = run_evaluation(
            backend,
            settings,
            where,
            store=store,
            on_progress=lambda d, t: progress("eval", d, t),
            suite=suite,
            not_asked=missing,
        )
    progress.close()
    rows = as_rows(with_leaks(summary, where, leaks or marks_beside(who.model)))
    told = [table(rows), *_suite_lines(summary.get("suite"), missing), usage_line(summary["usage"])]
    told.append(f"per item: {where}/items.parquet")
    result = {"results": rows, "suite": summary.get("suite"), "missing": missing, "usage": summary["usage"]}
    emit(json, result | {"folder": str(where)}, text="\n".join(told))


def usage_line(usage: dict[str, Any]) -> str:
    tokens = f"{usage['prompt_tokens']:,} tokens read, {usage['new_tokens']:,} written"
    cost = f", cost {usage['cost']:.2f}" if "cost" in usage else ""
    asked = f"asked {usage['asked']:,} times ({tokens}{cost}), {usage['reused']:,} found from before"
    return f"for all answers in the folder: {asked}"


def _suite_lines(suite: dict[str, Any] | None, missing: list[str]) -> list[str]:
    lines = [f"not asked, no files: {', '.join(missing)}"] if missing else []
    if suite is None or "components" not in suite:
        return lines
    whole, part = suite["normalised_average"], suite["over_present"]
    if whole is not None:
        return [*lines, f"normalised average: {whole:.1f}"]
    lines += [f"missing for the normalised average: {line}" for line in suite["missing"]]
    return lines if part is None else [*lines, f"over what is there (not the paper's figure): {part:.1f}"]


def _show(settings: list[Setting], item_id: str, who: Answering | None, json: bool) -> None:
    """The item's prompt in every setting that has it, exactly as a model is given it."""
    from dataclasses import asdict

    from flantune.evals.benchmark import everything_fits

    apply = _template_of(who) if any(s.chat != "plain" for s in settings) else None
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


def _template_of(who: Answering | None) -> ApplyTemplate | None:
    from flantune.cli.backends import opened_backend
    from flantune.inference.backends import Local
    from flantune.models.place import located
    from flantune.tokens.tokenizer import load_tokenizer

    if who is None:
        raise RecipeError("--chat words the prompt by a model's own chat template: name the model too.")
    if who.backend in ("openai", "mock"):  # which load no model
        with opened_backend(who) as backend:
            return backend.chat_template
    return Local(load_tokenizer(located(who.model))).chat_template


def _evaluate_recipe(path: Path, data: Path | None, store: Path | None, workers: Workers | None, json: bool) -> None:
    from flantune.pipeline.data import open_data
    from flantune.pipeline.evaluation import Side, as_rows, comparison_rows, evaluate_run
    from flantune.pipeline.folder import open_run
    from flantune.pipeline.training import base_model

    recipe = open_recipe(path, data, None, None)
    folder = open_run(recipe)
    if not (folder.model / "config.json").exists():
        raise RecipeError(f"{folder.model}: no finished model yet. Run flantune train {path} first.")
    progress = ProgressLine()
    sides = [Side("base", base_model(recipe, folder, progress)), Side("tuned", str(folder.model))]
    opened = open_data(recipe, folder, progress)
    summaries = evaluate_run(recipe, folder, opened, sides, progress, store=store, workers=workers)
    progress.close()
    marks = folder.evals / "contamination.parquet"
    found = {s: with_leaks(v, folder.evals / s, marks if marks.exists() else None) for s, v in summaries.items()}
    rows = {side: as_rows(summary) for side, summary in found.items()}
    text = "\n".join(f"{side}\n{table(r)}" for side, r in rows.items())
    emit(json, {"results": rows, "comparison": comparison_rows(folder.comparison)}, text=text)
