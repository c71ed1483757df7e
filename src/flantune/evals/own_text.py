"""What is a benchmark item's own: its question and options as the files have them, without anything put around them.

Ids are the items' of the same benchmark, so that what is found of a text can be told of the scored item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from flantune.evals import bbh, gsm8k, mgsm, mmlu
from flantune.evals.benchmark import Benchmark, existing
from flantune.evals.collection import Tasks
from flantune.mixtures.contamination import OwnText

# What each benchmark was made from, under the names that collections use.
DATASETS: Mapping[str, tuple[str, ...]] = {
    "gsm8k": ("gsm8k",),
    "mgsm": ("mgsm", "gsm8k"),  # translations of GSM8K's test questions
    "mmlu": ("mmlu", "mmmlu", "hendrycks_test"),
    "bbh": ("bbh", "bigbench", "big_bench", "big_bench_hard"),
}


def own_texts(benchmark: Benchmark, path: Path, split: str | None = None) -> list[OwnText]:
    """Every item of the split, however few of them are asked.

    Of a benchmark that is not known here: its prompts without exemplars, whose common words the search finds itself.
    """
    if isinstance(benchmark, Tasks):
        return list(_of_tasks(benchmark))
    read = _READERS.get(benchmark.folder, partial(_of_prompts, benchmark))
    return list(read(benchmark.name, path, split or benchmark.default_split))


def _of_prompts(benchmark: Benchmark, name: str, path: Path, split: str) -> Iterator[OwnText]:
    for posed in benchmark.items(path, benchmark.modes[0], shots=0, split=split):
        yield OwnText(benchmark=name, task=posed.item.task, id=posed.item.id, text=posed.item.prompt, datasets=(name,))


def _of_gsm8k(name: str, path: Path, split: str) -> Iterator[OwnText]:
    for row, solved in enumerate(gsm8k.read_problems(path, split)):
        yield OwnText(
            benchmark=name, task="gsm8k", id=f"{split}/{row}", text=solved.question, datasets=DATASETS["gsm8k"]
        )


def _of_mmlu(name: str, path: Path, split: str) -> Iterator[OwnText]:
    for subject in mmlu.subjects(path, split):
        for row, question in enumerate(mmlu.read_questions(path / split / f"{subject}_{split}.csv")):
            yield OwnText(
                benchmark=name,
                task=subject,
                id=f"{split}/{subject}/{row}",
                text=question.text,
                options=question.choices,
                datasets=DATASETS["mmlu"],
            )


def _of_bbh(name: str, path: Path, split: str) -> Iterator[OwnText]:
    for file in sorted(existing(path, "BIG-Bench Hard").glob("*.json")):
        for row, (question, _) in enumerate(bbh.read_examples(file)):
            yield OwnText(
                benchmark=name,
                task=file.stem,
                id=f"{file.stem}/{row}",
                text=question,
                datasets=(*DATASETS["bbh"], file.stem),
            )


def _of_mgsm(name: str, path: Path, split: str) -> Iterator[OwnText]:
    for file in sorted(existing(path, "MGSM").glob("mgsm_*.tsv")):
        code = file.stem.removeprefix("mgsm_")
        for row, (question, _) in enumerate(mgsm.read_problems(file)):
            yield OwnText(benchmark=name, task=code, id=f"{code}/{row}", text=question, datasets=DATASETS["mgsm"])


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


_READERS: Mapping[str, Callable[[str, Path, str], Iterator[OwnText]]] = {
    "gsm8k": _of_gsm8k,
    "mmlu": _of_mmlu,
    "bbh": _of_bbh,
    "mgsm": _of_mgsm,
}
