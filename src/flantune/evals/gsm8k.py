"""GSM8K: grade-school problems, JSON lines question and answer ("... #### 72"), train and test.

Eight exemplars: those of Wei et al. (2022) from prompts/gsm8k/prompt_original.txt beside the benchmark's folder where
the user has it, in that file's layout; else the first eight training rows, worded in the same layout. GSM8K's training
set is part of the recipe's mixture, so a tuned model's score here is not a held-out one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flantune.errors import DataError
from flantune.evals.benchmark import (
    Extraction,
    Fits,
    Posed,
    check_mode,
    check_shots,
    chosen,
    everything_fits,
    existing_either,
    keep_fitting,
    read_json_lines,
    read_text,
)
from flantune.evals.extract import equal_numbers, number
from flantune.types import Item

THINK = "Let's think step by step"
CLOSING = "The answer is"


@dataclass(frozen=True, slots=True)
class Solved:
    question: str
    rationale: str
    answer: str


@dataclass(frozen=True, slots=True)
class Gsm8k:
    name: str = "gsm8k"
    modes: tuple[str, ...] = ("direct", "cot")
    folder: str = "gsm8k"
    default_split: str = "test"
    sampled_tasks: bool = False
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"direct": 8, "cot": 8})

    def items(
        self,
        path: Path,
        mode: str,
        *,
        shots: int | None = None,
        split: str | None = None,
        limit: int | None = None,
        seed: int = 0,
        fits: Fits = everything_fits,
    ) -> Iterator[Posed]:
        check_mode(self, mode)
        asked = check_shots(self, shots, mode, most=8)
        split = split or self.default_split
        exemplars = [exemplar(e, mode) for e in read_exemplars(path)[:asked]] if asked else []
        for row, solved in chosen(read_problems(path, split), limit, seed, "gsm8k", split):
            query = f"Question: {solved.question}\n{THINK if mode == 'cot' else CLOSING}"

            def word(kept: int, q: str = query) -> str:
                return "\n\n".join([*exemplars[:kept], q])

            prompt, kept = keep_fitting(word, len(exemplars), fits)
            item = Item(
                benchmark=self.name,
                mode=mode,
                task="gsm8k",
                id=f"{split}/{row}",
                prompt=prompt,
                references=(solved.answer,),
                max_new_tokens=320 if mode == "cot" else 16,
                stop=("\n\n", "Question:"),
                shots=kept,
            )
            yield Posed(item, len(exemplars) - kept)

    def extract(self, item: Item, output: str) -> Extraction:
        if item.mode == "direct":
            # The prompt ends in the answer phrase, so what comes first is the answer: "18 dollars for 9 eggs" says 18.
            return number(f"{CLOSING} {output}")
        return number(output)

    def score(self, item: Item, extraction: Extraction) -> float | None:
        if extraction.answer is None:
            return None
        return float(any(equal_numbers(extraction.answer, r) for r in item.references))


def exemplar(solved: Solved, mode: str) -> str:
    middle = [THINK, solved.rationale] if mode == "cot" else []
    return "\n".join([f"Question: {solved.question}", *middle, f"{CLOSING} {solved.answer}."])


def read_problems(path: Path, split: str) -> list[Solved]:
    file = existing_either(path / f"{split}.jsonl", path / f"{split}.jsonl.gz", what=f"GSM8K's {split} split")
    problems = []
    for number_, row in enumerate(read_json_lines(file, ("question", "answer")), start=1):
        rationale, mark, answer = row["answer"].rpartition("####")
        if not mark or not answer.strip():
            raise DataError(f"{file}:row {number_}", field="answer", expected="'... #### NUMBER'", got=row["answer"])
        problems.append(Solved(row["question"].strip(), without_marks(rationale).strip(), answer.strip()))
    return problems


def without_marks(text: str) -> str:
    """Without the calculator's marks <<48/2=24>>."""
    return re.sub(r"<<[^<>]*>>", "", text)


def read_exemplars(path: Path) -> list[Solved]:
    file = path.parent / "prompts" / "gsm8k" / "prompt_original.txt"
    if not file.exists():
        return read_problems(path, "train")[:8]
    solved = []
    for block in re.split(r"\n\s*\n(?=Question: )", read_text(file).strip()):
        found = re.fullmatch(rf"Question: (.+?)\n{THINK}\n(.+)\n{CLOSING} (\S+?)\.?", block.strip(), flags=re.DOTALL)
        if not found:
            expected = f"blocks 'Question: ...', '{THINK}', the steps, '{CLOSING} N.'"
            raise DataError(str(file), field="(block)", expected=expected, got=block)
        solved.append(Solved(found[1], found[2], found[3]))
    return solved
