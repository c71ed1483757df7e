"""Two evaluations of the same items, pair by pair: what rose, what fell, and how sure that is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flantune.errors import RecipeError
from flantune.evals.catalog import BENCHMARKS
from flantune.evals.results import Answered, read_items, was_answered
from flantune.evals.statistics import bootstrap_means, estimate_difference, sign_flip
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
    p_value: float  # of `difference`: items' signs flipped at random; of one task scored 0 or 1 McNemar's exact test
    p_adjusted: float = 1.0  # by Holm, over all rows of the kind that were looked at
    group: str | None = None  # a named group of the benchmark's tasks
    unpaired: int  # items that only one side answered
    prompts_differ: int  # pairs that were not asked the same words, as where one side had to drop exemplars

    @property
    def fell_surely(self) -> bool:
        """Lower in b, the interval below zero and the test significant after correction."""
        return self.interval[1] < 0 and self.p_adjusted < ALPHA

    @property
    def rose_surely(self) -> bool:
        return self.interval[0] > 0 and self.p_adjusted < ALPHA


@dataclass(frozen=True, slots=True, kw_only=True)
class AbilityRow:
    """b - a over the settings that tell of one ability: the plain mean of the settings' scores."""

    ability: str
    settings: tuple[str, ...]
    score_a: float
    score_b: float
    difference: float
    interval: tuple[float, float]


Pair = tuple[Answered, Answered]
Paired = dict[str, dict[str, list[Pair]]]  # by setting and task
ALPHA = 0.05


def compare(items_a: Path, items_b: Path) -> list[PairedRow]:
    """Rows for every setting both files have, each followed by its tasks'. Raises RecipeError where they share none, or
    one of which they share no item."""
    a, b = _index(read_items(items_a)), _index(read_items(items_b))
    paired = _pair(a, b, f"{items_a} and {items_b}")
    wholes, tasks = [], []
    for setting, by_task in paired.items():
        wholes.append(_row(by_task, None, len(a[setting].keys() ^ b[setting].keys())))
        for task in sorted(by_task):
            sides = ({item for item, r in side[setting].items() if r.result.item.task == task} for side in (a, b))
            tasks.append(_row({task: by_task[task]}, task, len(next(sides) ^ next(sides))))
    tasks = adjust(tasks)
    return [row for whole in adjust(wholes) for row in (whole, *(t for t in tasks if t.setting == whole.setting))]


def compare_groups(items_a: Path, items_b: Path) -> list[PairedRow]:
    """A row for every named group of a benchmark's tasks that both files have whole, as MMLU's STEM or BBH's NLP."""
    paired = _pair(_index(read_items(items_a)), _index(read_items(items_b)), f"{items_a} and {items_b}")
    rows = []
    for by_task in paired.values():
        name = next(iter(by_task.values()))[0][0].result.item.benchmark
        for group, members in _groups_of(name).items():
            if members and set(members) <= set(by_task):
                own = {task: by_task[task] for task in members}
                rows.append(replace(_row(own, f"({group})", 0), task=None, group=group))
    return adjust(rows)


def compare_abilities(items_a: Path, items_b: Path) -> list[AbilityRow]:
    """A row for every ability that the settings both files have tell of; never one figure for all."""
    paired = _pair(_index(read_items(items_a)), _index(read_items(items_b)), f"{items_a} and {items_b}")
    by_ability: dict[str, list[str]] = defaultdict(list)
    for setting, by_task in paired.items():
        by_ability[_ability_of(next(iter(by_task.values()))[0])].append(setting)
    return [_ability_row(ability, {s: paired[s] for s in own}) for ability, own in sorted(by_ability.items())]


def by_change(rows: Sequence[PairedRow]) -> list[PairedRow]:
    """What fell and what rose most comes first: sure changes before unsure ones, larger before smaller."""
    return sorted(
        rows, key=lambda r: (not (r.fell_surely or r.rose_surely), -abs(r.difference), r.setting, r.task or "")
    )


