"""TyDiQA-GoldP: tydiqa-goldp-v1.1-dev.json and -train.json (SQuAD's layout), the hub's secondary_task/ in Parquet
(google-research-datasets/tydiqa), or the primary task's tiny_dev.jsonl.

House rule, for the PaLM paper's prompt is not public (spec 6.4); compare absolute figures with that in mind:
`{passage}⏎Q: {question}⏎A:`, one exemplar of the same language (its first training row) before it and a blank line
between, all trimmed; the answer is the first line of the output, compared with every gold answer after lower-casing and
without punctuation, articles kept; the plain mean over ar bn fi id ko ru sw te, English left out.

Of the primary task, a question whose first annotation names a span is asked over the passage that holds the span
(offsets are bytes); that is how GoldP was made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flantune.errors import DataError, RecipeError
from flantune.evals.benchmark import Ability, Extraction, FileBenchmark, Part, Question, Reading, Shot
from flantune.evals.benchmark import only_split as check_split
from flantune.evals.extract import UNREAD, after_phrase, without_emphasis
from flantune.evals.files import existing, hub_files, read_json, read_json_lines, read_parquet
from flantune.evals.metrics import score_text
from flantune.types import Item

LANGUAGES = {
    "arabic": "ar",
    "bengali": "bn",
    "finnish": "fi",
    "indonesian": "id",
    "korean": "ko",
    "russian": "ru",
    "swahili": "sw",
    "telugu": "te",
}
Asked = tuple[str, str, tuple[str, ...]]  # passage, question, gold answers


@dataclass(frozen=True)
class TyDiQa(FileBenchmark):
    name: str = "tydiqa"
    folder: str = "tydiqa"
    default_split: str = "dev"
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"direct": 1})
    most_shots: int = 1
    ability: Ability = "multilingual"
    datasets: tuple[str, ...] = ("tydiqa", "tydi_qa")
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"paper_8": tuple(LANGUAGES.values())})

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        check_split(self, split)
        asked = _split(path, "dev")
        train = _split(path, "train") if exemplars else {}
        for code in sorted(asked):
            if exemplars and not train.get(code):
                raise RecipeError(f"tydiqa: no training row in '{code}' for its exemplar; ask with 0 shots.")
            yield Part(
                task=code,
                id=code,
                shots=[Shot(worded(p, q), f" {golds[0]}") for p, q, golds in train.get(code, [])[:1]],
                questions=[Question(text=q, asked=worded(p, q), references=golds) for p, q, golds in asked[code]],
                key=("tydiqa", code),
                max_new_tokens=64,
                stop=("\n\n", "\nQ:"),
            )

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        lines = [line.strip() for line in output.strip().split("\n") if line.strip()]
        if not lines:
            return Extraction(None, UNREAD)
        if reading == "strict":
            return Extraction(lines[0], "first line")
        told = after_phrase(output)
        line = (told or without_emphasis(lines[0])).strip().split("\n")[0]
        answer = _first_sentence(line).strip(" .।。")
        return Extraction(answer, "after phrase" if told else "first line") if answer else Extraction(None, UNREAD)

    def score(self, item: Item, extraction: Extraction) -> float | None:
        if extraction.answer is None:
            return None
        return score_text("exact_match", extraction.answer, item.references)


def _first_sentence(line: str) -> str:
    """Without the sentences after it. A full stop after an initial or a title ("St."), or before a small letter as in
    "5. kesäkuuta", ends none.
    """
    for stop in re.finditer(r"(\S+?)[.।。]\s+(?=\S)", line):
        short = re.fullmatch(r"(?:[A-ZА-ЯЁ][A-Za-zА-Яа-яё]{0,2}\.?)+", stop[1])
        if not short and not line[stop.end()].islower():
            return line[: stop.end(1)]
    return line


def worded(passage: str, question: str) -> str:
    return f"{passage}\nQ: {question}\nA:"


def _split(path: Path, split: str) -> dict[str, list[Asked]]:
    files = hub_files(path / "secondary_task", split)
    return _read_hub(files) if files else read_questions(_file(path, split))


def _read_hub(files: list[Path]) -> dict[str, list[Asked]]:
    found: dict[str, list[Asked]] = {}
    for where, row in read_parquet(files, ("id", "context", "question", "answers")):
        golds = tuple(dict.fromkeys(str(text).strip() for text in (row["answers"] or {}).get("text") or ()))
        _add(found, where, row, golds)
    return found


def _add(found: dict[str, list[Asked]], where: str, row: Mapping[str, Any], golds: tuple[str, ...]) -> None:
    """Ids begin with the language; those that GoldP leaves out are not asked."""
    if not golds or not all(golds):
        raise DataError(where, field="answers", expected="at least one text", got=row["answers"])
    code = LANGUAGES.get(str(row.get("id")).split("-")[0])
    if code:
        found.setdefault(code, []).append((row["context"].strip(), row["question"].strip(), golds))


def _file(path: Path, split: str) -> Path:
    if path.is_file():
        return path
    names = (
        f"tydiqa-goldp-v1.1-{split}.json",
        f"tydiqa-goldp-v1.1-{split}.json.gz",
        f"{split}.json",
        f"tiny_{split}.jsonl.gz",
    )
    found = next((path / name for name in names if (path / name).exists()), None)
    return found or existing(path / names[0], "TyDiQA-GoldP")


def read_questions(file: Path) -> dict[str, list[Asked]]:
    """By language code, in file order; English and the languages GoldP leaves out are not asked."""
    if ".jsonl" in file.name:
        return _read_primary(file)
    content, found = read_json(file), dict[str, list[Asked]]()
    articles = content.get("data") if isinstance(content, dict) else None
    if not isinstance(articles, list):
        raise DataError(str(file), field="data", expected="SQuAD's list of articles", got=articles)
    for a, article in enumerate(articles):
        for paragraph in article.get("paragraphs", ()):
            for qa in paragraph.get("qas", ()):
                where = f"{file}:article {a}, question {qa.get('id')}"
                golds = tuple(dict.fromkeys(str(g.get("text", "")).strip() for g in qa.get("answers", ())))
                _add(found, where, {"answers": None, **qa, "context": paragraph["context"]}, golds)
    return found


def _read_primary(file: Path) -> dict[str, list[Asked]]:
    found: dict[str, list[Asked]] = {}
    for n, row in enumerate(read_json_lines(file, ("question_text", "document_plaintext", "language")), start=1):
        code = LANGUAGES.get(row["language"])
        spans = [s for a in row.get("annotations", ()) if (s := _span(row, a, f"{file}:row {n}")) is not None]
        if code and spans:
            golds = tuple(dict.fromkeys(answer for _, answer in spans))
            found.setdefault(code, []).append((spans[0][0], row["question_text"].strip(), golds))
    return found


def _span(row: dict[str, Any], annotation: dict[str, Any], where: str) -> tuple[str, str] | None:
    """Passage and minimal answer of an annotation that has both."""
    try:
        minimal, index = annotation["minimal_answer"], annotation["passage_answer"]["candidate_index"]
        start, end = minimal["plaintext_start_byte"], minimal["plaintext_end_byte"]
        if start < 0 or index < 0:
            return None
        candidate = row["passage_answer_candidates"][index]
        document = row["document_plaintext"].encode()
        passage = document[candidate["plaintext_start_byte"] : candidate["plaintext_end_byte"]].decode()
        return passage.strip(), document[start:end].decode().strip()
    except (KeyError, IndexError, TypeError, UnicodeDecodeError) as e:
        raise DataError(where, field="annotations", expected="spans of the document", got=repr(e)) from None
