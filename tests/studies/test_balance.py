"""The balance study from stage to stage, over runs that a known response stands in for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from flantune.demo.files import write_abilities
from flantune.errors import RecipeError
from flantune.recipe import load_recipe
from flantune.studies.balance import Outcome, expected_points, full_runs_of, run_balance, verdict_of
from flantune.studies.balance_findings import findings_of, outcome_json, write_balance
from flantune.studies.balance_points import limits_of, weighed, weights_of
from flantune.studies.balance_settings import Balance, balance_of, baseline_weights
from flantune.studies.points import Point, PointResult
from flantune.studies.settings import parse_study

from . import grids

pytest.importorskip("optuna")

PARTS = ("knowledge", "dialogue", "code")
ITEMS = 60


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_abilities(tmp_path_factory.mktemp("balance") / "abilities")


def study_of(world: Path, tmp_path: Path, *, seeds: Sequence[int] = (0, 1, 2), **changes: Any) -> Balance:
    own = {
        "targets": {"talk": 1.0, "programs": 1.0},
        "guards": {"facts": 0.05},
        "abilities": {n: [f"held_out/{n}"] for n in ("talk", "programs", "facts")},
        "proxy": {"train.steps": 0.25},
        "design": 7,
        "search": 2,
        "trials": 1,
        "repeats": 40.0,
        "baselines": {"uniform": "uniform", "proportional": "proportional"},
        **changes,
    }
    raw = {
        "name": "balance",
        "runs": str(tmp_path),
        "collections": [{"path": str(world / "tasks"), "reader": "native", "include": ["facts_*", "reply_*", "run_*"]}],
        "mixture": {
            "parts": [{"name": n, "mixture": n} for n in PARTS],
            "formats": [{"setting": "zs_noopt"}],
        },
        "tokens": {"inputs_len": 96, "targets_len": 48, "block": 64},
        "model": {"init": "demo-small"},
        "train": {"steps": 100, "batch_rows": 8, "micro_rows": 8},
        "eval": {"benchmarks": [{"name": "held_out"}]},
        "study": {"seeds": list(seeds), "balance": own},
    }
    return balance_of(parse_study(raw))


class Runs:
    """Runs that were never made: facts fall where they are scarce, talk and programs rise with their share."""

    def __init__(self, folder: Path, *, lost: float = 0.25, failing: Sequence[int] = (), hush: float = 0.0) -> None:
        self.folder, self.lost, self.failing, self.hush = folder, lost, set(failing), hush
        self.asked: list[Point] = []

    def changes(self, weights: Sequence[float], small: bool) -> Mapping[str, float]:
        facts, talk, programs = (1 - np.exp(-r * w) for r, w in zip((6.0, 5.0, 4.0), weights, strict=True))
        level = 0.8 if small else 1.0  # a small run has not come as far
        return {
            "facts": level * (-self.lost + 0.5 * self.lost / 0.25 * facts),
            "talk": level * (0.5 * talk - self.hush),
            "programs": level * (0.4 * programs - self.hush),
        }

    def __call__(self, points: Sequence[Point]) -> list[PointResult]:
        made = []
        for point in points:
            number = len(self.asked)
            self.asked.append(point)
            steps = point.recipe.train.steps
            rng = np.random.default_rng([number, point.recipe.seed])
            items = np.random.default_rng(0).normal(0, 0.05, (3, ITEMS))
            scores = {
                a: list(0.4 + change + items[k] + rng.normal(0, 0.01) + rng.normal(0, 0.02, ITEMS))
                for k, (a, change) in enumerate(self.changes(weights_of(point.recipe), steps < 100).items())
            }
            labels = {**point.labels, "number": number}
            told = grids.result(
                self.folder,
                labels,
                None if number in self.failing else scores,
                {a: list(0.4 + items[k]) for k, a in enumerate(scores)},
            )
            made.append(replace(told, labels=point.labels, flops=1e12 * steps / 100))
        return made


@pytest.fixture(scope="module")
def outcome(world: Path, tmp_path_factory) -> tuple[Outcome, Runs]:
    folder = tmp_path_factory.mktemp("runs")
    runs = Runs(folder)
    return run_balance(study_of(world, folder), folder / "root", runs), runs


def chosen_for(world: Path, folder: Path, seeds: Sequence[int], **changes: Any) -> tuple[float, ...]:
    """Shares of the mixture found where a guard's tolerance is near."""
    study = study_of(world, folder, seeds=seeds, guards={"facts": 0.04}, most_full_runs=30, **changes)
    return run_balance(study, folder / "root", Runs(folder)).found.weights


