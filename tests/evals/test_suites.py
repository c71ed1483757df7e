"""Suites, the paper's average over one, groups, abilities, and what surely fell."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from flantune.errors import RecipeError
from flantune.evals import (
    BENCHMARKS,
    SUITES,
    Setting,
    asked_specs,
    by_change,
    compare,
    compare_abilities,
    compare_groups,
    run_evaluation,
    suite_settings,
)
from flantune.evals.compare import adjust, only_one_has
from flantune.evals.mmlu import GROUPS, SUBJECTS
from flantune.evals.normalised import PUBLISHED_BOUNDS
from flantune.evals.results import Answered, write_items
from flantune.evals.suites import COMPONENTS, flan_average
from flantune.inference.backends import Capabilities
from flantune.inference.requests import Generated, GenerateRequest, Scored, ScoreRequest
from flantune.types import Item, Result


def test_every_suite_asks_benchmarks_there_are_in_modes_they_have():
    for specs in SUITES.values():
        for spec in specs:
            assert set(spec.modes) <= set(BENCHMARKS[spec.name].modes)
    assert [(s.name, m) for s in SUITES["flan"] for m in s.modes] == [(n, m) for n, m, _ in COMPONENTS]


def test_a_suite_asks_what_is_there_and_names_what_is_not(benchmarks: Path, tmp_path: Path):
    settings, missing = suite_settings("core", str(benchmarks), 0)
    assert not missing and len(settings) == 5
    (tmp_path / "bbh").symlink_to(benchmarks / "bbh")
    settings, missing = suite_settings("quick", str(tmp_path), 0, {"limit": 1})
    assert [s.key for s in settings] == ["bbh/direct/3-shot"] and settings[0].limit == 1
    assert missing == ["mmlu", "gsm8k", "mgsm"]
    with pytest.raises(RecipeError, match="none of"):
        suite_settings("core", str(tmp_path / "no"), 0)
    with pytest.raises(RecipeError, match="no suite 'flam'"):
        suite_settings("flam", str(benchmarks), 0)


def entry(name: str, mode: str, scores: dict[str, float]) -> dict[str, object]:
    return {"benchmark": name, "mode": mode, "tasks": {t: {"score": s} for t, s in scores.items()}}


def test_the_flan_average_is_the_worked_example_of_the_recipe_and_missing_is_missing():
    """Flan-T5-XXL: MMLU 55.1 and 48.6, BBH normalised 26.25 and 20.48, TyDiQA 19.0, MGSM 4.9 -> 23.7."""
    wanted = {("mmlu", "direct"): 0.551, ("mmlu", "cot"): 0.486, ("tydiqa", "direct"): 0.19, ("mgsm", "cot"): 0.049}
    bbh = {"direct": 26.25, "cot": 20.48}
    results = []
    for name, mode, tasks in COMPONENTS:
        if name == "bbh":
            scores = {t: (b + bbh[mode] * (100 - b) / 100) / 100 for t, b in PUBLISHED_BOUNDS.items()}
        else:
            scores = dict.fromkeys(tasks, wanted[name, mode])
        results.append(entry(name, mode, scores | ({"en": 0.9} if name == "mgsm" else {})))
    found = flan_average(results)
    assert found["normalised_average"] == pytest.approx(23.71, abs=0.01) and found["missing"] == []
    assert found["over_present"] == pytest.approx(found["normalised_average"])
    del results[5]["tasks"]["te"]  # type: ignore[attr-defined]
    part = flan_average(results)
    assert part["normalised_average"] is None and part["components"]["mgsm-cot"] is None
    assert part["missing"] == ["mgsm-cot: 1 of 10 tasks (te)"] and part["over_present"] == pytest.approx(
        23.71, abs=0.01
    )
    assert flan_average(results[:5])["over_present"] != part["over_present"]


def test_mmlus_groups_are_the_publishers(spec_dir: Path, data_dir: Path):
    import json

    content = json.loads((data_dir / "taxonomy" / "mmlu_categories.json").read_bytes())
    names = {"STEM": "stem", "humanities": "humanities", "social sciences": "social_sciences"}
    for group, categories in content["categories"].items():
        members = {s for s, c in content["subcategories"].items() if c[0] in categories}
        assert members == set(GROUPS[names.get(group, "other")].split())
    assert len(SUBJECTS) == 57


def rows(setting: str, scores: dict[str, list[float]], benchmark: str = "mmlu") -> list[Answered]:
    return [
        Answered(
            setting,
            0,
            0,
            False,
            Result(
                item=Item(benchmark=benchmark, mode="direct", task=t, id=f"{t}/{i}", prompt="p", references=("A",)),
                output="A",
                extracted="A",
                score=s,
            ),
        )
        for t, own in scores.items()
        for i, s in enumerate(own)
    ]


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two sides: MMLU's subjects of one group fall, one subject rises, another benchmark stays."""
    before = {s: [1.0, 0.0] * 10 for s in SUBJECTS}
    after = before | {s: [0.0] * 20 for s in GROUPS["stem"].split()} | {"virology": [1.0] * 20}
    for name, mmlu in (("a", before), ("b", after)):
        same = rows("gsm8k/cot/8-shot", {"gsm8k": [1.0] * 15 + [0.0] * 15}, "gsm8k")
        write_items(tmp_path / f"{name}.parquet", [*rows("mmlu/direct/5-shot", mmlu), *same])
    return tmp_path / "a.parquet", tmp_path / "b.parquet"


