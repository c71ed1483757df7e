"""The page in headless Chromium, where one is installed: it draws, and asks for nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from flantune.reports import write_report

from .invented_run import write_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    if found is None:
        pytest.skip("no Chromium on this machine")
    return found


def dump(chromium: str, page: Path) -> subprocess.CompletedProcess[str]:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--enable-logging=stderr"]
    return subprocess.run(
        [chromium, *flags, f"--user-data-dir={page.parent / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_every_figure_is_drawn_without_an_error_or_a_refused_request(chromium: str, tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run"), tmp_path / "report.html")
    done = dump(chromium, page)
    assert "CONSOLE" not in done.stderr, done.stderr
    drawn = re.findall(r'id="(figure-[a-z0-9-]+)" class="plotly-graph-div js-plotly-plot"', done.stdout)
    assert len(set(drawn)) == 6
    assert done.stdout.count('class="main-svg"') >= 6


def test_a_hostile_text_runs_nothing(chromium: str, tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run"), tmp_path / "report.html")
    source = page.read_text(encoding="utf-8")
    # Were a script of the data to run, alert() would be called; make a call visible in the page.
    marked = source.replace("<script>", "<script>window.alert = () => { document.title = 'RAN'; };</script><script>", 1)
    page.write_text(marked, encoding="utf-8")
    done = dump(chromium, page)
    assert "<title>RAN</title>" not in done.stdout and "evil.example" not in done.stderr
