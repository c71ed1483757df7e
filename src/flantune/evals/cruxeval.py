r"""CRUXEval's output prediction (Gu et al. 2024): what does a Python function return for an input? No code is run.

Files: test.jsonl or cruxeval.jsonl with code (a function f), input, output, each as Python text; or the hub's Parquet
(cruxeval-org/cruxeval). The wording is a house rule: function and assertion, two exemplars. Where prompts/direct.txt or
prompts/cot.txt lies beside the rows, that is the prompt, word for word, with {code} and {input} filled in.

An answer is right where its value equals the output's, as `==` says it. A value is read from a literal and nothing
else, so that nothing a model wrote is ever executed. Strict reading: the publisher's cuts, [ANSWER] and "==".
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flantune.errors import DataError
from flantune.evals.benchmark import Ability, Extraction, FileBenchmark, Part, Question, Reading, Shot, only_split
from flantune.evals.extract import PHRASE, SEVERAL, UNREAD
from flantune.evals.files import existing_either, hub_files, read_json_lines, read_parquet, read_text
from flantune.types import Item

HEAD = "Complete each assertion with the value that the function returns, written as a Python literal."
TRACE = "Let's run it step by step."
EXEMPLARS = (
    (
        "def f(words):\n    return [w[0] for w in words if w]",
        "['oak', '', 'elm']",
        "'oak' is not empty and its first letter is 'o'. '' is empty and left out. 'elm' gives 'e'.",
        "['o', 'e']",
    ),
    (
        "def f(n):\n    total = 0\n    while n > 2:\n        total += n\n        n -= 2\n    return total",
        "7",
        "n is 7: total is 7, n is 5. total is 12, n is 3. total is 15, n is 1, which is not above 2.",
        "15",
    ),
)
COLUMNS = ("code", "input", "output")
LONGEST = 4000  # characters of a literal that are looked at
HINTS = 1000  # characters at an output's end in which the loose reading looks for one
# What may not follow a literal: with it, the literal would be part of a larger expression. "17 is the answer" may.
_GOES_ON = re.compile(r"[ \t]*(?:[+\-*/%@&|^<>=({\[]|(?:and|or|if|in|not|for)\b)")
_ANOTHER = re.compile(r"[\s`*$]*(?:or|and)\s+")
_TEXT = (
    r"[bBrRuU]{0,2}(?:\'\'\'(?:[^\\]|\\.)*?\'\'\'|\"\"\"(?:[^\\]|\\.)*?\"\"\""
    r"|'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")"
)
_ATOM = re.compile(rf"{_TEXT}|-?(?:\d[\d_]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?|True|False|None|set\(\)", re.DOTALL)
_TOKEN = re.compile(rf"{_TEXT}|[(\[{{}}\])]", re.DOTALL)
_BEGINS = re.compile(r"[\[({'\"]|(?<!\w)(?:[bBrRuU]{1,2}['\"]|-?\d|-?\.\d|(?:True|False|None)\b|set\(\))")


@dataclass(frozen=True)
class CruxEval(FileBenchmark):
    name: str = "cruxeval"
    folder: str = "cruxeval"
    modes: tuple[str, ...] = ("direct", "cot")
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"direct": 2, "cot": 2})
    most_shots: int = 2
    ability: Ability = "code"
    datasets: tuple[str, ...] = ("cruxeval",)

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        only_split(self, split)
        published = path / "prompts" / f"{mode}.txt"
        head, pattern = _published(published) if published.exists() else (HEAD, "")
        house = not pattern
        yield Part(
            task="output_prediction",
            id=split,
            head=head,
            shots=[_shot(*e, mode) for e in EXEMPLARS] if house and exemplars else [],
            questions=[
                Question(
                    text=f"{row['code']}\nassert f({row['input']}) ==" if house else row["code"],
                    asked=_asked(row["code"], row["input"], mode) if house else _filled(pattern, row),
                    references=(row["output"].strip(),),
                )
                for row in _rows(path)
            ],
            key=("cruxeval", split),
            max_new_tokens=512 if mode == "cot" else 128,
            stop=("\n\ndef ", "\n\nassert") if house else ("[/ANSWER]",),
        )

    def trigger_words(self, part: Part, asked: str, trigger: str) -> str:
        return f"{asked.removesuffix(TRACE)}{trigger}"

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        if reading == "strict":
            text = output.rsplit("[ANSWER]", 1)[-1].partition("[/ANSWER]")[0]
            text = text.split("==")[1] if "==" in text else text
            return _told(text.strip(), "published cuts", whole=True)
        return _read(output, item.mode, loose=reading == "loose")

    def score(self, item: Item, extraction: Extraction) -> float | None:
        if extraction.answer is None:
            return None
        said = literal(extraction.answer)
        return float(any((there := literal(r)) is not None and said == there for r in item.references))


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows of text whose output is a literal; another one could never be matched."""
    rows: list[tuple[str, Mapping[str, object]]]
    if files := hub_files(path / "data", "test") or hub_files(path, "test"):
        rows = list(read_parquet(files, COLUMNS))
    else:
        file = existing_either(path / "test.jsonl", path / "cruxeval.jsonl", what="CRUXEval's rows")
        rows = [(f"{file}:row {n}", row) for n, row in enumerate(read_json_lines(file, COLUMNS), start=1)]
    for where, row in rows:
        for column in COLUMNS:
            if not isinstance(row[column], str):
                raise DataError(where, field=column, expected="text", got=row[column])
        if literal(str(row["output"])) is None:
            raise DataError(where, field="output", expected="a Python literal", got=row["output"])
    return [{c: str(row[c]) for c in COLUMNS} for _, row in rows]


