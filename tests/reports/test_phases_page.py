"""A run in phases on its page: what each one's rows hold."""

from __future__ import annotations

import json
from pathlib import Path

from flantune.reports import write_report

from .invented_run import write_run


def test_each_phase_has_its_table_and_a_run_without_phases_has_none(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    assert "Phase 1" not in write_report(root, tmp_path / "plain.html").read_text()
    path = root / "data" / "shards" / "card.json"
    card = json.loads(path.read_text())
    name, whole = next(iter(card["mixtures"].items()))
    card["phases"] = [
        {"rows": rows, "row_share": 0.5, "mixtures": {name: {**whole, "asked": asked, "got": 0.123, "drawn": None}}}
        for rows, asked in ((40, 0.25), (60, 0.75))
    ]
    path.write_text(json.dumps(card))
    page = write_report(root, tmp_path / "phased.html").read_text()
    assert "Phase 1: 40 rows" in page and "Phase 2: 60 rows" in page
    assert page.count("12.30") >= 2 and "25.00" in page and "75.00" in page
