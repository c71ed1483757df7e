"""Results of a grid -> what it says: means with intervals, paired gains, fits, and sentences. Pure over results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import yaml

from flantune.errors import StateError
from flantune.studies.findings import Findings, Mark, Panel, Series, Table, interval, percent
from flantune.studies.grids import axis_of
from flantune.studies.point import Label, PointResult
from flantune.studies.resampling import Arm, ArmScore, Compared, compare_arms, read_scores, together

BASE = "no finetuning"
AXES = {
    "tasks": "number of tasks",
    "arm": "trained on",
    "few_shot": "share of few-shot prompts",
    "inverted": "share of inverted prompts",
    "options": "share of prompts with options",
    "exemplars_only": "share of few-shot prompts without instruction",
    "templates": "wordings of a task",
    "formats": "formats",
    "attention": "attention",
    "before": "before finetuning",
    "text": "share of plain text",
    "sources": "trained on",
    "code": "share of code",
    "text_code": "share of code in the plain text",
}


@dataclass(frozen=True)
class Cell:
    """A model in one setting along one axis: the base first, then the arms in the grid's order."""

    model: str
    setting: str
    axis: str
    values: tuple[Label, ...]  # of the arms but the base
    compared: Compared

    @property
    def base(self) -> ArmScore:
        return self.compared.scores[0]

    @property
    def arms(self) -> tuple[ArmScore, ...]:
        return self.compared.scores[1:]

    @cached_property
    def name(self) -> str:
        return f"{self.model}, {self.setting}" if self.model else self.setting


def cells_of(results: Sequence[PointResult], against: Mapping[str, Label] | None = None) -> list[Cell]:
    """Every model, setting and axis, over the points that are done. Gains are over the base; `against` names by axis
    the value that an axis' arms are compared with instead."""
    cells = []
    for model in dict.fromkeys(str(r.labels.get("model", "")) for r in results):
        for axis in dict.fromkeys(axis_of(r.labels)[0] for r in results):
            own = [
                r
                for r in results
                if r.done
                and r.items is not None
                and r.base_items is not None
                and str(r.labels.get("model", "")) == model
                and axis_of(r.labels)[0] == axis
            ]
            if own:
                cells += _cells(model, axis, own, (against or {}).get(axis))
    return cells


def _cells(model: str, axis: str, results: Sequence[PointResult], against: Label | None) -> list[Cell]:
    bases = {r.base_items for r in results}
    if len(bases) > 1 and axis not in ("before",):
        raise StateError(f"points of one model start from several bases: {', '.join(sorted(map(str, bases)))}.")
    base = results[0].base_items
    assert base is not None
    of_base = read_scores(base)
    cells = []
    for setting in of_base:
        having = [r for r in results if r.items is not None and setting in read_scores(r.items)]
        if not having:
            continue
        runs = together([of_base[setting], *(read_scores(r.items)[setting] for r in having if r.items is not None)])
        values = list(dict.fromkeys(axis_of(r.labels)[1] for r in having))
        arms = [Arm(BASE, {None: 0})]
        for value in values:
            places = {
                int(r.labels.get("seed", 0)): n for n, r in enumerate(having, start=1) if axis_of(r.labels)[1] == value
            }
            arms.append(Arm(str(value), places))  # type: ignore[arg-type]  # of int keys: None is the base's
        place = 1 + values.index(against) if against in values else 0
        # The key is the setting's alone: every model and axis meets the same resamples.
        cells.append(Cell(model, setting, axis, tuple(values), compare_arms(runs, arms, place, "study", setting)))
    return cells


def table_of(cell: Cell, reference: str = BASE) -> Table:
    """A row for each arm, the base first."""
    rows = []
    for score in cell.compared.scores:
        seeds = [f"{100 * value:.1f}" for seed, value in score.by_seed.items() if seed is not None]
        rows.append(
            (
                score.arm,
                score.mean,
                (score.low, score.high),
                score.gain,
                None if score.gain_low is None else (score.gain_low, score.gain_high),
                _WORD[score.surely] if score.gain is not None else "",
                " ".join(seeds),
            )
        )
    return Table(
        title=cell.name,
        columns=(AXES.get(cell.axis, cell.axis), "score", "95 %", f"over {reference}", "95 %", "", "by seed"),
        kinds=("text", "percent", "interval", "signed", "signed_interval", "text", "text"),
        rows=tuple(rows),
        group=f"Scores by {AXES.get(cell.axis, cell.axis)}",
        note=f"{cell.compared.items:,} items of {cell.compared.tasks:,} tasks",
    )


_WORD = {1: "rises", 0: "no clear change", -1: "falls"}


