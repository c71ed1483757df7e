"""Scores without the items that training had seen, where the search for leaks (`flantune tasks contamination`) marked
them: a file of one row per item with benchmark, id and verdict, Parquet or JSON lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flantune.errors import DataError
from flantune.evals.files import existing, read_json_lines
from flantune.evals.results import read_items, was_answered
from flantune.evals.summary import summarise_rows
from flantune.mixtures.contamination import VERDICTS
from flantune.whole import write_json

UNMARKED = "the marks of leaked items name none of these items."
COLUMNS = ("benchmark", "id", "verdict")
PARQUET = f"Parquet with {', '.join(COLUMNS)}"
LEAK, UNCHECKED = "test_leak", "unchecked"
Verdicts = Mapping[tuple[str, str], str]  # by benchmark and item id


def marks_beside(model: str) -> Path | None:
    """The marks of the run that a model folder belongs to, where that run has searched for leaks."""
    path = Path(model).parent / "evals" / "contamination.parquet"
    return path if path.exists() else None


def read_verdicts(path: Path) -> dict[tuple[str, str], str]:
    if existing(path, "marks of leaked items").suffix == ".jsonl":
        rows = read_json_lines(path, COLUMNS)
    else:
        try:
            rows = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
        except (OSError, pa.ArrowException) as e:
            raise DataError(
                str(path), field="(file)", expected=f"Parquet with {', '.join(COLUMNS)}", got=str(e)
            ) from None
    for number, row in enumerate(rows, start=1):
        if row["verdict"] not in VERDICTS:
            expected = f"one of {', '.join(VERDICTS)}"
            raise DataError(f"{path}:row {number}", field="verdict", expected=expected, got=row["verdict"])
    return {(row["benchmark"], row["id"]): row["verdict"] for row in rows}


def add_clean_scores(summary: dict[str, Any], folder: Path, verdicts: Verdicts) -> dict[str, Any]:
    """The summary with "clean" in every entry whose items were searched: verdicts, and the score without the leaks.

    Written to folder/summary.json too. An entry of which no item was searched gets None, never a clean bill.
    """
    rows = read_items(folder / "items.parquet")
    for entry in summary["results"]:
        own = [row for row in rows if row.setting == entry["setting"] and was_answered(row)]
        found = [verdicts.get((row.result.item.benchmark.split(":")[0], row.result.item.id)) for row in own]
        if not any(found):
            entry["clean"] = None
            entry["warnings"] = [*(w for w in entry.get("warnings", ()) if w != UNMARKED), UNMARKED]
            continue
        left = [row for row, verdict in zip(own, found, strict=True) if verdict != LEAK]
        figures = summarise_rows(left)
        counts = Counter(verdict or UNCHECKED for verdict in found)
        entry["clean"] = {
            "verdicts": dict(sorted(counts.items())),
            "items": figures["items"],
            "score": figures["score"],
            "interval": figures["interval"],
        }
    write_json(folder / "summary.json", summary)
    return summary
