"""`flantune study` and `flantune report` on a study: costs said first, failures told, Ctrl-C, wrong calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flantune.cli import main
from flantune.demo.files import write_abilities, write_world
from flantune.studies import study as study_module
from flantune.studies.point import NOT_RUN, Layout, Point, PointResult
from flantune.studies.points import result_of
from flantune.whole import write_json

from .grids import result, tiny, write_scores
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


def stop_after(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int) -> None:
    """Points are done one after another, and the `count`th is killed: its folder is there and nothing in it."""

    def run(points: list[Point], root: Path, **_: Any) -> list[PointResult]:
        for number, point in enumerate(points):
            folder = Layout(root.resolve()).point(point)
            base = Layout(root.resolve()).base(point)
            if number == count:
                folder.root.mkdir(parents=True)
                raise KeyboardInterrupt
            for side, own, scores in (("tuned", folder, right(0.5)), ("base", base, BASE)):
                write_scores(own.evals / side / "items.parquet", scores)
                told = {
                    "scores": [], "train_seconds": 2.0, "flops": 1e9, "steps": 3, "tokens": 50, "composition": {},
                }  # fmt: skip
                write_json(own.evals / side / "done.json", told)
        return [result_of(point, root) for point in points]

    monkeypatch.setattr(study_module, "run_points", run)


def test_a_study_that_was_stopped_has_a_page_that_says_what_is_missing(recipe, tmp_path, called, monkeypatch):
    stop_after(monkeypatch, tmp_path, 2)
    assert called("study", "scaling", recipe)[0] == 130
    folder = tmp_path / "runs" / "studies" / "scaling-tiny"
    assert not (folder / "study.json").exists()
    code, out, err = called("report", folder, "--json")
    assert code == 0, err
    page = Path(json.loads(out.splitlines()[-1])["report"]).read_text()
    assert "Not finished: the study was stopped, and 2 of its 4 points are missing or failed" in page
    assert "Points that are missing" in page and "it was begun and not finished" in page and NOT_RUN in page
    assert "2 of 4 points are done" in page and "Points that failed" not in page
    # The points that are done say what they say: the scores of two sets of tasks, with intervals.
    found = study_module.findings_so_far(folder)
    assert found.panels and any(table.title == "What each point cost" for table in found.tables)
    assert not (folder / "study.json").exists()  # which is written of a study that is through


def test_a_study_that_goes_on_after_it_was_through_is_not_told_as_before(recipe, tmp_path, called, monkeypatch):
    stop_after(monkeypatch, tmp_path, 99)
    code, _, err = called("study", "scaling", recipe)
    assert code == 0, err
    folder = tmp_path / "runs" / "studies" / "scaling-tiny"
    assert not study_module.stopped(folder)
    code, _, _ = called("report", folder)
    assert code == 0 and "Not finished" not in (folder / "report.html").read_text()
    stop_after(monkeypatch, tmp_path, 4)
    assert called("study", "scaling", recipe, "--set", "study.seeds=[0,1,2]")[0] == 130
    assert study_module.stopped(folder)
    assert called("report", folder)[0] == 0
    assert "and 2 of its 6 points are missing" in (folder / "report.html").read_text()


def test_a_stopped_study_of_which_too_little_is_left_says_how_to_go_on(recipe, tmp_path, called, monkeypatch):
    stop_after(monkeypatch, tmp_path, 1)
    called("study", "scaling", recipe)
    folder = tmp_path / "runs" / "studies" / "scaling-tiny"
    (folder / "study.yaml").unlink()
    code, _, err = called("report", folder)
    assert code == 1 and "Give the same 'flantune study' command again" in " ".join(err.split())


def test_a_search_that_was_stopped_lists_its_runs(tmp_path, called, monkeypatch):
    pytest.importorskip("optuna")
    from .test_balance import study_of

    world = write_abilities(tmp_path / "abilities")
    study = study_of(world, tmp_path).study
    stop_after(monkeypatch, tmp_path, 3)
    with pytest.raises(KeyboardInterrupt):
        study_module.run_balance_study(study, tmp_path / "studies")
    folder = tmp_path / "studies" / "balance-balance"
    assert called("report", folder)[0] == 0
    page = (folder / "report.html").read_text()
    assert "4 of its 7 points are missing or failed; and further ones may follow" in page
    assert "design, mixture design 1" in page.replace("stage design", "design") and "Points that are missing" in page


def test_ctrl_c_leaves_a_state_that_goes_on_and_says_so(recipe, called, monkeypatch):
    def stopped(*_: Any, **__: Any) -> list[PointResult]:
        raise KeyboardInterrupt

    monkeypatch.setattr(study_module, "run_points", stopped)
    code, _, err = called("study", "scaling", recipe)
    assert code == 130 and "go on from their last checkpoint" in err and "The same command goes on" in err
