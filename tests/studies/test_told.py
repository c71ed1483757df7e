"""What studies say, on results whose answers are known: no point is trained here."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.errors import RecipeError, StateError
from flantune.reports.study import cell_text, file_name, read_study, render_study, table_csv, write_study_report
from flantune.reports.study_figures import panel_csv, panel_svg, styles_of, ticks, y_range_of
from flantune.studies.findings import Findings, Mark, Panel, Series, Table, write_findings
from flantune.studies.point import PointResult
from flantune.studies.told import cells_of
from flantune.studies.told_arms import cot_findings, formats_findings, sources_findings
from flantune.studies.told_scaling import scaling_findings

from .grids import SETTING, result

BASE = {t: [0.0] * 6 + [1.0] * 2 for t in ("x", "y", "z", "w")}  # 0.25


def right(share: float, seed: int = 0) -> dict[str, list[float | None]]:
    """Of 8 items of each of four tasks, so many are right; which ones, the seed says."""
    rng = np.random.default_rng(seed)
    scores: dict[str, list[float | None]] = {}
    for task in BASE:
        own = np.array([1.0] * round(8 * share) + [0.0] * (8 - round(8 * share)))
        rng.shuffle(own)
        scores[task] = own.tolist()
    return scores


@pytest.fixture
def scaled(tmp_path: Path) -> list[PointResult]:
    """Two models; "big" rises by 1/8 with each doubling, "small" stays. One point failed."""
    found = []
    for seed in (0, 1):
        for step, tasks in enumerate((2, 4, 8)):
            labels = {"model": "big", "tasks": tasks, "seed": seed}
            found.append(result(tmp_path, labels, right(0.375 + step / 8, 0), BASE))
            labels = {"model": "small", "tasks": tasks, "seed": seed}
            scores = None if (tasks, seed) == (8, 1) else right(0.25, 0)
            found.append(result(tmp_path, labels, scores, BASE))
    return found


def test_scaling_tells_the_slope_that_is_there_and_the_failure(scaled):
    findings = scaling_findings("demo", scaled)
    fits = next(t for t in findings.tables if t.group == "Fits")
    big, small = fits.rows
    assert big[0] == f"big, {SETTING}" and big[1] == pytest.approx(1 / 8) and big[4] == "not within these"
    assert big[3] == pytest.approx(1.0) and big[5] == pytest.approx(0.25)
    assert small[1] == pytest.approx(0) and small[4] == "after 2 tasks"
    panel = findings.panels[0]
    assert [s.name for s in panel.series if not s.reference] == ["big", "small"]
    marks = panel.series[0].marks
    assert [(m.x, m.y) for m in marks] == [(2, 0.375), (4, 0.5), (8, 0.625)]
    assert all(m.low is not None and m.high is not None and m.low <= m.y <= m.high for m in marks)
    assert panel.levels == (("big, no finetuning", 0.25), ("small, no finetuning", 0.25))
    failed = next(t for t in findings.tables if t.group == "Failed")
    assert failed.rows == (("small, tasks 8, seed 1", "small-8-1", "the disk was full"),)
    text = " ".join(findings.found)
    assert "from 2 to 8 tasks the score rises: +25.0" in text and "does not clearly change" in text
    big_verdict, small_verdict = (sentence for sentence in findings.found if "from 2 to 8 tasks" in sentence)
    told = "3 of the paper's 3 models gain from 9 to 1,836 tasks."
    assert big_verdict.endswith(f"As published: {told}")
    assert small_verdict.endswith(f"That is not what the paper found: {told}")
    assert findings.notes[0].startswith("11 of 12 points are done")
    published = [p for p in findings.panels if p.title.startswith("paper")]
    assert published and all("Table 3" in s.source and s.reference for p in published for s in p.series)
    assert [(m.x, m.y) for m in published[0].series[0].marks][-1] == (1836, 21.9)


def test_points_that_serve_several_places_are_timed_once(scaled):
    twice = [*scaled, scaled[0]]
    cost = next(t for t in scaling_findings("demo", twice).tables if t.group == "Cost")
    assert [row[5] for row in cost.rows].count(None) == 1


def test_a_study_without_a_done_point_says_so(tmp_path):
    failed = [result(tmp_path, {"tasks": 2, "seed": 0}, None, BASE)]
    findings = scaling_findings("demo", failed)
    assert not findings.found and not [p for p in findings.panels if not p.title.startswith("paper")]
    write_findings(findings, tmp_path)
    assert "nothing was found" in render_study(read_study(tmp_path))


def test_cot_compares_arm_with_arm(tmp_path):
    shares = {"CoT only": 0.5, "non-CoT only": 0.125, "both": 0.75, "both, no rationales": 0.25, "non-CoT + 1": 0.5}
    found = [
        result(tmp_path, {"arm": arm, "seed": seed}, right(share, 0), BASE)
        for arm, share in shares.items()
        for seed in (0, 1)
    ]
    findings = cot_findings("demo", found)
    table = next(t for t in findings.tables if t.group == "Arm against arm")
    assert {row[2]: pytest.approx(row[3]) for row in table.rows} == {
        "both – non-CoT only": 0.625,
        "both – CoT only": 0.25,
        "both – both, no rationales": 0.5,
        "non-CoT + 1 – non-CoT only": 0.375,
    }
    assert any("adding the reasoning tasks to the others raises the score: +62.5" in s for s in findings.found)
    assert any("Paper" in note and "non-CoT-only falls below" in note for note in findings.notes)


def test_other_studies_compare_with_the_first_of_an_axis(tmp_path):
    rows = [("formats", "as stated", 0.5), ("few_shot", 0.0, 0.25), ("few_shot", 0.5, 0.75), ("few_shot", 1.0, 0.25)]
    found = [result(tmp_path, {axis: value, "seed": 0}, right(share), BASE) for axis, value, share in rows]
    findings = formats_findings("demo", found)
    drawn = next(t for t in findings.tables if t.title.startswith("Formats of the examples"))
    assert drawn.rows[:2] == (
        ("formats as stated, seed 0", "fs_noopt", 10, 0.25),
        ("formats as stated, seed 0", "zs_opt", 30, 0.75),
    )
    few = next(c for c in cells_of(found, {"few_shot": 0.0}) if c.axis == "few_shot")
    assert [a.gain for a in few.arms] == [None, pytest.approx(0.5), pytest.approx(0.0)]
    panel = next(p for p in findings.panels if p.x_title == "share of few-shot prompts")
    assert panel.x_scale == "linear" and [m.x for m in panel.series[0].marks] == [0.0, 0.5, 1.0]
    assert any("share of few-shot prompts 0.5" in sentence and "+50.0" in sentence for sentence in findings.found)
    names = [("all", 0.75), ("all but a", 0.25)]
    findings = sources_findings("demo", [result(tmp_path, {"sources": n, "seed": 0}, right(s), BASE) for n, s in names])
    panel = findings.panels[0]
    assert panel.x_scale == "category" and [m.x for m in panel.series[0].marks] == ["all", "all but a"]


def test_points_of_one_model_must_start_from_one_base(tmp_path):
    one = result(tmp_path / "a", {"tasks": 2, "seed": 0}, right(0.5), BASE)
    other = result(tmp_path / "b", {"tasks": 4, "seed": 0}, right(0.5), BASE)
    with pytest.raises(StateError, match="several bases"):
        scaling_findings("demo", [one, other])


PANEL = Panel(
    title='a "hostile" <script>alert(1)</script> title',
    group="g",
    x_title="tasks",
    y_title="score, %",
    x_scale="log",
    series=(
        Series(name="first", marks=(Mark(x=1, y=0.2, low=0.1, high=0.3), Mark(x=10, y=0.5, low=0.4, high=0.6))),
        Series(name="second", marks=(Mark(x=1, y=0.3), Mark(x=10, y=0.4, label="here"))),
        Series(name="published", marks=(Mark(x=1, y=0.1), Mark(x=10, y=0.15)), reference=True, source="a paper"),
    ),
    levels=(("base", 0.05),),
)


def shown(panel: Panel) -> dict[str, object]:
    findings = Findings(study="s", title="t", recipe="r", panels=(panel,))
    return json.loads(json.dumps(findings.to_json()))["panels"][0]


def test_figures_tell_series_apart_without_colour_and_hold_no_markup_of_the_data():
    panel = shown(PANEL)
    styles = styles_of(panel["series"])
    assert len({(s.dash, s.mark) for s in styles}) == 3
    svg = panel_svg(panel)
    assert "<script" not in svg and "&lt;script&gt;" in svg and svg.startswith("<svg xmlns=")
    assert svg.count("<circle") >= 2 and "stroke-dasharray" in svg and "here" in svg
    bars = panel_svg(shown(Panel(**{**_fields(PANEL), "x_scale": "category"})))
    assert bars.count("<circle") >= 2 and 'text-anchor="end"' in bars


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.text("abc 1", min_size=1, max_size=14)), max_size=14),
)
def test_names_of_marks_stay_inside_and_touch_neither_marks_nor_each_other(placed):
    marks = tuple(Mark(x=a, y=b, label=f"m{name}") for a, b, name in placed)
    series = (Series(name="runs", marks=marks, joined=False),)
    svg = panel_svg(shown(Panel(title="t", x_title="x", y_title="y", x_scale="linear", series=series)))
    at = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)[: len(marks)]
    boxes = [(float(a) - 4, float(b) - 4, float(a) + 4, float(b) + 4) for a, b in at]
    named = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" font-size="10" text-anchor="start"[^>]*>(m[^<]*)<', svg)
    for x, y, name in named:
        box = (float(x), float(y) - 8, float(x) + 5.6 * len(name), float(y))
        assert box[0] >= 0 and box[2] <= 380
        assert not any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in boxes)
        boxes.append(box)


def test_a_name_with_room_is_shown_left_of_a_mark_at_the_right_edge():
    marks = (Mark(x=0.0, y=0.0, label="first"), Mark(x=1.0, y=1.0, label="proportional"))
    series = (Series(name="runs", marks=marks, joined=False),)
    svg = panel_svg(shown(Panel(title="t", x_title="x", y_title="y", x_scale="linear", series=series)))
    assert ">first</text>" in svg and ">proportional</text>" in svg


def _fields(panel: Panel) -> dict[str, object]:
    return {name: getattr(panel, name) for name in Panel.__slots__}


def test_a_panel_holds_every_mark_within_its_frame():
    panel = shown(PANEL)
    low, high = y_range_of([panel]) or (0, 0)
    assert 0 <= low <= 5 and high >= 60
    assert y_range_of([]) is None
    lines = panel_csv(panel).splitlines()
    assert len(lines) == 1 + 6 + 1 and lines[-2].endswith("a paper") and "first" in lines[1]


@pytest.mark.parametrize(("low", "high", "most"), [(0, 1, 5), (-3, 7, 4), (0.11, 0.13, 5), (250, 1836, 6)])
def test_ticks_are_round_and_within(low, high, most):
    found = ticks(low, high, most)
    assert 2 <= len(found) <= 2 * most + 1 and all(low <= t <= high for t in found)
    steps = {round(b - a, 9) for a, b in pairwise(found)}
    assert len(steps) == 1


def test_tables_show_points_and_keep_every_digit_in_their_csv():
    assert cell_text(0.12345, "percent") == "12.3" and cell_text(0.02, "signed") == "+2.0"
    assert cell_text((0.01, 0.025), "interval") == "[1.0, 2.5]" and cell_text(None, "percent") == "–"
    assert cell_text(12345, "count") == "12,345" and cell_text(1.2e12, "plain") == "1.2e+12"
    kinds = ("text", "percent", "signed_interval")
    table = Table(
        title="t", columns=("a", "b", "c"), kinds=kinds, rows=(("x", 0.123456, (-0.5, 0.25)), ("y", None, None))
    )
    assert table_csv(_json(table)) == "a,b,c low,c high\nx,0.123456,-0.5,0.25\ny,,,\n"
    assert file_name("Held out: a/b  <c>") == "Held-out-a-b-c"


def _json(table: Table) -> dict[str, object]:
    return json.loads(json.dumps(Findings(study="s", title="t", recipe="r", tables=(table,)).to_json()))["tables"][0]


def test_the_page_is_whole_and_asks_for_nothing(scaled, tmp_path):
    write_findings(scaling_findings("demo", scaled), tmp_path / "study")
    page = write_study_report(tmp_path / "study").read_text()
    assert "<script" not in page and 'src="http' not in page and 'href="http' not in page
    assert page.count("data:image/svg+xml") == page.count("<svg ") and page.count("data:text/csv") > page.count("<svg ")
    assert "the disk was full" in page and "paper: normalised average" in page
    with pytest.raises(RecipeError, match="not a study's folder"):
        write_study_report(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(StateError, match="not a study of this version"):
        write_study_report(tmp_path)
