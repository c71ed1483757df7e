from __future__ import annotations

import json
from pathlib import Path

import pytest

from flantune.reports import write_report

from .invented_run import HOSTILE, recipe, write_run
from .test_report import Page


def page_of(root: Path) -> Page:
    return Page(write_report(root, root / "page.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("by", "better"), [("loss", "the lowest loss"), ("score", "the highest score")])
def test_the_choice_its_split_and_its_curve_are_told(by: str, better: str, tmp_path: Path):
    root = write_run(tmp_path)
    points = [
        {"step": 100 * k, "value": v, "parts": {"target_tokens": 77}} for k, v in ((1, 2.5), (2, 1.25), (3, 1.75))
    ]
    split = {"tasks": [HOSTILE], "benchmarks": [{"name": "mmlu", "split": "val"}], "limit": 8}
    told = {"by": by, "split": split, "evaluations": points, "chosen": 200, "stopped": True}
    (root / "selection.json").write_text(json.dumps(told))
    page = page_of(root)
    table = next(t for t in page.tables if t[0][-1] == "chosen")
    assert [(row[0], row[1], row[-1]) for row in table[1:]] == [
        ("100", "2.5", "no"), ("200", "1.25", "yes"), ("300", "1.75", "no")
    ]  # fmt: skip
    text = " ".join(page.text)
    assert better in text and "stopped early" in text and HOSTILE in text
    assert any(dict(attributes).get("id") == "figure-selection" for _, attributes in page.tags)


def test_a_fixed_step_is_said_to_be_one(tmp_path: Path):
    assert "fixed beforehand" in " ".join(page_of(write_run(tmp_path)).text)


def test_a_choice_that_was_asked_for_and_not_made_is_not_a_fixed_step(tmp_path: Path):
    import yaml

    root = write_run(tmp_path)
    (root / "recipe.yaml").write_text(yaml.safe_dump({**recipe(), "selection": {"by": "loss"}}))
    text = " ".join(page_of(root).text)
    assert "fixed beforehand" not in text and "Choosing of a checkpoint" in text