def category_panels(cells: Sequence[Cell]) -> list[Panel]:
    """A panel for each setting and axis, a series for each model; numbers along a line, names in a row. Where there are
    several axes, those of a setting stand together."""
    by_place: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        by_place.setdefault((cell.setting, cell.axis), []).append(cell)
    several = len({cell.axis for cell in cells}) > 1
    panels = []
    for (setting, axis), own in by_place.items():
        numbers = all(isinstance(value, (int, float)) for cell in own for value in cell.values)
        about = AXES.get(axis, axis)
        panels.append(
            Panel(
                title=about if several else setting,
                group=setting if several else "Scores",
                x_title=about,
                y_title="score, %",
                x_scale="linear" if numbers else "category",
                series=tuple(
                    Series(name=cell.model or "score", marks=marks_of(cell, numbers), joined=numbers) for cell in own
                ),
                levels=base_levels(own),
            )
        )
    return panels


def marks_of(cell: Cell, numbers: bool) -> tuple[Mark, ...]:
    return tuple(
        Mark(x=value if numbers else str(value), y=score.mean, low=score.low, high=score.high)
        for value, score in zip(cell.values, cell.arms, strict=True)
    )


def base_levels(cells: Sequence[Cell]) -> tuple[tuple[str, float], ...]:
    return tuple((f"{c.model}, {BASE}" if c.model else BASE, c.base.mean) for c in cells)


def tables_about(results: Sequence[PointResult]) -> tuple[Table, ...]:
    """What each mixture was made of, what each point cost, what failed, and what is missing."""
    made, cost = [], []
    failed: list[tuple[str, str, str]] = []
    missing: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    for r in results:
        where = told_labels(r.labels)
        if not r.done:
            (missing if r.missing else failed).append((where, r.name, r.reason))
            continue
        first = r.name not in seen
        seen.add(r.name)
        made += [
            (where, name, own["asked"], own["got"], own["tasks"], own["examples"], own["tokens"])
            for name, own in sorted(r.composition.items())
        ]
        told = r.wall_seconds if first else None  # a place of the grid that another one's run serves costs nothing
        cost.append((where, r.name, r.steps, r.tokens, r.flops, r.seconds if first else None, told))
    tables = (
        Table(
            title="What each mixture was made of",
            group="Mixtures",
            columns=("point", "mixture", "asked", "got", "tasks", "examples", "tokens"),
            kinds=("text", "text", "percent", "percent", "count", "count", "count"),
            rows=tuple(made),
            note="Shares of the draws or tokens that the recipe's weights count.",
        ),
        Table(
            title="What each point cost",
            group="Cost",
            columns=("point", "folder", "steps", "tokens", "FLOP", "training, s", "in all, s"),
            kinds=("text", "text", "count", "count", "plain", "plain", "plain"),
            rows=tuple(cost),
            note="Tokens without padding. In all: rows, training and evaluation, of every attempt that was not killed. "
            "A run that serves several places of the grid is timed once.",
        ),
        _named("Points that failed", "Failed", "reason", failed, "The same command tries them again."),
        _named(
            "Points that are missing",
            "Missing",
            "where it is",
            missing,
            "The study was stopped before they were done. The same command goes on with them.",
        ),
    )
    return tuple(table for table in tables if table.rows)


def _named(title: str, group: str, why: str, rows: Sequence[tuple[str, str, str]], note: str) -> Table:
    """Points that say nothing, and why."""
    columns = ("point", "folder", why)
    return Table(title=title, group=group, columns=columns, kinds=("text", "text", "text"), rows=tuple(rows), note=note)


def told_labels(labels: Mapping[str, Label]) -> str:
    """ "small, tasks 8, seed 0" """
    return ", ".join(
        str(v) if k in ("model", "arm", "sources") else f"{k.replace('_', ' ')} {v}" for k, v in labels.items()
    )


def counted(results: Sequence[PointResult]) -> list[str]:
    """The notes that stand under any study: how many points, of how many seeds, and what intervals mean."""
    done = [r for r in results if r.done]
    seeds = sorted({r.labels["seed"] for r in done if "seed" in r.labels})
    notes = [f"{len(done)} of {len(results)} points are done; {len({r.name for r in done})} different ones."]
    spread = "over items alone, since there is one seed" if len(seeds) < 2 else f"over items and {len(seeds)} seeds"
    notes.append(
        f"Intervals are 95 %, by bootstrap {spread}; held-out tasks are resampled too, where they stand for others. "
        "Gains are paired: the same items, tasks and seeds on both sides."
    )
    return notes


def paper() -> dict[str, Any]:
    """The papers' own figures: studies/paper.yaml."""
    return dict(yaml.safe_load(files("flantune.studies").joinpath("paper.yaml").read_text(encoding="utf-8")))


def said(score: ArmScore, digits: int = 1) -> str:
    """ "41.2 [38.0, 44.1]" """
    return f"{percent(score.mean, digits)} {interval(score.low, score.high, digits=digits)}"


def gained(score: ArmScore) -> str:
    """ "+3.1 [+1.0, +5.2]" """
    return f"{100 * (score.gain or 0):+.1f} {interval(score.gain_low, score.gain_high, signed=True)}"


__all__ = [
    "Cell",
    "Findings",
    "base_levels",
    "category_panels",
    "cells_of",
    "counted",
    "gained",
    "marks_of",
    "paper",
    "said",
    "table_of",
    "tables_about",
    "told_labels",
]
