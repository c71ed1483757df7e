"""Two evaluations of the same items, pair by pair: what rose, what fell, and how sure that is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from flantune.errors import RecipeError
from flantune.evals.results import MISSING, Answered, read_items
from flantune.evals.statistics import estimate_difference, mcnemar
from flantune.evals.summary import strict
from flantune.whole import write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRow:
    """b - a over the items both answered. Strict scores: an output without a readable answer counts 0 on its side.

    `task` None is the whole setting: the mean over tasks of the tasks' means.
    """

    setting: str
    benchmark: str
    mode: str
    shots: int
    task: str | None
    num_tasks: int
    items: int
    score_a: float
    score_b: float
    difference: float
    interval: tuple[float, float]  # 95 %
    interval_method: str
    rose: int  # items that score higher in b
    fell: int
    p_value: float  # sign test on the items that differ; McNemar's exact test where scores are 0 or 1
    unpaired: int  # items that only one side answered
    prompts_differ: int  # pairs that were not asked the same words, as where one side had to drop exemplars


Pair = tuple[Answered, Answered]


def compare(items_a: Path, items_b: Path) -> list[PairedRow]:
    """Rows for every setting both files have, each followed by its tasks'. Raises RecipeError where they share none."""
    a, b = _index(read_items(items_a)), _index(read_items(items_b))
    shared = [setting for setting in a if setting in b]
    if not shared:
        raise RecipeError(f"{items_a} and {items_b} share no setting: {', '.join(a)} against {', '.join(b)}.")
    rows: list[PairedRow] = []
    for setting in shared:
        pairs = [(row, b[setting][item]) for item, row in a[setting].items() if item in b[setting]]
        if not pairs:
            continue
        by_task: dict[str, list[Pair]] = defaultdict(list)
        for pair in pairs:
            by_task[pair[0].result.item.task].append(pair)
        unpaired = len(a[setting].keys() ^ b[setting].keys())
        rows.append(_row(by_task, None, unpaired))
        for task in sorted(by_task):
            sides = ({item for item, r in side[setting].items() if r.result.item.task == task} for side in (a, b))
            only = len(next(sides) ^ next(sides))
            rows.append(_row({task: by_task[task]}, task, only))
    return rows


def write_comparison(rows: Sequence[PairedRow], path: Path) -> None:
    write_json(path, {"format": 1, "difference": "b - a, strict scores", "rows": [asdict(row) for row in rows]})


def _index(rows: Sequence[Answered]) -> dict[str, dict[str, Answered]]:
    """Answered items by setting and id, in file order."""
    found: dict[str, dict[str, Answered]] = defaultdict(dict)
    for row in rows:
        if row.result.reason != MISSING:
            found[row.setting][row.result.item.id] = row
    return found


def _row(by_task: dict[str, list[Pair]], task: str | None, unpaired: int) -> PairedRow:
    pairs = [pair for own in by_task.values() for pair in own]
    first = pairs[0][0]
    differences = {t: [strict(b) - strict(a) for a, b in own] for t, own in by_task.items()}
    estimate = estimate_difference(differences, "compare", first.setting, task, sampled_tasks=first.sampled_tasks)
    flat = [d for own in differences.values() for d in own]
    rose, fell = sum(d > 0 for d in flat), sum(d < 0 for d in flat)
    return PairedRow(
        setting=first.setting,
        benchmark=first.result.item.benchmark,
        mode=first.result.item.mode,
        shots=first.asked_shots,
        task=task,
        num_tasks=len(by_task),
        items=len(pairs),
        score_a=_mean_of_tasks({t: [strict(a) for a, _ in own] for t, own in by_task.items()}),
        score_b=_mean_of_tasks({t: [strict(b) for _, b in own] for t, own in by_task.items()}),
        difference=estimate.mean,
        interval=(estimate.low, estimate.high),
        interval_method=estimate.method,
        rose=rose,
        fell=fell,
        p_value=mcnemar(rose, fell),
        unpaired=unpaired,
        prompts_differ=sum(a.result.item.prompt != b.result.item.prompt for a, b in pairs),
    )


def _mean_of_tasks(scores: dict[str, list[float]]) -> float:
    return sum(sum(own) / len(own) for own in scores.values()) / len(scores)