def adjust(rows: Sequence[PairedRow]) -> list[PairedRow]:
    """The rows with p values corrected for how many they are, after Holm."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].p_value)
    adjusted, largest = [1.0] * len(rows), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, rows[index].p_value * (len(rows) - rank)))
        adjusted[index] = largest
    return [replace(row, p_adjusted=p) for row, p in zip(rows, adjusted, strict=True)]


def write_comparison(
    rows: Sequence[PairedRow], path: Path, groups: Sequence[PairedRow] = (), abilities: Sequence[AbilityRow] = ()
) -> None:
    content: dict[str, Any] = {"format": 1, "difference": "b - a, strict scores", "rows": [asdict(row) for row in rows]}
    content["groups"] = [asdict(row) for row in groups]
    content["abilities"] = [asdict(row) for row in abilities]
    write_json(path, content)


def _pair(a: dict[str, dict[str, Answered]], b: dict[str, dict[str, Answered]], where: str) -> Paired:
    shared = [setting for setting in a if setting in b]
    if not shared:
        raise RecipeError(f"{where} share no setting: {', '.join(a)} against {', '.join(b)}.")
    paired: Paired = {}
    for setting in shared:
        by_task: dict[str, list[Pair]] = defaultdict(list)
        for item, row in a[setting].items():
            if item in b[setting]:
                by_task[row.result.item.task].append((row, b[setting][item]))
        if not by_task:
            ids = [next(iter(side[setting])) for side in (a, b)]
            raise RecipeError(
                f"{where} share no item of {setting}, so nothing can be compared: one has {ids[0]} and others, the "
                f"other {ids[1]} and others. Were other splits or limits asked?"
            )
        paired[setting] = by_task
    return paired


def only_one_has(items_a: Path, items_b: Path) -> tuple[list[str], list[str]]:
    """Settings, and tasks of settings they share, that only the first file has answers of, and only the second."""
    sides = [_index(read_items(path)) for path in (items_a, items_b)]
    held = [{(s, r.result.item.task) for s, rows in side.items() for r in rows.values()} for side in sides]

    def named(own: set[tuple[str, str]], other: dict[str, Any]) -> list[str]:
        return sorted({setting if setting not in other else f"{setting} {task}" for setting, task in own})

    return named(held[0] - held[1], sides[1]), named(held[1] - held[0], sides[0])


def _ability_row(ability: str, settings: Paired) -> AbilityRow:
    resampled = []
    for setting, by_task in settings.items():
        differences = {t: np.array([strict(b) - strict(a) for a, b in own]) for t, own in by_task.items()}
        sampled = next(iter(by_task.values()))[0][0].sampled_tasks and len(by_task) >= 3
        resampled.append(bootstrap_means(differences, "ability", setting, over_tasks=sampled))
    low, high = np.quantile(np.mean(resampled, axis=0), [0.025, 0.975])
    sides = [
        float(
            np.mean(
                [_mean_of_tasks({t: [strict(p[k]) for p in own] for t, own in s.items()}) for s in settings.values()]
            )
        )
        for k in (0, 1)
    ]
    return AbilityRow(
        ability=ability,
        settings=tuple(settings),
        score_a=sides[0],
        score_b=sides[1],
        difference=sides[1] - sides[0],
        interval=(float(low), float(high)),
    )


def _ability_of(pair: Pair) -> str:
    benchmark = pair[0].result.item.benchmark
    kept = pair[1].ability or pair[0].ability
    return kept or (BENCHMARKS[benchmark].ability if benchmark in BENCHMARKS else "not told")


def _groups_of(benchmark: str) -> Mapping[str, tuple[str, ...]]:
    return getattr(BENCHMARKS.get(benchmark), "groups", {})


def _index(rows: Sequence[Answered]) -> dict[str, dict[str, Answered]]:
    """Answered items by setting and id, in file order."""
    found: dict[str, dict[str, Answered]] = defaultdict(dict)
    for row in rows:
        if was_answered(row):
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
        p_value=sign_flip(differences, "compare", first.setting, task),
        unpaired=unpaired,
        prompts_differ=sum(a.result.item.prompt != b.result.item.prompt for a, b in pairs),
    )


def _mean_of_tasks(scores: dict[str, list[float]]) -> float:
    return sum(sum(own) / len(own) for own in scores.values()) / len(scores)
