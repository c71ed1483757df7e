"""Natural Instructions' test tasks by Tk-Instruct's protocol (Wang et al. 2022): TASK.json files, folder or tasks/.

Definition, two positive examples, the input; a full stop is put after a part that ends in no punctuation. The first 100
instances of each task, ROUGE-L (stemmed, best reference), plain mean over tasks. Which tasks: those of
splits/default/test_tasks.txt where it is beside them; else every task there is of the twelve test categories, which can
be more or fewer than the 119. Flan's mixture trains on all of Natural Instructions: not held out for such models.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flantune.errors import DataError, RecipeError
from flantune.evals.benchmark import Ability, Extraction, FileBenchmark, Part, Question, Reading, Shot
from flantune.evals.benchmark import only_split as check_split
from flantune.evals.extract import UNREAD
from flantune.evals.files import existing, read_json, read_text
from flantune.evals.metrics import score_text
from flantune.types import Item, Metric

INSTANCES = 100  # of each task, the first ones
CATEGORIES = (
    "Textual Entailment",
    "Cause Effect Classification",
    "Coreference Resolution",
    "Dialogue Act Recognition",
    "Answerability Classification",
    "Word Analogy",
    "Overlap Extraction",
    "Keyword Tagging",
    "Question Rewriting",
    "Title Generation",
    "Data to Text",
    "Grammar Error Correction",
)


@dataclass(frozen=True)
class NaturalInstructions(FileBenchmark):
    name: str = "natural_instructions"
    folder: str = "niv2"
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"direct": 2})
    most_shots: int = 2
    sampled_tasks: bool = True
    ability: Ability = "in-context learning"
    datasets: tuple[str, ...] = ("natural_instructions",)
    tasks_are_datasets: bool = True
    chosen: tuple[str, ...] = ()  # these tasks, whatever their category, in place of the test tasks
    metric: Metric = "rouge_l"

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        check_split(self, split)
        folder = existing(path, "Natural Instructions")
        for file in named_tasks(folder, self.chosen) if self.chosen else chosen_tasks(folder):
            task = _task(file)
            if not self.chosen and task["Categories"][0] not in CATEGORIES and not _listed(file):
                continue
            yield Part(
                task=_name(file),
                id=_name(file),
                head=f"Definition: {_ended(_first(task['Definition']))}\n\n",
                separator="",
                shots=[_shot(n, e) for n, e in enumerate(task["Positive Examples"][:2], start=1)],
                questions=[
                    Question(
                        text=i["input"], asked=_asked(i["input"]), references=tuple(o.strip() for o in i["output"])
                    )
                    for i in task["Instances"][:INSTANCES]
                ],
                key=("natural_instructions", _name(file)),
                max_new_tokens=128,
                metric=self.metric,
            )

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        text = output.strip()
        return Extraction(text, "whole output") if text else Extraction(None, UNREAD)

    def score(self, item: Item, extraction: Extraction) -> float | None:
        if extraction.answer is None:
            return None
        return score_text(item.metric, extraction.answer, item.references)


def chosen_tasks(path: Path) -> list[Path]:
    folder = path / "tasks" if (path / "tasks").is_dir() else path
    listed = _list_file(folder)
    if listed is None:
        found = sorted(folder.glob("task*.json*"))
        if not found:
            raise RecipeError(f"{folder}: no taskN_NAME.json in it.")
        return found
    names = [name.strip() for name in read_text(listed).split("\n") if name.strip()]
    return named_tasks(folder, names, f"a task of {listed}")


def named_tasks(path: Path, names: Sequence[str], what: str = "a task asked for") -> list[Path]:
    """Raises RecipeError for one that is not there."""
    folder = path / "tasks" if (path / "tasks").is_dir() else path
    there = {_name(file): file for file in folder.glob("task*.json*")}
    return [there[name] if name in there else existing(folder / f"{name}.json", what) for name in names]


def _name(file: Path) -> str:
    return file.name.split(".json")[0]


def _list_file(folder: Path) -> Path | None:
    places = (
        folder / "splits",
        folder.parent / "splits",
        folder.parent / "niv2_splits/splits",
        folder.parent / "niv2_splits",
    )
    return next((p / "default/test_tasks.txt" for p in places if (p / "default/test_tasks.txt").exists()), None)


def _listed(file: Path) -> bool:
    return _list_file(file.parent) is not None


def _task(file: Path) -> dict[str, Any]:
    task = read_json(file)
    for name in ("Definition", "Categories", "Positive Examples", "Instances"):
        if not isinstance(task, dict) or not task.get(name):
            raise DataError(str(file), field=name, expected="a value", got=None)
    for n, instance in enumerate(task["Instances"][:INSTANCES], start=1):
        outputs = instance.get("output")
        if not isinstance(instance.get("input"), str) or not isinstance(outputs, list) or not outputs:
            raise DataError(
                f"{file}:instance {n}", field="output", expected="input text and a list of outputs", got=instance
            )
    return dict(task)


def _first(definition: Any) -> str:
    return str(definition[0] if isinstance(definition, list) else definition)


def _ended(text: str) -> str:
    text = text.strip()
    return text if text and text[-1] in string.punctuation else f"{text}."


def _shot(number: int, example: Mapping[str, str]) -> Shot:
    asked = f" Positive Example {number} -\n{_ended('Input: ' + example['input'].strip())}\n Output: "
    return Shot(asked, f"{_ended('Output: ' + example['output'].strip()).removeprefix('Output: ')}\n\n")


def _asked(text: str) -> str:
    return f"Now complete the following example -\n{_ended('Input: ' + text.strip())}\nOutput: "
