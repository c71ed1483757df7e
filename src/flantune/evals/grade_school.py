"""Grade-school word problems: how all of them are asked and read, and Wei et al.'s (2022) exemplars that they share.

The exemplars are read from prompts/gsm8k/prompt_original.txt beside the benchmark's folder, in that file's layout:
"Question: ...", "Let's think step by step", the steps, "The answer is N.".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flantune.errors import DataError
from flantune.evals.benchmark import Extraction, FileBenchmark, Part, Question, Reading, Shot
from flantune.evals.files import read_text
from flantune.evals.told_numbers import equal_numbers, number
from flantune.types import Item

THINK = "Let's think step by step"
CLOSING = "The answer is"
NO_EXEMPLARS = (
    "Wei et al.'s prompts/gsm8k/prompt_original.txt lies in no folder above. Fetch it (`flantune tasks fetch "
    "gsm8k-prompts --to DIR`)"
)


@dataclass(frozen=True, slots=True)
class Solved:
    question: str
    rationale: str
    answer: str


def shared_exemplars(path: Path) -> list[Solved] | None:
    """Of the data folder that `path`, a benchmark's folder or file, lies in; None where it has none."""
    file = next((p / "prompts/gsm8k/prompt_original.txt" for p in path.parents if (p / "prompts/gsm8k").is_dir()), None)
    if file is None or not file.exists():
        return None
    solved = []
    for block in re.split(r"\n\s*\n(?=Question: )", read_text(file).strip()):
        found = re.fullmatch(rf"Question: (.+?)\n{THINK}\n(.+)\n{CLOSING} (\S+?)\.?", block.strip(), flags=re.DOTALL)
        if not found:
            expected = f"blocks 'Question: ...', '{THINK}', the steps, '{CLOSING} N.'"
            raise DataError(str(file), field="(block)", expected=expected, got=block)
        solved.append(Solved(found[1], found[2], found[3]))
    return solved


def worded(question: str, mode: str) -> str:
    return f"Question: {question}\n{THINK if mode == 'cot' else CLOSING}"


def shot_of(solved: Solved, mode: str) -> Shot:
    rationale = f"\n{solved.rationale}\n{CLOSING}" if mode == "cot" else ""
    return Shot(worded(solved.question, mode), f"{rationale} {solved.answer}.")


def with_trigger(asked: str, trigger: str) -> str:
    return f"{asked.removesuffix(THINK)}{trigger}"


def read_number(item: Item, output: str, reading: Reading) -> Extraction:
    # A direct prompt ends in the answer phrase, so what comes first is the answer: "18 dollars for 9 eggs" says 18.
    return number(f"{CLOSING} {output}" if item.mode == "direct" else output, reading=reading)


def score_number(item: Item, extraction: Extraction) -> float | None:
    if extraction.answer is None:
        return None
    return float(any(equal_numbers(extraction.answer, r) for r in item.references))


@dataclass(frozen=True)
class GradeSchool(FileBenchmark):
    """Eight exemplars, the answer a number. Subclasses give `parts`, each from `part`."""

    modes: tuple[str, ...] = ("direct", "cot")
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"direct": 8, "cot": 8})
    most_shots: int = 8

    def part(self, task: str, id: str, shown: Sequence[Solved], problems: Iterable[tuple[str, str]], mode: str) -> Part:
        """`problems`: question and answer."""
        return Part(
            task=task,
            id=id,
            shots=[shot_of(e, mode) for e in shown],
            questions=[
                Question(text=text, asked=worded(text, mode), references=(answer,)) for text, answer in problems
            ],
            key=(self.name, id),
            max_new_tokens=320 if mode == "cot" else 16,
            stop=("\n\n", "Question:"),
        )

    def trigger_words(self, part: Part, asked: str, trigger: str) -> str:
        return with_trigger(asked, trigger)

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        return read_number(item, output, reading)

    def score(self, item: Item, extraction: Extraction) -> float | None:
        return score_number(item, extraction)
