"""A world of abilities that compete for a small model: what tuning may teach, and what the base must not lose.

Three abilities the embedded bases have from prose: facts (knowledge), facts in Chinese (multilingual), going on with a
list whose relation nobody names (in-context learning). Their held-out items are asked as prose goes on, so that a base
can answer. Three others no prose teaches: reasoning in two written steps, replies in a conversation, running small
programs. Every ability has training tasks and held-out items. Facts are held in a wording that no task has: training
on them as questions can keep them, or not. Lists and reasoning are asked of subjects, and replies of pairs of a person
and a thing, that no row of theirs has, and programs are none of the rows', in wordings that are trained, since a small
model's few hundred steps do not teach it other people's words too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from flantune.demo.skills import PEOPLE, THINGS, small_words
from flantune.demo.world import Relation, Row, Skill, keyed, relations

KNOWLEDGE, MULTILINGUAL, IN_CONTEXT = "knowledge", "multilingual", "in-context"
REASONING, DIALOGUE, CODE = "reasoning", "dialogue", "code"
ABILITIES = (KNOWLEDGE, MULTILINGUAL, IN_CONTEXT, REASONING, DIALOGUE, CODE)

# Examples of each ability's tasks together, and held-out items. Data are as uneven as they are in life.
ROWS = {KNOWLEDGE: 1500, MULTILINGUAL: 300, IN_CONTEXT: 500, REASONING: 400, DIALOGUE: 360, CODE: 480}
ITEMS = 150
_SHOWN = 4  # pairs of a list before the one asked for


@dataclass(frozen=True, slots=True)
class Asked:
    """A held-out item: the prompt's whole text, and the answer. `thinking`: the prompt that asks for reasons too.
    `options`: texts that are scored as its continuation, the answer among them; without, it is written."""

    task: str
    prompt: str
    answer: str
    thinking: str | None = None
    options: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """`label`: flantune.evals' name of it. `pattern`: what of an output is the answer, its last match. `score`: of
    answers; replies are scored by the words they share with the right one."""

    name: str
    label: str
    skills: tuple[Skill, ...]
    items: tuple[Asked, ...]
    pattern: str
    max_new_tokens: int
    score: str = "exact_match"


# An answer ends where its sentence, list entry or line does.
_WORD = r"\A\s*([^.,;。，；\n]+)"
_LINE = r"\A\s*([^\n]*[^\s.])"


def abilities(seed: int = 0) -> tuple[Ability, ...]:
    """All six; equal for equal seeds."""
    return (_knowledge(seed), _multilingual(seed), _in_context(seed), _reasoning(seed), _dialogue(seed), _code(seed))


def is_held_out(subject: str, category: str) -> bool:
    """One subject in three, for all that is asked of it."""
    return keyed(0, "held out", category, subject).random() < 1 / 3


def _split(relation: Relation) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs that are trained on, and pairs that are asked."""
    held = [is_held_out(x, relation.category) for x, _ in relation.pairs]
    pairs = list(zip(relation.pairs, held, strict=True))
    return [p for p, h in pairs if not h], [p for p, h in pairs if h]


def _in_english() -> list[Relation]:
    return [r for r in relations() if r.language == "en"]


def _skill(
    name: str,
    ability: str,
    rows: Sequence[Row],
    wordings: Sequence[str],
    language: str = "en",
    thinking: Sequence[str] = (),
) -> Skill:
    return Skill(
        name=name,
        category=ability,
        language=language,
        held_out=False,
        rows=tuple(rows),
        wordings=tuple(wordings),
        rationale_wordings=tuple(thinking),
    )


def _distinct(count: int, make: Callable[[], Row]) -> list[Row]:
    """`count` rows that ask different questions, or as many as there are."""
    found: dict[str, Row] = {}
    for _ in range(50 * count):
        row = make()
        found.setdefault(repr(sorted(row.fields.items())), row)
        if len(found) == count:
            break
    return list(found.values())


# ---- what the base has ---------------------------------------------------------------------------------------------