class TestStages:
    def test_the_mixture_is_the_one_for_the_stated_number_of_seeds_however_many_confirm(
        self, world: Path, tmp_path: Path
    ) -> None:
        of_three = chosen_for(world, tmp_path / "three", range(3))
        assert chosen_for(world, tmp_path / "twelve", range(12), room_seeds=3) == of_three
        assert chosen_for(world, tmp_path / "more", range(12)) != of_three

    def test_it_finds_a_mixture_that_raises_the_targets_and_keeps_the_guard(self, outcome):
        found, runs = outcome
        assert found.verdict == "balanced"
        true = runs.changes(found.found.weights, small=False)
        assert true["facts"] >= -0.05
        best = max(
            np.mean([c["talk"], c["programs"]])
            for w in np.random.default_rng(0).dirichlet(np.ones(3), 20_000)
            if (c := runs.changes(w, small=False))["facts"] >= -0.05
        )
        assert np.mean([true["talk"], true["programs"]]) >= 0.9 * best

    def test_every_run_is_of_the_stage_that_the_settings_ask_for(self, outcome):
        found, _ = outcome
        stages = [r.stage for r in found.runs]
        assert {s: stages.count(s) for s in dict.fromkeys(stages)} == {
            "design": 7,
            "search": 2,
            "trial": 1,
            "confirm": 9,
        }
        assert {r.seed for r in found.runs if r.stage == "confirm"} == {0, 1, 2}
        assert {r.seed for r in found.runs if r.stage != "confirm"} == {1000}

    def test_no_mixture_of_the_search_repeats_a_source_more_than_it_may(self, outcome):
        found, _ = outcome
        for run in found.runs:
            if run.mixture not in found.balance.spec.baselines:
                assert (found.limits.repeated(run.weights) <= 40.0 * 1.01).all()  # shares are rounded

    def test_what_it_spent_is_counted_in_full_runs_and_baselines_apart(self, outcome):
        found, _ = outcome
        full = sum(r.full_runs for r in found.runs if r.stage == "trial")
        assert found.spent == pytest.approx(full * (1 + 3) + full * 9 / 4, rel=0.02)
        assert found.spent_on_baselines == pytest.approx(full * 6, rel=0.02)

    def test_the_full_run_corrects_the_level_of_the_small_ones(self, outcome):
        found, runs = outcome
        true = runs.changes(found.found.weights, small=False)
        assert found.choice.expected["talk"] == pytest.approx(true["talk"], abs=0.05)

    def test_the_same_command_again_asks_for_the_same_points(self, outcome, world, tmp_path):
        _, runs = outcome
        again = Runs(tmp_path)
        run_balance(study_of(world, tmp_path), tmp_path / "root", again)
        assert [p.name for p in again.asked] == [p.name for p in runs.asked]

    def test_runs_that_fail_are_told_and_stop_nothing(self, world, tmp_path):
        runs = Runs(tmp_path, failing=[2, 7])
        found = run_balance(study_of(world, tmp_path), tmp_path / "root", runs)
        assert sum("the disk was full" in note for note in found.notes) == 2
        assert found.found.seeds == 3

    def test_too_few_runs_are_an_error_that_says_why(self, world, tmp_path):
        with pytest.raises(RecipeError, match=r"4 are needed\. .*the disk was full"):
            run_balance(study_of(world, tmp_path), tmp_path / "root", Runs(tmp_path, failing=range(5)))

    def test_where_nothing_keeps_the_guard_the_verdict_says_so(self, world, tmp_path):
        class Hopeless(Runs):
            def changes(self, weights, small):
                return {**super().changes(weights, small), "facts": -0.3 + 0.02 * weights[0]}

        found = run_balance(study_of(world, tmp_path), tmp_path / "root", Hopeless(tmp_path))
        assert found.verdict == "impossible"
        assert "No mixture" in findings_of(found).verdict

    def test_targets_that_do_not_rise_are_no_balance(self, world, tmp_path):
        found = run_balance(study_of(world, tmp_path), tmp_path / "root", Runs(tmp_path, hush=0.6))
        assert found.verdict == "not balanced"


