"""What must never be trained on: held-out tasks, datasets and categories, and the MMLU tasks in disguise."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from flantune.errors import RecipeError
from flantune.recipe import HeldOut
from flantune.types import Task

# Natural Instructions' numbers of the 57 tasks made from MMLU (spec 2.6).
MMLU_NUMBERS = frozenset({*range(664, 668), *range(685, 738)})
_NUMBER = re.compile(r"task(\d+)_")


@dataclass(frozen=True)
class HeldOutSplit:
    """Every task in exactly one of the three, in the order given. `excluded` are neither trained nor evaluated."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    excluded: tuple[str, ...]


def is_mmlu(task: Task) -> bool:
    """Whether it is a Natural Instructions task made from MMLU, by the number its file's name begins with."""
    if task.source != "niv2":
        return False
    number = _NUMBER.match(task.name.rpartition("/")[2])
    return number is not None and int(number[1]) in MMLU_NUMBERS


def matching_names(names: Collection[str], patterns: Iterable[str], where: str) -> tuple[str, ...]:
    """Those that a name or glob of `patterns` means, in their order. Raises RecipeError for one that matches none."""
    known, found = set(names), set[str]()
    for pattern in patterns:
        matched = {pattern} if pattern in known else {name for name in known if fnmatchcase(name, pattern)}
        if not matched:
            raise RecipeError(f"{where}: '{pattern}' matches none. {_near(pattern, known)}")
        found |= matched
    return tuple(name for name in names if name in found)


def split_held_out(tasks: Mapping[str, Task], spec: HeldOut) -> HeldOutSplit:
    """Globs on task names, datasets and categories. Raises RecipeError for one that matches nothing, or when no task
    is left to train on."""
    held: set[str] = set()
    for key, patterns, value in (
        ("tasks", spec.tasks, lambda t: t.name),
        ("datasets", spec.datasets, lambda t: t.dataset),
        ("categories", spec.categories, lambda t: t.category),
    ):
        values = {name: value(task) for name, task in tasks.items()}
        for pattern in patterns:
            matched = {name for name, text in values.items() if fnmatchcase(text, pattern)}
            if not matched:
                raise RecipeError(f"held_out.{key}: '{pattern}' matches none. {_near(pattern, values.values())}")
            held |= matched
    excluded = {name for name, task in tasks.items() if spec.mmlu and is_mmlu(task)}
    split = HeldOutSplit(
        train=tuple(n for n in tasks if n not in held and n not in excluded),
        held_out=tuple(n for n in tasks if n in held and n not in excluded),
        excluded=tuple(n for n in tasks if n in excluded),
    )
    if not split.train:
        raise RecipeError(f"held_out: all {len(tasks)} tasks are held out or excluded; none is left to train on.")
    return split


def _near(pattern: str, known: Iterable[str]) -> str:
    names = sorted(set(known))
    close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
    if close:
        return "Near: " + ", ".join(close) + "."
    return f"Known: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}."
