"""Score outputs that some model wrote elsewhere: JSON lines with "output" and either the item's "id" or its "input"."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from flantune.errors import DataError
from flantune.evals.benchmark import Posed, everything_fits, existing, read_json_lines
from flantune.evals.results import Answered, Setting, judge, unanswered, write_items
from flantune.evals.summary import summarise
from flantune.whole import write_json


def score_outputs(setting: Setting, outputs: Path) -> list[Answered]:
    """Every item of the setting, scored where the file answers it; the others are missing, not wrong.

    "input" may be the whole prompt, white space at its edges aside. An input that several items share answers them all.
    Raises DataError on a line that answers no item, or one that an earlier line answered.
    """
    posed = setting.pose(everything_fits)
    by_id = {p.item.id: p for p in posed}
    by_input: dict[str, list[Posed]] = defaultdict(list)
    for p in posed:
        by_input[p.item.prompt.strip()].append(p)
    told: dict[str, str] = {}
    for number, row in enumerate(read_json_lines(existing(outputs, "outputs to score"), ("output",)), start=1):
        where = f"{outputs}:row {number}"
        for p in _asked(row, by_id, by_input, where, setting):
            if p.item.id in told:
                raise DataError(where, field="id", expected="one output per item", got=p.item.id)
            told[p.item.id] = row["output"]
    return [judge(setting, p, told[p.item.id]) if p.item.id in told else unanswered(setting, p) for p in posed]


def score_file(setting: Setting, outputs: Path, folder: Path) -> dict[str, Any]:
    """`score_outputs`, written to folder/items.parquet and folder/summary.json; returns the summary."""
    rows = score_outputs(setting, outputs)
    folder.mkdir(parents=True, exist_ok=True)
    write_items(folder / "items.parquet", rows)
    summary = {"format": 1, "outputs": str(outputs), "results": summarise([setting], rows)}
    write_json(folder / "summary.json", summary)
    return summary


def _asked(
    row: dict[str, Any], by_id: dict[str, Posed], by_input: dict[str, list[Posed]], where: str, setting: Setting
) -> list[Posed]:
    if "id" in row:
        if row["id"] not in by_id:
            example = next(iter(by_id))
            raise DataError(where, field="id", expected=f"an item of {setting.key} such as {example!r}", got=row["id"])
        return [by_id[row["id"]]]
    if not isinstance(row.get("input"), str) or row["input"].strip() not in by_input:
        raise DataError(
            where,
            field="input",
            expected=f"'id', or 'input' with a prompt of {setting.key}",
            got=row.get("input"),
            mend="Prompts must be worded as this benchmark words them; ids are safer.",
        )
    return by_input[row["input"].strip()]
