"""GSM8K: grade-school problems, JSON lines question and answer ("... #### 72"), train and test, or the hub's main/.

Eight exemplars: those of Wei et al. (2022) where the user has them (see grade_school.py); else the first eight training
rows, worded in the same layout. GSM8K's training set is part of the recipe's mixture, so a tuned model's score here is
not a held-out one. Strict reading: a number after `####`, "A:" or the answer phrase; loose: the last number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flantune.errors import DataError
from flantune.evals.benchmark import Extraction, FileBenchmark, Part, Question, Reading
from flantune.evals.files import existing_either, hub_files, read_json_lines, read_parquet
from flantune.evals.grade_school import (
    Solved,
    read_number,
    score_number,
    shared_exemplars,
    shot_of,
    with_trigger,
    worded,
)
from flantune.types import Item


@dataclass(frozen=True)
class Gsm8k(FileBenchmark):
    name: str = "gsm8k"
    folder: str = "gsm8k"
    modes: tuple[str, ...] = ("direct", "cot")
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"direct": 8, "cot": 8})
    most_shots: int = 8
    datasets: tuple[str, ...] = ("gsm8k",)

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        shown = (shared_exemplars(path) or read_problems(path, "train")[:8]) if exemplars else []
        yield Part(
            task="gsm8k",
            id=split,
            shots=[shot_of(e, mode) for e in shown],
            questions=[
                Question(text=p.question, asked=worded(p.question, mode), references=(p.answer,))
                for p in read_problems(path, split)
            ],
            key=("gsm8k", split),
            max_new_tokens=320 if mode == "cot" else 16,
            stop=("\n\n", "Question:"),
        )

    def trigger_words(self, part: Part, asked: str, trigger: str) -> str:
        return with_trigger(asked, trigger)

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        return read_number(item, output, reading)

    def score(self, item: Item, extraction: Extraction) -> float | None:
        return score_number(item, extraction)


def read_problems(path: Path, split: str) -> list[Solved]:
    if files := hub_files(path / "main", split):
        rows = read_parquet(files, ("question", "answer"))
        return [solved(row["question"], row["answer"], where) for where, row in rows]
    file = existing_either(path / f"{split}.jsonl", path / f"{split}.jsonl.gz", what=f"GSM8K's {split} split")
    lines = read_json_lines(file, ("question", "answer"))
    return [solved(row["question"], row["answer"], f"{file}:row {n}") for n, row in enumerate(lines, start=1)]


def solved(question: str, answer: str, where: str) -> Solved:
    """Question and worked answer; its last line is "#### N", or "A: N" as in the file of model solutions."""
    found = re.fullmatch(r"(.*?)(?:####|\n\s*A:)\s*(\S[^\n]*?)\s*", answer, flags=re.DOTALL)
    if not found:
        raise DataError(where, field="answer", expected="'... #### NUMBER'", got=answer)
    return Solved(question.strip(), without_marks(found[1]).strip(), found[2])


def without_marks(text: str) -> str:
    """Without the calculator's marks <<48/2=24>>."""
    return re.sub(r"<<[^<>]*>>", "", text)
