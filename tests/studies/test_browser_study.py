"""A study's page in headless Chromium: wide and on a phone nothing is cut off, nothing is asked for, and what the links
hold is what the page shows."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from explore.chromium import Chromium
from flantune.reports.study import write_study_report
from flantune.studies.findings import Findings, Mark, Panel, Series, write_findings
from flantune.studies.told_arms import cot_findings, formats_findings
from flantune.studies.told_scaling import scaling_findings

from .grids import result
from .test_told import BASE, right

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    opened = Chromium(found, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("studies")
    grid = [(m, n, s) for m in ("demo", "demo-small") for n in (2, 8, 32) for s in (0, 1)]
    scaled = [
        result(folder / "s", {"model": m, "tasks": n, "seed": s}, right(0.3 + 0.01 * n, s), BASE) for m, n, s in grid
    ]
    arms = {"CoT only": 0.5, "non-CoT only": 0.125, "both": 0.75, "both, no rationales": 0.25}
    cot = [result(folder / "c", {"arm": arm, "seed": 0}, right(share), BASE) for arm, share in arms.items()]
    axes = [("formats", "as stated", 0.5), ("few_shot", 0.0, 0.25), ("few_shot", 1.0, 0.75), ("templates", "all", 0.5)]
    formats = [result(folder / "f", {axis: v, "seed": 0}, right(share), BASE) for axis, v, share in axes]
    found = {
        "scaling": scaling_findings("demo", scaled),
        "cot": cot_findings("demo", cot),
        "formats": formats_findings("demo", formats),
        "balance": searched(),
    }
    for name, findings in found.items():
        write_findings(findings, folder / name)
    return {name: write_study_report(folder / name) for name in found}


def searched() -> Findings:
    """A verdict that is a sentence, and marks with names close to each other and to the edge."""
    small = tuple(Mark(x=0.1 * (i // 3), y=0.02 * i, label=f"design {i}") for i in range(9))
    whole = tuple(Mark(x=0.3, y=0.15 + 0.01 * i, label=n) for i, n in enumerate(("found", "proportional", "uniform")))
    series = (Series(name="small runs", marks=small, joined=False), Series(name="full", marks=whole, joined=False))
    return Findings(
        study="balance",
        title="Balance",
        recipe="demo",
        verdict="Balanced: the targets rise and every guarded ability stays within its tolerance.",
        panels=(Panel(title="Pareto", x_title="room", y_title="change", x_scale="linear", series=series),),
    )


@pytest.mark.parametrize("width", [1280, 600, 360])
@pytest.mark.parametrize("name", ["scaling", "cot", "formats", "balance"])
def test_the_page_fits_and_is_self_contained(browser: Chromium, pages: dict[str, Path], name: str, width: int) -> None:
    browser.window(width, 900)
    browser.requests.clear()
    browser.open(pages[name].as_uri())
    assert browser.problems == [] and browser.requests == [pages[name].as_uri()]
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    # No drawn word leaves its figure, and none stands on another one of its figure.
    outside, touching = browser.run(
        """(() => {
          let outside = [], touching = [];
          for (const svg of document.querySelectorAll('figure svg')) {
            const frame = svg.getBoundingClientRect();
            const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
            for (const [word, b] of boxes)
              if (b.left < frame.left - 1 || b.right > frame.right + 1 || b.bottom > frame.bottom + 1)
                outside.push(word);
            boxes.forEach(([word, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
              const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
              const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
              if (w > 2 && h > 3) touching.push(word + ' | ' + other);
            }));
          }
          return [outside, touching];
        })()"""
    )
    assert outside == [] and touching == []


def test_every_figure_and_table_can_be_taken_along(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.window(1280, 900)
    browser.open(pages["scaling"].as_uri())
    figures = browser.run("document.querySelectorAll('figure').length")
    svgs = browser.run(
        "Promise.all([...document.querySelectorAll('a[download$=\".svg\"]')].map(a => "
        "decodeURIComponent(a.href.slice(a.href.indexOf(',') + 1))))"
    )
    assert len(svgs) == figures >= 2
    # Each is an image on its own, without the page's styles.
    sizes = browser.run(
        "Promise.all([...document.querySelectorAll('a[download$=\".svg\"]')].map(a => new Promise((yes, no) => {"
        "const i = new Image(); i.onload = () => yes(i.naturalWidth); i.onerror = () => no('not an image');"
        "i.src = a.href; })))"
    )
    assert all(size > 0 for size in sizes)
    first = browser.run(
        "(a => decodeURIComponent(a.href.slice(a.href.indexOf(',') + 1)))"
        "(document.querySelector('a[download$=\".csv\"]'))"
    )
    rows = list(csv.DictReader(io.StringIO(first)))
    assert {row["series"] for row in rows} >= {"demo", "demo-small"} and float(rows[0]["y"]) <= 1


def test_the_page_reads_without_colour(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["scaling"].as_uri())
    told = browser.run(
        "[...document.querySelector('figure svg').querySelectorAll('path[stroke-width=\"2.0\"]')]"
        ".map(p => p.getAttribute('stroke-dasharray') || 'solid')"
    )
    assert len(told) == 2 == len(set(told))
