"""`flantune tasks`: what a collection holds, and how its examples look when rendered."""

from __future__ import annotations

import difflib
import glob
import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from flantune.cli import explore, trust
from flantune.cli.catalog import fetch, list_collection
from flantune.cli.console import EXIT_FAILED, ProgressLine, emit, guarded, out
from flantune.cli.options import JsonOpt, LimitOpt, PathsArg, ReaderOpt
from flantune.errors import RecipeError
from flantune.recipe import SETTINGS, CollectionSpec

if TYPE_CHECKING:
    from flantune.sources import TaskRows
    from flantune.tasks import CheckReport
    from flantune.types import Example, Prompt, Task

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
trust.register(app)
app.command(epilog="Example: flantune tasks fetch natural-instructions --to data")(fetch)
explore.register(app)

DataOpt = Annotated[
    Path | None,
    typer.Option("--data", help="A data folder; its niv2, niv2_early, t0, p3, muffin, hub, cot and cot_raw are read."),
]

SHOWN_FILES = 12  # skipped files named in a check's text; --json and --rejected have all

TRAINING_FOLDERS = ("niv2", "niv2_early", "t0", "p3", "muffin", "hub", "cot", "cot_raw")


def collection_specs(paths: list[Path] | None, data: Path | None, reader: str) -> list[CollectionSpec]:
    """What the command reads: the paths named, or the training folders of a data folder."""
    chosen = list(paths or [])
    if data is not None:
        found = [data / name for name in TRAINING_FOLDERS if (data / name).is_dir()]
        if not found:
            raise RecipeError(
                f"--data {data}: holds none of {', '.join(TRAINING_FOLDERS)}. Name the files as arguments."
            )
        chosen += found
    if not chosen:
        raise RecipeError("nothing to read: name files or folders, or give --data DIR.")
    for path in chosen:
        if not path.exists():
            raise RecipeError(f"{path}: no such file or folder.")
    return [CollectionSpec(path=str(p), reader=reader, exclude=_sampled(p, data)) for p in chosen]


def _sampled(path: Path, data: Path | None) -> tuple[str, ...]:
    """The files of t0/ whose tasks lie whole in p3/, and those of muffin/ whose tasks lie whole in hub/: globs."""
    if data is not None and path == data / "muffin":
        from flantune.sources.muffin_hub import samples_of

        return samples_of(data / "hub")
    if data is None or path != data / "t0" or not (data / "p3").is_dir():
        return ()
    from flantune.sources.p3 import task_stem

    return tuple(f"{glob.escape(task_stem(p.name))}.jsonl*" for p in sorted((data / "p3").iterdir()) if p.is_dir())


@app.command(epilog="Example: flantune tasks check my_tasks/ --json")
def check(
    paths: PathsArg = None,
    data: DataOpt = None,
    reader: ReaderOpt = "auto",
    max_rejected: LimitOpt = 0.01,
    rejected: Annotated[
        Path | None, typer.Option("--rejected", help="Write the rows set aside here, JSON lines.")
    ] = None,
    json: JsonOpt = False,
) -> None:
    """Read everything and count: files, tasks, examples, rows set aside and why."""
    with guarded():
        from flantune.tasks import check_collections

        progress = ProgressLine()
        files = itertools.count(1)
        report = check_collections(
            collection_specs(paths, data, reader),
            max_rejected,
            rejected_path=rejected,
            on_file=lambda _: progress("files", next(files), 0),
        )
        progress.close()
        emit(json, check_json(report), text=check_text(report, rejected))
        if report.problems:
            raise SystemExit(EXIT_FAILED)


def check_json(report: CheckReport) -> dict[str, object]:
    return {
        "files": report.files,
        "tasks": report.tasks,
        "examples": report.examples,
        "rejected": report.rejected,
        "reasons": report.reasons,
        "problems": [{"file": line.path, "status": line.status, "problem": line.problem} for line in report.problems],
    }


