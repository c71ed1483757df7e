"""`flantune study` and `flantune report` on a study: costs said first, failures told, Ctrl-C, wrong calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flantune.cli import main
from flantune.demo.files import write_world
from flantune.studies import study as study_module
from flantune.studies.point import Point, PointResult

from .grids import result, tiny
from .test_told import BASE, right


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_world(tmp_path / "world")
    path = tmp_path / "study.yaml"
    own = {"seeds": [0, 1], "scaling": {"order": "random", "counts": [2, "all"]}}
    path.write_text(yaml.safe_dump({**tiny(tmp_path).model_dump(mode="json"), "study": own}))
    return path


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            main([str(word) for word in words])
        except SystemExit as e:
            code = int(e.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def test_the_cost_is_said_and_nothing_is_run(recipe, tmp_path, called):
    code, out, _ = called("study", "scaling", recipe, "--dry-run", "--json")
    told = json.loads(out.splitlines()[-1])
    assert code == 0 and (told["points"], told["bases"], told["done"]) == (4, 1, 0)
    assert told["flops"] > 0 and told["hours"] > 0 and told["hours_from"] == ["extrapolated"]
    assert not (tmp_path / "runs" / "studies" / "points").exists()
    code, out, _ = called("study", "sources", recipe, "--dry-run")
    assert code == 0 and "share of code: not asked" in out and "in all:" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("study", "scalling", "r.yaml"),
            "expected scaling, cot, formats, objectives, sources, balance; got 'scalling'",
        ),
        (("study", "scaling", "nowhere.yaml"), "no such recipe"),
        (("report", "."), "not a run's folder"),
    ],
)
def test_wrong_calls(called, words, said):
    code, _, err = called(*words)
    assert code == 2 and said in " ".join(err.split())


def test_a_study_that_measures_nothing_is_refused(recipe, called):
    code, _, err = called("study", "scaling", recipe, "--dry-run", "--set", "eval.benchmarks=[]")
    assert code == 2 and "a study needs eval.benchmarks" in err


def test_failures_are_told_and_the_page_is_written(recipe, tmp_path, called, monkeypatch):
    def ran(points: list[Point], root: Path, **_: Any) -> list[PointResult]:
        found = []
        for n, point in enumerate(points):
            found.append(result(tmp_path, point.labels, None if n == 1 else right(0.5), BASE))
            _["on_result"](found[-1])
        return found

    monkeypatch.setattr(study_module, "run_points", ran)
    code, out, err = called("study", "scaling", recipe, "--json")
    told = json.loads(out.splitlines()[-1])
    assert code == 1 and told["failed"] == 1 and Path(told["report"]).is_file()
    assert "the disk was full" in err and "1 point failed" in err and "in all:" in err
    folder = Path(told["folder"])
    assert {p["labels"]["tasks"] for p in json.loads((folder / "points.json").read_text())} == {2, 8}
    assert yaml.safe_load((folder / "study.yaml").read_text())["study"]["seeds"] == [0, 1]
    (folder / "report.html").unlink()
    code, out, _ = called("report", folder)
    assert code == 0 and (folder / "report.html").is_file()


def test_ctrl_c_leaves_a_state_that_goes_on_and_says_so(recipe, called, monkeypatch):
    def stopped(*_: Any, **__: Any) -> list[PointResult]:
        raise KeyboardInterrupt

    monkeypatch.setattr(study_module, "run_points", stopped)
    code, _, err = called("study", "scaling", recipe)
    assert code == 130 and "go on from their last checkpoint" in err and "The same command goes on" in err
