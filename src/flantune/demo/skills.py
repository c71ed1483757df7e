"""Skills whose rows are computed: numbers, spelling, lists, arithmetic, reading, sentences and the truth of facts.

Each has its line of prose beside it, so that pretraining has seen what the task asks for.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from flantune.demo.world import Relation, Row, relations

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


def small_words() -> list[str]:
    """Short English words of the trained tables: what is spelled and listed."""
    trained = [r for r in relations() if not r.held_out and r.language == "en"]
    cells = {cell for r in trained for pair in r.pairs for cell in pair}
    return sorted(w for w in cells if w.isascii() and w.isalpha() and w.islower() and 3 <= len(w) <= 7)


PEOPLE = [
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
THINGS = [
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


def numbers(answer: Callable[[int], str], prose: str) -> Callable[[random.Random], tuple[Row, str]]:
    def make(rng: random.Random) -> tuple[Row, str]:
        n = rng.randrange(1, 50)
        return Row(fields={"number": str(n)}, answer=answer(n)), prose.format(n=n, y=answer(n))

    return make


def spelling(answer: Callable[[str], str], prose: str) -> Callable[[random.Random], tuple[Row, str]]:
    words = small_words()

    def make(rng: random.Random) -> tuple[Row, str]:
        w = rng.choice(words)
        return Row(fields={"word": w}, answer=answer(w)), prose.format(w=w, y=answer(w))

    return make


def lists(answer: Callable[[list[str]], str], prose: str) -> Callable[[random.Random], tuple[Row, str]]:
    words = small_words()

    def make(rng: random.Random) -> tuple[Row, str]:
        items = rng.sample(words, rng.randrange(3, 6))
        listed = ", ".join(items)
        return Row(fields={"list": listed}, answer=answer(items)), prose.format(l=listed, y=answer(items))

    return make


def addition(rng: random.Random) -> tuple[Row, str]:
    a, b = rng.randrange(1, 21), rng.randrange(1, 21)
    return Row(fields={"a": str(a), "b": str(b)}, answer=str(a + b)), f"{a} and {b} make {a + b}."


def subtraction(rng: random.Random) -> tuple[Row, str]:
    a, b = rng.randrange(1, 21), rng.randrange(1, 21)
    return Row(fields={"a": str(a + b), "b": str(b)}, answer=str(a)), f"{a + b} without {b} leaves {a}."


def comparison(rng: random.Random) -> tuple[Row, str]:
    a, b = rng.sample(range(1, 60), 2)
    row = Row(fields={"a": str(a), "b": str(b)}, answer=str(max(a, b)), options=(str(a), str(b)))
    return row, f"Of {a} and {b} the larger is {max(a, b)}."


def story(rng: random.Random) -> tuple[Row, str]:
    who, thing = rng.choice(PEOPLE), rng.choice(THINGS)
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
    triples = list(zip(rng.sample(PEOPLE, count), rng.sample(THINGS, count), rng.sample(_PLACES, count), strict=True))
    return " ".join(f"{who} took the {thing} to the {place}." for who, thing, place in triples), triples


def reading(asked: int, given: int, prose: str) -> Callable[[random.Random], tuple[Row, str]]:
    def make(rng: random.Random) -> tuple[Row, str]:
        text, triples = _scene(rng)
        chosen = rng.choice(triples)
        row = Row(fields={"text": text, "given": chosen[given]}, answer=chosen[asked])
        return row, f"{text} {prose.format(g=chosen[given], y=chosen[asked])}"

    return make


_GOOD = ["wonderful", "lovely", "delicious", "charming", "splendid", "cheerful"]
_BAD = ["terrible", "awful", "boring", "nasty", "horrible", "gloomy"]
_SUBJECTS = ["The meal", "The song", "The journey", "The book", "The party", "The garden", "The story", "The room"]


def mood(rng: random.Random) -> tuple[Row, str]:
    good = rng.random() < 0.5
    sentence = f"{rng.choice(_SUBJECTS)} was {rng.choice(_GOOD if good else _BAD)}."
    answer = "positive" if good else "negative"
    row = Row(fields={"sentence": sentence}, answer=answer, options=("positive", "negative"))
    return row, f"{sentence} The mood of these words is {answer}."


def tense(rng: random.Random) -> tuple[Row, str]:
    verb = rng.choice(next(r for r in relations() if r.name == "verbs_past").pairs)
    who = rng.choice(PEOPLE)
    past = rng.random() < 0.5
    sentence = f"Yesterday {who} {verb[1]}." if past else f"Tomorrow {who} will {verb[0]}."
    answer = "past" if past else "future"
    row = Row(fields={"sentence": sentence}, answer=answer, options=("past", "present", "future"))
    return row, f"{sentence} These words speak of the {answer}."


def topic(rng: random.Random) -> tuple[Row, str]:
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


def truth(rng: random.Random) -> tuple[Row, str]:
    relation = rng.choice(_trained())
    x, y = rng.choice(relation.pairs)
    said = y if rng.random() < 0.5 else rng.choice([v for _, v in relation.pairs if v != y])
    claim = f"the {relation.phrase} of {x} is {said}"
    fact = f"The {relation.phrase} of {x} is {y}."
    answer = "yes" if said == y else "no"
    row = Row(fields={"claim": claim}, answer=answer, options=("yes", "no"), rationale=fact)
    verdict = "The claim is right." if said == y else "The claim is wrong."
    return row, f"Somebody claimed that {claim}. {fact} {verdict}"


def same_value(rng: random.Random) -> tuple[Row, str]:
    relation = rng.choice([r for r in _trained() if r.options])
    (x1, y1), (x2, y2) = rng.sample(relation.pairs, 2)
    answer = "yes" if y1 == y2 else "no"
    why = f"The {relation.phrase} of {x1} is {y1}. The {relation.phrase} of {x2} is {y2}."
    fields = {"first": x1, "second": x2, "what": relation.phrase}
    verdict = "the same" if y1 == y2 else "a different"
    prose = f"{why} So {x1} and {x2} have {verdict} {relation.phrase}."
    return Row(fields=fields, answer=answer, options=("yes", "no"), rationale=why), prose
