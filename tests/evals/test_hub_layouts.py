"""Benchmarks laid out as the hub has them are asked as the publishers' own files are."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flantune.errors import DataError, RecipeError
from flantune.evals import BENCHMARKS
from flantune.evals.files import read_json, read_json_lines
from flantune.types import Item

LETTERS = "ABCD"


def write(path: Path, rows: list[dict[str, Any]], files: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for n in range(files):
        own = rows[n * len(rows) // files : (n + 1) * len(rows) // files]
        pq.write_table(pa.Table.from_pylist(own), path.with_name(f"{path.name}-{n:05}-of-{files:05}.parquet"))


def cells(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def mmlu_on_the_hub(source: Path, to: Path) -> None:
    for split, name in (("dev", "dev"), ("val", "validation"), ("test", "test")):
        for file in sorted((source / split).glob("*.csv")):
            subject = file.name.removesuffix(f"_{split}.csv")
            rows = [
                {"question": c[0], "subject": subject, "choices": c[1:5], "answer": LETTERS.index(c[5])}
                for c in cells(file)
            ]
            write(to / subject / name, rows, files=min(2, len(rows)))
            write(to / "all" / name, rows)
    shutil.copy(source / "mmlu-cot.json", to)


def ceval_on_the_hub(source: Path, to: Path) -> None:
    for split in ("dev", "val"):
        for file in sorted((source / split).glob("*.csv")):
            head, *rows = cells(file)
            named = [dict(zip(head, row, strict=True)) for row in rows]
            write(to / file.name.removesuffix(f"_{split}.csv") / split, [{**r, "id": int(r["id"])} for r in named])


def tydiqa_on_the_hub(source: Path, to: Path) -> None:
    for split, name in (("dev", "validation"), ("train", "train")):
        file = next(p for p in sorted(source.iterdir()) if p.name.startswith(f"tydiqa-goldp-v1.1-{split}.json"))
        rows = [
            {
                "id": qa["id"],
                "title": "",
                "context": paragraph["context"],
                "question": qa["question"],
                "answers": {
                    "text": [a["text"] for a in qa["answers"]],
                    "answer_start": [0 for _ in qa["answers"]],
                },
            }
            for article in read_json(file)["data"]
            for paragraph in article["paragraphs"]
            for qa in paragraph["qas"]
        ]
        write(to / "secondary_task" / name, rows)


def gsm8k_on_the_hub(source: Path, to: Path) -> None:
    for split in ("train", "test"):
        file = next(p for p in sorted(source.iterdir()) if p.name.startswith(f"{split}.jsonl"))
        write(to / "main" / split, [{k: r[k] for k in ("question", "answer")} for r in read_json_lines(file)])


LAYOUTS: dict[str, Callable[[Path, Path], None]] = {
    "mmlu": mmlu_on_the_hub,
    "ceval": ceval_on_the_hub,
    "tydiqa": tydiqa_on_the_hub,
    "gsm8k": gsm8k_on_the_hub,
}


def asked(name: str, folder: Path, mode: str, **how: Any) -> list[Item]:
    return [posed.item for posed in BENCHMARKS[name].items(folder, mode, **how)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_item_is_the_one_of_the_publishers_files(name: str, benchmarks: Path, tmp_path: Path):
    benchmark = BENCHMARKS[name]
    source, hub = benchmarks / benchmark.folder, tmp_path / benchmark.folder
    hub.mkdir(parents=True)
    LAYOUTS[name](source, hub)
    if (benchmarks / "prompts").exists():
        shutil.copytree(benchmarks / "prompts", tmp_path / "prompts")
    for mode in benchmark.modes:
        items = asked(name, hub, mode)
        assert items and items == asked(name, source, mode)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"question": "Q", "choices": ["a", "b"], "answer": 0}, r"row 1.*choices.*expected four"),
        ({"question": "Q", "choices": list("abcd"), "answer": 4}, r"row 1.*answer.*expected 0 to 3"),
        ({"question": "Q", "answer": 1}, r"test-00000.*choices.*a column of this name"),
    ],
)
def test_a_hub_file_that_is_not_mmlus_says_where_and_what(row: dict[str, Any], complaint: str, tmp_path: Path):
    write(tmp_path / "pottery" / "test", [row])
    with pytest.raises(DataError, match=complaint):
        asked("mmlu", tmp_path, "direct", split="test", shots=0)


def test_a_folder_of_neither_layout_and_a_broken_file_say_so(tmp_path: Path):
    (tmp_path / "pottery").mkdir()
    with pytest.raises(RecipeError, match=r"val: no such folder"):
        asked("mmlu", tmp_path, "direct", shots=0)
    (tmp_path / "pottery" / "validation-00000-of-00001.parquet").write_text(json.dumps("no Parquet"))
    with pytest.raises(DataError, match="expected a Parquet file"):
        asked("mmlu", tmp_path, "direct", shots=0)
