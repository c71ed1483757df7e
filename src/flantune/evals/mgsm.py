"""MGSM (spec 6.5): mgsm_LANG.tsv (question, number) and exemplars.json, or the publisher's exemplars.py.

`mgsm`: everything in the prompt is native. `mgsm_en_cot`: native questions under English prefixes, the English
exemplars' rationales under native exemplar questions. Strict reading: the language's own closing words only.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flantune.errors import DataError, RecipeError
from flantune.evals.benchmark import Ability, Extraction, FileBenchmark, Part, Question, Reading, Shot
from flantune.evals.benchmark import only_split as check_split
from flantune.evals.files import existing, existing_either, read_json, read_text
from flantune.evals.grade_school import score_number
from flantune.evals.told_numbers import is_number, number
from flantune.types import Item


@dataclass(frozen=True, slots=True)
class Language:
    question: str  # prefix
    answer: str  # prefix of the rationale
    phrases: tuple[str, ...]  # patterns of what comes before the final number; they differ inside a language
    label: str  # a pattern of "Answer:", where it is not the end of the prefix `answer`
    decimal_mark: str = "."


# Prefixes and phrases as the benchmark's own exemplars have them. The English phrase is understood in every language: a
# model tuned mostly on English text often falls back to it.
LANGUAGES = {
    "bn": Language("প্রশ্ন: ", "ধাপে ধাপে উত্তর: ", ("উত্তর হল",), r"(?<!ধাপে )উত্তর\s*[:：]"),
    "de": Language(
        "Frage: ",
        "Schritt-für-Schritt-Antwort: ",
        ("Die Antwort (?:lautet|ist)",),
        r"(?<![-\w])Antwort\s*[:：]|antwort (?:lautet|ist|beträgt)",
        ",",
    ),
    "en": Language("Question: ", "Step-by-Step Answer: ", (), r"(?<!step )answer\s*[:：]"),
    "es": Language(
        "Pregunta: ",
        "Respuesta paso a paso: ",
        ("La respuesta es",),
        r"respuesta(?: final| correcta)?\s*(?:[:：]|es\b)",
        ",",
    ),
    "fr": Language(
        "Question : ",
        "Réponse étape par étape : ",
        ("La réponse est",),
        r"réponse(?: finale| correcte)?\s*(?:[:：]|est\b)",
        ",",
    ),
    "ja": Language("問題：", "ステップごとの答え：", ("答えは",), r"(?<!の)答え\s*[:：]"),
    "ru": Language("Задача: ", "Пошаговое решение: ", (r"Ответ\s*(?:[—–:-]|равен)",), r"Ответ\s+(?=[-−\d])", ","),
    "sw": Language("Swali: ", "Jibu la Hatua kwa Hatua: ", ("Jibu ni",), r"Jibu\s*[:：]"),
    "te": Language("ప్రశ్న: ", "దశలవారీగా సమాధానం: ", ("సమాధానం",), r"సమాధానం"),
    "th": Language("โจทย์: ", "คำตอบทีละขั้นตอน: ", ("คำตอบคือ",), r"คำตอบ\s*[:：]"),
    "zh": Language("问题：", "逐步解答：", ("答案是", "答案为"), r"答案\s*[:：]"),
}
ENGLISH = r"answer\s+is"
# Of the paper's ten languages (English is left out), the share of PaLM's pretraining text parts them (Shi et al. 2022).
HIGH_RESOURCE = ("de", "es", "fr", "ja", "ru", "zh")
LOW_RESOURCE = ("bn", "sw", "te", "th")


@dataclass(frozen=True)
class Mgsm(FileBenchmark):
    name: str = "mgsm"
    english: bool = False  # prefixes and rationales in English
    folder: str = "mgsm"
    modes: tuple[str, ...] = ("cot",)
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"cot": 8})
    most_shots: int = 8
    ability: Ability = "multilingual"
    datasets: tuple[str, ...] = ("mgsm", "gsm8k")  # translations of GSM8K's test questions
    groups: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "paper_10": tuple(sorted(HIGH_RESOURCE + LOW_RESOURCE)),
            "high_resource": HIGH_RESOURCE,
            "low_resource": LOW_RESOURCE,
        }
    )

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        check_split(self, split)
        files = sorted(existing(path, "MGSM").glob("mgsm_*.tsv"))
        if not files:
            raise RecipeError(f"{path}: no mgsm_LANG.tsv in it.")
        exemplars_file = path / "exemplars.json"
        if exemplars:
            exemplars_file = existing_either(exemplars_file, path / "exemplars.py", what="MGSM's exemplars")
        shown = read_exemplars(exemplars_file) if exemplars else {}
        for file in files:
            code = file.stem.removeprefix("mgsm_")
            if code not in LANGUAGES:
                raise DataError(str(file), field="language", expected=f"one of {', '.join(LANGUAGES)}", got=code)
            wanted = {code, "en"} if self.english else {code}
            if exemplars and (lacking := sorted(wanted - set(shown))):
                raise DataError(str(exemplars_file), field=lacking[0], expected="the language's exemplars", got=None)
            language = LANGUAGES["en" if self.english else code]
            yield Part(
                task=code,
                id=code,
                shots=self._shots(shown, code) if exemplars else [],
                questions=[
                    Question(text=q, asked=f"{language.question}{q}\n{language.answer}".rstrip(" "), references=(a,))
                    for q, a in read_problems(file)
                ],
                key=("mgsm", code),
                max_new_tokens=320,
                stop=("\n\n", language.question.strip()),
            )

    def _shots(self, shown: Mapping[str, list[tuple[str, str]]], code: str) -> list[Shot]:
        """Both texts carry their prefixes in the file."""
        native, english = LANGUAGES[code], LANGUAGES["en"]
        if not self.english:
            return [_cut(question, told, native.answer) for question, told in shown[code]]
        questions = [question.removeprefix(native.question).strip() for question, _ in shown[code]]
        told = [text for _, text in shown["en"]]
        return [_cut(f"{english.question}{q}", t, english.answer) for q, t in zip(questions, told, strict=True)]

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        language = LANGUAGES[item.task]
        phrases = (*language.phrases, language.label, ENGLISH, LANGUAGES["en"].label)
        if reading == "strict":
            phrases = (ENGLISH,) if self.english else (language.phrases or (ENGLISH,))
        return number(output, "|".join(phrases), "." if self.english else language.decimal_mark, reading)

    def score(self, item: Item, extraction: Extraction) -> float | None:
        return score_number(item, extraction)


def _cut(question: str, told: str, prefix: str) -> Shot:
    """Cut after the rationale's prefix, its blank on the answer's side, as in the query."""
    start = prefix.rstrip(" ")
    if not told.startswith(start):
        return Shot(question + "\n", told)
    return Shot(f"{question}\n{start}", told.removeprefix(start))


def read_problems(path: Path) -> list[tuple[str, str]]:
    """Rows of a file split at its one tab; quotes are text."""
    rows = []
    for number_, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != 2 or not is_number(cells[1]):
            raise DataError(f"{path}:{number_}", field="(line)", expected="question, tab, number", got=line)
        rows.append((cells[0].strip(), cells[1].strip()))
    if not rows:
        raise DataError(str(path), field="(file)", expected="at least one row", got="none")
    return rows


def read_exemplars(path: Path) -> dict[str, list[tuple[str, str]]]:
    """By language, question and answer in order."""
    content = read_literals(path) if path.suffix == ".py" else read_json(path)
    languages = content.get("MGSM_EXEMPLARS") if isinstance(content, dict) else None
    if not isinstance(languages, dict):
        raise DataError(str(path), field="MGSM_EXEMPLARS", expected="exemplars by language", got=languages)
    found: dict[str, list[tuple[str, str]]] = {}
    for code, numbered in languages.items():
        try:
            found[code] = [(numbered[k]["q"], numbered[k]["a"]) for k in sorted(numbered, key=int)]
        except (TypeError, KeyError, ValueError, AttributeError):
            expected = "{'1': {'q': ..., 'a': ...}, ...}"
            raise DataError(str(path), field=code, expected=expected, got=numbered) from None
    return found


def read_literals(path: Path) -> dict[str, object]:
    """What a Python file gives names to, `NAME = literal`. Nothing in it is run."""
    try:
        body = ast.parse(read_text(path), path.name).body
        named = [(a.targets[0], a.value) for a in body if isinstance(a, ast.Assign)]
        return {target.id: ast.literal_eval(value) for target, value in named if isinstance(target, ast.Name)}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise DataError(str(path), field="(file)", expected="Python literals", got=str(e)) from None
