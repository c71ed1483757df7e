"""SVAMP, MAWPS, ASDiv and MultiArith: arithmetic word problems asked and read as GSM8K is, with the same exemplars.

SVAMP: test.jsonl (Body, Question, Answer). MAWPS: NAME.jsonl (input, target), one sub-task each. ASDiv: ASDiv.xml as
published, or test.jsonl (body, question, answer); its answers carry units, "9 (apples)", of which the number counts.
MultiArith: MultiArith.json (sQuestion, lSolutions). Plain or .gz.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flantune.errors import DataError, RecipeError
from flantune.evals.benchmark import Part
from flantune.evals.benchmark import only_split as check_split
from flantune.evals.files import existing, existing_either, read_json, read_json_lines, read_text
from flantune.evals.grade_school import NO_EXEMPLARS, GradeSchool, shared_exemplars
from flantune.evals.told_numbers import numbers

Problems = dict[str, list[tuple[str, str]]]  # by sub-task: question and number


@dataclass(frozen=True)
class WordProblems(GradeSchool, ABC):
    @abstractmethod
    def problems(self, path: Path) -> Problems:
        """Every question of the files at `path`."""

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        check_split(self, split)
        shown = shared_exemplars(path) if exemplars else []
        if shown is None:
            raise RecipeError(f"{self.name}: no exemplars: {NO_EXEMPLARS}, or ask with 0 shots.")
        for task, problems in self.problems(existing(path, self.name)).items():
            yield self.part(task, task, shown, problems, mode)


@dataclass(frozen=True)
class Svamp(WordProblems):
    name: str = "svamp"
    folder: str = "math/svamp"
    datasets: tuple[str, ...] = ("svamp", "asdiv")  # SVAMP varies ASDiv's problems

    def problems(self, path: Path) -> Problems:
        file = existing_either(path / "test.jsonl", path / "test.jsonl.gz", path / "SVAMP.json", what="SVAMP")
        rows = read_json(file) if file.suffix == ".json" else read_json_lines(file, ("Body", "Question"))
        return {
            "svamp": [_row(file, n, r, (r.get("Body"), r.get("Question")), r.get("Answer")) for n, r in _rows(rows)]
        }


@dataclass(frozen=True)
class Mawps(WordProblems):
    name: str = "mawps"
    folder: str = "math/mawps"
    datasets: tuple[str, ...] = ("mawps",)

    def problems(self, path: Path) -> Problems:
        files = sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")])
        if not files:
            raise RecipeError(f"{path}: no NAME.jsonl in it (addsub, multiarith, singleeq, singleop).")
        return {
            f.name.split(".")[0]: [
                _row(f, n, r, (r.get("input"),), r.get("target")) for n, r in _rows(read_json_lines(f, ("input",)))
            ]
            for f in files
        }


@dataclass(frozen=True)
class AsDiv(WordProblems):
    name: str = "asdiv"
    folder: str = "math/asdiv"
    datasets: tuple[str, ...] = ("asdiv",)

    def problems(self, path: Path) -> Problems:
        plain, clone = path / "ASDiv.xml", path / "dataset/ASDiv.xml"
        file = existing_either(plain, clone, path / "test.jsonl", path / "test.jsonl.gz", what="ASDiv")
        rows = _xml_rows(file) if file.suffix == ".xml" else read_json_lines(file, ("body", "question"))
        found: list[tuple[str, str]] = []
        for n, row in _rows(rows):
            answer = str(row.get("answer", "")).split("(")[0]
            if len(numbers(answer)) == 1:  # the others want words, ratios or several numbers
                found.append(_row(file, n, row, (row.get("body"), row.get("question")), answer))
        return {"asdiv": found}


@dataclass(frozen=True)
class MultiArith(WordProblems):
    name: str = "multiarith"
    folder: str = "math/multiarith"
    datasets: tuple[str, ...] = ("multiarith", "mawps")

    def problems(self, path: Path) -> Problems:
        file = existing_either(path / "MultiArith.json", path / "MultiArith.json.gz", what="MultiArith")
        rows = [(n, r) for n, r in _rows(read_json(file)) if isinstance(r, dict)]
        return {
            "multiarith": [_row(file, n, r, (r.get("sQuestion"),), (r.get("lSolutions") or [None])[0]) for n, r in rows]
        }


def _rows(rows: Any) -> Iterator[tuple[int, Any]]:
    return iter(enumerate(rows, start=1))


def _row(file: Path, number: int, row: Any, texts: tuple[Any, ...], answer: Any) -> tuple[str, str]:
    """Body and question as one text, a full stop between them where the body has no end; and the number."""
    where = f"{file}:row {number}"
    if not all(isinstance(t, str) and t.strip() for t in texts):
        raise DataError(where, field="question", expected="text", got=row)
    told = "" if answer is None or isinstance(answer, bool) else str(answer).strip()
    if len(numbers(told)) != 1:
        raise DataError(where, field="answer", expected="one number", got=answer)
    body, *rest = (t.strip() for t in texts)
    if rest and body[-1] not in ".?!,":
        body += "."
    return " ".join([body, *rest]), told.removesuffix(".0")


def _xml_rows(file: Path) -> list[dict[str, str]]:
    """Body, question and answer of ASDiv's <Problem>s. A pattern reads them: a parser would expand entities."""
    found = []
    for problem in re.findall(r"<Problem\b.*?</Problem>", read_text(file), flags=re.DOTALL):
        fields = {k: re.search(rf"<{k}>(.*?)</{k}>", problem, flags=re.DOTALL) for k in ("Body", "Question", "Answer")}
        found.append({k.lower(): _unescaped(m[1]) for k, m in fields.items() if m})
    if not found:
        raise DataError(str(file), field="(file)", expected="<Problem> elements", got="none")
    return found


def _unescaped(text: str) -> str:
    import html

    return html.unescape(text).strip()
