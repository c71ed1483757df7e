"""A study's folder -> one HTML page that needs nothing else. Reads study.json alone; every figure can be taken along as
SVG and its numbers as CSV, from links that hold them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from flantune.errors import RecipeError, StateError
from flantune.reports.page import page_styles, page_template, write_page
from flantune.reports.study_figures import Record, panel_csv, panel_svg, y_range_of

FILE = "study.json"
FORMAT = 1
MISSING = "–"
LONG = 24  # rows of a table from which it is folded


def is_study(folder: Path) -> bool:
    return (folder / FILE).is_file()


def is_begun(folder: Path) -> bool:
    """Whether a study lists its points there, be it through or not."""
    return (folder / "points.json").is_file()


def write_study_report(folder: Path, out: Path | None = None, study: Record | None = None) -> Path:
    """The page about a study, whole or not at all; `study` is what study.json would say where there is none yet.

    Raises RecipeError where the folder is none, StateError where its study.json cannot be read."""
    folder = Path(folder)
    page = render_study(read_study(folder) if study is None else json.loads(json.dumps(study)))
    return write_page(page, Path(out) if out is not None else folder / "report.html")


def read_study(folder: Path) -> Record:
    path = folder / FILE
    if not path.is_file():
        raise RecipeError(f"{folder}: not a study's folder: it has no {FILE}. 'flantune study' makes one.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise StateError(f"{path}: cannot be read: {e}. Give 'flantune study' again.") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise StateError(f"{path}: not a study of this version. Give 'flantune study' again.")
    return found


def render_study(study: Record) -> str:
    return page_template("study.html.j2").render(
        study=study,
        css=page_styles("page.css", "study.css"),
        groups=_panel_groups(study["panels"]),
        tables=_table_groups(study["tables"]),
        missing=MISSING,
    )


def _panel_groups(panels: Sequence[Record]) -> list[dict[str, Any]]:
    groups: dict[str, list[Record]] = {}
    for panel in panels:
        groups.setdefault(panel["group"], []).append(panel)
    return [
        {"name": name, "id": f"figures-{number}", "panels": [_shown_panel(p, _range(p, own)) for p in own]}
        for number, (name, own) in enumerate(groups.items())
    ]


def _range(panel: Record, group: Sequence[Record]) -> tuple[float, float] | None:
    """What the panels of a group share that show the same unit."""
    return y_range_of([p for p in group if p["y_unit"] == panel["y_unit"] and p["y_title"] == panel["y_title"]])


def _shown_panel(panel: Record, y_range: tuple[float, float] | None) -> dict[str, Any]:
    svg = panel_svg(panel, y_range)
    name = file_name(f"{panel['group']} {panel['title']}")
    return {
        "svg": Markup(svg),
        "note": panel["note"],
        "title": panel["title"],
        "svg_link": link("image/svg+xml", svg),
        "csv_link": link("text/csv", panel_csv(panel)),
        "name": name,
    }


def _table_groups(tables: Sequence[Record]) -> list[dict[str, Any]]:
    groups: dict[str, list[Record]] = {}
    for table in tables:
        groups.setdefault(table["group"], []).append(table)
    return [
        {"name": name, "id": f"tables-{number}", "tables": [_shown_table(t) for t in own]}
        for number, (name, own) in enumerate(groups.items())
    ]


def _shown_table(table: Record) -> dict[str, Any]:
    kinds = table["kinds"]
    return {
        "title": table["title"],
        "note": table["note"],
        "columns": [(c, "text" if k == "text" else "number") for c, k in zip(table["columns"], kinds, strict=True)],
        "rows": [
            [
                (cell_text(value, kind), "text" if kind == "text" else "number")
                for value, kind in zip(row, kinds, strict=True)
            ]
            for row in table["rows"]
        ],
        "long": len(table["rows"]) > LONG,
        "csv_link": link("text/csv", table_csv(table)),
        "name": file_name(table["title"]),
    }


def cell_text(value: Any, kind: str) -> str:
    """As it stands in the page, and as it is copied."""
    if value is None or value == "":
        return MISSING if kind != "text" else ""
    if kind in ("interval", "signed_interval"):
        sign = "+" if kind == "signed_interval" else ""
        return f"[{100 * value[0]:{sign}.1f}, {100 * value[1]:{sign}.1f}]"
    if kind in ("percent", "signed"):
        return f"{100 * value:{'+' if kind == 'signed' else ''}.1f}"
    if kind == "count":
        return f"{value:,}"
    if kind == "plain":
        return f"{value:,.1f}" if 10 <= abs(value) < 1e6 else f"{value:.3g}"
    return str(value)


def table_csv(table: Record) -> str:
    """Every number in full; an interval takes two columns."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    pairs = [kind in ("interval", "signed_interval") for kind in table["kinds"]]
    heads: list[str] = []
    for column, pair in zip(table["columns"], pairs, strict=True):
        heads += [f"{column} low", f"{column} high"] if pair else [column]
    writer.writerow(heads)
    for row in table["rows"]:
        cells: list[Any] = []
        for value, pair in zip(row, pairs, strict=True):
            cells += list(value or ("", "")) if pair else [value]
        writer.writerow(cells)
    return out.getvalue()


def link(kind: str, content: str) -> str:
    return f"data:{kind};charset=utf-8,{quote(content)}"


def file_name(text: str) -> str:
    """ "held_out/direct/0-shot" -> "held_out-direct-0-shot" """
    kept = "".join(c if c.isalnum() or c in "_." else "-" for c in text)
    return "-".join(part for part in kept.split("-") if part)[:80] or "figure"


__all__ = ["is_begun", "is_study", "read_study", "render_study", "write_study_report"]
