"""Codex's published BBH outputs give the published averages. They are not ours to ship: this runs where the folder
code-davinci-002-outputs of suzgunmirac/BIG-Bench-Hard lies in FLANTUNE_DATA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flantune.evals import BENCHMARKS
from flantune.evals.benchmark import TaskScore
from flantune.types import Item


@pytest.mark.parametrize(("mode", "macro_27", "micro", "macro_23"), [
    ("cot", 73.71, 73.97, 73.93),
    ("direct", 52.76, 52.34, 56.61),
])  # fmt: skip
def test_codex_scores_what_was_published(data_dir: Path, mode: str, macro_27: float, micro: float, macro_23: float):
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
        tasks[task] = TaskScore(right / len(rows), len(rows))
    assert len(tasks) == 27 and sum(t.items for t in tasks.values()) == 6511
    averages = bbh.averages(tasks)
    told = {name: round(100 * (averages[name] or 0.0), 2) for name in ("macro_27", "micro", "macro_23")}
    assert told == {"macro_27": macro_27, "micro": micro, "macro_23": macro_23}
