"""The embedded world: tables of facts, and the tasks and wordings that ask for them.

A world is a list of `Skill`s. A skill is one task: its rows (question fields, answer, perhaps options and a rationale),
its wordings, and the sentences of plain prose that state what it asks for. Tasks become files of the native format
(flantune.demo.files), prose becomes the base model's pretraining text (flantune.demo.prose).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    fields: Mapping[str, str]
    answer: str
    options: tuple[str, ...] | None = None
    rationale: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """One task of the world. Wordings and rationale wordings are input patterns over the rows' fields."""

    name: str
    category: str
    language: str
    held_out: bool
    rows: tuple[Row, ...]
    wordings: tuple[str, ...]
    rationale_wordings: tuple[str, ...] = ()
    rationale_target: str = "{rationale} So the answer is {answer}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A column of a fact table: subject -> value, and how prose says it."""

    name: str
    category: str
    kind: str
    phrase: str
    language: str
    held_out: bool
    pairs: tuple[tuple[str, str], ...]
    say: tuple[str, ...]
    ask: tuple[str, ...]
    options: tuple[str, ...] | None  # in order of first appearance


# Wordings that every relation may take, four to a task in turn. Held-out categories are asked in words of their own:
# no pattern of the second list is ever trained on.
FRAMES = {
    ("en", False): (
        "What is the {phrase} of {x}?",
        "Give the {phrase} of {x}.",
        "{x}\nWrite the {phrase}.",
        "Find the {phrase} of the {kind} {x}.",
        "Name the {phrase} of the {kind} {x}.",
        "The {kind} is {x}. Its {phrase} is",
        "Say the {phrase} that goes with {x}.",
        "Complete: the {phrase} of {x} is",
        "{kind}: {x}\n{phrase}:",
        "Answer with the {phrase} of {x}.",
        "What {phrase} does {x} have?",
        "Look at the {kind} {x} and write down the {phrase}.",
    ),
    ("en", True): (
        "Tell me the {phrase} of the {kind} {x}.",
        "Which {phrase} belongs to {x}?",
        "Please state the {phrase} of {x}.",
        "I would like to know the {phrase} of the {kind} {x}.",
    ),
    ("zh", False): (
        "{x}的{phrase}是什么?",
        "写出{x}的{phrase}。",
        "{kind}:{x}\n{phrase}:",
        "{x}的{phrase}是",
        "说一说{x}的{phrase}。",
        "请填空:{x}的{phrase}是___。",
    ),
    ("zh", True): (
        "请告诉我{x}的{phrase}。",
        "我想知道{x}的{phrase}。",
        "{x}有什么{phrase}?",
        "关于{x},回答它的{phrase}。",
    ),
}
FRAMES_PER_TASK = 4


@cache
def relations() -> tuple[Relation, ...]:
    """Every column of facts.yaml, in file order."""
    tables = yaml.safe_load(files("flantune.demo").joinpath("facts.yaml").read_text(encoding="utf-8"))
    found = []
    for table in tables:
        lines = [[cell.strip() for cell in line.split("|")] for line in table["rows"].strip().split("\n")]
        for place, (name, column) in enumerate(table["columns"].items(), start=1):
            pairs = tuple((line[0], line[place]) for line in lines)
            found.append(
                Relation(
                    name=f"{table['category']}_{name}",
                    category=table["category"],
                    kind=table["kind"],
                    phrase=column["phrase"],
                    language=table.get("language", "en"),
                    held_out=table.get("held_out", False),
                    pairs=pairs,
                    say=tuple(column["say"]),
                    ask=tuple(column["ask"]),
                    options=tuple(dict.fromkeys(y for _, y in pairs)) if column.get("options") else None,
                )
            )
    return tuple(found)


def relation_wordings(relation: Relation, place: int) -> tuple[str, ...]:
    """The relation's own wordings, then frames in turn from `place`, with {subject} for the subject."""
    frames = FRAMES[relation.language, relation.held_out]
    turn = [frames[(place + i) % len(frames)] for i in range(FRAMES_PER_TASK)]
    worded = [w.replace("{phrase}", relation.phrase).replace("{kind}", relation.kind) for w in turn]
    return tuple(w.replace("{x}", "{subject}") for w in (*relation.ask, *worded))


def relation_skills() -> list[Skill]:
    skills = []
    for place, relation in enumerate(relations()):
        rows = tuple(Row(fields={"subject": x}, answer=y, options=relation.options) for x, y in relation.pairs)
        skills.append(
            Skill(
                name=relation.name,
                category=relation.category,
                language=relation.language,
                held_out=relation.held_out,
                rows=rows,
                wordings=relation_wordings(relation, place * FRAMES_PER_TASK),
            )
        )
    return skills


def keyed(seed: int, *names: str) -> random.Random:
    """A generator of its own for each name, so that adding a skill changes no other."""
    return random.Random(":".join([str(seed), *names]))


def world(seed: int = 0) -> tuple[Skill, ...]:
    """Every skill: the relations of the tables, then the computed ones."""
    from flantune.demo.computed import computed_skills

    return (*relation_skills(), *computed_skills(seed))
