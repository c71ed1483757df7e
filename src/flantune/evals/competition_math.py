"""MATH (Hendrycks et al. 2021): test.jsonl (problem, level, type, solution), or the publisher's folders TYPE/N.json.

Four exemplars and their layout are Minerva's (Lewkowycz et al. 2022, appendix D). Strict reading: Minerva's closing
sentence; default: that, any answer phrase, or the last box; loose: else the last formula. Answers are compared by
math_answers.py. Accuracy is over all problems ("micro"), as published; `score` is the plain mean over the subjects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flantune.errors import DataError
from flantune.evals.benchmark import Extraction, FileBenchmark, Part, Question, Reading, Shot, TaskScore, micro
from flantune.evals.benchmark import only_split as check_split
from flantune.evals.extract import DENIED, UNREAD, boxed, first_boxed
from flantune.evals.files import existing_either, read_json, read_json_lines
from flantune.evals.math_answers import same_answer
from flantune.evals.minerva_prompt import MINERVA
from flantune.evals.told_numbers import number
from flantune.types import Item

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
CLOSING = re.compile(r"Final Answer: The final answer is(.*?)\. I hope it is correct", flags=re.DOTALL)


@dataclass(frozen=True)
class CompetitionMath(FileBenchmark):
    name: str = "math"
    folder: str = "math/MATH"
    modes: tuple[str, ...] = ("cot",)
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"cot": 4})
    most_shots: int = 4
    datasets: tuple[str, ...] = ("math", "competition_math", "hendrycks_math")

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        check_split(self, split)
        by_subject: dict[str, list[Question]] = {}
        for row, where in _rows(path):
            text, solution = row["problem"].strip(), row["solution"]
            answer = boxed(solution)
            if answer is None:
                raise DataError(where, field="solution", expected="a \\boxed{} answer", got=solution)
            subject = str(row.get("type", "math")).lower().replace("&", "and").replace(" ", "_")
            asked = f"Problem:\n{text}\n\nSolution:"
            by_subject.setdefault(subject, []).append(Question(text=text, asked=asked, references=(answer,)))
        for subject in sorted(by_subject):
            yield Part(
                task=subject,
                id=subject,
                shots=[Shot(*_cut(block)) for block in re.split(r"\n\n(?=Problem:\n)", MINERVA)],
                questions=by_subject[subject],
                key=("math", subject),
                max_new_tokens=512,
                stop=("\n\nProblem:", "I hope it is correct."),
            )

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        return read_final(output, reading)

    def score(self, item: Item, extraction: Extraction) -> float | None:
        if extraction.answer is None:
            return None
        return float(any(same_answer(extraction.answer, r) for r in item.references))

    def same(self, a: str, b: str) -> bool:
        return same_answer(a, b)

    def averages(self, tasks: Mapping[str, TaskScore]) -> Mapping[str, float | None]:
        return {"micro": micro(tasks) if set(SUBJECTS) == set(tasks) else None}


def read_final(output: str, reading: Reading = "default") -> Extraction:
    """The final formula of a worked solution."""
    if reading == "strict":
        found = CLOSING.findall(output + ". I hope it is correct")
        return Extraction(found[-1].strip(), "closing sentence") if found else Extraction(None, UNREAD)
    if answer := _after_phrase(output):
        return Extraction(answer, "after phrase")
    if answer := boxed(output):
        return Extraction(answer, "boxed")
    if reading == "loose":
        formulas = re.findall(r"(?<!\\)\$+(.+?)(?<!\\)\$+", output)
        return Extraction(formulas[-1], "last formula") if formulas else number(output, reading="loose")
    return Extraction(None, UNREAD)


# Minerva's "Final Answer: The final answer is" is one phrase, the second.
_PHRASE = re.compile(r"answer\s+is|answer\s*:(?!\s*The\s+(?:final\s+)?answer)|final\s+answer\W*\n", flags=re.IGNORECASE)
_FORMULA = re.compile(r"(\$\$?)(.+?)(?<!\\)\1|\\\((.+?)\\\)|\\\[(.+?)\\\]", flags=re.DOTALL)


def _after_phrase(output: str) -> str | None:
    """The formula, box or rest of the sentence after the last answer phrase; several formulas that are joined as one
    list. Of a sentence that only ends in a formula ("the sum, which is $6$") that one."""
    found = list(_PHRASE.finditer(output))
    if not found:
        return None
    told = re.sub(r"\*\*|__|`", "", output[found[-1].end() :]).lstrip(" :\r\n")
    told = re.sub(r"^\*(.+?)\*", r"\1", told.split("I hope it is correct")[0])
    if DENIED.match(told):
        return None
    box = re.search(r"\\(?:boxed|fbox)", told)
    if box and (answer := first_boxed(told)) and not re.search(r"\w", told[: box.start()]):
        return answer
    line = told.split("\n")[0]
    if box and box.start() < len(line):
        return first_boxed(told)
    if formula := _FORMULA.match(told):
        return ",".join([_inside(formula), *_joined(told[formula.end() :])])
    sentence = re.split(r"\.(?:\s|$)", line)[0].strip()
    formulas = list(_FORMULA.finditer(sentence))
    if formulas and formulas[-1].end() == len(sentence) and re.match(r"[A-Za-z]{2,}", sentence):
        return _inside(formulas[-1])
    return sentence or None


def _joined(rest: str) -> Iterator[str]:
    """The formulas that "and" or "or" adds."""
    while (more := re.match(r"\s*(?:,|,?\s*(?:and|or))\s*(?=\$|\\\()", rest)) and (
        formula := _FORMULA.match(rest, more.end())
    ):
        yield _inside(formula)
        rest = rest[formula.end() :]


def _inside(formula: re.Match[str]) -> str:
    return next(g for g in formula.groups()[1:] if g).strip()


def _cut(block: str) -> tuple[str, str]:
    problem, solution = block.split("\n\nSolution:", 1)
    return f"{problem}\n\nSolution:", solution


def _rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    tree = sorted(p for p in path.glob("**/*.json") if p.is_file()) if path.is_dir() else []
    if tree:
        for file in tree:
            row = read_json(file)
            for name in ("problem", "solution"):
                if not isinstance(row, dict) or not isinstance(row.get(name), str):
                    raise DataError(str(file), field=name, expected="text", got=row)
            yield row, str(file)
        return
    file = existing_either(path / "test.jsonl", path / "test.jsonl.gz", what="MATH")
    for number_, row in enumerate(read_json_lines(file, ("problem", "solution")), start=1):
        yield row, f"{file}:row {number_}"
