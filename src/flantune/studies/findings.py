"""What a study found, ready to be shown: sentences, panels of a figure, and tables. Written to study.json, drawn by
reports.study. Any study can be told in these; nothing below knows of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from flantune.whole import write_json

FORMAT = 1
FILE = "study.json"
Cell = str | int | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One place of a series. `x`: a number, or a category's name. `low`, `high`: the 95 % interval of y; `x_low`,
    `x_high` that of x. `label`: what stands beside it or is told of it."""

    x: float | str
    y: float
    low: float | None = None
    high: float | None = None
    x_low: float | None = None
    x_high: float | None = None
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Marks of one kind, told apart by mark and dash. `reference`: published or a baseline, drawn lighter; `joined`:
    with a line. `source`: where figures that are not ours come from."""

    name: str
    marks: tuple[Mark, ...]
    joined: bool = True
    reference: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One small figure. `group`: panels of a group stand together under its name and share their y range. `levels`:
    horizontal lines by name, as the base model's score."""

    title: str
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    group: str = ""
    x_scale: Literal["linear", "log", "category"] = "linear"
    y_unit: Literal["percent", "plain"] = "percent"  # percent: y in [0, 1] or points, shown times 100
    levels: tuple[tuple[str, float], ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`kinds`: how a column's numbers are shown; percent: times 100; signed: with its sign, times 100."""

    title: str
    columns: tuple[str, ...]
    kinds: tuple[Literal["text", "count", "percent", "signed", "plain", "interval", "signed_interval"], ...]
    rows: tuple[tuple[Any, ...], ...]
    group: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """`found`: what is to be said first, a sentence each. `verdict`: one word or line over all, where there is one."""

    study: str
    title: str
    recipe: str
    found: tuple[str, ...] = ()
    verdict: str = ""
    notes: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()
    tables: tuple[Table, ...] = ()
    data: Mapping[str, Any] | None = None  # figures that are read by programs, not shown

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


def write_findings(findings: Findings, folder: Path) -> Path:
    """study.json in the study's folder, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, findings.to_json())
    return folder / FILE


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


def interval(low: float | None, high: float | None, *, signed: bool = False, digits: int = 1) -> str:
    """ "[1.2, 3.4]", times 100"""
    if low is None or high is None:
        return "–"
    sign = "+" if signed else ""
    return f"[{100 * low:{sign}.{digits}f}, {100 * high:{sign}.{digits}f}]"


def joined(parts: Sequence[str]) -> str:
    """ "a, b and c" """
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""
