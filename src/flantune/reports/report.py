"""runs/NAME -> one HTML page that needs nothing else: no network, no second file. Reads files only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from flantune.reports import evaluation, figures, tables
from flantune.reports.outputs import VERDICTS, pick_outputs
from flantune.reports.page import page_styles, page_template, write_page
from flantune.reports.run_files import Record, RunFiles, read_run

_ROLES = ("instruction", "exemplar", "query", "rationale", "target")
_MOST_SAMPLES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """One sentence's parts: a way of asking the held-out tasks and what became of the score."""

    setting: str
    base: str
    tuned: str
    difference: str
    interval: str
    verdict: str


def write_report(run_folder: Path, out: Path) -> Path:
    """The page about a run, written to `out` whole or not at all. Stages that were not run are said to be "not run".

    Raises RecipeError where `run_folder` is none, StateError where a file of it cannot be read or `out` not written.
    """
    return write_page(render_page(read_run(Path(run_folder))), Path(out))


def render_page(run: RunFiles) -> str:
    context = {**_evaluation(run), **_data(run), **_training(run)}
    return page_template("page.html.j2").render(
        name=str(run.recipe.get("name", run.root.name)),
        recipe_text=run.recipe_text.rstrip(),
        versions=tables.facts((name, tables.text(version)) for name, version in run.versions.items()),
        missing=tables.MISSING,
        css=page_styles("page.css"),
        script=Markup(figures.script()),
        **context,
    )


def _evaluation(run: RunFiles) -> dict[str, Any]:
    settings = tables.settings_of(run)
    held_out = [s for s in settings if _benchmark(run, s) == tables.HELD_OUT]
    others = [s for s in settings if s not in held_out]
    return {
        "evaluated": list(run.summaries),
        "compared": run.comparison is not None,
        "headlines": [_headline(run, s) for s in held_out],
        "held_out": tables.before_after(run, held_out) if held_out else None,
        "benchmarks": tables.before_after(run, others) if others else None,
        "readings": tables.readings(run, settings) if settings else None,
        "averages": evaluation.averages(run, settings),
        "three_readings": evaluation.three_readings(run, settings),
        "several": evaluation.samples(run, settings),
        "groups": evaluation.groups(run),
        "abilities": evaluation.abilities(run),
        "warnings": evaluation.warnings(run, settings),
        "unread": evaluation.unread(run, settings),
        "suites": evaluation.suites(run),
        "leakage": tables.leakage(run),
        "leaked_items": tables.leaked_items(run),
        "low_extraction": _low_extraction(run, settings),
        "scores": _figure(figures.before_after(run, settings, run.summaries, "figure-scores")) if settings else None,
        "tasks": [(s, tables.tasks_before_after(run, s), _task_figure(run, s, i)) for i, s in enumerate(settings)],
        "outputs": pick_outputs(run),
        "verdicts": VERDICTS,
    }


def _task_figure(run: RunFiles, setting: str, number: int) -> Markup | None:
    """For a setting of several tasks."""
    entries = {side: own.get(setting, {}).get("tasks", {}) for side, own in run.summaries.items()}
    names = sorted({task for own in entries.values() for task in own})
    if len(names) < 2:
        return None
    return _figure(figures.before_after(run, names, entries, f"figure-tasks-{number}"))


def _data(run: RunFiles) -> dict[str, Any]:
    card = run.card
    counts = card.get("count", "draws") if card is not None else "draws"
    return {
        "card": None if card is None else tables.data_facts(card),
        "mixtures": None if card is None else tables.composition(card["mixtures"], "mixture", counts),
        "phases": []
        if card is None
        else [
            (f"Phase {n}: {phase['rows']:,} rows", tables.composition(phase["mixtures"], "mixture", counts))
            for n, phase in enumerate(card.get("phases", ()), 1)
        ],
        "task_shares": None if card is None else tables.composition(card["tasks"], "task", counts),
        "formats": None if card is None or not card["formats"] else tables.counts(card["formats"], "format"),
        "num_templates": None if card is None else len(card["templates"]),
        "shares_figure": None if card is None else _figure(figures.shares(card["mixtures"], "figure-shares", counts)),
        "lengths_figure": None if card is None else _figure(figures.lengths(card, "figure-lengths")),
        "reading": None if run.store is None else tables.reading_facts(run.store),
        "rejected": tables.rejected_rows(run.rejected) if run.rejected else None,
        "samples": _spread(run.samples, _MOST_SAMPLES),
        "roles": _ROLES,
    }


def _training(run: RunFiles) -> dict[str, Any]:
    stages = []
    for title, name, metrics in (
        ("Pretraining", "figure-pretrain", run.pretrain_metrics),
        ("Finetuning", "figure-train", run.metrics),
    ):
        figure = _figure(figures.loss(metrics, name)) if metrics else None
        stages.append((title, figure, tables.training_steps(metrics) if metrics else None))
    chosen = run.selection if run.selection and run.selection["evaluations"] else None
    return {
        "stages": stages,
        "pretrain_stated": run.recipe.get("pretrain") is not None,
        "fixed_step": (run.recipe.get("selection") or {}).get("by", "last") == "last",
        "selection": None if chosen is None else tables.selection(chosen),
        "selection_figure": None if chosen is None else _figure(figures.selection(chosen, "figure-selection")),
    }


def _benchmark(run: RunFiles, setting: str) -> str | None:
    return next((own[setting]["benchmark"] for own in run.summaries.values() if setting in own), None)


def _headline(run: RunFiles, setting: str) -> Headline:
    base, tuned = (run.summaries.get(side, {}).get(setting, {}).get("score") for side in ("base", "tuned"))
    pair = tables.whole_rows(run).get(setting, {})
    return Headline(
        setting=setting,
        base=tables.percent(base).text,
        tuned=tables.percent(tuned).text,
        difference=tables.points(pair.get("difference")).text,
        interval=tables.interval(pair.get("interval"), signed=True).text,
        verdict=_verdict(pair),
    )


def _verdict(pair: Record) -> str:
    if pair.get("interval") is None:
        return "the difference was not computed"
    low, high = pair["interval"]
    if low > 0:
        return "better than the base: the interval lies above zero"
    return (
        "worse than the base: the interval lies below zero" if high < 0 else "no clear change: the interval spans zero"
    )


def _low_extraction(run: RunFiles, settings: Sequence[str]) -> list[str]:
    return [
        f"{setting} ({side}: {tables.percent(rate).text} %)"
        for setting in settings
        for side, own in run.summaries.items()
        if (rate := own.get(setting, {}).get("extraction_rate")) is not None and rate < tables.LOW_EXTRACTION
    ]


def _spread(samples: Sequence[Record], most: int) -> list[Record]:
    """At most `most` samples, each task's first ones before any task's next, in stream order."""
    turns: dict[str, int] = {}
    ranked = []
    for place, sample in enumerate(samples):
        turn = turns.get(sample["task"], 0)
        turns[sample["task"]] = turn + 1
        ranked.append((turn, place))
    return [samples[place] for place in sorted(place for _, place in sorted(ranked)[:most])]


def _figure(source: str) -> Markup:
    """Plotly's own HTML: data in it is JSON with "<" escaped."""
    return Markup(source)