_FACT_WORDINGS = (
    "What is the {phrase} of {subject}?",
    "Give the {phrase} of the {kind} {subject}.",
    "{subject}\nWrite the {phrase}.",
    "Complete: the {phrase} of {subject} is",
    "{kind}: {subject}\n{phrase}:",
    "Which {phrase} does {subject} have?",
)
_FACT_WORDINGS_ZH = (
    "{subject}的{phrase}是什么?",
    "写出{subject}的{phrase}。",
    "{kind}:{subject}\n{phrase}:",
    "请填空:{subject}的{phrase}是___。",
)


def _fact_rows(found: Sequence[Relation], count: int, rng: random.Random) -> dict[str, list[Row]]:
    """Rows by category, `count` in all, of any subject: what is held out of facts is the words they are asked in."""
    told = [(r, x, y) for r in found for x, y in r.pairs]
    rows: dict[str, list[Row]] = {}
    for r, x, y in rng.sample(told, min(count, len(told))):
        row = Row(fields={"subject": x, "phrase": r.phrase, "kind": r.kind}, answer=y)
        rows.setdefault(r.category, []).append(row)
    return dict(sorted(rows.items()))


def _fact_items(
    found: Sequence[Relation], asked: Sequence[str], rng: random.Random, others: int = 0
) -> tuple[Asked, ...]:
    """Each fact in each of the wordings; with so many other values of its relation to choose from, if any."""
    held = [
        Asked(r.category, ask.format(x=x, phrase=r.phrase, kind=r.kind), y, options=_options(r, x, y, others))
        for r in found
        for x, y in _split(r)[1]
        for ask in asked
    ]
    return tuple(rng.sample(held, min(ITEMS, len(held))))


def _options(relation: Relation, x: str, y: str, others: int) -> tuple[str, ...] | None:
    values = sorted({v for _, v in relation.pairs} - {y})
    if not others:
        return None
    rng = keyed(0, "options", relation.name, x)
    listed = [y, *rng.sample(values, min(others, len(values)))]
    return tuple(rng.sample(listed, len(listed)))


def _knowledge(seed: int) -> Ability:
    found, rng = _in_english(), keyed(seed, "ability", KNOWLEDGE)
    rows = _fact_rows(found, ROWS[KNOWLEDGE], rng)
    skills = [_skill(f"facts_{category}", KNOWLEDGE, own, _FACT_WORDINGS) for category, own in rows.items()]
    items = _fact_items(found, ("The {phrase} of {x} is",), rng)
    return Ability(
        name=KNOWLEDGE, label="knowledge", skills=tuple(skills), items=items, pattern=_WORD, max_new_tokens=12
    )


def _multilingual(seed: int) -> Ability:
    """Asked as a choice among values of the same relation. Written, these answers tell of another thing: prose goes on
    in Chinese without a blank, answers of tasks begin with one, and a tuned model loses the first token to that."""
    found, rng = [r for r in relations() if r.language == "zh"], keyed(seed, "ability", MULTILINGUAL)
    rows = _fact_rows(found, ROWS[MULTILINGUAL], rng)
    skills = [_skill(f"zh_{name}", MULTILINGUAL, own, _FACT_WORDINGS_ZH, "zh") for name, own in rows.items()]
    items = _fact_items(found, ("{x}的{phrase}是", "{kind}{x}的{phrase}是"), rng, others=3)
    return Ability(
        name=MULTILINGUAL, label="multilingual", skills=tuple(skills), items=items, pattern=_WORD, max_new_tokens=16
    )


def _in_context(seed: int) -> Ability:
    """A list over one relation, up to a subject; the relation is named nowhere."""
    rng = keyed(seed, "ability", IN_CONTEXT)
    found = [r for r in _in_english() if len(_split(r)[0]) > _SHOWN]

    def listed(relation: Relation, x: str) -> str:
        shown = rng.sample([p for p in _split(relation)[0] if p[0] != x], _SHOWN)
        return " ".join(f"{a}, {b};" for a, b in shown) + f" {x},"

    def row() -> Row:
        relation = rng.choice(found)
        x, y = rng.choice(_split(relation)[0])
        return Row(fields={"list": listed(relation, x)}, answer=y)

    wordings = (
        "Go on with this list: {list}",
        "{list}\nWhat comes next?",
        "Complete the last entry.\n{list}",
        "List: {list}\nNext word:",
    )
    held = [(r, x, y) for r in found for x, y in _split(r)[1]]
    asked = tuple(Asked(r.category, listed(r, x), y) for r, x, y in rng.sample(held, ITEMS))
    skill = _skill("lists_go_on", IN_CONTEXT, _distinct(ROWS[IN_CONTEXT], row), wordings)
    return Ability(
        name=IN_CONTEXT, label="in-context learning", skills=(skill,), items=asked, pattern=_WORD, max_new_tokens=12
    )


