"""A real evaluation of two mock models, suite and samples and all, on the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flantune.evals import compare, compare_abilities, compare_groups, file_settings, run_evaluation, write_comparison
from flantune.evals.mmlu import SUBJECTS
from flantune.inference.mock import Mock, hashed
from flantune.recipe import BenchmarkSpec
from flantune.reports import write_report

from .invented_run import HOSTILE, write_run
from .test_report import Page

FILES = Path(__file__).parents[1] / "data" / "benchmarks"


def say(wrong: int) -> object:
    def told(prompt: str, sample: int) -> str:
        return f"{HOSTILE} hm" if hashed(prompt, sample) % 10 < wrong else "So the answer is 3."

    return told


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    root = write_run(tmp_path_factory.mktemp("page") / "run")
    files = shutil.copytree(FILES, root.parent / "files")
    (row,) = list((files / "mmlu/val").glob("*.csv"))
    for subject in SUBJECTS:  # all of them, so that groups are whole
        shutil.copy(row, files / f"mmlu/val/{subject}_val.csv")
    row.unlink()
    specs = [
        BenchmarkSpec(name="mmlu", modes=("direct",), shots=0),
        BenchmarkSpec(name="bbh", modes=("cot",), shots=1),
        BenchmarkSpec(name="mgsm", modes=("cot",), shots=1, samples=5),
    ]
    settings = [s for spec in specs for s in file_settings(spec, str(files), 0)]
    for side, wrong in (("base", 9), ("tuned", 2)):
        shutil.rmtree(root / "evals" / side)
        mock = Mock(side, say=say(wrong))  # type: ignore[arg-type]
        run_evaluation(mock, settings, root / "evals" / side, suite="flan", not_asked=["tydiqa"])
    items = [root / "evals" / side / "items.parquet" for side in ("base", "tuned")]
    write_comparison(compare(*items), root / "compare.json", compare_groups(*items), compare_abilities(*items))
    return Page(write_report(root, root / "report.html").read_text(encoding="utf-8"))


def summary_of(page: Page, first: str, second: str) -> list[list[str]]:
    return next(t[1:] for t in page.tables if t and t[0][:2] == [first, second])


def test_named_averages_stand_beside_the_scores(page: Page):
    rows = summary_of(page, "benchmark/mode/shots", "average")
    assert ["mmlu/direct/0-shot", "macro_57"] in [r[:2] for r in rows]
    mmlu = next(r for r in rows if r[1] == "macro_57")
    assert all(float(v) >= 0 for v in mmlu[2:4]) and mmlu[4:] == ["–", "–"]  # scored options are read one way
    bbh = next(r for r in rows if r[1] == "macro_27")
    assert bbh[2:] == ["–"] * 4  # two of the 27 tasks are there


def test_three_readings_and_samples_and_what_was_not_read_are_shown(page: Page):
    readings = next(t for t in page.tables if t and t[0][2:5] == ["strict", "default", "loose"])
    assert {r[0] for r in readings[1:]} == {"bbh/cot/1-shot", "mgsm/cot/1-shot+majority-5"}
    drawn = next(t for t in page.tables if t and "one sample alone" in t[0])
    assert [r[1:4] for r in drawn[1:]] == [["base", "majority", "5"], ["tuned", "majority", "5"]]
    text = page.whole_text()
    assert "Some outputs in which no answer was found" in text
    assert "bbh/cot/1-shot (base): no answer could be read in" in text and "read strictly" in text
    assert any(pre.endswith("hm") and HOSTILE in pre for pre in page.pre)


def test_groups_and_abilities_are_shown_with_their_intervals(page: Page):
    groups = next(t for t in page.tables if t and t[0][:2] == ["benchmark/mode/shots", "group"])
    assert len(groups) == 5 and all(0 <= float(r[-1]) <= 1 for r in groups[1:])  # MMLU's four
    abilities = next(t for t in page.tables if t and t[0][0] == "ability")
    assert {r[0] for r in abilities[1:]} == {"knowledge", "reasoning", "multilingual"}
    assert all("…" in r[-1] for r in abilities[1:])


def test_a_suite_says_what_is_missing(page: Page):
    text = page.whole_text()
    assert "Suite flan, tuned: no normalised average, missing are" in text
    assert "not asked, no files: tydiqa" in text


def test_a_run_without_any_of_it_says_nothing_of_it(tmp_path: Path):
    source = write_report(write_run(tmp_path / "run"), tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' not in source for name in ("abilities", "groups", "averages", "several"))
    assert json.loads((tmp_path / "run/compare.json").read_text())["rows"]
