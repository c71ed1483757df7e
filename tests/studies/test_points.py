"""Points: done once, shared, resumed, failing alone. The queue with invented workers; the stages on a tiny recipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file

from flantune.demo.files import write_world
from flantune.errors import StateError
from flantune.recipe import EvalSpec, Recipe
from flantune.studies import points as points_module
from flantune.studies.cost import cost_of
from flantune.studies.point import Layout, Point, asked_name, base_name, point_name
from flantune.studies.points import Event, jobs_of, result_of, run_points
from flantune.studies.processes import gpu_of, how_it_ended
from flantune.studies.work import ATTEMPTS, DONE, FAILED, do_job, job_json, job_of
from flantune.tasks import build_store
from flantune.whole import write_json

from .grids import SETTING, tiny

SAID = {"scores": [], "train_seconds": 1.0, "flops": 2.0, "steps": 3, "tokens": 4, "composition": {}, "parameters": 5}


class Invented:
    """Hands that do as they are told at once: what a job's kind and labels say."""

    def __init__(self, fate: Callable[[Mapping[str, Any]], str], room: int = 2) -> None:
        self.fate, self.begun, self._events, self._room = fate, list[Mapping[str, Any]](), list[Event](), room
        self.closed, self.most = False, 0

    def room(self) -> int:
        return self._room - len(self._events)

    def begin(self, key: str, job: Mapping[str, Any], folder: Path) -> None:
        self.begun.append(job)
        fate = self.fate(job)
        if fate == "done":
            side = folder / ("base" if job["kind"] == "base" else "tuned")
            side.mkdir(parents=True, exist_ok=True)
            write_json(side / DONE, SAID)
            write_json(folder / ATTEMPTS, {"seconds": 7.0})
        elif fate == "failed":
            write_json(folder / FAILED, {"reason": "told to", "error": "X"})
        self._events.append(Event(key, ended=True, lost="died" if fate == "died" else ""))
        self.most = max(self.most, len(self._events))

    def events(self) -> list[Event]:
        found, self._events = self._events, []
        return found

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Mapping[str, Any]], str]], Invented]:
    def use(fate: Callable[[Mapping[str, Any]], str]) -> Invented:
        invented = Invented(fate)
        monkeypatch.setattr(points_module, "_open_hands", lambda workers, ray: (invented, 1))
        return invented

    return use


def seeds(recipe: Recipe, *numbers: int) -> list[Point]:
    return [Point({"seed": n}, recipe.model_copy(update={"seed": n}), recipe) for n in numbers]


def test_the_base_comes_first_once_and_equal_points_are_one(tmp_path, hands):
    own = hands(lambda job: "done")
    points = [*seeds(tiny(tmp_path), 0, 1), *seeds(tiny(tmp_path), 1)]
    heard: list[str] = []
    found = run_points(points, tmp_path / "root", on_result=lambda r: heard.append(r.name))
    assert [job["kind"] for job in own.begun] == ["base", "point", "point"]
    assert [r.status for r in found] == ["done"] * 3 and found[1].folder == found[2].folder
    assert sorted(heard) == sorted({r.name for r in found}) and own.closed
    assert found[0].wall_seconds == 7.0 and found[0].flops == 2.0
    again = hands(lambda job: "failed")
    assert run_points(points, tmp_path / "root") == found and not again.begun


def test_a_point_fails_alone_with_its_reason_and_is_tried_again(tmp_path, hands):
    hands(lambda job: "failed" if job["labels"] == {"seed": 1} and job["kind"] == "point" else "done")
    points = seeds(tiny(tmp_path), 0, 1, 2)
    found = run_points(points, tmp_path / "root")
    assert [(r.status, r.reason) for r in found] == [("done", ""), ("failed", "told to"), ("done", "")]
    own = hands(lambda job: "died")
    assert run_points(points, tmp_path / "root")[1].reason == "died"
    assert [job["labels"] for job in own.begun] == [{"seed": 1}]
    hands(lambda job: "done")
    assert [r.status for r in run_points(points, tmp_path / "root")] == ["done"] * 3


