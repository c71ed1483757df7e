"""Exemplars of grade-school word problems: those of Wei et al. (2022), which GSM8K, SVAMP, MAWPS and ASDiv share.

Read from prompts/gsm8k/prompt_original.txt beside the benchmark's folder, in that file's layout: "Question: ...",
"Let's think step by step", the steps, "The answer is N.".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from flantune.errors import DataError
from flantune.evals.benchmark import Extraction, Reading, Shot
from flantune.evals.extract import equal_numbers, number
from flantune.evals.files import read_text
from flantune.types import Item

THINK = "Let's think step by step"
CLOSING = "The answer is"


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