def test_groups_and_abilities_are_compared_and_what_surely_fell_is_told(two: tuple[Path, Path]):
    groups = {r.group: r for r in compare_groups(*two)}
    assert set(groups) == set(GROUPS)
    assert groups["stem"].difference == pytest.approx(-0.5) and groups["stem"].fell_surely
    assert groups["humanities"].difference == 0 and not groups["humanities"].fell_surely
    abilities = {r.ability: r for r in compare_abilities(*two)}
    assert set(abilities) == {"knowledge", "reasoning"}
    whole = next(r for r in compare(*two) if r.setting.startswith("mmlu") and r.task is None)
    assert abilities["knowledge"].difference == pytest.approx(whole.difference)
    assert abilities["knowledge"].interval[1] < 0
    assert abilities["reasoning"].difference == 0 == abilities["reasoning"].interval[0]


def test_tasks_are_ordered_by_sureness_and_size_and_corrected_for_their_number(two: tuple[Path, Path]):
    tasks = [r for r in compare(*two) if r.task is not None]
    ordered = by_change(tasks)
    assert abs(ordered[0].difference) == 0.5 and ordered[-1].difference == 0
    for row in tasks:
        assert row.p_adjusted >= row.p_value
    single = next(r for r in tasks if r.task == "virology")
    assert single.rose == 10 and single.p_value == pytest.approx(2 / 1024)
    alone = adjust([single])[0]
    assert alone.p_adjusted == single.p_value and alone.rose_surely
    # Holm: nineteen equal p values; the smallest is multiplied by the number of all rows.
    assert single.p_adjusted == pytest.approx(min(1.0, 2 / 1024 * len(tasks))) and not single.rose_surely


class Lengths:
    """An engine that likes long options: an option's score is less the fewer its characters, plus a bias to "b"."""

    identity, capabilities, chat_template, prices = {"model": "m"}, Capabilities(), None, None

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def num_tokens(self, text: str) -> None:
        return None

    def fits(self, prompt: str, *, special: bool = False) -> bool:
        return True

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Generated]:
        yield from ()

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scored]:
        for i, r in enumerate(requests):
            self.asked.append((r.prompt, r.options))
            alone = {" (A)": -8.0, " (B)": -1.0, " (C)": -9.0, " (D)": -9.0}
            told = {" (A)": -3.0, " (B)": -2.0, " (C)": -9.0, " (D)": -9.5}
            scores = alone if r.prompt == "A:" else told
            yield Scored(i, tuple(scores[o] for o in r.options), False)


