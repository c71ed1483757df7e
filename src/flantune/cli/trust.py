"""`flantune tasks contamination` and `duplicates`: can the scores be trusted, and is every row there once."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flantune.cli.console import ProgressLine, emit, guarded
from flantune.cli.options import (
    DataOpt,
    JsonOpt,
    LimitOpt,
    PathsArg,
    ReaderOpt,
    RecipeArg,
    RunsOpt,
    SetOpt,
    open_recipe,
)
from flantune.errors import RecipeError

if TYPE_CHECKING:
    from flantune.mixtures.duplicates import Duplicates
    from flantune.tasks import ExampleStore

SHOWN_ITEMS = 5  # of each benchmark, in the text; --json has more, --output all
SHOWN_PAIRS = 12
SHOWN_GROUPS = 3  # of each span
SHOWN_TEXT = 160  # characters


def register(app: typer.Typer) -> None:
    app.command(
        epilog="Example: flantune tasks contamination recipes/flan-small-real.yaml --against mmlu,bbh --data DIR"
    )(contamination)
    app.command(epilog="Example: flantune tasks duplicates my_tasks/ --near 0.8 --json")(duplicates)


def contamination(
    recipe: RecipeArg,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Benchmarks, with commas: mmlu,bbh,gsm8k,mgsm,held_out; the recipe's if none."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every row the mixture may draw, also where the shards tell which it drew.")
    ] = False,
    ngram: Annotated[int | None, typer.Option("--ngram", min=2, help="Words; the recipe's 13.")] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", min=0.01, max=1, help="Share of an item's n-grams; the recipe's 0.7.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Every item's verdict, as Parquet (or .jsonl).")
    ] = None,
    data: DataOpt = None,
    runs: RunsOpt = None,
    change: SetOpt = None,
    json: JsonOpt = False,
) -> None:
    """Are evaluation items among what is trained on? Test-set leaks, same task's training split, or none."""
    with guarded():
        from flantune.evals import asked_specs
        from flantune.pipeline.contamination import (
            find_leaks,
            result_json,
            settings_against,
            texts_of,
            trained_rows,
            write_findings,
        )
        from flantune.pipeline.data import open_data
        from flantune.pipeline.folder import open_run

        changes = list(change or [])
        for key, value in (("ngram", ngram), ("threshold", threshold)):
            if value is not None:
                changes.append(f"eval.contamination.{key}={value}")
        chosen = open_recipe(recipe, data, changes, runs)
        names = against.split(",") if against else [b.name for b in asked_specs(chosen)]
        if not names:
            raise RecipeError("the recipe asks no benchmark: name some with --against mmlu,bbh.")
        progress = ProgressLine()
        folder = open_run(chosen)
        opened = open_data(chosen, folder, progress)
        training, described = trained_rows(chosen, opened, folder, everything=everything)
        texts = texts_of(settings_against(chosen, opened, names))
        found = find_leaks(training, texts, chosen.eval.contamination, progress)
        progress.close()
        result = result_json(found, training, described, chosen.eval.contamination)
        if output is not None:
            write_findings(output, [f for b in found for f in b.findings])
            result["output"] = str(output)
        emit(json, result, text=contamination_text(result))


def contamination_text(result: dict[str, Any]) -> str:
    spec = f"{result['ngram']}-grams, a leak from {result['threshold']:.0%} of an item's"
    lines = [f"{result['training']['rows']:,} training rows ({result['training']['what']}); {spec}"]
    for one in result["benchmarks"]:
        verdicts = one["verdicts"]
        said = (
            f"{one['benchmark']} ({one['split']}): {one['items']:,} items: {verdicts['test_leak']:,} test-set leaks, "
            f"{verdicts['same_task_train']:,} share text with the same task's training split, {verdicts['none']:,} none"
        )
        if one["partial"]:
            said += f" ({one['partial']:,} of them share some text)"
        lines.append(said + (f", {verdicts['unchecked']:,} too short to check" if verdicts["unchecked"] else ""))
        if one["in_distribution"]:
            lines.append(f"  in distribution: trained on {', '.join(one['in_distribution'])}")
        for item in one["worst"][:SHOWN_ITEMS]:
            row = "" if item["training_row"] is None else f" row {item['training_row']}"
            place = f"{item['id']} in {item['training_task']}{row}"
            lines.append(f"  {item['overlap']:.0%} {item['verdict']} {place}: {_short(item['text'])}")
    if "output" in result:
        lines.append(f"every item: {result['output']}")
    return "\n".join(lines)


