"""Recipes so small that a point is trained in seconds, and results that were never run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flantune.evals.results import Answered, write_items
from flantune.recipe import Recipe, parse_recipe
from flantune.studies.point import Label, PointResult
from flantune.types import Item, Result
from tiny import tiny_recipe


def tiny(tmp_path: Path, **changes: Any) -> Recipe:
    """A from-scratch model of a few thousand weights on a few tasks of the embedded world."""
    sections: dict[str, Any] = {
        "train": {"steps": 3, "batch_rows": 2, "micro_rows": 2, "checkpoint_every": 1, "log_every": 1, "watch": []},
        "eval": {"benchmarks": [{"name": "held_out", "modes": ["direct"], "limit": 2, "max_new_tokens": 4}]},
    }
    return parse_recipe(tiny_recipe(tmp_path, **{**sections, **changes}))


SETTING = "held_out/direct/0-shot"


def write_scores(path: Path, scores: Mapping[str, Sequence[float | None]], sampled_tasks: bool = True) -> Path:
    """An items.parquet of one setting; None: no answer could be read."""
    rows = [
        Answered(
            setting=SETTING,
            asked_shots=0,
            shots_dropped=0,
            sampled_tasks=sampled_tasks,
            result=Result(
                item=Item(
                    benchmark="held_out", mode="direct", task=task, id=f"{task}/{k}", prompt="?", references=("a",)
                ),
                output="a",
                extracted=None if score is None else "a",
                score=score,
            ),
        )
        for task, own in scores.items()
        for k, score in enumerate(own)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_items(path, rows)
    return path


def result(
    tmp_path: Path,
    labels: Mapping[str, Label],
    scores: Mapping[str, Sequence[float | None]] | None,
    base: Mapping[str, Sequence[float | None]],
) -> PointResult:
    """A point's result that was never run; failed where it has no scores."""
    name = "-".join(str(v) for v in labels.values()).replace(" ", "_")
    folder = tmp_path / "points" / name
    if scores is None:
        return PointResult(labels=labels, name=name, folder=folder, status="failed", reason="the disk was full")
    return PointResult(
        labels=labels,
        name=name,
        folder=folder,
        status="done",
        items=write_scores(folder / "items.parquet", scores),
        base_items=write_scores(tmp_path / "bases" / str(labels.get("model", "")) / "items.parquet", base),
        seconds=12.0,
        wall_seconds=20.0,
        flops=1e12,
        steps=100,
        tokens=5000,
        composition={"a": {"asked": 1.0, "got": 1.0, "tasks": 3, "examples": 40, "tokens": 5000}},
        formats={"zs_opt": 30, "fs_noopt": 10},
    )
