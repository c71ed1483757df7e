"""The Flan collection's chain-of-thought sets: three tab-separated columns (question, answer, rationale), no header."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flantune.recipe import CollectionSpec
from flantune.sources.reading import Draft, TaskRows, examples_of, first_line, stem, suffix, text_lines
from flantune.sources.rejects import BadRow, Rejects
from flantune.types import Task

CATEGORIES = {
    "aqua": "Grade School Math Word Problems",
    "creak": "Commonsense Reasoning",
    "ecqa": "Commonsense Question Answering",
    "esnli": "Natural Language Inference",
    "gsm8k": "Grade School Math Word Problems",
    "qasc": "Question Answering",
    "qed": "Question Answering",
    "sensemaking": "Commonsense Reasoning",
    "strategyqa": "Question Answering",
}


class FlanCotReader:
    name = "flan_cot"
    mixture = "cot"

    def matches(self, path: Path) -> bool:
        # Any table may have three columns: only the nine sets' own names are taken without being told.
        if suffix(path) != ".tsv" or cot_dataset(path) not in CATEGORIES:
            return False
        line = first_line(path)
        return line is not None and line.count("\t") == 2

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        task = cot_task(cot_dataset(path), path, spec.mixture or self.mixture, self.name)
        yield TaskRows(task, examples_of(task, path, text_lines(path), parse_line, rejects))


def cot_dataset(path: Path) -> str:
    return stem(path).lower().removesuffix("_train")


def cot_task(dataset: str, path: Path, mixture: str, source: str) -> Task:
    return Task(
        name=f"cot/{dataset}",
        mixture=mixture,
        dataset=dataset,
        category=CATEGORIES.get(dataset, "Question Answering"),
        templates=f"cot_{dataset}",
        fields=("question",),
        has_rationale=True,
        metric="exact_match",
        licence="Apache-2.0" if dataset != "qed" else "CC BY-SA 3.0",
        source=source,
        path=str(path),
    )


def parse_line(line: str) -> Iterator[Draft]:
    cells = line.split("\t")
    if len(cells) != 3:
        raise BadRow("line", "three tab-separated columns", len(cells))
    # Only backslash-n is an escape here: 20 rows of aqua hold LaTeX such as \frac, which a general unescape would eat.
    question, answer, rationale = (c.replace("\\n", "\n").strip() for c in cells)
    for name, cell in (("question", question), ("rationale", rationale)):
        if not cell:
            raise BadRow(name, "text that is not blank", cell)
    yield Draft({"question": question}, (answer,), rationale=rationale)
