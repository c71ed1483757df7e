"""What a benchmark is: items from files, a prompt for each, an answer read out of an output, a score for the answer.

A benchmark of files subclasses `FileBenchmark` and gives its parts (sub-tasks with their exemplars and questions), how
an answer is read, and how it is scored; everything else is done here, alike for all.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from flantune.errors import DataError, RecipeError
from flantune.types import Format, Item, Metric, Prompt, Segment

Fits = Callable[[str], bool]  # does this prompt fit the model's input?
Present = Callable[[Prompt], str]  # the text a model is given for a prompt: plain, or through its chat template
# strict: the source's own published rule. default: bears what models do around an answer. loose: takes any hint.
Reading = Literal["strict", "default", "loose"]
READINGS: tuple[Reading, ...] = ("strict", "default", "loose")
Ability = Literal["knowledge", "reasoning", "multilingual", "code", "dialogue", "in-context learning"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Extraction:
    """The answer read out of an output and the rule that read it; no answer is None, never a wrong one."""

    answer: str | None
    rule: str


@dataclass(frozen=True, slots=True)
class Posed:
    """An item, how many exemplars had to go for its prompt to fit, and what the file itself asks."""

    item: Item
    shots_dropped: int = 0
    question: str = ""  # as the file has it, nothing around it
    asked: str = ""  # the query as it stands in the prompt, without exemplars


@dataclass(frozen=True, slots=True)
class Shot:
    """An exemplar: `asked` ends where the answer begins; `told` starts with the blank between them, if any."""

    asked: str
    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    text: str  # its own words, as the file has them
    asked: str  # worded, up to where the answer begins
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()  # the options' own words
    options: tuple[str, ...] | None = None  # continuations to score by log-probability; None: the answer is generated


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A sub-task in one mode: what is asked, and the exemplars that may stand before each question."""

    task: str
    id: str  # items are "ID/ROW"
    questions: Sequence[Question]
    shots: Sequence[Shot] = ()
    head: str = ""  # what stands before everything
    separator: str = "\n\n"
    key: tuple[object, ...] = ()  # orders the items under a limit
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    metric: Metric = "exact_match"