class TestWhatIsLeft:
    def test_the_recipe_of_the_mixture_found_is_a_recipe(self, outcome, tmp_path):
        found, _ = outcome
        write_balance(found, tmp_path)
        recipe = load_recipe(tmp_path / "best.yaml")
        assert weights_of(recipe) == pytest.approx(found.found.weights, abs=1e-4)
        assert recipe.train == found.balance.recipe.train and recipe.collections == found.balance.recipe.collections

    def test_balance_json_tells_every_run_and_interval(self, outcome, tmp_path):
        found, _ = outcome
        write_balance(found, tmp_path)
        told = orjson.loads((tmp_path / "balance.json").read_bytes())
        assert told["verdict"] == found.verdict and len(told["runs"]) == len(found.runs)
        for mixture in told["confirmed"]:
            for ability in mixture["abilities"].values():
                low, high = ability["interval"]
                assert low <= ability["mean"] <= high
        front = [r for r in told["runs"] if r["on_front"]]
        small = [r for r in told["runs"] if r["stage"] in ("design", "search")]
        assert front
        for r in front:
            assert not any(o["gain"] > r["gain"] and o["slack"] > r["slack"] for o in small)

    def test_tables_and_panels_have_what_their_columns_say(self, outcome):
        found, _ = outcome
        findings = findings_of(found)
        for table in findings.tables:
            assert len(table.columns) == len(table.kinds)
            assert all(len(row) == len(table.columns) for row in table.rows)
        assert any("12" in line and "full runs" in line for line in findings.found)
        assert orjson.loads(orjson.dumps(outcome_json(found)))


class TestSettings:
    def test_a_search_that_costs_too_much_is_refused_before_it_begins(self, world, tmp_path):
        balance = study_of(world, tmp_path, design=40, search=20)

        def cost(point: Point) -> float:
            return float(point.recipe.train.steps)

        with pytest.raises(RecipeError, match=r"19\.00 full runs, more than most_full_runs, 12"):
            full_runs_of(balance, cost)
        assert full_runs_of(study_of(world, tmp_path), cost)["design"] == pytest.approx(7 / 4)

    def test_as_many_points_are_costed_as_will_be_run(self, world, tmp_path):
        points = expected_points(study_of(world, tmp_path))
        assert len({p.name for p in points}) == 7 + 2 + 1 + 3 * 3
        assert sum(p.recipe.train.steps == 25 for p in points) == 9

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"guards": {"talk": 0.1}}, "target and a guard"),
            ({"baselines": {"mine": {"knowledge": 1.0}}}, "a weight for each of knowledge, dialogue, code"),
            ({"baselines": {"flan": "flan2022-paper-b"}}, "State weights by source"),
            ({"search_seed": 2}, "among study.seeds"),
            ({"desing": 3}, "desing"),
            ({"abilities": {"songs": ["x"]}}, "neither among targets nor guards"),
        ],
    )
    def test_settings_that_cannot_be_are_said_so(self, world, tmp_path, changes, said):
        with pytest.raises(RecipeError, match=said):
            study_of(world, tmp_path, **changes)

    def test_an_ability_that_no_item_tells_of_is_an_error(self, world, tmp_path):
        balance = study_of(world, tmp_path, abilities={"talk": ["held_out/nothing"]})
        with pytest.raises(RecipeError, match="no item of the evaluation tells of"):
            run_balance(balance, tmp_path / "root", Runs(tmp_path))

    def test_baselines_are_what_they_are_called(self):
        rows = {"muffin": 10, "cot": 30}
        assert baseline_weights("proportional", rows) == [10.0, 30.0]
        assert baseline_weights("uniform", rows) == [1.0, 1.0]
        assert baseline_weights("flan2022-paper-b", rows) == [46.0, 1.8]
        assert baseline_weights({"cot": 2.0, "muffin": 1.0}, rows) == [1.0, 2.0]

    def test_sources_have_their_rows_and_lengths(self, world, tmp_path):
        limits = limits_of(study_of(world, tmp_path), tmp_path / "root")
        assert [s.name for s in limits.sources] == list(PARTS)
        assert [s.rows for s in limits.sources] == [1262, 360, 480]
        talk = limits.sources[1]
        assert 8 < talk.inputs < 30 and 8 < talk.targets < 20

    def test_weights_are_shares_of_the_recipes_parts(self, world, tmp_path):
        mixture = weighed(study_of(world, tmp_path).recipe.mixture, [2.0, 1.0, 1.0])
        assert [p.weight for p in mixture.parts] == [0.5, 0.25, 0.25]


def test_a_guard_surely_lost_is_impossible_only_where_the_surfaces_agree(outcome):
    found, _ = outcome
    lost = replace(found.found, keeps="no")
    assert verdict_of(lost, replace(found.choice, possible="undecided")) == "not balanced"
    assert verdict_of(lost, replace(found.choice, possible="no")) == "impossible"
    assert verdict_of(replace(found.found, keeps="undecided"), found.choice) == "undecided"


def test_a_misspelt_key_is_answered_with_the_near_one(world: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"study\.balance\.room_seed: unknown key\. Did you mean 'room_seeds'\?"):
        study_of(world, tmp_path, room_seed=3)
