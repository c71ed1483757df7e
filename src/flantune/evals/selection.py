"""One answer out of several samples of the same question.

Self-consistency votes over the extracted answers (Wang et al. 2022); complexity-based selection votes over the longest
rationales alone (Fu et al. 2022); best-of-n takes what any scorer likes best; progressive hints ask again with the
answers so far until two agree (Zheng et al. 2023). A sample without a readable answer has no vote. Pure functions over
samples: how they were drawn is the engine's business.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

from flantune.evals.benchmark import Benchmark, Extraction, Reading, read
from flantune.evals.told_numbers import equal_numbers
from flantune.types import Item

SAMPLES, TEMPERATURE, TOP_K = 40, 0.7, 40  # spec 6.8
HINTED = 5  # times a question is asked with hints before its last answer stands
HINT = "(Hint: The answer is near to {hints})."  # the wording of progressive-hint prompting


@dataclass(frozen=True, slots=True)
class Vote:
    """The outcome of samples of one item. `answer` None: no sample could be read."""

    answer: str | None
    votes: int  # for the answer
    voters: int  # samples with a readable answer
    samples: int
    chosen: int | None  # the first sample that gave the answer

    @property
    def agreement(self) -> float | None:
        """Share of the readable samples that gave the answer."""
        return self.votes / self.voters if self.voters else None

    def as_extraction(self, rule: str = "majority") -> Extraction:
        return Extraction(self.answer, f"{rule}: {self.votes} of {self.voters} votes" if self.answer else "unread")


def read_samples(
    benchmark: Benchmark, item: Item, outputs: Sequence[str], reading: Reading = "default"
) -> list[str | None]:
    return [read(benchmark, item, output, reading).answer for output in outputs]


def same_text_or_number(a: str, b: str) -> bool:
    return a == b or equal_numbers(a, b)


Same = Callable[[str, str], bool]


def same_of(benchmark: Benchmark) -> Same:
    """The benchmark's own `same(a, b)`, where it has one: what are one answer written twice?"""
    return getattr(benchmark, "same", same_text_or_number)


def majority_vote(answers: Sequence[str | None], same: Same = same_text_or_number) -> Vote:
    """The most frequent answer; of equally frequent ones the one reached first. What is the `same` is one answer."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, answer in enumerate(answers):
        if answer is not None:
            groups[_group(answer, groups, same)].append(place)
    voters = sum(map(len, groups.values()))
    if not groups:
        return Vote(None, 0, 0, len(answers), None)
    # max keeps the first of equal ones, and groups are in the order they were reached.
    best = max(groups, key=lambda g: len(groups[g]))
    return Vote(best, len(groups[best]), voters, len(answers), groups[best][0])


def _group(answer: str, known: Iterable[str], same: Same) -> str:
    text = answer.strip()
    return next((k for k in known if k == text or same(k, text)), text)


def complexity_vote(
    outputs: Sequence[str], answers: Sequence[str | None], keep: int, same: Same = same_text_or_number
) -> Vote:
    """The majority among the `keep` readable samples with most steps; of equally long ones the earlier. `chosen` counts
    all."""
    if len(outputs) != len(answers) or keep < 1:
        raise ValueError(
            f"{len(outputs)} outputs for {len(answers)} answers, {keep} kept: expected equal numbers, one kept"
        )
    readable = [i for i, answer in enumerate(answers) if answer is not None]
    places = sorted(sorted(readable, key=lambda i: (-steps(outputs[i]), i))[:keep])
    vote = majority_vote([answers[i] for i in places], same)
    chosen = None if vote.chosen is None else places[vote.chosen]
    return Vote(vote.answer, vote.votes, vote.voters, len(outputs), chosen)


def steps(rationale: str) -> int:
    """Lines that say something; a rationale in one line: its sentences."""
    lines = [line for line in rationale.split("\n") if line.strip()]
    if len(lines) > 1:
        return len(lines)
    return len([s for s in re.split(r"(?<=[.!?。])\s+|(?<=。)", rationale.strip()) if s])


def best_of(outputs: Sequence[str], score: Callable[[str], float | None]) -> int | None:
    """The place of the output with the highest score, the first of equal ones; None where none has a score."""
    scored = [(value, -place) for place, output in enumerate(outputs) if (value := score(output)) is not None]
    return -max(scored)[1] if scored else None


def hinting(
    question: str, *, most: int = HINTED, wording: str = HINT, same: Same = same_text_or_number
) -> Generator[str, Extraction, tuple[Extraction, list[str]]]:
    """Yields what to ask, takes the reading of its answer: the question, then it with all answers so far as hints,
    until two in a row agree or `most` were asked with hints.

    Returns the last reading and the answers in order; an unread answer ends the asking, the one before it stands.
    """
    last = yield question
    answers = [last.answer] if last.answer is not None else []
    for _ in range(most if answers else 0):
        found = yield f"{question} {wording.format(hints=', '.join(answers))}"
        if found.answer is None:
            break
        answers.append(found.answer)
        last = found
        if same(answers[-1].strip(), answers[-2].strip()):
            break
    return last, answers


def progressive_hints(
    ask: Callable[[str], Extraction], question: str, *, most: int = HINTED, wording: str = HINT
) -> tuple[Extraction, list[str]]:
    """`hinting` with somebody who answers at once: `ask` poses a question's text and reads the answer."""
    asking = hinting(question, most=most, wording=wording)
    try:
        text = next(asking)
        while True:
            text = asking.send(ask(text))
    except StopIteration as done:
        last, answers = done.value
        return last, answers