def duplicates(
    paths: PathsArg = None,
    data: Annotated[Path | None, typer.Option("--data", help="A data folder; its training folders are read.")] = None,
    near: Annotated[
        float | None,
        typer.Option(
            "--near", min=0.1, max=1, help="Near ones too: Jaccard similarity of three-word shingles, e.g. 0.8."
        ),
    ] = None,
    reader: ReaderOpt = "auto",
    max_rejected: LimitOpt = 0.01,
    json: JsonOpt = False,
) -> None:
    """Rows that are in the collections more than once: within a task, across tasks, across sources."""
    with guarded():
        from flantune.cli.tasks import collection_specs
        from flantune.mixtures.duplicates import find_duplicates
        from flantune.tasks import build_store

        progress = ProgressLine()
        with tempfile.TemporaryDirectory(prefix="flantune-") as folder:
            store = build_store(
                collection_specs(paths, data, reader),
                Path(folder) / "examples",
                max_rejected,
                on_progress=lambda p: progress("read", p.files, p.files_total),
            )
            found = find_duplicates(
                store, near=near, on_progress=lambda done, total: progress("duplicates", done, total), work=Path(folder)
            )
            result: dict[str, Any] = {"similarity": near, **found.count(), "examples": shown_groups(found, store)}
        progress.close()
        emit(json, result, text=duplicates_text(result))


def shown_groups(found: Duplicates, store: ExampleStore) -> list[dict[str, Any]]:
    """The first groups of each span, two rows of each in words."""
    from flantune.mixtures.duplicates import SPANS

    shown: dict[str, list[dict[str, Any]]] = {span: [] for span in SPANS}
    for rows in found.members():
        span = found.span(rows)
        if len(shown[span]) == SHOWN_GROUPS:
            if all(len(groups) == SHOWN_GROUPS for groups in shown.values()):
                break
            continue
        group = found.group(rows)
        # Two of different tasks, where there are.
        other = next((place for place in group.rows if place[0] != group.rows[0][0]), group.rows[1])
        pair = []
        for task, row in (group.rows[0], other):
            example = store.example(task, row)
            text = " | ".join(example.fields.values())
            pair.append({"task": task, "row": row, "text": text, "target": example.targets[0], "where": example.where})
        shown[span].append({"span": span, "exact": group.exact, "rows": len(group.rows), "shown": pair})
    return [group for groups in shown.values() for group in groups]


def duplicates_text(result: dict[str, Any]) -> str:
    near = "" if result["near"] is None else f", {result['near']:,} more nearly (similarity {result['similarity']:g})"
    lines = [f"{result['rows']:,} rows: {result['exact']:,} repeat an earlier one exactly{near}"]
    lines += [
        f"  {span}: {number:,} groups, {result['superfluous'][span]:,} rows more than one of each"
        for span, number in result["groups"].items()
    ]
    if result["pairs"]:
        lines.append("tasks that share most rows:")
        lines += [f"  {p['rows']:>7,}  {p['tasks'][0]}  {p['tasks'][1]}" for p in result["pairs"][:SHOWN_PAIRS]]
    if result["within"]:
        lines.append("tasks that repeat most rows of their own:")
        lines += [f"  {number:>7,}  {task}" for task, number in list(result["within"].items())[:SHOWN_PAIRS]]
    for group in result["examples"]:
        lines.append(f"{group['span']}, {'exact' if group['exact'] else 'near'}, {group['rows']} rows:")
        lines += [f"  {r['task']} row {r['row']}: {_short(r['text'])} -> {_short(r['target'])}" for r in group["shown"]]
    return "\n".join(lines)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN_TEXT else text[: SHOWN_TEXT - 1] + "…"
