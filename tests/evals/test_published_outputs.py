"""Codex's published BBH scores and outputs give the published averages. The outputs are not ours to ship: their test
runs where the folder code-davinci-002-outputs of suzgunmirac/BIG-Bench-Hard lies in FLANTUNE_DATA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flantune.evals import BENCHMARKS
from flantune.evals.benchmark import TaskScore
from flantune.types import Item

AVERAGES = {  # macro-27, micro, macro-23
    "cot": (73.71, 73.97, 73.93),
    "direct": (52.76, 52.34, 56.61),
}
# Right outputs of each task, direct and with a chain of thought: what its eval_metrics.jsonl in that folder says, but
# for two that have none there (navigate direct, formal_fallacies with a chain).
RIGHT = {
    "boolean_expressions": (221, 232),
    "causal_judgement": (119, 101),
    "date_understanding": (159, 218),
    "disambiguation_qa": (168, 190),
    "dyck_languages": (117, 142),
    "formal_fallacies": (131, 126),
    "geometric_shapes": (80, 136),
    "hyperbaton": (151, 166),
    "logical_deduction_five_objects": (81, 137),
    "logical_deduction_seven_objects": (65, 97),
    "logical_deduction_three_objects": (132, 219),
    "movie_recommendation": (212, 226),
    "multistep_arithmetic_two": (3, 119),
    "navigate": (126, 241),
    "object_counting": (113, 233),
    "penguins_in_a_table": (97, 116),
    "reasoning_about_colored_objects": (169, 229),
    "ruin_names": (188, 171),
    "salient_translation_error_detection": (155, 152),
    "snarks": (109, 106),
    "sports_understanding": (182, 244),
    "temporal_sequences": (194, 242),
    "tracking_shuffled_objects_five_objects": (51, 224),
    "tracking_shuffled_objects_seven_objects": (36, 214),
    "tracking_shuffled_objects_three_objects": (94, 196),
    "web_of_lies": (129, 238),
    "word_sorting": (126, 101),
}
FEWER = {"causal_judgement": 187, "penguins_in_a_table": 146, "snarks": 178}  # items; the others have 250


def averaged(tasks: dict[str, TaskScore]) -> tuple[float, ...]:
    averages = BENCHMARKS["bbh"].averages(tasks)
    return tuple(round(100 * (averages[name] or 0.0), 2) for name in ("macro_27", "micro", "macro_23"))


@pytest.mark.parametrize(("column", "mode"), [(0, "direct"), (1, "cot")])
def test_the_published_scores_give_the_published_averages(column: int, mode: str):
    tasks = {t: TaskScore(right[column] / FEWER.get(t, 250), FEWER.get(t, 250)) for t, right in RIGHT.items()}
    assert averaged(tasks) == AVERAGES[mode]


@pytest.mark.parametrize("mode", AVERAGES)
def test_codex_scores_what_was_published(data_dir: Path, mode: str):
    folder = data_dir / "code-davinci-002-outputs" / f"code-davinci-002-{mode}"
    files = sorted(folder.glob("*_few_shot_template_0-255000.json"))
    if not files:
        pytest.skip(f"no published outputs in {folder}")
    bbh, tasks = BENCHMARKS["bbh"], {}
    for file in files:
        task = file.name.partition("_few_shot")[0]
        rows = json.loads(file.read_text(encoding="utf-8"))["outputs"]
        right = 0.0
        for number, row in enumerate(rows):
            item = Item(
                benchmark="bbh",
                mode=mode,
                task=task,
                id=f"{task}/{number}",
                prompt=row["input"],
                references=(row["target"],),
            )
            right += bbh.score(item, bbh.extract(item, row["prediction"], "strict")) or 0.0
        assert right == RIGHT[task][mode == "cot"], task
        tasks[task] = TaskScore(right / len(rows), len(rows))
    assert len(tasks) == 27 and sum(t.items for t in tasks.values()) == 6511
    assert averaged(tasks) == AVERAGES[mode]
