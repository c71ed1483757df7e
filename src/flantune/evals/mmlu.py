"""MMLU (spec 6.2): CSV files dev/, val/, test/, or the hub's SUBJECT/SPLIT-*.parquet (cais/mmlu), and the
chain-of-thought prompts mmlu-cot.json in one folder.

Three wordings:
- direct, paper-style (default): the paper's is not published; after its authors' description, the layout of the
  chain-of-thought texts without the rationale, over the first dev rows.
- direct, original: hendrycks/test's, two blanks before the subject and all; the benchmark named `mmlu_original`. Cells
  stay strings here; the original's reader turned a cell "None" into "nan".
- cot: the published text of each subject, verbatim, and the query after it. Strict reading: spec 6.6's parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flantune.errors import DataError, RecipeError
from flantune.evals.benchmark import (
    Ability,
    Extraction,
    FileBenchmark,
    Part,
    Question,
    Reading,
    Shot,
    TaskScore,
    answer_key,
    mean_of,
    micro,
)
from flantune.evals.extract import UNREAD, letter, parse_answer
from flantune.evals.files import existing, hub_files, read_csv, read_json, read_parquet
from flantune.types import Item

LETTERS = ("A", "B", "C", "D")
THINK = "Let's think step by step."
# hendrycks/test's categories.py, the four groups of its tables.
GROUPS = {
    "stem": "abstract_algebra astronomy college_biology college_chemistry college_computer_science college_mathematics "
    "college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics "
    "high_school_biology high_school_chemistry high_school_computer_science high_school_mathematics "
    "high_school_physics high_school_statistics machine_learning",
    "humanities": "formal_logic high_school_european_history high_school_us_history high_school_world_history "
    "international_law jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory "
    "professional_law world_religions",
    "social_sciences": "econometrics high_school_geography high_school_government_and_politics "
    "high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality "
    "professional_psychology public_relations security_studies sociology us_foreign_policy",
    "other": "anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging management "
    "marketing medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology",
}
SUBJECTS = tuple(sorted(subject for group in GROUPS.values() for subject in group.split()))


@dataclass(frozen=True, slots=True)
class Row:
    text: str
    choices: tuple[str, ...]  # four
    answer: str  # one of LETTERS


@dataclass(frozen=True)
class Mmlu(FileBenchmark):
    name: str = "mmlu"
    style: Literal["paper", "original"] = "paper"
    folder: str = "mmlu"
    modes: tuple[str, ...] = ("direct", "cot")
    default_split: str = "val"  # spec 6.1; the test split is for Tables 1 and 4 only
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"direct": 5, "cot": 5})
    most_shots: int = 5
    ability: Ability = "knowledge"
    datasets: tuple[str, ...] = ("mmlu", "mmmlu", "hendrycks_test")
    groups: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {k: tuple(v.split()) for k, v in GROUPS.items()}
    )

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        """Subjects in alphabetical order, rows in file order."""
        texts = read_json(existing(path / "mmlu-cot.json", "MMLU's chain-of-thought prompts")) if mode == "cot" else {}
        for subject in subjects(path, split):
            if mode == "cot":
                head, shots = cot_prompt(texts, subject, path / "mmlu-cot.json")
            else:
                blanks = "  " if self.style == "original" else " "
                topic = subject.replace("_", " ")
                head = f"The following are multiple choice questions (with answers) about{blanks}{topic}."
                shots = [self._shot(row) for row in subject_rows(path, "dev", subject)] if exemplars else []
            yield Part(
                task=subject,
                id=f"{split}/{subject}",
                head=head,
                shots=shots,
                questions=[self._question(row, mode) for row in subject_rows(path, split, subject)],
                key=("mmlu", split, subject),
                max_new_tokens=256,
                stop=("\n\n", "Q:") if mode == "cot" else (),
            )

    def _question(self, row: Row, mode: str) -> Question:
        options = tuple(f" {n}" if self.style == "original" else f" ({n})" for n in LETTERS)
        return Question(
            text=row.text,
            asked=self._asked(row, mode),
            references=(row.answer,),
            choices=row.choices,
            options=options if mode == "direct" else None,
        )

    def _asked(self, row: Row, mode: str) -> str:
        if mode == "cot":
            return f"{question_block(row)}\nA: {THINK}"
        if self.style == "original":
            lines = [f"{name}. {choice}" for name, choice in zip(LETTERS, row.choices, strict=True)]
            return "\n".join([row.text, *lines, "Answer:"])
        return f"{question_block(row)}\nA:"

    def _shot(self, row: Row) -> Shot:
        return Shot(self._asked(row, "direct"), f" {row.answer}" if self.style == "original" else f" ({row.answer})")

    def trigger_words(self, part: Part, asked: str, trigger: str) -> str:
        return f"{asked.removesuffix(THINK)}{trigger}"

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        if reading == "strict":
            answer = parse_answer(output)
            return Extraction(answer, "spec 6.6") if answer else Extraction(None, UNREAD)
        return letter(output, LETTERS, loose=reading == "loose")

    def averages(self, tasks: Mapping[str, TaskScore]) -> Mapping[str, float | None]:
        whole = set(SUBJECTS) == set(tasks)
        return {
            "macro_57": mean_of(SUBJECTS, tasks) if whole else None,
            "micro": micro(tasks) if whole else None,
            **super().averages(tasks),
        }


def question_block(row: Row) -> str:
    """`Q: ...`, then the choices on one line, as in the chain-of-thought texts; cells without edge white space."""
    choices = " ".join(f"({name}) {choice.strip()}" for name, choice in zip(LETTERS, row.choices, strict=True))
    return f"Q: {row.text.strip()}\n{choices}"


def subjects(path: Path, split: str) -> list[str]:
    """Of the publisher's layout, SPLIT/SUBJECT_SPLIT.csv, or the hub's, SUBJECT/SPLIT-*.parquet."""
    if not (path / split).exists():
        found = sorted(f.name for f in path.glob("*") if f.name != "all" and hub_files(f, split))
        if found:
            return found
    folder = existing(path / split, f"the {split} split")
    names = sorted(f.name.removesuffix(f"_{split}.csv") for f in folder.glob(f"*_{split}.csv"))
    if not names:
        raise RecipeError(f"{folder}: no file named SUBJECT_{split}.csv.")
    return names


def subject_rows(path: Path, split: str, subject: str) -> list[Row]:
    """From either layout; the hub's columns are question, choices (four) and answer (0 to 3)."""
    csv = path / split / f"{subject}_{split}.csv"
    files = hub_files(path / subject, split)
    if csv.exists() or not files:
        return read_questions(existing(csv, "exemplars" if split == "dev" else "questions"))
    rows = []
    for where, row in read_parquet(files, ("question", "choices", "answer")):
        choices, answer = row["choices"], row["answer"]
        if not isinstance(choices, list) or len(choices) != len(LETTERS):
            raise DataError(where, field="choices", expected="four", got=choices)
        if not isinstance(answer, int) or not 0 <= answer < len(LETTERS):
            raise DataError(where, field="answer", expected="0 to 3", got=answer)
        rows.append(Row(str(row["question"]), tuple(map(str, choices)), LETTERS[answer]))
    return rows


def read_questions(path: Path) -> list[Row]:
    return [
        Row(row[0], tuple(row[1:5]), answer_key(row[5], LETTERS, f"{path}:row {number}"))
        for number, row in enumerate(read_csv(path, columns=6), start=1)
    ]


def cot_prompt(texts: Mapping[str, object], subject: str, path: Path) -> tuple[str, list[Shot]]:
    """A subject's header and exemplars. Verbatim, but for the line break two of the texts start with."""
    text = texts.get(subject)
    if not isinstance(text, str):
        raise DataError(str(path), field=subject, expected="the subject's prompt text", got=text)
    header, *blocks = re.split(r"\n\n(?=Q: )", text.strip("\n"))
    return header, [shot_of(block) for block in blocks]


def shot_of(block: str) -> Shot:
    """A block cut where its answer begins; a block without the usual words is all question."""
    asked, mark, told = block.partition(f"\nA: {THINK}")
    return Shot(asked + mark, told)