def check_text(report: CheckReport, rejected: Path | None) -> str:
    lines = [
        f"{report.files:,} files, {report.tasks:,} tasks, {report.examples:,} examples, "
        f"{report.rejected:,} rows set aside"
    ]
    lines += [f"  {count:,}: {reason}" for reason, count in report.reasons.items()]
    skipped = [line for line in report.lines if line.status == "skipped"]
    lines += [f"  skipped {line.path}: {line.problem}" for line in skipped[:SHOWN_FILES]]
    if len(skipped) > SHOWN_FILES:
        lines.append(f"  … and {len(skipped) - SHOWN_FILES} more files skipped")
    for line in report.problems:  # most problems begin with the file already
        where = "" if line.problem.startswith(line.path) else f"{line.path}: "
        lines.append(f"  {line.status}: {where}{line.problem}")
    if rejected is not None:
        lines.append(f"rows set aside: {rejected}")
    return "\n".join(lines)


@app.command("list", epilog="Example: flantune tasks list --data DIR; flantune tasks list --collection flan --data DIR")
def list_tasks(
    paths: PathsArg = None,
    data: DataOpt = None,
    pattern: Annotated[str, typer.Option("--match", help="Only names that match this glob.")] = "*",
    mixture: Annotated[str | None, typer.Option("--mixture", help="Only tasks of this mixture.")] = None,
    collection: Annotated[
        str | None,
        typer.Option("--collection", help="flan: the whole published collection, and what of it is here."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="With --collection: list its tasks too.")] = False,
    reader: ReaderOpt = "auto",
    max_rejected: LimitOpt = 0.01,
    json: JsonOpt = False,
) -> None:
    """Every task with its mixture, category, language and number of examples."""
    with guarded():
        if collection is not None:
            specs = collection_specs(paths, data, reader) if paths or data else []
            list_collection(
                collection, specs, max_rejected, pattern=pattern, mixture=mixture, everything=everything, as_json=json
            )
            return
        if everything:
            raise RecipeError("--all goes with --collection; without it every task is listed anyway.")
        from flantune.formats.preview import masked

        rows: list[dict[str, Any]] = []
        progress = ProgressLine()
        for part in _read(collection_specs(paths, data, reader), max_rejected):
            count = sum(1 for _ in part.examples)
            progress("tasks", len(rows), 0)
            if fnmatchcase(part.task.name, pattern) and mixture in (None, part.task.mixture):
                rows.append({**_described(part.task), "examples": count})
        progress.close()
        width = max((len(str(r["name"])) for r in rows), default=4)
        lines = [
            f"{r['name']:<{width}}  {r['mixture']:<7} {r['language']:<3} {r['examples']:>9,}  {r['category']}"
            for r in rows
        ]
        emit(json, {"tasks": rows}, text=masked("\n".join([*lines, f"{len(rows)} tasks"])))


@app.command(epilog="Example: flantune tasks show cot/gsm8k --data DIR")
def show(
    name: Annotated[str, typer.Argument(help="The task's name.")],
    paths: PathsArg = None,
    data: DataOpt = None,
    reader: ReaderOpt = "auto",
    max_rejected: LimitOpt = 0.01,
    json: JsonOpt = False,
) -> None:
    """One task: what the source says of it, its wordings and its first example."""
    with guarded():
        from flantune.formats.preview import masked
        from flantune.templates import templates_for

        task, examples = find_task(name, collection_specs(paths, data, reader), max_rejected)
        described = _described(task)
        described |= {"examples": len(examples), "definition": task.definition, "path": task.path}
        templates = templates_for(task)
        described["templates"] = [t.name for t in templates]
        described["first"] = {"fields": dict(examples[0].fields), "targets": list(examples[0].targets)}
        text = "\n".join(f"{k}: {v}" for k, v in described.items() if k != "templates")
        wordings = "\n".join(f"  {t.name}: {t.inputs!r} -> {t.targets!r}" for t in templates)
        emit(json, described, text=masked(f"{text}\ntemplates:\n{wordings}"))


