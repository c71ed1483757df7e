"""Skills whose rows are computed: numbers, spelling, lists, arithmetic, reading, sentences and the truth of facts.

Each has its line of prose beside it, so that pretraining has seen what the task asks for.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from flantune.demo.world import Relation, Row, Skill, keyed, relations

ROWS = 160  # per computed task

_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
]
_ONES += ["seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def number_word(n: int) -> str:
    """0 to 99 in English."""
    if n < 20:
        return _ONES[n]
    tens, ones = divmod(n, 10)
    return _TENS[tens - 2] + (f"-{_ONES[ones]}" if ones else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A recipe for rows: `make` draws one row and its line of prose."""

    name: str
    category: str
    make: Callable[[random.Random], tuple[Row, str]]
    wordings: tuple[str, ...]
    rationale_wordings: tuple[str, ...] = ()
    held_out: bool = False


def _words() -> list[str]:
    """Short English words of the trained tables: what is spelled and listed."""
    trained = [r for r in relations() if not r.held_out and r.language == "en"]
    cells = {cell for r in trained for pair in r.pairs for cell in pair}
    return sorted(w for w in cells if w.isascii() and w.isalpha() and w.islower() and 3 <= len(w) <= 7)


_PEOPLE = [
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
    "Katja",
    "Leo",
    "Maria",
    "Nils",
    "Olga",
    "Pablo",
]
_THINGS = [
    "key",
    "coin",
    "ring",
    "lamp",
    "box",
    "pot",
    "boot",
    "candle",
    "bottle",
    "towel",
    "mirror",
    "needle",
    "basket",
    "pillow",
    "brush",
    "knife",
]
_PLACES = ["kitchen", "garden", "cellar", "attic", "hall", "bedroom", "study", "barn", "school", "market"]


def _number(answer: Callable[[int], str], prose: str) -> Callable[[random.Random], tuple[Row, str]]:
    def make(rng: random.Random) -> tuple[Row, str]:
        n = rng.randrange(1, 50)
        return Row(fields={"number": str(n)}, answer=answer(n)), prose.format(n=n, y=answer(n))

    return make


def _spelling(answer: Callable[[str], str], prose: str) -> Callable[[random.Random], tuple[Row, str]]:
    words = _words()

    def make(rng: random.Random) -> tuple[Row, str]:
        w = rng.choice(words)
        return Row(fields={"word": w}, answer=answer(w)), prose.format(w=w, y=answer(w))

    return make


def _list(answer: Callable[[list[str]], str], prose: str) -> Callable[[random.Random], tuple[Row, str]]:
    words = _words()

    def make(rng: random.Random) -> tuple[Row, str]:
        items = rng.sample(words, rng.randrange(3, 6))
        listed = ", ".join(items)
        return Row(fields={"list": listed}, answer=answer(items)), prose.format(l=listed, y=answer(items))

    return make


def _add(rng: random.Random) -> tuple[Row, str]:
    a, b = rng.randrange(1, 21), rng.randrange(1, 21)
    return Row(fields={"a": str(a), "b": str(b)}, answer=str(a + b)), f"{a} and {b} make {a + b}."


def _subtract(rng: random.Random) -> tuple[Row, str]:
    a, b = rng.randrange(1, 21), rng.randrange(1, 21)
    return Row(fields={"a": str(a + b), "b": str(b)}, answer=str(a)), f"{a + b} without {b} leaves {a}."


def _compare(rng: random.Random) -> tuple[Row, str]:
    a, b = rng.sample(range(1, 60), 2)
    row = Row(fields={"a": str(a), "b": str(b)}, answer=str(max(a, b)), options=(str(a), str(b)))
    return row, f"Of {a} and {b} the larger is {max(a, b)}."


def _story(rng: random.Random) -> tuple[Row, str]:
    who, thing = rng.choice(_PEOPLE), rng.choice(_THINGS)
    a, b = rng.randrange(2, 13), rng.randrange(2, 13)
    if rng.random() < 0.5:
        text = f"{who} has {a} of the {thing} kind and gets {b} more."
        steps, answer = f"{a} and {b} make {a + b}.", a + b
    else:
        text = f"{who} has {a + b} of the {thing} kind and loses {b}."
        steps, answer = f"{a + b} without {b} leaves {a}.", a
    return Row(fields={"story": text}, answer=str(answer), rationale=steps), f"{text} {steps} Now {who} has {answer}."


def _scene(rng: random.Random) -> tuple[str, list[tuple[str, str, str]]]:
    count = rng.randrange(2, 4)
    triples = list(zip(rng.sample(_PEOPLE, count), rng.sample(_THINGS, count), rng.sample(_PLACES, count), strict=True))
    return " ".join(f"{who} took the {thing} to the {place}." for who, thing, place in triples), triples


def _reading(asked: int, given: int, prose: str) -> Callable[[random.Random], tuple[Row, str]]:
    def make(rng: random.Random) -> tuple[Row, str]:
        text, triples = _scene(rng)
        chosen = rng.choice(triples)
        row = Row(fields={"text": text, "given": chosen[given]}, answer=chosen[asked])
        return row, f"{text} {prose.format(g=chosen[given], y=chosen[asked])}"

    return make


