"""What is a benchmark item's own: its question and options as the files have them, without anything put around them.

Ids are the items' of the same benchmark, so that what is found of a text can be told of the scored item.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flantune.evals.benchmark import Benchmark, FileBenchmark
from flantune.evals.collection import Tasks
from flantune.mixtures.contamination import OwnText


def own_texts(benchmark: Benchmark, path: Path, split: str | None = None) -> list[OwnText]:
    """Every item of the split, however few of them are asked.

    Of a benchmark that is no `FileBenchmark`: its prompts without exemplars; the search finds their common words.
    """
    if isinstance(benchmark, Tasks):
        return list(_of_tasks(benchmark))
    if isinstance(benchmark, FileBenchmark):
        return list(_of_parts(benchmark, path, split or benchmark.default_split))
    return list(_of_prompts(benchmark, path, split or benchmark.default_split))


def _of_parts(benchmark: FileBenchmark, path: Path, split: str) -> Iterator[OwnText]:
    for part in benchmark.parts(path, benchmark.modes[0], split, exemplars=False):
        datasets = benchmark.datasets or (benchmark.name,)
        if benchmark.tasks_are_datasets:
            datasets = (*datasets, part.task)
        for row, question in enumerate(part.questions):
            yield OwnText(
                benchmark=benchmark.name,
                task=part.task,
                id=f"{part.id}/{row}",
                text=question.text,
                options=question.choices,
                datasets=datasets,
            )


def _of_prompts(benchmark: Benchmark, path: Path, split: str) -> Iterator[OwnText]:
    for posed in benchmark.items(path, benchmark.modes[0], shots=0, split=split):
        item = posed.item
        name = benchmark.name
        yield OwnText(benchmark=name, task=item.task, id=item.id, text=item.prompt, datasets=(name,))


def _of_tasks(benchmark: Tasks) -> Iterator[OwnText]:
    """The fields of every row. What the task's wording puts around them is not the row's own."""
    for name in benchmark.tasks:
        datasets = tuple(benchmark.store.tasks[name].dataset.split("+"))
        for row in range(benchmark.store.size(name)):
            example = benchmark.store.example(name, row)
            yield OwnText(
                benchmark=benchmark.name,
                task=name,
                id=f"{name}/{row}",
                text="\n".join(example.fields.values()),
                options=example.options or (),
                datasets=datasets,
            )
