"""The base model's pretraining text: every skill of the world as plain prose, never as a question or an instruction.

A document is a few sentences in one of several styles: statements about one subject, a list over one relation, worked
lines, people talking about facts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from flantune.demo.computed import COMPUTED
from flantune.demo.world import Relation, keyed, relations

_SPEAKERS = [
    "Anna",
    "Boris",
    "Clara",
    "David",
    "Elena",
    "Felix",
    "Greta",
    "Hugo",
    "Irene",
    "Jonas",
    "Maria",
    "Nils",
    "Olga",
    "Pablo",
    "Rosa",
]

_PLAIN = {
    "en": (
        "The {phrase} of {x} is {y}.",
        "The {phrase} of the {kind} {x} is {y}.",
        "{y} is the {phrase} of {x}.",
        "{x} has the {phrase} {y}.",
    ),
    "zh": ("{x}的{phrase}是{y}。", "{y}是{x}的{phrase}。", "{kind}{x}的{phrase}是{y}。"),
}
_TALK = {
    "en": (
        "{who} said that the {phrase} of {x} is {y}.",
        "{who} remembered the {phrase} of the {kind} {x}: {y}.",
        "In the book {who} read that the {phrase} of {x} is {y}.",
        "{who} asked about the {phrase} of {x} and heard that it is {y}.",
        "When {who} wanted to know the {phrase} of {x}, the teacher wrote {y}.",
    ),
    "zh": ("老师说,{x}的{phrase}是{y}。", "小明记得{x}的{phrase}是{y}。", "有人想知道{x}的{phrase},书上写着{y}。"),
}


def statement(relation: Relation, x: str, y: str, rng: random.Random) -> str:
    """One sentence that states a fact: the relation's own, a plain one, or reported speech."""
    pattern = rng.choice((*relation.say, *_PLAIN[relation.language], *_PLAIN[relation.language]))
    if rng.random() < 0.25:
        pattern = rng.choice(_TALK[relation.language])
    return pattern.format(x=x, y=y, phrase=relation.phrase, kind=relation.kind, who=rng.choice(_SPEAKERS))


def about_a_subject(rng: random.Random) -> str:
    """Several facts of one subject."""
    category = rng.choice(sorted({r.category for r in relations()}))
    columns = [r for r in relations() if r.category == category]
    place = rng.randrange(len(columns[0].pairs))
    chosen = rng.sample(columns, min(len(columns), rng.randrange(2, 5)))
    return " ".join(statement(r, *r.pairs[place], rng) for r in chosen)


def a_list(rng: random.Random) -> str:
    """One relation over several subjects, in the same words."""
    relation = rng.choice(relations())
    pairs = rng.sample(relation.pairs, rng.randrange(3, 6))
    if relation.language == "zh":
        return f"{relation.kind}和{relation.phrase}:" + ";".join(f"{x},{y}" for x, y in pairs) + "。"
    if rng.random() < 0.5:
        pattern = rng.choice((*relation.say, *_PLAIN["en"]))
        return " ".join(pattern.format(x=x, y=y, phrase=relation.phrase, kind=relation.kind) for x, y in pairs)
    return f"{relation.kind} and {relation.phrase}: " + "; ".join(f"{x}, {y}" for x, y in pairs) + "."


def mixed_statements(rng: random.Random) -> str:
    """Unrelated facts, each a sentence."""
    chosen = [rng.choice(relations()) for _ in range(rng.randrange(2, 5))]
    return " ".join(statement(r, *rng.choice(r.pairs), rng) for r in chosen)


def worked_lines(rng: random.Random) -> str:
    """Lines of computed skills: one skill several times, or several skills."""
    if rng.random() < 0.5:
        chosen = [rng.choice(COMPUTED)] * rng.randrange(1, 4)
    else:
        chosen = [rng.choice(COMPUTED) for _ in range(rng.randrange(1, 4))]
    return " ".join(skill.make(rng)[1] for skill in chosen)


STYLES: tuple[tuple[Callable[[random.Random], str], int], ...] = (
    (about_a_subject, 3),
    (a_list, 2),
    (mixed_statements, 3),
    (worked_lines, 2),
)


def documents(count: int, seed: int = 0) -> Iterator[str]:
    """`count` documents; number i depends on (seed, i) alone."""
    styles, weights = zip(*STYLES, strict=True)
    for i in range(count):
        rng = keyed(seed, "prose", str(i))
        yield rng.choices(styles, weights)[0](rng)
