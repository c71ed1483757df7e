"""The computed tasks: which skill each draws its rows from, and how it is asked."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from flantune.demo.skills import (
    addition,
    comparison,
    lists,
    mood,
    number_word,
    numbers,
    reading,
    same_value,
    spelling,
    story,
    subtraction,
    tense,
    topic,
    truth,
)
from flantune.demo.world import Row, Skill, keyed

ROWS = 160  # per computed task


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A recipe for rows: `make` draws one row and its line of prose."""

    name: str
    category: str
    make: Callable[[random.Random], tuple[Row, str]]
    wordings: tuple[str, ...]
    rationale_wordings: tuple[str, ...] = ()
    held_out: bool = False


COMPUTED = (
    Computed(
        name="numbers_next",
        category="numbers",
        held_out=True,
        make=numbers(lambda n: str(n + 1), "Counting on from {n} gives {y}. The number after {n} is {y}."),
        wordings=(
            "Tell me the number after {number}.",
            "I count on from {number}. Which number comes?",
            "Please state the number that follows {number}.",
            "{number} is said; now say the number after it.",
        ),
    ),
    Computed(
        name="numbers_double",
        category="numbers",
        held_out=True,
        make=numbers(lambda n: str(2 * n), "The double of {n} is {y}. Twice {n} makes {y}."),
        wordings=(
            "Tell me the double of {number}.",
            "Which number is twice {number}?",
            "Please state the double of {number}.",
            "I take {number} twice. What does that make?",
        ),
    ),
    Computed(
        name="numbers_word",
        category="numbers",
        held_out=True,
        make=numbers(number_word, "The number {n} is written {y}. In words {n} is {y}."),
        wordings=(
            "Tell me how {number} is written in words.",
            "Spell out the number {number} in words, please.",
            "Which words stand for the number {number}?",
            "I write {number} in words. What do I write?",
        ),
    ),
    Computed(
        name="numbers_parity",
        category="numbers",
        held_out=True,
        make=numbers(lambda n: "even" if n % 2 == 0 else "odd", "The number {n} is {y}. Among the {y} numbers is {n}."),
        wordings=(
            "Tell me whether {number} is even or odd.",
            "Is the number {number} even or odd, please?",
            "Please state whether the number {number} is even or odd.",
            "I look at the number {number}. Even or odd?",
        ),
    ),
    Computed(
        name="spelling_first",
        category="spelling",
        make=spelling(lambda w: w[0], "The word {w} begins with the letter {y}."),
        wordings=(
            "What is the first letter of {word}?",
            "Give the letter that {word} begins with.",
            "{word}\nFirst letter:",
            "Write down the first letter of this word: {word}",
        ),
    ),
    Computed(
        name="spelling_last",
        category="spelling",
        make=spelling(lambda w: w[-1], "The word {w} ends with the letter {y}."),
        wordings=(
            "What is the last letter of {word}?",
            "Give the letter that {word} ends with.",
            "{word}\nLast letter:",
            "Write down the last letter of this word: {word}",
        ),
    ),
    Computed(
        name="spelling_apart",
        category="spelling",
        make=spelling(" ".join, "Letter by letter {w} reads {y}."),
        wordings=(
            "Spell the word {word}.",
            "Write {word} letter by letter.",
            "{word}\nLetters:",
            "Take the word {word} apart into its letters.",
        ),
    ),
    Computed(
        name="lists_first",
        category="lists",
        make=lists(lambda i: i[0], "In the list {l} the first is {y}."),
        wordings=(
            "What is the first item of this list? {list}",
            "List: {list}\nGive the first item.",
            "Name what stands first: {list}",
            "{list}\nFirst:",
        ),
    ),
    Computed(
        name="lists_last",
        category="lists",
        make=lists(lambda i: i[-1], "In the list {l} the last is {y}."),
        wordings=(
            "What is the last item of this list? {list}",
            "List: {list}\nGive the last item.",
            "Name what stands last: {list}",
            "{list}\nLast:",
        ),
    ),
    Computed(
        name="lists_count",
        category="lists",
        make=lists(lambda i: str(len(i)), "The list {l} has {y} items."),
        wordings=(
            "How many items are in this list? {list}",
            "Count the items: {list}",
            "List: {list}\nNumber of items:",
            "Give the length of the list {list}.",
        ),
    ),
    Computed(
        name="lists_reverse",
        category="lists",
        make=lists(lambda i: ", ".join(reversed(i)), "Backwards the list {l} reads {y}."),
        wordings=(
            "Reverse this list: {list}",
            "List: {list}\nWrite it backwards.",
            "Turn the order around: {list}",
            "{list}\nBackwards:",
        ),
    ),
    Computed(
        name="arithmetic_add",
        category="arithmetic",
        make=addition,
        wordings=("What is {a} + {b}?", "Add {a} and {b}.", "{a} plus {b} is", "How much do {a} and {b} make?"),
    ),
    Computed(
        name="arithmetic_subtract",
        category="arithmetic",
        make=subtraction,
        wordings=("What is {a} - {b}?", "Subtract {b} from {a}.", "{a} minus {b} is", "How much is {a} without {b}?"),
    ),
    Computed(
        name="arithmetic_compare",
        category="arithmetic",
        make=comparison,
        wordings=(
            "Which number is larger, {a} or {b}?{options_}",
            "Pick the larger of {a} and {b}.{options_}",
            "{a} or {b}: write the larger one.{options_}",
            "Compare {a} with {b} and give the larger number.{options_}",
        ),
    ),
    Computed(
        name="arithmetic_story",
        category="arithmetic",
        make=story,
        wordings=(
            "{story} How many are there now?",
            "Read: {story}\nGive the number at the end.",
            "{story}\nNumber now:",
            "Work out what is left. {story}",
        ),
        rationale_wordings=(
            "{story} How many are there now? Think step by step.",
            "Read: {story}\nExplain, then give the number at the end.",
            "{story}\nReason first, then answer.",
            "Show your steps. {story} How many now?",
        ),
    ),
    Computed(
        name="reading_who",
        category="reading",
        make=reading(0, 1, "The {g} is with {y}."),
        wordings=(
            "{text}\nWho took the {given}?",
            "Read the text and name who took the {given}.\n{text}",
            "{text}\nThe {given} was taken by",
            "Who has the {given}? Text: {text}",
        ),
    ),
    Computed(
        name="reading_what",
        category="reading",
        make=reading(1, 0, "{g} took the {y}."),
        wordings=(
            "{text}\nWhat did {given} take?",
            "Read the text and name what {given} took.\n{text}",
            "{text}\n{given} took the",
            "Which thing does {given} have? Text: {text}",
        ),
    ),
    Computed(
        name="reading_where",
        category="reading",
        make=reading(2, 1, "The {g} is in the {y}."),
        wordings=(
            "{text}\nWhere is the {given}?",
            "Read the text and name the place of the {given}.\n{text}",
            "{text}\nThe {given} is in the",
            "In which place is the {given}? Text: {text}",
        ),
    ),
    Computed(
        name="sentences_mood",
        category="sentences",
        make=mood,
        wordings=(
            "What is the mood of this sentence? {sentence}{options_}",
            "{sentence}\nGive the mood.{options_}",
            "Does this sound positive or negative? {sentence}{options_}",
            "Sentence: {sentence}\nMood:{options_}",
        ),
    ),
    Computed(
        name="sentences_tense",
        category="sentences",
        make=tense,
        wordings=(
            "Of which time does this sentence speak? {sentence}{options_}",
            "{sentence}\nGive the tense.{options_}",
            "Say whether this is past, present or future: {sentence}{options_}",
            "Sentence: {sentence}\nTime:{options_}",
        ),
    ),
    Computed(
        name="sentences_topic",
        category="sentences",
        make=topic,
        wordings=(
            "What is the topic of this sentence? {sentence}{options_}",
            "{sentence}\nGive the topic.{options_}",
            "Name what this is about: {sentence}{options_}",
            "Sentence: {sentence}\nTopic:{options_}",
        ),
    ),
    Computed(
        name="truth_claim",
        category="truth",
        make=truth,
        wordings=(
            "Is it true that {claim}?{options_}",
            "Claim: {claim}\nRight?{options_}",
            "Check the claim that {claim}.{options_}",
            "Somebody says {claim}. Is this so?{options_}",
        ),
        rationale_wordings=(
            "Is it true that {claim}? Think step by step.{options_}",
            "Claim: {claim}\nState the fact, then answer yes or no.{options_}",
            "Check the claim that {claim}. Explain first.{options_}",
            "Somebody says {claim}. Reason, then answer.{options_}",
        ),
    ),
    Computed(
        name="truth_same",
        category="truth",
        make=same_value,
        wordings=(
            "Do {first} and {second} have the same {what}?{options_}",
            "Compare {first} and {second}: is the {what} the same?{options_}",
            "{first}, {second}\nSame {what}?{options_}",
            "Say yes if {first} and {second} share the {what}, else no.{options_}",
        ),
        rationale_wordings=(
            "Do {first} and {second} have the same {what}? Think step by step.{options_}",
            "Compare {first} and {second}: is the {what} the same? Explain first.{options_}",
            "{first}, {second}\nSame {what}? Give reasons, then answer.{options_}",
            "Reason about the {what} of {first} and {second}, then say whether they are the same.{options_}",
        ),
    ),
)


def computed_skills(seed: int) -> list[Skill]:
    """ROWS distinct rows of each computed skill, or as many as there are."""
    skills = []
    for spec in COMPUTED:
        rng = keyed(seed, "rows", spec.name)
        rows: dict[str, Row] = {}
        for _ in range(20 * ROWS):
            row, _prose = spec.make(rng)
            rows.setdefault(repr(sorted(row.fields.items())), row)
            if len(rows) == ROWS:
                break
        skills.append(
            Skill(
                name=spec.name,
                category=spec.category,
                language="en",
                held_out=spec.held_out,
                rows=tuple(rows.values()),
                wordings=spec.wordings,
                rationale_wordings=spec.rationale_wordings,
            )
        )
    return skills
