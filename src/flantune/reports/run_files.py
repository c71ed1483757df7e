"""What a run has left on disk, read whole. What a stage has not written is None or empty; the page says "not run"."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flantune.errors import RecipeError, StateError, shorten

SIDES = ("base", "tuned")
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    root: Path
    recipe_text: str
    recipe: Record  # the resolved recipe, without `versions`
    versions: Mapping[str, str]
    card: Record | None  # data card of the finetuning rows
    pretrain_card: Record | None
    store: Record | None  # what was read: examples, rejected rows and why
    rejected: tuple[Record, ...]  # the first few
    samples: tuple[Record, ...]
    pretrain_metrics: tuple[Record, ...]
    metrics: tuple[Record, ...]
    selection: Record | None  # measurements that a checkpoint was chosen by
    summaries: Mapping[str, Mapping[str, Record]]  # side -> setting -> entry; only sides that were evaluated
    items: Mapping[str, Path]  # side -> items.parquet
    comparison: tuple[Record, ...] | None  # tuned - base, whole settings and their tasks
    groups: tuple[Record, ...]  # tuned - base, named groups of tasks
    abilities: tuple[Record, ...]  # tuned - base, by what benchmarks tell of a model
    suites: Mapping[str, Record]  # side -> the suite it was asked
    contamination: Record | None  # evaluation items found among the training rows, and scores without them


def read_run(root: Path, num_rejected: int = 12) -> RunFiles:
    """Raises RecipeError where `root` is no run folder, StateError naming a file that is there and cannot be read."""
    recipe = root / "recipe.yaml"
    if not recipe.is_file():
        raise RecipeError(f"{root}: not a run's folder: it has no recipe.yaml. 'flantune run' makes one.")
    text = _text(recipe)
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise StateError(f"{recipe}: not YAML: {shorten(str(e))}.") from None
    if not isinstance(document, dict):
        raise StateError(f"{recipe}: expected a mapping of keys, got {shorten(document)}.")
    versions = document.pop("versions", None) or {}
    summaries, items, suites = {}, {}, {}
    for side in SIDES:
        folder = root / "evals" / side
        summary = _json(folder / "summary.json")
        if summary is not None:
            summaries[side] = {entry["setting"]: entry for entry in summary["results"]}
            if summary.get("suite"):
                suites[side] = summary["suite"]
        if (folder / "items.parquet").is_file():
            items[side] = folder / "items.parquet"
    compared = _json(root / "compare.json")
    return RunFiles(
        root=root,
        recipe_text=text,
        recipe=document,
        versions={str(k): str(v) for k, v in versions.items()},
        card=_first_json(root / "data" / "card.json", root / "data" / "shards" / "card.json"),
        pretrain_card=_json(root / "pretrain" / "shards" / "card.json"),
        store=_first_json(root / "data" / "unique" / "store.json", root / "data" / "examples" / "store.json"),
        rejected=_json_lines(root / "data" / "examples" / "rejected.jsonl", num_rejected),
        samples=_json_lines(root / "data" / "samples.jsonl"),
        pretrain_metrics=_json_lines(root / "pretrain" / "metrics.jsonl"),
        metrics=_json_lines(root / "metrics.jsonl"),
        selection=_json(root / "selection.json"),
        summaries=summaries,
        items=items,
        comparison=None if compared is None else tuple(compared["rows"]),
        groups=tuple((compared or {}).get("groups", ())),
        abilities=tuple((compared or {}).get("abilities", ())),
        suites=suites,
        contamination=_json(root / "evals" / "contamination.json"),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise StateError(f"{path}: cannot be read: {e}.") from None


def _json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(_text(path))
    except json.JSONDecodeError as e:
        raise StateError(f"{path}: not JSON: {e}. Run the stage that writes it again.") from None


def _first_json(*paths: Path) -> Any:
    return next((found for path in paths if (found := _json(path)) is not None), None)


def _json_lines(path: Path, limit: int | None = None) -> tuple[Record, ...]:
    if not path.is_file():
        return ()
    records: list[Record] = []
    lines = _text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if limit is not None and len(records) >= limit:
            break
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as e:
            if number == len(lines):  # torn by a kill, or being written now
                break
            raise StateError(f"{path}:{number}: not JSON: {e}.") from None
    return tuple(records)
