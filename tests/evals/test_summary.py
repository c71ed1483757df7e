from __future__ import annotations

import pytest

from flantune.evals.results import MISSING, Answered
from flantune.evals.statistics import clopper_pearson
from flantune.evals.summary import summarise_rows
from flantune.types import Item, Metric, Result


def row(task: str, score: float | None, metric: Metric = "exact_match", **more: object) -> Answered:
    benchmark = str(more.pop("benchmark", "held_out"))
    item = Item(benchmark=benchmark, mode="direct", task=task, id="i", prompt="p", references=("r",), metric=metric)
    extracted = None if score is None else "r"
    result = Result(item=item, output="o", extracted=extracted, score=score, rule="x", **more)  # type: ignore[arg-type]
    return Answered("s", 2, 1, benchmark == "held_out", result)


def test_strict_and_parsed_scores_stand_side_by_side_and_tasks_count_alike():
    rows = [row("a", 1.0), row("a", None), row("a", 1.0), row("a", 0.0), row("b", None), row("b", 1.0)]
    entry = summarise_rows(rows)
    assert entry["score"] == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert entry["score_parsed"] == pytest.approx((2 / 3 + 1) / 2)
    assert entry["score_micro"] == pytest.approx(3 / 6)
    assert (entry["items"], entry["extracted"], entry["extraction_rate"]) == (6, 4, 4 / 6)
    assert entry["shots_dropped"] == entry["items_with_shots_dropped"] == 6
    assert entry["tasks"]["a"]["interval"] == pytest.approx(list(clopper_pearson(2, 4)))
    assert entry["normalised"] is None


def test_a_setting_nobody_answered_has_no_score():
    entry = summarise_rows([row("a", None, reason=MISSING)])
    assert entry["score"] is None and entry["interval"] is None and entry["extraction_rate"] is None
    assert entry["score_parsed"] is None and entry["score_micro"] is None
    assert (entry["items"], entry["missing"], entry["tasks"]) == (0, 1, {})


def test_a_missing_answer_is_not_counted_as_a_wrong_one():
    given = [row("a", 1.0), row("a", 0.0)]
    with_gap = summarise_rows([*given, row("a", None, reason=MISSING)])
    assert with_gap["score"] == summarise_rows(given)["score"] == 0.5 and with_gap["missing"] == 1


def test_metrics_are_reported_apart_where_tasks_have_different_ones():
    rows = [row("a", 1.0), row("a", 0.0), row("b", 0.3, "rouge_l"), row("c", 0.6, "rouge_l"), row("c", 0.8, "rouge_l")]
    entry = summarise_rows(rows)
    assert {m: (e["num_tasks"], e["items"]) for m, e in entry["by_metric"].items()} == {
        "exact_match": (1, 2),
        "rouge_l": (2, 3),
    }
    assert entry["by_metric"]["rouge_l"]["score"] == pytest.approx((0.3 + 0.7) / 2)
    assert entry["interval_method"] == "bootstrap over tasks and items"
    assert "by_metric" not in summarise_rows(rows[:2])


def test_a_benchmark_with_known_chance_is_normalised_task_by_task():
    rows = [row("navigate", 1.0, benchmark="bbh"), row("object_counting", 0.0, benchmark="bbh")]
    assert summarise_rows(rows)["normalised"] == pytest.approx((100 + 0) / 2)
    assert summarise_rows([row("navigate", None, benchmark="bbh")])["normalised"] == pytest.approx(-100)
