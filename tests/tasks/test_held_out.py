from __future__ import annotations

import csv

import pytest

from flantune.errors import RecipeError
from flantune.recipe import HeldOut
from flantune.tasks import is_mmlu, split_held_out
from flantune.types import Task


def task(name: str, dataset: str = "d", category: str = "c", source: str = "niv2") -> Task:
    return Task(
        name=name, mixture="m", dataset=dataset, category=category, templates="niv2", fields=("input",), source=source
    )


def catalog(*tasks: Task) -> dict[str, Task]:
    return {t.name: t for t in tasks}


TASKS = catalog(
    task("niv2/task1_a", "snli", "Textual Entailment"),
    task("niv2/task2_b", "snli", "Text Completion"),
    task("t0/imdb_x", "imdb", "Sentiment Analysis", "p3"),
    task("niv2/task685_mmmlu_x", "mmmlu", "Question Answering"),
)


@pytest.mark.parametrize(
    ("spec", "held"),
    [
        ({}, ()),
        ({"tasks": ("niv2/task1_*",)}, ("niv2/task1_a",)),
        ({"datasets": ("snli",)}, ("niv2/task1_a", "niv2/task2_b")),
        ({"categories": ("Text *",)}, ("niv2/task2_b",)),
        ({"tasks": ("t0/*",), "categories": ("Text Completion",)}, ("niv2/task2_b", "t0/imdb_x")),
    ],
)
def test_globs_on_names_datasets_and_categories_hold_out(spec, held):
    split = split_held_out(TASKS, HeldOut(**spec))
    assert split.held_out == held
    assert split.excluded == ("niv2/task685_mmmlu_x",)
    assert sorted(split.train + split.held_out + split.excluded) == sorted(TASKS)


def test_mmlu_tasks_are_trained_on_only_when_asked_for():
    assert "niv2/task685_mmmlu_x" in split_held_out(TASKS, HeldOut(mmlu=False)).train


def test_holding_out_an_mmlu_task_keeps_it_excluded():
    split = split_held_out(TASKS, HeldOut(tasks=("*mmmlu*",)))
    assert (split.held_out, split.excluded) == ((), ("niv2/task685_mmmlu_x",))


@pytest.mark.parametrize(
    ("number", "mmlu"), [(663, 0), (664, 1), (667, 1), (668, 0), (684, 0), (685, 1), (737, 1), (738, 0)]
)
def test_mmlu_tasks_are_known_by_number(number, mmlu):
    assert is_mmlu(task(f"niv2/task{number}_x")) == bool(mmlu)
    assert not is_mmlu(task(f"mine/task{number}_x", source="native"))


def test_exactly_the_57_tasks_of_the_recipes_table_are_mmlus(spec_dir):
    rows = list(csv.DictReader((spec_dir / "niv2_tasks.csv").open(encoding="utf-8", newline="")))
    excluded = {r["task"] for r in rows if r["excluded_mmlu"] == "1"}
    assert len(excluded) == 57
    assert {r["task"] for r in rows if is_mmlu(task(f"niv2/{r['task']}"))} == excluded


def test_a_pattern_that_matches_nothing_is_an_error_with_near_names():
    with pytest.raises(RecipeError, match=r"held_out\.datasets: 'smli' matches none\. Near: snli"):
        split_held_out(TASKS, HeldOut(datasets=("smli",)))


def test_nothing_left_to_train_on_is_an_error():
    with pytest.raises(RecipeError, match="none is left"):
        split_held_out(TASKS, HeldOut(tasks=("*",)))