def test_a_done_point_that_was_trained_on_other_data_is_not_believed(tmp_path, hands):
    write_world(tmp_path / "world")
    recipe, root = tiny(tmp_path), (tmp_path / "root").resolve()
    points = seeds(recipe, 0)
    hands(lambda job: "done")
    run_points(points, root)
    folder = Layout(root).point(points[0])
    store = build_store(recipe.collections, folder.store, recipe.max_rejected)
    mark = folder.root / "data" / "store.txt"
    mark.parent.mkdir()
    mark.write_text(store.fingerprint)
    own = hands(lambda job: "failed")
    assert run_points(points, root)[0].done and not own.begun
    mark.write_text("of other files")
    assert run_points(points, root)[0].reason == "told to"


def test_an_evaluation_is_named_by_what_the_users_own_benchmark_holds(tmp_path):
    (tmp_path / "own.yaml").write_text("name: own\nitems: own.jsonl\nprompt: {direct: '{q}'}\n")
    (tmp_path / "own.jsonl").write_text('{"q": "1 + 1 =", "answer": "2"}\n')
    asked = EvalSpec.model_validate({"benchmarks": [{"name": str(tmp_path / "own.yaml")}]})
    point = Point({}, tiny(tmp_path).model_copy(update={"eval": asked}))
    before = asked_name(point)
    assert asked_name(point) == before
    (tmp_path / "own.jsonl").write_text('{"q": "1 + 1 =", "answer": "3"}\n')
    assert asked_name(point) != before


def test_points_whose_base_fails_are_not_begun_and_say_why(tmp_path, hands):
    own = hands(lambda job: "failed" if job["kind"] == "base" else "done")
    found = run_points(seeds(tiny(tmp_path), 0, 1), tmp_path / "root")
    assert [job["kind"] for job in own.begun] == ["base"]
    assert {r.reason for r in found} == {"its base model: told to"}


def test_a_base_that_is_there_is_asked_beside_its_points(tmp_path):
    recipe = tiny(tmp_path, model={"init": "demo"})
    jobs = jobs_of(seeds(recipe, 0, 1), tmp_path)
    assert [job.kind for job in jobs.values()] == ["base", "point", "point"]
    assert not any(job.needs for job in jobs.values())


def test_results_of_points_that_were_never_run_say_so(tmp_path):
    assert result_of(seeds(tiny(tmp_path), 0)[0], tmp_path).reason == "it has not been run"


def test_names_tell_bases_and_evaluations_apart(tmp_path):
    recipe = tiny(tmp_path)
    other = tiny(tmp_path, seed=1)
    assert point_name(recipe) == point_name(recipe, recipe) != point_name(recipe, other)
    trained = recipe.train.model_copy(update={"steps": 9})
    assert base_name(recipe) == base_name(recipe.model_copy(update={"train": trained})) != base_name(other)
    point = Point({}, recipe)
    more = Point({}, recipe.model_copy(update={"eval": EvalSpec()}))
    assert point.name == more.name and asked_name(point) != asked_name(more)
    assert asked_name(point) == asked_name(Point({}, other)) != asked_name(Point({}, recipe, asked_with=1))


def test_a_job_reads_back_as_it_was_written(tmp_path):
    point = Point({"seed": 0, "share": 0.5}, tiny(tmp_path), tiny(tmp_path, seed=3), 7)
    written = json.loads(json.dumps(job_json("point", point, tmp_path, 2)))
    kind, found, root, threads = job_of(written)
    assert (kind, root, threads) == ("point", tmp_path, 2) and found == point and found.name == point.name


