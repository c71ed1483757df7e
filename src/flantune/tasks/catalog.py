"""Tasks as JSON and back, whole: demonstrations and own templates included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flantune.types import Example, FewShotLayout, Task, Template


def task_to_json(task: Task) -> dict[str, Any]:
    return asdict(task)


def task_from_json(value: Mapping[str, Any]) -> Task:
    """The inverse of `task_to_json`, lists being tuples again."""
    return Task(
        **{
            **value,
            "fields": tuple(value["fields"]),
            "demonstrations": tuple(example_from_json(e) for e in value["demonstrations"]),
            "own_templates": tuple(
                Template(**{**t, "few_shot": FewShotLayout(**t["few_shot"])}) for t in value["own_templates"]
            ),
        }
    )


def example_from_json(value: Mapping[str, Any]) -> Example:
    options = value["options"]
    return Example(
        **{**value, "targets": tuple(value["targets"]), "options": None if options is None else tuple(options)}
    )
