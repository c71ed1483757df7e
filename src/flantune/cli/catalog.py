"""`flantune tasks list --collection flan` and `flantune tasks fetch`: the whole collection, and where to get it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flantune.cli.console import ProgressLine, emit, err, guarded
from flantune.cli.options import JsonOpt
from flantune.errors import RecipeError
from flantune.recipe import CollectionSpec

if TYPE_CHECKING:
    from flantune.tasks.fetch import PublicSource
    from flantune.tasks.flan import CatalogTask
    from flantune.tasks.flan_counts import MixtureCount, Presence

COLLECTIONS = ("flan",)


def list_collection(
    collection: str,
    specs: Sequence[CollectionSpec],
    max_rejected: float,
    *,
    pattern: str,
    mixture: str | None,
    everything: bool,
    as_json: bool,
) -> None:
    """The counts beside the paper's, and, of tasks that match, what each is and whether it can be used."""
    from flantune.tasks.flan import catalog
    from flantune.tasks.flan_counts import PAPER, deviations, mixture_counts, total_count

    if collection not in COLLECTIONS:
        raise RecipeError(f"--collection {collection}: expected one of {', '.join(COLLECTIONS)}.")
    if mixture is not None and mixture not in PAPER:
        raise RecipeError(f"--mixture {mixture}: expected one of {', '.join(PAPER)}.")
    here = _presence(specs, max_rejected) if specs else None
    tasks = [t for t in catalog() if mixture in (None, t.mixture) and fnmatchcase(t.name, pattern)]
    if not tasks:
        raise RecipeError(f"--match {pattern}: matches no task of the collection.")
    counts = [c for c in mixture_counts() if mixture in (None, c.mixture)]
    counts += [total_count()] if mixture is None else []
    described = [_described(t, here) for t in tasks]
    result = {
        "collection": collection,
        "mixtures": {c.mixture: _count_json(c, here) for c in counts},
        "deviations": list(deviations()),
        "outside": list(here.others) if here else [],
        "tasks": described,
    }
    if as_json:
        emit(True, result)
        return
    text = _summary(counts, here)
    if everything or pattern != "*":
        text += ["", *_rows(described), f"{len(tasks):,} of {len(catalog()):,} tasks"]
    else:
        text += ["", "--all or --match GLOB lists the tasks; --json has everything."]
    emit(False, {}, text="\n".join(text))


def _presence(specs: Sequence[CollectionSpec], max_rejected: float) -> Presence:
    """The tasks that have an example, by reading each as far as its first."""
    from flantune.sources import Rejects, read_collection
    from flantune.tasks.flan_counts import presence

    rejects, names, progress = Rejects(), {}, ProgressLine()
    for spec in specs:
        for part in read_collection(spec, rejects, max_rejected):
            if next(iter(part.examples), None) is not None:
                names[part.task.name] = part.task.dataset
            progress("tasks", len(names), 0)
    progress.close()
    return presence(names)


def _described(task: CatalogTask, here: Presence | None) -> dict[str, Any]:
    from flantune.tasks.fetch import source_of

    source = source_of(task.name)
    described: dict[str, Any] = {
        "name": task.name,
        "mixture": task.mixture,
        "source": task.source,
        "dataset": task.dataset,
        "category": task.category,
        "specific_category": task.specific_category,
        "languages": list(task.languages),
        "inverted": task.inverted,
        "excluded": task.excluded,
        "counted": task.counted,
        "examples": task.examples,
        "fetch": source.name if source else None,
    }
    if here is not None:
        described |= {"usable": here.usable(task), "found": list(here.found.get(task.forward, ()))}
    return described


def _count_json(count: MixtureCount, here: Presence | None) -> dict[str, Any]:
    figures = {
        "tasks": count.tasks,
        "paper_tasks": count.paper.tasks,
        "datasets": count.datasets,
        "paper_datasets": count.paper.datasets,
        "categories": count.categories,
        "paper_categories": count.paper.categories,
        "inverted": count.inverted,
        "excluded": count.excluded,
    }
    return figures if here is None else {**figures, "usable": _usable(count, here)}


def _usable(count: MixtureCount, here: Presence) -> int:
    from flantune.tasks.flan import catalog

    return sum(here.usable(t) for t in catalog() if t.counted and count.mixture in (t.mixture, "total"))


def _summary(counts: Sequence[MixtureCount], here: Presence | None) -> list[str]:
    from flantune.tasks.flan_counts import deviations

    last = "  usable here" if here else ""
    lines = [f"mixture   tasks  paper  datasets  paper  categories  paper  inverted  excluded{last}"]
    for c in counts:
        usable = f"  {_usable(c, here):>11,}" if here else ""
        lines.append(
            f"{c.mixture:<8} {c.tasks:>6,} {c.paper.tasks:>6,}  {c.datasets:>8,} {c.paper.datasets:>6,}  "
            f"{c.categories:>10,} {c.paper.categories:>6,}  {c.inverted:>8,}  {c.excluded:>8,}{usable}"
        )
    named = {c.mixture for c in counts} | {"datasets", "categories"}
    lines += ["", "Where the figures differ from the paper's:"]
    lines += [f"  {s}" for s in deviations() if len(counts) > 1 or s.partition(":")[0] in named]
    if here:
        lines += ["", *_absent(counts, here)]
    return lines