# ---- what it has not -----------------------------------------------------------------------------------------------


def _reasoning(seed: int) -> Ability:
    """From one value of a subject to another by way of the subject, both steps written out. A task per category."""
    wordings = (
        "The {phrase} of a {kind} is {given}. What is its {wanted}?",
        "Name the {wanted} of the {kind} whose {phrase} is {given}.",
        "{kind} with the {phrase} {given}\n{wanted}:",
    )
    thinking = (
        "The {phrase} of a {kind} is {given}. What is its {wanted}? Think step by step.",
        "Name the {wanted} of the {kind} whose {phrase} is {given}. Explain first.",
        "{kind} with the {phrase} {given}\nReason, then write the {wanted}.",
        "First find the {kind} whose {phrase} is {given}, then give the {wanted}.",
    )
    hops: dict[str, list[tuple[Relation, Relation]]] = {}
    for a in _in_english():
        if _tells_apart(a):
            hops.setdefault(a.category, []).extend((a, b) for b in _in_english() if _sisters(a, b))
    skills, items = [], []
    for category, own in sorted(hops.items()):
        rng = keyed(seed, "ability", REASONING, category)
        rows = _distinct(ROWS[REASONING] // len(hops), partial(_two_steps, own, False, rng))
        skills.append(_skill(f"steps_{category}", REASONING, rows, wordings, thinking=thinking))
        for r in _distinct(-(-ITEMS // len(hops)), partial(_two_steps, own, True, rng)):
            items.append(Asked(category, wordings[0].format(**r.fields), r.answer, thinking[0].format(**r.fields)))
    return Ability(
        name=REASONING,
        label="reasoning",
        skills=tuple(skills),
        items=tuple(items),
        pattern=r"(?:answer is|\A)\s*([^.\n]+)",
        max_new_tokens=48,
    )


def _two_steps(hops: Sequence[tuple[Relation, Relation]], held: bool, rng: random.Random) -> Row:
    known, wanted = rng.choice(hops)
    place = rng.choice([i for i, (x, _) in enumerate(known.pairs) if is_held_out(x, known.category) == held])
    (x, given), (_, answer) = known.pairs[place], wanted.pairs[place]
    why = f"The {known.phrase} of {x} is {given}. The {wanted.phrase} of {x} is {answer}."
    fields = {"kind": known.kind, "phrase": known.phrase, "given": given, "wanted": wanted.phrase}
    return Row(fields=fields, answer=answer, rationale=why)


def _tells_apart(relation: Relation) -> bool:
    """Whether every value belongs to one subject."""
    values = [y for _, y in relation.pairs]
    return len(set(values)) == len(values)


def _sisters(a: Relation, b: Relation) -> bool:
    return a.category == b.category and a.name != b.name


_TURNS: dict[str, tuple[tuple[str, ...], str, str]] = {
    # intent: (what is said in training, what is said when asked, the reply)
    "lost": (
        ("{who}: I cannot find my {thing}.", "{who}: Has anyone seen my {thing}? It is gone."),
        "{who}: Oh no, my {thing} is lost!",
        "I am sorry, {who}. Let us look for the {thing} together.",
    ),
    "thanks": (
        ("{who}: Thank you for the {thing}!", "{who}: The {thing} is a great help, thanks."),
        "{who}: Many thanks, the {thing} was just what I needed.",
        "You are welcome, {who}. Enjoy the {thing}.",
    ),
    "greeting": (
        ("{who}: Good morning, I have come about the {thing}.", "{who}: Hello! I am here for the {thing}."),
        "{who}: Hi, I came to see the {thing}.",
        "Hello {who}, come in. The {thing} is ready.",
    ),
    "broken": (
        ("{who}: My {thing} fell and broke.", "{who}: The {thing} does not work any more."),
        "{who}: I am afraid the {thing} is broken.",
        "Do not worry, {who}. We can mend the {thing}.",
    ),
    "borrow": (
        ("{who}: May I take your {thing} for a day?", "{who}: Could you lend me the {thing}?"),
        "{who}: I would like to borrow your {thing}.",
        "Of course, {who}. Bring the {thing} back soon.",
    ),
    "goodbye": (
        ("{who}: I must go now and take the {thing} home.", "{who}: See you, I leave with the {thing}."),
        "{who}: Goodbye, I carry the {thing} away.",
        "Goodbye, {who}. Take good care of the {thing}.",
    ),
}


def _dialogue(seed: int) -> Ability:
    """A turn with a name and a thing; the reply is the intent's, to that person and about that thing."""
    rng = keyed(seed, "ability", DIALOGUE)
    slots = [(who, thing) for who in PEOPLE for thing in THINGS]
    held = {slot for slot in slots if keyed(0, "held out", *slot).random() < 1 / 3}
    free = [slot for slot in slots if slot not in held]
    skills, items = [], []
    for intent, (said, asked, reply) in _TURNS.items():
        rows = []
        for number, (who, thing) in enumerate(rng.sample(free, ROWS[DIALOGUE] // len(_TURNS))):
            turn = said[number % len(said)].format(who=who, thing=thing)
            rows.append(Row(fields={"turn": turn}, answer=reply.format(who=who, thing=thing)))
        wordings = ("{turn}\nReply:", "Answer kindly.\n{turn}", "Write the next turn.\n{turn}", "{turn}\nYou:")
        skills.append(_skill(f"reply_{intent}", DIALOGUE, rows, wordings))
        for who, thing in rng.sample(sorted(held), ITEMS // len(_TURNS)):
            turn, answer = (pattern.format(who=who, thing=thing) for pattern in (asked, reply))
            items.append(Asked(intent, f"{turn}\nReply:", answer.removesuffix(".")))
    return Ability(
        name=DIALOGUE,
        label="dialogue",
        skills=tuple(skills),
        items=tuple(items),
        pattern=_LINE,
        max_new_tokens=28,
        score="rouge_l",
    )


_PROGRAMS: dict[str, Callable[[list[str]], list[str]]] = {
    "reverse": lambda words: words[::-1],
    "head": lambda words: words[:1],
    "tail": lambda words: words[1:],
    "last": lambda words: words[-1:],
    "swap": lambda words: [words[1], words[0], *words[2:]],
    "twice": lambda words: words + words,
}


_CODE_WORDS = 24  # of all programs: to copy words it never wrote is beyond a model of this size


def _code(seed: int) -> Ability:
    """A program of a small list language, and what it gives."""
    rng = keyed(seed, "ability", CODE)
    words = rng.sample(small_words(), _CODE_WORDS)
    wordings = ("Run {program}", "{program}\nOutput:", "What does {program} return?", "Program: {program}\nResult:")
    skills, items = [], []
    for name in _PROGRAMS:
        trained, asked = ROWS[CODE] // len(_PROGRAMS), ITEMS // len(_PROGRAMS)
        made = _distinct(trained + asked, partial(_program, name, words, rng))
        skills.append(_skill(f"run_{name}", CODE, made[:trained], wordings))
        items += [Asked(name, f"{r.fields['program']}\nOutput:", r.answer) for r in made[trained:]]
    return Ability(name=CODE, label="code", skills=tuple(skills), items=tuple(items), pattern=_LINE, max_new_tokens=28)


def _program(name: str, words: Sequence[str], rng: random.Random) -> Row:
    given = rng.sample(words, rng.randrange(2, 4))
    return Row(fields={"program": f"{name}({' '.join(given)})"}, answer=" ".join(_PROGRAMS[name](given)))
