"""What a finished job says of itself: scores by setting and task, what was trained, and what the rows were made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flantune.pipeline.folder import RunFolder
from flantune.recipe import Recipe
from flantune.tasks import ExampleStore

_FIGURES = ("score", "score_parsed", "interval", "items", "extraction_rate")


def score_rows(summary: Mapping[str, Any], store: ExampleStore) -> list[dict[str, Any]]:
    """A row for each setting of a summary.json, task None, followed by its tasks'. A task of the store has its
    category."""
    rows = []
    for entry in summary["results"]:
        common = {name: entry[name] for name in ("setting", "benchmark", "mode", "shots", "ability")}
        metrics = sorted({own["metric"] for own in entry["tasks"].values()})
        metric = metrics[0] if len(metrics) == 1 else None
        whole = {name: entry.get(name) for name in _FIGURES}
        rows.append({**common, "task": None, "category": None, "metric": metric, **whole})
        for name, own in entry["tasks"].items():
            category = store.tasks[name].category if name in store.tasks else None
            figures = {figure: own.get(figure) for figure in _FIGURES}
            rows.append({**common, "task": name, "category": category, "metric": own["metric"], **figures})
    return rows


def trained_figures(recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    """Steps, tokens, seconds and operations of the finetuning that was done in `folder`."""
    from flantune.pipeline.plan import Job, make_plan
    from flantune.tokens.build import read_card

    report = json.loads((folder.root / "train.json").read_text())
    plan = make_plan(Job.of_recipe(recipe), ["h100"], card=read_card(folder.shards))
    return {
        "steps": report["steps"],
        "tokens": report["input_tokens"] + report["target_tokens"],
        "examples": report["examples"],
        "train_seconds": report["seconds"],
        "loss": report["loss"],
        "flops": plan.flops * report["steps"] / recipe.train.steps,
        "parameters": plan.shape.total,
        "precision": report["precision"],
    }


def composition_of(folder: RunFolder) -> dict[str, Any]:
    """`composition`: by mixture, the tasks, examples, tokens, and shares asked and got. `formats`: how many examples
    were packed in each format; `dropped`: how many draws were not, by reason."""
    card = json.loads((Path(folder.shards) / "card.json").read_text())
    mixtures: dict[str, Any] = {}
    for name, own in card["mixtures"].items():
        tasks = [t for t, c in card["tasks"].items() if c["mixture"] == name and c["examples"]]
        mixtures[name] = {
            "asked": own["asked"],
            "got": own["got"],
            "tasks": len(tasks),
            "examples": own["examples"],
            "tokens": own["input_tokens"] + own["target_tokens"],
        }
    return {"composition": mixtures, "formats": card["formats"], "dropped": card["dropped"]}