class Benchmark(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> str:
        """Its folder's name inside a data folder; empty where there is none."""
        ...

    @property
    def modes(self) -> tuple[str, ...]: ...

    @property
    def default_shots(self) -> Mapping[str, int]:
        """By mode."""
        ...

    @property
    def default_split(self) -> str: ...

    @property
    def sampled_tasks(self) -> bool:
        """Are its tasks a sample of a larger world of tasks? Then intervals must vary over tasks too."""
        ...

    @property
    def ability(self) -> Ability:
        """What it tells of a model, for tables by ability."""
        ...

    def items(
        self,
        path: Path,
        mode: str,
        *,
        shots: int | None = None,
        split: str | None = None,
        limit: int | None = None,
        seed: int = 0,
        fits: Fits = ...,
        present: Present | None = None,
        trigger: str | None = None,
    ) -> Iterator[Posed]:
        """The questions, worded. `limit`: items per task, the first ones in an order keyed by `seed`.

        `present`: plain text when not given. `trigger`: the words that begin a chain of thought without exemplars.
        """
        ...

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction: ...

    def score(self, item: Item, extraction: Extraction) -> float | None:
        """In [0, 1]; None where there is no answer to score."""
        ...

    def averages(self, tasks: Mapping[str, TaskScore]) -> Mapping[str, float | None]:
        """Named means over groups of tasks; None where a task of the group is missing."""
        ...


@dataclass(frozen=True, slots=True)
class TaskScore:
    score: float
    items: int


@dataclass(frozen=True)
class FileBenchmark:
    """A benchmark read from files. Subclasses give `parts`, `extract`, and where equality is not enough `score`."""

    name: str = ""
    folder: str = ""
    modes: tuple[str, ...] = ("direct",)
    default_split: str = "test"
    default_shots: Mapping[str, int] = field(default_factory=dict)
    most_shots: int = 0  # exemplars there are
    sampled_tasks: bool = False
    ability: Ability = "reasoning"
    datasets: tuple[str, ...] = ()  # what it was made from, under the names that collections use
    tasks_are_datasets: bool = False  # its tasks' names are such names too
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of tasks, for named averages

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        """`exemplars` False: none are wanted, so files that hold nothing else need not be there."""
        raise NotImplementedError

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        raise NotImplementedError

    def score(self, item: Item, extraction: Extraction) -> float | None:
        return score_equal(item, extraction)

    def averages(self, tasks: Mapping[str, TaskScore]) -> Mapping[str, float | None]:
        return {name: mean_of(group, tasks) for name, group in self.groups.items()}

    def trigger_words(self, part: Part, asked: str, trigger: str) -> str:
        """The query with the chain of thought begun by other words than the benchmark's own."""
        return f"{asked}\n{trigger}"

    def items(
        self,
        path: Path,
        mode: str,
        *,
        shots: int | None = None,
        split: str | None = None,
        limit: int | None = None,
        seed: int = 0,
        fits: Fits | None = None,
        present: Present | None = None,
        trigger: str | None = None,
    ) -> Iterator[Posed]:
        check_mode(self, mode)
        asked_shots = check_shots(self, shots, mode, most=self.most_shots)
        if trigger is not None and (mode != "cot" or asked_shots):
            raise RecipeError(f"{self.name}: a trigger begins a chain of thought without exemplars: mode cot, 0 shots.")
        for part in self.parts(path, mode, split or self.default_split, exemplars=asked_shots > 0):
            shown = tuple(part.shots[:asked_shots])
            for row, question in chosen(part.questions, limit, seed, *part.key):
                query = self.trigger_words(part, question.asked, trigger) if trigger else question.asked
                whole = prompt_of(part, shown, query, row)
                prompt, kept = keep_fitting(whole, fits or everything_fits, present or plain)
                item = Item(
                    benchmark=self.name,
                    mode=mode,
                    task=part.task,
                    id=f"{part.id}/{row}",
                    prompt=prompt,
                    references=question.references,
                    options=question.options,
                    max_new_tokens=part.max_new_tokens,
                    stop=part.stop,
                    metric=part.metric,
                    shots=kept,
                )
                yield Posed(item, len(shown) - kept, question.text, query)


def prompt_of(part: Part, shots: Sequence[Shot], asked: str, row: int) -> Prompt:
    segments = [Segment("instruction", part.head + part.separator)] if part.head else []
    for number, shot in enumerate(shots):
        pieces = (shot.asked, shot.told, part.separator)
        segments += [Segment("exemplar", text, number) for text in pieces]
    segments.append(Segment("query", asked))
    return Prompt(
        segments=tuple(segments),
        task=part.task,
        row=row,
        template="",
        format=Format(shots=len(shots)),
        exemplars=tuple(range(len(shots))),
    )


def plain(prompt: Prompt) -> str:
    """The prompt's words one after the other, to the last blank: how benchmarks are published."""
    return "".join(s.text for s in prompt.segments if s.role not in ("rationale", "target"))


def everything_fits(prompt: str) -> bool:
    return True


def keep_fitting(prompt: Prompt, fits: Fits, present: Present) -> tuple[str, int]:
    """The text with as many of its first exemplars as fit, and their number; exemplars go from the end.

    A prompt that does not fit without any comes back so: the engine cuts it and says so.
    """
    for kept in range(len(prompt.exemplars), -1, -1):
        text = present(prompt.keep_exemplars(kept))
        if fits(text):
            return text, kept
    return present(prompt.keep_exemplars(0)), 0


def read(benchmark: Benchmark, item: Item, output: str, reading: Reading = "default") -> Extraction:
    """The answer in what a model said, not in what it thought before: all up to the last `</think>` is set aside."""
    return benchmark.extract(item, re.split(r"</think(?:ing)?>", output)[-1], reading)


def score_equal(item: Item, extraction: Extraction) -> float | None:
    """1 where the answer is one of the references, blanks at the edges aside."""
    if extraction.answer is None:
        return None
    return float(extraction.answer.strip() in {r.strip() for r in item.references})


def chosen(rows: Sequence[T], limit: int | None, *key: object) -> list[tuple[int, T]]:
    """At most `limit` rows with their places, in file order: the first ones of an order keyed by `key`.

    A larger limit with the same key holds all rows of a smaller one.
    """
    numbered = list(enumerate(rows))
    if limit is None or limit >= len(numbered):
        return numbered
    prefix = ":".join(str(k) for k in key)

    def place(pair: tuple[int, T]) -> bytes:
        return hashlib.blake2b(f"{prefix}:{pair[0]}".encode(), digest_size=8).digest()

    return sorted(sorted(numbered, key=place)[:limit], key=lambda pair: pair[0])


def mean_of(group: Sequence[str], tasks: Mapping[str, TaskScore]) -> float | None:
    """Plain mean over the group's tasks; None where one of them has no score."""
    if not group or any(task not in tasks for task in group):
        return None
    return sum(tasks[task].score for task in group) / len(group)


def micro(tasks: Mapping[str, TaskScore]) -> float | None:
    """Mean over all items."""
    items = sum(t.items for t in tasks.values())
    return sum(t.score * t.items for t in tasks.values()) / items if items else None


def check_mode(benchmark: Benchmark, mode: str) -> None:
    if mode not in benchmark.modes:
        raise RecipeError(f"{benchmark.name}: no mode '{mode}'; it has {', '.join(benchmark.modes)}.")


def check_shots(benchmark: Benchmark, shots: int | None, mode: str, most: int) -> int:
    """The number of exemplars to show: the benchmark's own unless stated; more than there are is an error."""
    asked = benchmark.default_shots.get(mode, 0) if shots is None else shots
    if not 0 <= asked <= most:
        raise RecipeError(f"{benchmark.name}: {asked} shots asked, expected 0 to {most}.")
    return asked


def only_split(benchmark: Benchmark, split: str) -> None:
    if split != benchmark.default_split:
        raise RecipeError(f"{benchmark.name}: no split '{split}'; it has one, '{benchmark.default_split}'.")


def answer_key(answer: str, letters: Sequence[str], where: str) -> str:
    """The key's letter; a key outside the options is an error of the file's."""
    if answer.strip() not in letters:
        raise DataError(where, field="answer", expected=f"{', '.join(letters[:-1])} or {letters[-1]}", got=answer)
    return answer.strip()