def _absent(counts: Sequence[MixtureCount], here: Presence) -> list[str]:
    """What to fetch for the counted tasks that are not there, most tasks first."""
    from flantune.tasks.fetch import public_sources, source_of
    from flantune.tasks.flan import catalog

    mixtures = {c.mixture for c in counts}
    absent = [t for t in catalog() if t.counted and t.mixture in mixtures and not here.usable(t)]
    if not absent:
        lines = ["Every task is usable."]
    else:
        needed = Counter(source.name for t in absent if (source := source_of(t.name)))
        lines = [f"Absent: {len(absent):,}. What to fetch (flantune tasks fetch NAME --to DIR):"]
        for name, count in needed.most_common():
            source = public_sources()[name]
            way = "by hand" if source.kind == "manual" else source.kind
            lines.append(f"  {name:<28} {count:>5,} {'tasks' if count > 1 else 'task':<5}  {way:<7} {source.url}")
        if unknown := [t.name for t in absent if source_of(t.name) is None]:
            lines.append(f"  no public source is known for {', '.join(unknown)}")
    if here.others:
        lines.append(f"Read, and none of the collection's: {len(here.others):,}.")
    return lines


def _rows(described: Sequence[dict[str, Any]]) -> list[str]:
    width = max(len(d["name"]) for d in described)
    rows = []
    for d in described:
        marks = " ".join(m for m in ("inverted", "excluded") if d[m])
        examples = "-" if d["examples"] is None else f"{d['examples']:,}"
        state = "usable" if d.get("usable") else f"fetch {d['fetch']}" if d["fetch"] else "no public source"
        state = "not for training" if d["excluded"] else state
        languages = ",".join(d["languages"])
        rows.append(
            f"{d['name']:<{width}}  {d['mixture']:<6}  {examples:>10}  {state:<27}  {d['dataset']} | {d['category']} | "
            f"{languages} {marks}".rstrip()
        )
    return rows


NameArg = Annotated[
    str | None, typer.Argument(help="A source (--list shows them), or a task of the catalog.", show_default=False)
]


def fetch(
    name: NameArg = None,
    to: Annotated[Path | None, typer.Option("--to", help="Where it goes; made if missing.", show_default=False)] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            "--mirror",
            help="Take it from here: a folder or URL (file, http, https) laid out as the source, a git repository, "
            "or another hub endpoint.",
            show_default=False,
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Another commit, tag or branch.", show_default=False)
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Show every known source, and fetch nothing.")] = False,
    json: JsonOpt = False,
) -> None:
    """Download a public source: its licence is shown first, files are verified, and a stopped fetch goes on."""
    with guarded():
        from flantune.tasks import fetch as fetching

        if show_list:
            sources = fetching.public_sources().values()
            emit(json, {"sources": [_source_json(s) for s in sources]}, text="\n".join(map(_source_text, sources)))
            return
        if name is None:
            raise RecipeError("name a source or a task; flantune tasks fetch --list shows the sources.")
        wanted = fetching.find_source(name)
        if to is None:
            raise RecipeError(f"say where '{wanted.name}' should go: --to DIR.")
        progress = ProgressLine()
        fetched = fetching.fetch(
            wanted,
            to,
            mirror=mirror,
            revision=revision,
            on_licence=lambda licence: err.print(_opening(wanted.source, mirror, revision, licence), markup=False),
            on_progress=progress,
        )
        progress.close()
        emit(
            json,
            {
                "source": wanted.source.name,
                "name": fetched.name,
                "folder": str(fetched.folder),
                "manifest": str(fetched.ledger),
                "url": fetched.url,
                "revision": fetched.revision,
                "licence": fetched.licence,
                "reader": fetched.reader,
                "files": fetched.files,
                "brought": fetched.brought,
                "bytes": fetched.bytes,
            },
            text=f"{fetched.folder}: files {fetched.files:,} (new: {fetched.brought:,}), {fetched.bytes:,} bytes; "
            f"verified, listed in {fetched.ledger}",
        )


def _opening(source: PublicSource, mirror: str | None, revision: str | None, licence: str) -> str:
    place = mirror or source.url
    return f"{source.name}: {source.about}\nfrom {place} at {revision or source.revision}\nlicence: {licence}"


def _source_json(source: PublicSource) -> dict[str, Any]:
    from flantune.tasks.fetch import source_files

    files = source_files(source.name)
    return {
        **source.model_dump(),
        "files": len(files) or None,
        "files_without_hash": sum(f.sha256 is None for f in files) if files else None,
    }


def _source_text(source: PublicSource) -> str:
    where = f"{source.url} at {source.revision}" if source.revision else source.url
    tasks = f"\n    tasks: {', '.join(source.tasks)}" if source.tasks else ""
    return (
        f"{source.name}: {source.about}\n    {source.kind} {where}\n    licence: {source.licence}; "
        f"folder {source.folder}; reader: {source.reader}{tasks}"
    )