_GOOD = ["wonderful", "lovely", "delicious", "charming", "splendid", "cheerful"]
_BAD = ["terrible", "awful", "boring", "nasty", "horrible", "gloomy"]
_SUBJECTS = ["The meal", "The song", "The journey", "The book", "The party", "The garden", "The story", "The room"]


def _mood(rng: random.Random) -> tuple[Row, str]:
    good = rng.random() < 0.5
    sentence = f"{rng.choice(_SUBJECTS)} was {rng.choice(_GOOD if good else _BAD)}."
    answer = "positive" if good else "negative"
    row = Row(fields={"sentence": sentence}, answer=answer, options=("positive", "negative"))
    return row, f"{sentence} The mood of these words is {answer}."


def _tense(rng: random.Random) -> tuple[Row, str]:
    verb = rng.choice([r for r in relations() if r.name == "verbs_past"][0].pairs)
    who = rng.choice(_PEOPLE)
    past = rng.random() < 0.5
    sentence = f"Yesterday {who} {verb[1]}." if past else f"Tomorrow {who} will {verb[0]}."
    answer = "past" if past else "future"
    row = Row(fields={"sentence": sentence}, answer=answer, options=("past", "present", "future"))
    return row, f"{sentence} These words speak of the {answer}."


def _topic(rng: random.Random) -> tuple[Row, str]:
    topics = {"food": "foods_taste", "work": "jobs_workplace", "plants": "plants_ground", "travel": "countries_capital"}
    answer = rng.choice(sorted(topics))
    relation = next(r for r in relations() if r.name == topics[answer])
    x, y = rng.choice(relation.pairs)
    sentence = rng.choice(relation.say).format(x=x, y=y)
    row = Row(fields={"sentence": sentence}, answer=answer, options=tuple(sorted(topics)))
    return row, f"{sentence} The topic of these words is {answer}."


def _trained() -> list[Relation]:
    """Relations that may be trained on: the truth tasks must not show a held-out fact."""
    return [r for r in relations() if not r.held_out and r.language == "en"]


def _truth(rng: random.Random) -> tuple[Row, str]:
    relation = rng.choice(_trained())
    x, y = rng.choice(relation.pairs)
    said = y if rng.random() < 0.5 else rng.choice([v for _, v in relation.pairs if v != y])
    claim = f"the {relation.phrase} of {x} is {said}"
    fact = f"The {relation.phrase} of {x} is {y}."
    answer = "yes" if said == y else "no"
    row = Row(fields={"claim": claim}, answer=answer, options=("yes", "no"), rationale=fact)
    verdict = "The claim is right." if said == y else "The claim is wrong."
    return row, f"Somebody claimed that {claim}. {fact} {verdict}"


def _same(rng: random.Random) -> tuple[Row, str]:
    relation = rng.choice([r for r in _trained() if r.options])
    (x1, y1), (x2, y2) = rng.sample(relation.pairs, 2)
    answer = "yes" if y1 == y2 else "no"
    why = f"The {relation.phrase} of {x1} is {y1}. The {relation.phrase} of {x2} is {y2}."
    fields = {"first": x1, "second": x2, "what": relation.phrase}
    verdict = "the same" if y1 == y2 else "a different"
    prose = f"{why} So {x1} and {x2} have {verdict} {relation.phrase}."
    return Row(fields=fields, answer=answer, options=("yes", "no"), rationale=why), prose


COMPUTED = (
    Computed(
        name="numbers_next",
        category="numbers",
        held_out=True,
        make=_number(lambda n: str(n + 1), "Counting on from {n} gives {y}. The number after {n} is {y}."),
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
        make=_number(lambda n: str(2 * n), "The double of {n} is {y}. Twice {n} makes {y}."),
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
        make=_number(number_word, "The number {n} is written {y}. In words {n} is {y}."),
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
        make=_number(lambda n: "even" if n % 2 == 0 else "odd", "The number {n} is {y}. Among the {y} numbers is {n}."),
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
        make=_spelling(lambda w: w[0], "The word {w} begins with the letter {y}."),
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
        make=_spelling(lambda w: w[-1], "The word {w} ends with the letter {y}."),
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
        make=_spelling(" ".join, "Letter by letter {w} reads {y}."),
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
        make=_list(lambda i: i[0], "In the list {l} the first is {y}."),
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
        make=_list(lambda i: i[-1], "In the list {l} the last is {y}."),
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
        make=_list(lambda i: str(len(i)), "The list {l} has {y} items."),
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
        make=_list(lambda i: ", ".join(reversed(i)), "Backwards the list {l} reads {y}."),
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
        make=_add,
        wordings=("What is {a} + {b}?", "Add {a} and {b}.", "{a} plus {b} is", "How much do {a} and {b} make?"),
    ),
    Computed(
        name="arithmetic_subtract",
        category="arithmetic",
        make=_subtract,
        wordings=("What is {a} - {b}?", "Subtract {b} from {a}.", "{a} minus {b} is", "How much is {a} without {b}?"),
    ),
    Computed(
        name="arithmetic_compare",
        category="arithmetic",
        make=_compare,
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
        make=_story,
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
        make=_reading(0, 1, "The {g} is with {y}."),
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
        make=_reading(1, 0, "{g} took the {y}."),
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
        make=_reading(2, 1, "The {g} is in the {y}."),
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
        make=_mood,
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
        make=_tense,
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
        make=_topic,
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
        make=_truth,
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
        make=_same,
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