@pytest.mark.parametrize(("normalise", "best", "scores"), [
    ("none", "(B)", (-3.0, -2.0, -9.0, -9.5)),
    ("length", "(B)", (-1.0, -2.0 / 3, -3.0, -9.5 / 3)),
    ("unconditional", "(A)", (5.0, -1.0, 0.0, -0.5)),
])  # fmt: skip
def test_options_are_normalised_by_length_or_against_their_own_likelihood(
    benchmarks: Path, tmp_path: Path, normalise: str, best: str, scores: tuple[float, ...]
):
    setting = Setting(
        benchmark=BENCHMARKS["mmlu"],
        path=benchmarks / "mmlu",
        mode="direct",
        shots=0,
        normalise=normalise,  # type: ignore[arg-type]
    )
    engine = Lengths()
    run_evaluation(engine, [setting], tmp_path / "e")
    from flantune.evals import read_items

    found = read_items(tmp_path / "e" / "items.parquet")
    assert {r.result.output for r in found} == {best}
    assert found[0].result.option_scores == pytest.approx(scores)
    assert sum(prompt == "A:" for prompt, _ in engine.asked) == (normalise == "unconditional")
    assert setting.key == "mmlu/direct/0-shot" + ("" if normalise == "none" else f"+{normalise}")


def test_a_recipes_suite_is_asked_beside_its_own_entries_which_go_first(benchmarks: Path):
    from flantune.pipeline.evaluation import run_settings
    from flantune.recipe import parse_recipe

    recipe = parse_recipe(
        {
            "name": "r",
            "vars": {"data": str(benchmarks)},
            "collections": [{"path": "c"}],
            "eval": {"suite": "quick", "benchmarks": [{"name": "gsm8k", "modes": ["cot"], "limit": 1, "samples": 3}]},
        }
    )
    settings = run_settings(recipe, None)  # type: ignore[arg-type]  # no held-out tasks are asked
    assert [s.key for s in settings] == [
        "gsm8k/cot/8-shot+majority-3", "mmlu/direct/5-shot", "bbh/direct/3-shot", "gsm8k/cot/8-shot", "mgsm/cot/8-shot",
    ]  # fmt: skip
    same = recipe.model_copy(
        update={
            "eval": recipe.eval.model_copy(update={"benchmarks": (SUITES["quick"][2].model_copy(update={"limit": 1}),)})
        }
    )
    limits = {s.key: s.limit for s in run_settings(same, None)}  # type: ignore[arg-type]
    assert limits["gsm8k/cot/8-shot"] == 1 and len(limits) == 4
    assert [s.name for s in asked_specs(recipe)] == ["gsm8k", "mmlu", "bbh", "gsm8k", "mgsm"]
    with pytest.raises(RecipeError, match="suite"):
        parse_recipe({"name": "r", "collections": [{"path": "c"}], "eval": {"suite": "flam"}})


def test_a_limit_or_missing_outputs_keep_the_papers_figure_from_being_named():
    results = [entry(name, mode, dict.fromkeys(tasks, 1.0)) for name, mode, tasks in COMPONENTS]
    assert flan_average(results)["normalised_average"] == pytest.approx(100)
    limited = [results[0] | {"limit": 1}, results[1] | {"missing": 3}, *results[2:]]
    found = flan_average(limited)
    assert found["normalised_average"] is None and found["components"]["mmlu-direct"] is None
    assert found["missing"] == ["mmlu-direct: only 1 items a task were asked", "mmlu-cot: 3 items have no output"]


def test_what_cannot_be_compared_is_named(tmp_path: Path):
    write_items(tmp_path / "a.parquet", [*rows("x", {"t": [1.0, 0.0], "u": [1.0]}), *rows("y", {"t": [1.0]})])
    write_items(tmp_path / "b.parquet", rows("x", {"t": [1.0, 0.0]}))
    assert only_one_has(tmp_path / "a.parquet", tmp_path / "b.parquet") == (["x u", "y"], [])
    other = [
        replace(r, result=replace(r.result, item=replace(r.result.item, id=f"test/{i}")))
        for i, r in enumerate(rows("x", {"t": [0.0]}))
    ]
    write_items(tmp_path / "c.parquet", other)
    with pytest.raises(RecipeError, match=r"share no item of x.* t/0 .* test/0"):
        compare(tmp_path / "a.parquet", tmp_path / "c.parquet")


def test_a_benchmark_of_a_suite_that_lacks_a_file_is_named_with_it_and_the_others_are_asked(
    benchmarks: Path, tmp_path: Path
):
    shutil.copytree(benchmarks, tmp_path / "data")
    (tmp_path / "data/mmlu/mmlu-cot.json").unlink()
    settings, missing = suite_settings("flan", str(tmp_path / "data"), 0)
    assert "mmlu" not in {s.benchmark.name for s in settings} and settings
    assert any(m.startswith("mmlu (") and "mmlu-cot.json" in m for m in missing)
