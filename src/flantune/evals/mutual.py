"""MuTual (Cui et al. 2020): which of four replies continues a conversation? No judge is needed.

Files as the publisher has them, SPLIT/*.txt with one object each (article, options, answers, id), also below
data/mutual as in the publisher's repository; or SPLIT.jsonl with one a line. MuTual Plus has the same layout. The test
split's answers are not public. The wording is a house rule: the turns a line each, the replies by letter; exemplars
are the training split's first. The score is recall at 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flantune.errors import DataError
from flantune.evals.benchmark import Ability, Extraction, FileBenchmark, Part, Question, Reading, Shot, answer_key
from flantune.evals.extract import UNREAD, letter, parse_answer
from flantune.evals.files import existing, existing_either, read_json, read_json_lines
from flantune.types import Item

LETTERS = ("A", "B", "C", "D")
HEAD = "A conversation breaks off. Which reply goes on from it?"
MOST_SHOTS = 5


@dataclass(frozen=True)
class MuTual(FileBenchmark):
    name: str = "mutual"
    folder: str = "mutual"
    modes: tuple[str, ...] = ("direct",)
    default_split: str = "dev"
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"direct": 0})
    most_shots: int = MOST_SHOTS
    ability: Ability = "dialogue"
    datasets: tuple[str, ...] = ("mutual",)

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        shown = read_rows(path, "train", MOST_SHOTS) if exemplars else []
        yield Part(
            task="mutual",
            id=split,
            head=HEAD,
            shots=[Shot(_asked(row), f" {_key(row, where)}") for where, row in shown],
            questions=[
                Question(
                    text=turns(row["article"]),
                    asked=_asked(row),
                    references=(_key(row, where),),
                    choices=tuple(row["options"]),
                    options=tuple(f" {name}" for name in LETTERS),
                )
                for where, row in read_rows(path, split)
            ],
            key=("mutual", split),
        )

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        if reading == "strict":
            answer = parse_answer(output)
            return Extraction(answer, "spec 6.6") if answer else Extraction(None, UNREAD)
        return letter(output, LETTERS, loose=reading == "loose")


def read_rows(path: Path, split: str, most: int | None = None) -> list[tuple[str, dict[str, Any]]]:
    """(place, row), the first `most`; files in the order of the numbers in their names."""
    path = clone if (clone := path / "data" / "mutual").is_dir() else path
    folder = path / split
    rows: list[tuple[str, Any]]
    if folder.is_dir():
        files = sorted(folder.glob("*.txt"), key=lambda f: [int(n) for n in re.findall(r"\d+", f.stem)])[:most]
        if not files:
            existing(folder / "dev_1.txt", f"MuTual's {split} split")
        rows = [(str(f), read_json(f)) for f in files]
    else:
        lines = path / f"{split}.jsonl"
        file = existing_either(lines, path / f"{split}.jsonl.gz", what=f"MuTual's {split} split, or the folder {split}")
        rows = [(f"{file}:row {n}", row) for n, row in enumerate(read_json_lines(file), start=1)][:most]
    for where, row in rows:
        _check(row, where)
    return rows


def _check(row: Any, where: str) -> None:
    if not isinstance(row, dict):
        raise DataError(where, field="(file)", expected="a JSON object", got=row)
    for column in ("article", "answers"):
        if not isinstance(row.get(column), str) or not row[column].strip():
            raise DataError(where, field=column, expected="text", got=row.get(column))
    options = row.get("options")
    if not isinstance(options, list) or len(options) != len(LETTERS) or not all(isinstance(o, str) for o in options):
        raise DataError(where, field="options", expected="four texts", got=options)


def _key(row: Mapping[str, Any], where: str) -> str:
    return answer_key(row["answers"], LETTERS, where)


def turns(article: str) -> str:
    """A turn a line; they begin with "m : " and "f : "."""
    return re.sub(r"\s+(?=[mf] : )", "\n", article.strip())


def _asked(row: Mapping[str, Any]) -> str:
    listed = "\n".join(f"{name}. {option}" for name, option in zip(LETTERS, row["options"], strict=True))
    return f"{turns(row['article'])}\n\n{listed}\nAnswer:"
