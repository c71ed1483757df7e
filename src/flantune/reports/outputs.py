"""Outputs to look at: for each way of asking, some the tuned model got right, some wrong, some nothing was read in."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flantune.errors import StateError
from flantune.reports.run_files import RunFiles

VERDICTS = ("right", "partly right", "wrong", "unread")
PER_VERDICT = 2
_MOST_CHARACTERS = 3000
_COLUMNS = ["setting", "task", "id", "prompt", "references", "output", "extracted", "rule", "score", "reason"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One model's output to a question."""

    output: str
    extracted: str | None
    score: float | None
    verdict: str
    why: str  # the rule that read the answer, or why none was read


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    setting: str
    task: str
    id: str
    prompt: str
    references: tuple[str, ...]
    said: Mapping[str, Said]  # by side; a side that was not asked is absent
    verdict: str  # of the tuned model, or of the one there is


def pick_outputs(run: RunFiles, per_verdict: int = PER_VERDICT) -> dict[str, list[Shown]]:
    """By setting, at most `per_verdict` of each verdict. The choice is the same each time and blind to the content."""
    if not run.items:
        return {}
    side = "tuned" if "tuned" in run.items else next(iter(run.items))
    chosen: dict[tuple[str, str], list[str]] = defaultdict(list)
    keys = _read(run.items[side], ["setting", "id", "score", "reason"]).to_pylist()
    for row in sorted(
        keys, key=lambda r: hashlib.blake2b(f"{r['setting']}:{r['id']}".encode(), digest_size=8).digest()
    ):
        group = chosen[row["setting"], verdict_of(row["score"])]
        if len(group) < per_verdict:
            group.append(row["id"])
    wanted = {(setting, item) for (setting, _), ids in chosen.items() for item in ids}
    rows = {name: _rows(path, wanted) for name, path in run.items.items()}
    shown: dict[str, list[Shown]] = {}
    for setting in dict.fromkeys(row["setting"] for row in keys):
        for verdict in VERDICTS:
            for item in chosen.get((setting, verdict), []):
                shown.setdefault(setting, []).append(_shown(rows, side, (setting, item)))
    return shown


def verdict_of(score: float | None) -> str:
    if score is None:
        return "unread"
    return "right" if score >= 1 else "wrong" if score <= 0 else "partly right"


def _shown(rows: Mapping[str, Mapping[tuple[str, str], Any]], side: str, key: tuple[str, str]) -> Shown:
    row = rows[side][key]
    said = {name: _said(own[key]) for name, own in rows.items() if key in own}
    return Shown(
        setting=row["setting"],
        task=row["task"],
        id=row["id"],
        prompt=shorten_middle(row["prompt"]),
        references=tuple(row["references"]),
        said=said,
        verdict=said[side].verdict,
    )


def _said(row: Mapping[str, Any]) -> Said:
    return Said(
        output=shorten_middle(row["output"]),
        extracted=row["extracted"],
        score=row["score"],
        verdict=verdict_of(row["score"]),
        why=row["rule"] if row["extracted"] is not None else row["reason"],
    )


def shorten_middle(text: str, most: int = _MOST_CHARACTERS) -> str:
    """The beginning and the end, and how much is left out between: the question stands at the end."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"


def _rows(path: Path, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    table = _read(path, _COLUMNS)
    ids = zip(table["setting"].to_pylist(), table["id"].to_pylist(), strict=True)
    places = [i for i, key in enumerate(ids) if key in wanted]
    return {(row["setting"], row["id"]): row for row in table.take(places).to_pylist()}


def _read(path: Path, columns: list[str]) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as e:
        raise StateError(f"{path}: not a readable items.parquet: {e}. Evaluate again.") from None
