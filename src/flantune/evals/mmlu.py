"""MMLU (spec 6.2): CSV files dev/, val/, test/ and the chain-of-thought prompts mmlu-cot.json in one folder.

Three wordings:
- direct, paper-style (default): the paper's is not published; after its authors' description, the layout of the
  chain-of-thought texts without the rationale, over the first dev rows.
- direct, original: hendrycks/test's, two blanks before the subject and all; the benchmark named `mmlu_original`. Cells
  stay strings here; the original's reader turned a cell "None" into "nan".
- cot: the published text of each subject, verbatim, and the query after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flantune.errors import DataError, RecipeError
from flantune.evals.benchmark import (
    Extraction,
    Fits,
    Posed,
    check_mode,
    check_shots,
    chosen,
    everything_fits,
    existing,
    keep_fitting,
    read_csv,
    read_json,
    score_equal,
)
from flantune.evals.extract import letter
from flantune.types import Item

LETTERS = ("A", "B", "C", "D")
THINK = "Let's think step by step."


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    choices: tuple[str, ...]  # four
    answer: str  # one of LETTERS
    where: str


@dataclass(frozen=True, slots=True)
class Mmlu:
    name: str = "mmlu"
    style: Literal["paper", "original"] = "paper"
    modes: tuple[str, ...] = ("direct", "cot")
    folder: str = "mmlu"
    default_split: str = "val"  # spec 6.1; the test split is for Tables 1 and 4 only
    sampled_tasks: bool = False
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"direct": 5, "cot": 5})

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
        """Subjects in alphabetical order, rows in file order; exemplars go from the end until the prompt fits."""
        check_mode(self, mode)
        asked = check_shots(self, shots, mode, most=5)
        split = split or self.default_split
        texts = read_json(existing(path / "mmlu-cot.json", "MMLU's chain-of-thought prompts")) if mode == "cot" else {}
        for subject in subjects(path, split):
            questions = read_questions(path / split / f"{subject}_{split}.csv")
            if mode == "cot":
                header, exemplars = cot_prompt(texts, subject, path / "mmlu-cot.json")
            else:
                dev = path / "dev" / f"{subject}_dev.csv"
                header = self._header(subject)
                exemplars = [self._exemplar(q) for q in read_questions(existing(dev, "exemplars"))] if asked else []
            exemplars = exemplars[:asked]
            for row, question in chosen(questions, limit, seed, "mmlu", split, subject):
                query = self._query(question, mode)

                def word(kept: int, h: str = header, e: list[str] = exemplars, q: str = query) -> str:
                    return "\n\n".join([h, *e[:kept], q])

                prompt, kept = keep_fitting(word, len(exemplars), fits)
                yield Posed(self._item(mode, split, subject, row, question, prompt, kept), len(exemplars) - kept)

    def extract(self, item: Item, output: str) -> Extraction:
        return letter(output, LETTERS)

    def score(self, item: Item, extraction: Extraction) -> float | None:
        return score_equal(item, extraction)

    def _header(self, subject: str) -> str:
        blanks = "  " if self.style == "original" else " "
        topic = subject.replace("_", " ")
        return f"The following are multiple choice questions (with answers) about{blanks}{topic}."

    def _exemplar(self, question: Question) -> str:
        answer = question.answer if self.style == "original" else f"({question.answer})"
        return f"{self._query(question, 'direct')} {answer}"

    def _query(self, question: Question, mode: str) -> str:
        if mode == "cot":
            return f"{question_block(question)}\nA: {THINK}"
        if self.style == "original":
            lines = [f"{name}. {choice}" for name, choice in zip(LETTERS, question.choices, strict=True)]
            return "\n".join([question.text, *lines, "Answer:"])
        return f"{question_block(question)}\nA:"

    def _item(self, mode: str, split: str, subject: str, row: int, question: Question, prompt: str, kept: int) -> Item:
        scored = {"original": tuple(f" {name}" for name in LETTERS), "paper": tuple(f" ({name})" for name in LETTERS)}
        return Item(
            benchmark=self.name,
            mode=mode,
            task=subject,
            id=f"{split}/{subject}/{row}",
            prompt=prompt,
            references=(question.answer,),
            options=scored[self.style] if mode == "direct" else None,
            max_new_tokens=256,
            stop=("\n\n", "Q:") if mode == "cot" else (),
            shots=kept,
        )


def question_block(question: Question) -> str:
    """`Q: ...`, then the choices on one line, as in the chain-of-thought texts; cells without edge white space."""
    choices = " ".join(f"({name}) {choice.strip()}" for name, choice in zip(LETTERS, question.choices, strict=True))
    return f"Q: {question.text.strip()}\n{choices}"


def subjects(path: Path, split: str) -> list[str]:
    folder = existing(path / split, f"MMLU's {split} split")
    names = sorted(f.name.removesuffix(f"_{split}.csv") for f in folder.glob(f"*_{split}.csv"))
    if not names:
        raise RecipeError(f"{folder}: no file named SUBJECT_{split}.csv.")
    return names


def read_questions(path: Path) -> list[Question]:
    questions = []
    for number, row in enumerate(read_csv(path, columns=6), start=1):
        where = f"{path}:row {number}"
        if row[5].strip() not in LETTERS:
            raise DataError(where, field="answer", expected="A, B, C or D", got=row[5])
        questions.append(Question(row[0], tuple(row[1:5]), row[5].strip(), where))
    return questions


def cot_prompt(texts: Mapping[str, object], subject: str, path: Path) -> tuple[str, list[str]]:
    """A subject's header and exemplar blocks. Verbatim, but for the line break two of the texts start with."""
    text = texts.get(subject)
    if not isinstance(text, str):
        raise DataError(str(path), field=subject, expected="the subject's prompt text", got=text)
    header, *blocks = re.split(r"\n\n(?=Q: )", text.strip("\n"))
    return header, blocks