@app.command(epilog="Example: flantune tasks preview cot/gsm8k --data DIR --format fs_opt --seed 3")
def preview(
    name: Annotated[str, typer.Argument(help="The task's name.")],
    paths: PathsArg = None,
    data: DataOpt = None,
    format_name: Annotated[str, typer.Option("--format", help="zs_opt, fs_noopt, niv2_inline, …")] = "zs_opt",
    shots: Annotated[int | None, typer.Option("--shots", min=0, help="Exemplars, in place of the format's.")] = None,
    rationale: Annotated[str | None, typer.Option("--rationale", help="with, without or auto.")] = None,
    instruction: Annotated[bool, typer.Option(help="--no-instruction: exemplars only.")] = True,
    language: Annotated[str, typer.Option("--language", help="Of the wording: en, zh, or any.")] = "any",
    seed: Annotated[int, typer.Option("--seed")] = 0,
    count: Annotated[int, typer.Option("--count", min=1)] = 3,
    reader: ReaderOpt = "auto",
    max_rejected: LimitOpt = 0.01,
    json: JsonOpt = False,
) -> None:
    """Examples of a task as a model would see them, coloured by role."""
    with guarded():
        from flantune.formats import applies, render, select_templates
        from flantune.pipeline.data import sample
        from flantune.templates import templates_for
        from flantune.templates.sets import Language

        if format_name not in SETTINGS:
            raise RecipeError(f"--format {format_name}: expected one of {', '.join(SETTINGS)}.")
        changes: dict[str, object] = {"instruction": instruction}
        if shots is not None:
            changes["shots"] = shots
        if rationale is not None:
            if rationale not in ("with", "without", "auto"):
                raise RecipeError(f"--rationale {rationale}: expected with, without or auto.")
            changes["rationale"] = rationale
        if language not in get_args(Language):
            raise RecipeError(f"--language {language}: expected one of {', '.join(get_args(Language))}.")
        fmt = replace(SETTINGS[format_name], **changes)  # type: ignore[arg-type]
        task, examples = find_task(name, collection_specs(paths, data, reader), max_rejected)
        shown = []
        for k in range(count):
            rng = random.Random(f"{seed}:preview:{k}")
            query = rng.choice(examples)
            wordings = select_templates(templates_for(task, language), task, query, fmt)
            template = rng.choice(wordings)
            others = [e for e in examples if e.fields != query.fields and applies(template, e, task)]
            exemplars = [(e, template) for e in rng.sample(others, min(fmt.shots, len(others)))]
            prompt = render(task, query, template, fmt, exemplars, rng=rng)
            shown.append(sample(prompt))
            if not json:
                show_prompt(prompt)
        emit(json, {"prompts": shown})


def show_prompt(prompt: Prompt) -> None:
    from flantune.formats.preview import as_plain_text, as_rich_text

    if out.is_terminal:
        out.print(as_rich_text(prompt))
    else:
        out.print(as_plain_text(prompt), markup=False)


def find_task(name: str, specs: list[CollectionSpec], max_rejected: float) -> tuple[Task, list[Example]]:
    names = []
    for part in _read(specs, max_rejected):
        if part.task.name == name:
            examples = list(part.examples)
            if not examples:
                raise RecipeError(f"task '{name}': has no usable example; see flantune tasks check {part.task.path}.")
            return part.task, examples
        for _ in part.examples:
            break
        names.append(part.task.name)
    close = difflib.get_close_matches(name, names, n=3)
    hint = f" Near names: {', '.join(close)}." if close else " flantune tasks list shows the names."
    raise RecipeError(f"no task '{name}' among {len(names)}.{hint}")


def _read(specs: list[CollectionSpec], max_rejected: float) -> Iterator[TaskRows]:
    from flantune.sources import Rejects, read_collection

    rejects = Rejects()
    for spec in specs:
        yield from read_collection(spec, rejects, max_rejected)


def _described(task: Task) -> dict[str, object]:
    return {
        "name": task.name,
        "mixture": task.mixture,
        "dataset": task.dataset,
        "category": task.category,
        "language": task.language,
        "metric": task.metric,
        "has_rationale": task.has_rationale,
        "has_options": task.has_options,
        "licence": task.licence,
    }