def test_how_processes_end_and_which_gpu_they_have(monkeypatch):
    assert how_it_ended(1) == "" and "killed" in how_it_ended(-9) and "signal 11" in how_it_ended(-11)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [gpu_of(place) for place in range(3)] == ["4", "6", "4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpu_of(0) is None


def quiet(*_: object) -> None:
    pass


def test_a_study_on_a_tiny_recipe(tmp_path):
    write_world(tmp_path / "world")
    root = (tmp_path / "root").resolve()
    first, second = seeds(tiny(tmp_path), 0, 1)
    before = cost_of([first, second], root, timed=False)
    assert [job.kind for job in before.jobs] == ["base", "point", "point"] and before.hours is None
    for kind, point in (("base", first), ("point", first), ("point", second)):
        do_job(kind, point, root, 1, quiet)
    found = result_of(first, root)
    assert found.done and found.steps == 3 and found.tokens > 0 and found.flops > 0
    assert found.score(SETTING) is not None and {r["category"] for r in found.scores} == {None, "towns"}
    assert len([r for r in found.base_scores if r["task"]]) == 5
    assert sum(own["got"] for own in found.composition.values()) == pytest.approx(1)
    assert sum(found.formats.values()) == sum(own["examples"] for own in found.composition.values())
    assert not (found.folder / "checkpoints").exists() and not (found.folder / "data" / "examples").exists()
    assert len(list((root / "shared").iterdir())) == 1 and len(list((root / "bases").iterdir())) == 1
    cost = cost_of([first, second], root, workers=2)
    assert not cost.left and cost.hours == 0 and "done" in cost.to_text()
    assert cost_of(seeds(tiny(tmp_path), 5), root).jobs[-1].seconds_from == "measured"

    # Asking more trains nothing again, and asks beside what was asked.
    model = (found.folder / "model" / "model.safetensors").stat().st_mtime_ns
    recipe = tiny(tmp_path, eval={"benchmarks": [{"name": "held_out", "modes": ["direct"], "limit": 1}]})
    asked = Point({"seed": 0}, recipe, tiny(tmp_path))
    assert asked.name == first.name and not result_of(asked, root).done
    for kind in ("base", "point"):
        do_job(kind, asked, root, 1, quiet)
    assert (found.folder / "model" / "model.safetensors").stat().st_mtime_ns == model
    assert result_of(asked, root).done and len(list((found.folder / "evals").iterdir())) == 2

    # Other files under the same names are another study.
    rows = next((tmp_path / "world").glob("foods_*.jsonl"))
    rows.write_bytes(rows.read_bytes() + rows.read_bytes().splitlines()[0].replace(b"-0", b"-99") + b"\n")
    more = Point({"seed": 0}, tiny(tmp_path, eval={"benchmarks": [{"name": "held_out", "limit": 3}]}), tiny(tmp_path))
    do_job("base", more, root, 1, quiet)
    with pytest.raises(StateError, match="the collections have changed"):
        do_job("point", more, root, 1, quiet)


@pytest.mark.slow
def test_killed_anywhere_the_same_command_ends_as_if_it_never_was(tmp_path):
    write_world(tmp_path / "world")
    recipe = tiny(tmp_path).model_dump(mode="json")
    recipe["train"] |= {"steps": 12, "watch": []}
    path = tmp_path / "study.yaml"
    path.write_text(
        yaml.safe_dump({**recipe, "study": {"seeds": [0, 1], "scaling": {"order": "random", "counts": [3]}}})
    )

    def command(root: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "flantune",
            "study",
            "scaling",
            str(path),
            "--root",
            str(tmp_path / root),
            "--json",
        ]

    done = subprocess.run(command("whole"), capture_output=True, text=True, check=True)
    points = [Path(p["folder"]).name for p in json.loads(done.stdout.splitlines()[-1])["points"]]
    root = tmp_path / "killed"
    stages: list[Callable[[], bool]] = [
        lambda: any(root.glob("shared/*/examples/store.json")),
        lambda: any(root.glob("bases/*/base/config.json")),
        lambda: any(root.glob("points/*/checkpoints/step-*")),
        lambda: any(root.glob("points/*/evals/*/tuned/header.json")),
    ]
    for reached in stages:
        process = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not reached() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 60
        while _at_work(root) and time.monotonic() < deadline:  # its workers end with it
            time.sleep(0.1)
        assert not _at_work(root)
    subprocess.run(command("killed"), capture_output=True, check=True)
    for name in points:
        models = [load_file(tmp_path / r / "points" / name / "model/model.safetensors") for r in ("whole", "killed")]
        assert all((models[0][k] == models[1][k]).all() for k in models[0])
    told = [json.loads((tmp_path / r / "scaling-tiny" / "study.json").read_text()) for r in ("whole", "killed")]
    assert told[0]["panels"] == told[1]["panels"]


def _at_work(root: Path) -> list[int]:
    """Workers of this root: their job's file is in it, and they hold a lock there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                links = [os.readlink(link) for link in (entry / "fd").iterdir()]
            except OSError:
                continue
            if any(link.startswith(str(root)) for link in links):
                found.append(int(entry.name))
    return found


def test_layout_keeps_evaluations_apart(tmp_path):
    point = Point({}, tiny(tmp_path))
    folder = Layout(tmp_path).point(point)
    assert folder.evals == folder.root / "evals" / asked_name(point) and folder.comparison.parent == folder.evals
    assert folder.store.parent == folder.tokens.parent == tmp_path / "shared" / folder.shared.name