def _asked(code: str, given: str, mode: str) -> str:
    code = code.strip("\n")
    return f"{code}\nassert f({given}) == ??\n{TRACE}" if mode == "cot" else f"{code}\nassert f({given}) =="


def _shot(code: str, given: str, trace: str, output: str, mode: str) -> Shot:
    told = f" {trace} So the answer is {output}." if mode == "cot" else f" {output}"
    return Shot(_asked(code, given, mode), told)


def _published(path: Path) -> tuple[str, str]:
    """(what stands before the last block, that block with its slots)."""
    text = read_text(path)
    if "{code}" not in text or "{input}" not in text:
        raise DataError(str(path), field="(prompt)", expected="{code} and {input} in it", got=text[-80:])
    place = text.rfind("\n\n", 0, text.index("{code}"))
    return ("", text) if place < 0 else (text[:place], text[place + 2 :])


def _filled(pattern: str, row: Mapping[str, str]) -> str:
    return re.sub(r"\{(code|input)\}", lambda m: row[m[1]], pattern)


# ---- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Literal:
    value: object


def literal(text: str) -> Literal | None:
    """The value a text states as a Python literal; None where it is none. Runs nothing."""
    if len(text) > LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return Literal(ast.literal_eval(text.strip()))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _read(output: str, mode: str, loose: bool) -> Extraction:
    answers = [e for rule, text in _places(output, mode) if (e := _told(text, rule)).answer is not None]
    if answers:
        return answers[0]
    if loose and (found := last_literal(output[-HINTS:])):
        return _told(found, "last literal")
    return Extraction(None, UNREAD)


def _places(output: str, mode: str) -> Iterator[tuple[str, str]]:
    """Where an answer may begin, the surest place first."""
    text = output
    if "[ANSWER]" in text:
        text = text.rsplit("[ANSWER]", 1)[1].partition("[/ANSWER]")[0]
        yield "between marks", text.rsplit("==", 1)[-1]
    if found := list(re.finditer(PHRASE, text, flags=re.IGNORECASE)):
        yield "after phrase", text[found[-1].end() :]
    if boxes := list(re.finditer(r"\\boxed\{", text)):
        yield "boxed", text[boxes[-1].end() :]
    if found := list(re.finditer(r"\bassert\b[^\n]*?==", text)):
        yield "after assertion", text[found[-1].end() :]
    if mode == "direct" or "\n" not in text.strip():
        yield "beginning", text


def _told(text: str, rule: str, *, whole: bool = False) -> Extraction:
    if whole:
        found = literal(text)
        return Extraction(repr(found.value), rule) if found else Extraction(None, UNREAD)
    first = first_literal(re.sub(r"^(?:\s|:|\*\*|`+(?:python\n)?|\$|\\boxed\{|\\\()*", "", text))
    if first is None:
        return Extraction(None, UNREAD)
    value, rest = first
    if (another := _ANOTHER.match(rest)) and first_literal(rest[another.end() :]) is not None:
        return Extraction(None, SEVERAL)
    return Extraction(repr(value.value), rule)


def first_literal(text: str) -> tuple[Literal, str] | None:
    """The literal that a text begins with and what follows it; None where it begins with none, or with an expression
    that would have to be worked out."""
    end = _end(text[:LONGEST])
    if end is None or (found := literal(text[:end])) is None:
        return None
    rest = text[end:]
    if rest[:1].isalnum() or rest[:1] == "_":
        return None
    emphasis = rest.startswith("**") and not re.match(r"\*\*[\w(\-]", rest)
    goes_on = _GOES_ON.match(rest) and not (emphasis or _ANOTHER.match(rest))
    return None if goes_on else (found, rest)


def _end(text: str) -> int | None:
    """Where the atom or the bracketed part that a text begins with ends."""
    if text[:1] not in ("[", "(", "{"):
        atom = _ATOM.match(text)
        return atom.end() if atom else None
    depth = 0
    for token in _TOKEN.finditer(text):
        if token[0] in "([{":
            depth += 1
        elif token[0] in ")]}":
            depth -= 1
            if depth == 0:
                return token.end()
    return None


def last_literal(text: str) -> str | None:
    """The last place in a text that states a literal, from its beginning to the text's end."""
    last, start = None, 0
    while found := _BEGINS.search(text, start):
        told = first_literal(text[found.start() :])
        if told is None:
            start = found.end()
            continue
        last = text[found.start() :]
        start = len(text) - len(told[1])
    return last
