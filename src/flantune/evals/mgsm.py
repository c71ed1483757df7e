"""MGSM (spec 6.5): mgsm_LANG.tsv (question, number) and exemplars.json; everything in the prompt is native."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

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
    read_json,
    read_text,
)
from flantune.evals.extract import equal_numbers, number
from flantune.types import Item


@dataclass(frozen=True, slots=True)
class Language:
    question: str  # prefix
    answer: str  # prefix of the rationale
    phrases: tuple[str, ...]  # patterns of what comes before the final number; they differ inside a language
    decimal_mark: str = "."


# Prefixes and phrases as the benchmark's own exemplars have them. The English phrase is understood in every language: a
# model tuned mostly on English text often falls back to it.
LANGUAGES = {
    "bn": Language("প্রশ্ন: ", "ধাপে ধাপে উত্তর: ", ("উত্তর হল",)),
    "de": Language("Frage: ", "Schritt-für-Schritt-Antwort: ", ("Die Antwort (?:lautet|ist)",), ","),
    "en": Language("Question: ", "Step-by-Step Answer: ", ()),
    "es": Language("Pregunta: ", "Respuesta paso a paso: ", ("La respuesta es",), ","),
    "fr": Language("Question : ", "Réponse étape par étape : ", ("La réponse est",), ","),
    "ja": Language("問題：", "ステップごとの答え：", ("答えは",)),
    "ru": Language("Задача: ", "Пошаговое решение: ", (r"Ответ\s*(?:[—–:-]|равен)",), ","),
    "sw": Language("Swali: ", "Jibu la Hatua kwa Hatua: ", ("Jibu ni",)),
    "te": Language("ప్రశ్న: ", "దశలవారీగా సమాధానం: ", ("సమాధానం",)),
    "th": Language("โจทย์: ", "คำตอบทีละขั้นตอน: ", ("คำตอบคือ",)),
    "zh": Language("问题：", "逐步解答：", ("答案是", "答案为")),
}
ENGLISH = r"answer\s+is"


@dataclass(frozen=True, slots=True)
class Mgsm:
    name: str = "mgsm"
    modes: tuple[str, ...] = ("cot",)
    folder: str = "mgsm"
    default_split: str = "test"  # the only one there is
    sampled_tasks: bool = False
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"cot": 8})

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
        if split not in (None, self.default_split):
            raise RecipeError(f"mgsm: no split '{split}'; it has one, '{self.default_split}'.")
        files = sorted(existing(path, "MGSM").glob("mgsm_*.tsv"))
        if not files:
            raise RecipeError(f"{path}: no mgsm_LANG.tsv in it.")
        exemplars_file = path / "exemplars.json"
        shown = read_exemplars(existing(exemplars_file, "MGSM's exemplars")) if asked else {}
        for file in files:
            code = file.stem.removeprefix("mgsm_")
            if code not in LANGUAGES:
                raise DataError(str(file), field="language", expected=f"one of {', '.join(LANGUAGES)}", got=code)
            if asked and code not in shown:
                raise DataError(str(exemplars_file), field=code, expected="the language's exemplars", got=None)
            blocks = shown.get(code, [])[:asked]
            language = LANGUAGES[code]
            for row, (question, answer) in chosen(read_problems(file), limit, seed, "mgsm", code):
                query = f"{language.question}{question}\n{language.answer}".rstrip(" ")

                def word(kept: int, b: list[str] = blocks, q: str = query) -> str:
                    return "\n\n".join([*b[:kept], q])

                prompt, kept = keep_fitting(word, len(blocks), fits)
                item = Item(
                    benchmark=self.name,
                    mode=mode,
                    task=code,
                    id=f"{code}/{row}",
                    prompt=prompt,
                    references=(answer,),
                    max_new_tokens=320,
                    stop=("\n\n", language.question.strip()),
                    shots=kept,
                )
                yield Posed(item, len(blocks) - kept)

    def extract(self, item: Item, output: str) -> Extraction:
        language = LANGUAGES[item.task]
        return number(output, "|".join((*language.phrases, ENGLISH)), language.decimal_mark)

    def score(self, item: Item, extraction: Extraction) -> float | None:
        if extraction.answer is None:
            return None
        return float(any(equal_numbers(extraction.answer, r) for r in item.references))


def read_problems(path: Path) -> list[tuple[str, str]]:
    """Rows of a file split at its one tab; quotes are text."""
    rows = []
    for number_, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        if len(cells) != 2 or not cells[1].strip():
            raise DataError(f"{path}:{number_}", field="(line)", expected="question, tab, number", got=line)
        rows.append((cells[0].strip(), cells[1].strip()))
    if not rows:
        raise DataError(str(path), field="(file)", expected="at least one row", got="none")
    return rows


def read_exemplars(path: Path) -> dict[str, list[str]]:
    """By language, the blocks `question\\nanswer` in order; both texts carry their prefixes in the file."""
    content = read_json(path)
    languages = content.get("MGSM_EXEMPLARS") if isinstance(content, dict) else None
    if not isinstance(languages, dict):
        raise DataError(str(path), field="MGSM_EXEMPLARS", expected="exemplars by language", got=languages)
    blocks: dict[str, list[str]] = {}
    for code, numbered in languages.items():
        try:
            blocks[code] = [f"{numbered[k]['q']}\n{numbered[k]['a']}" for k in sorted(numbered, key=int)]
        except (TypeError, KeyError, ValueError, AttributeError):
            expected = "{'1': {'q': ..., 'a': ...}, ...}"
            raise DataError(str(path), field=code, expected=expected, got=numbered) from None
    return blocks
