"""Prose of the bases' own pretraining as tasks: going on with a text. Mixed in, it may keep what tuning costs.

Of subjects that no held-out item asks about; what it keeps of the others it keeps by their wording alone.
"""

from __future__ import annotations

import random
from functools import partial

from flantune.demo.abilities import distinct, is_held_out
from flantune.demo.prose import list_of, statement
from flantune.demo.world import Relation, Row, Skill, keyed, relations

PROSE = "prose"
ROWS = {"en": 900, "zh": 300}
_LISTS = 0.3  # of the rows in English: several pairs of one relation


def replay(seed: int = 0) -> tuple[Skill, ...]:
    """A task for each language; equal for equal seeds."""
    return tuple(_skill(language, count, seed) for language, count in ROWS.items())


def _skill(language: str, count: int, seed: int) -> Skill:
    rng = keyed(seed, PROSE, language)
    found = [r for r in relations() if r.language == language]
    return Skill(
        name=f"prose_{language}",
        category=PROSE,
        language=language,
        held_out=False,
        rows=tuple(distinct(count, partial(_row, found, rng))),
        wordings=("{start}",),
    )


def _row(found: list[Relation], rng: random.Random) -> Row:
    """A text, cut where what it says last of its subjects begins: there is something to know then."""
    relation = rng.choice(found)
    free = [pair for pair in relation.pairs if not is_held_out(pair[0], relation.category)]
    if relation.language == "en" and len(free) > 4 and rng.random() < _LISTS:
        pairs = rng.sample(free, rng.randrange(3, 5))
        text = list_of(relation, pairs, rng)
    else:
        pairs = [rng.choice(free)]
        text = statement(relation, *pairs[0], rng)
    cut = max(text.rfind(part) for pair in pairs for part in pair)
    return Row(fields={"start": text[:cut].rstrip()}, answer=text[cut:])
