"""GSM8K: grade-school problems, JSON lines question and answer ("... #### 72"), train and test, or the hub's main/.

Eight exemplars: those of Wei et al. (2022) where the user has them (see grade_school.py); else the first eight training
rows, worded in the same layout. GSM8K's training set is part of the recipe's mixture, so a tuned model's score here is
not a held-out one. Strict reading: a number after `####`, "A:" or the answer phrase; loose: the last number.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flantune.errors import DataError
from flantune.evals.benchmark import Part
from flantune.evals.files import existing_either, hub_files, read_json_lines, read_parquet
from flantune.evals.grade_school import NO_EXEMPLARS, GradeSchool, Solved, shared_exemplars
from flantune.evals.told_numbers import is_number


@dataclass(frozen=True)
class Gsm8k(GradeSchool):
    name: str = "gsm8k"
    folder: str = "gsm8k"
    datasets: tuple[str, ...] = ("gsm8k",)

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        shown = (shared_exemplars(path) or _own_exemplars(path)) if exemplars else []
        problems = [(p.question, p.answer) for p in read_problems(path, split)]
        yield self.part("gsm8k", split, shown, problems, mode)


def _own_exemplars(path: Path) -> list[Solved]:
    found = read_problems(path, "train")[:8]
    warnings.warn(f"gsm8k's exemplars are the first rows of its training split: {NO_EXEMPLARS}.", stacklevel=2)
    return found


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
    if not found or not is_number(found[2]):
        raise DataError(where, field="answer", expected="'... #### NUMBER'", got=answer)
    return Solved(question.strip(), without_marks(found[1]).strip(), found[2])


def without_marks(text: str) -> str:
    """Without the calculator's marks <<48/2=24>>."""
    return re.sub(r"<<[^<>]*>>", "", text)
