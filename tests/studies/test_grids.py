"""Grids: which points a study has, that smaller sets of tasks lie within larger ones, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import RecipeError
from flantune.recipe import WeightedFormat, load_recipe, make_format
from flantune.studies import choices
from flantune.studies.choices import World
from flantune.studies.grids import GRIDS, axis_of, cot, formats, objectives, scaling, sources
from flantune.studies.point import point_name, training_part
from flantune.studies.settings import Study, load_study, parse_study
from flantune.types import Example, Task


def task(name: str, mixture: str, reasons: bool = False) -> Task:
    return Task(
        name=name,
        mixture=mixture,
        dataset=name,
        category=mixture,
        templates="auto",
        fields=("x",),
        has_rationale=reasons,
        demonstrations=(Example(task=name, row=-1, id="d", fields={"x": "1"}, targets=("1",)),),
    )


def world(one_sided: bool = False, **mixtures: int) -> World:
    """So many tasks of each mixture; those of "cot" reason."""
    named = [task(f"{m}/{k}", m, m == "cot") for m, count in mixtures.items() for k in range(count)]
    return World({t.name: t for t in named}, {t.name: 10 for t in named}, one_sided)


def study(mixture: dict[str, Any] | None = None, **own: Any) -> Study:
    raw = {
        "name": "s",
        "collections": [{"path": "nowhere"}],
        "mixture": mixture or {"preset": "proportional"},
        "model": {"init": "demo"},
        "eval": {"benchmarks": [{"name": "held_out"}]},
        "study": own,
    }
    return parse_study(raw)


def tasks_of(point: Any, known: World) -> set[str]:
    return set(point.recipe.mixture.only) or set(known.tasks)


def test_mixtures_are_added_in_the_stated_order_and_those_that_are_not_read_are_told_of():
    known = world(muffin=3, cot=2, niv2=4, own=1)
    grid = scaling(study(seeds=[0]), known)
    assert [p.labels for p in grid.points] == [
        {"tasks": 2, "mixtures": "cot", "seed": 0},
        {"tasks": 5, "mixtures": "cot + muffin", "seed": 0},
        {"tasks": 9, "mixtures": "cot + muffin + niv2", "seed": 0},
    ]
    assert tasks_of(grid.points[1], known) == {t for t in known.tasks if t.split("/")[0] in ("cot", "muffin")}
    assert grid.notes == ("not read, and passed over: t0_sf", "read, and in no step: own")


@given(
    total=st.integers(2, 40),
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
    vary=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_every_smaller_set_of_tasks_lies_within_the_larger_ones(total, counts, seeds, vary):
    known = world(a=total)
    asked = [c for c in counts if c <= total] or [total]
    own = {"order": "random", "counts": [*asked, "all"], "vary_tasks": vary}
    grid = scaling(study(seeds=seeds, scaling=own), known)
    assert len(grid.points) == len(seeds) * len({*asked, total})
    for seed in seeds:
        mine = [p for p in grid.points if p.labels["seed"] == seed]
        sets = [tasks_of(p, known) for p in mine]
        assert [len(s) for s in sets] == [p.labels["tasks"] for p in mine] == sorted({*asked, total})
        assert all(a < b for a, b in pairwise(sets))
    if not vary:
        by_count: dict[Any, set[frozenset[str]]] = {}
        for p in grid.points:
            by_count.setdefault(p.labels["tasks"], set()).add(frozenset(tasks_of(p, known)))
        assert all(len(own) == 1 for own in by_count.values())


@given(names=st.sets(st.text(min_size=1), min_size=1, max_size=30), seed=st.integers(0, 5), more=st.text(min_size=1))
def test_a_further_task_moves_none_of_the_others(names, seed, more):
    before = choices.random_order(names, seed)
    after = choices.random_order(names | {more}, seed)
    assert [n for n in after if n in names] == [n for n in before if n in names]


def test_all_tasks_are_the_recipe_as_it_stands_so_that_studies_share_the_point():
    known = world(cot=2, muffin=3)
    s = study(seeds=[0])
    last = scaling(s, known).points[-1]
    everything = next(p for p in sources(s, known).points if p.labels["sources"] == "all")
    assert last.name == everything.name == point_name(s.recipe)


def test_counts_beyond_the_tasks_there_are_are_refused():
    with pytest.raises(RecipeError, match="50 of 5 tasks"):
        scaling(study(scaling={"order": "random", "counts": [50]}), world(a=5))
    with pytest.raises(RecipeError, match="order: random"):
        scaling(study(scaling={"counts": [2]}), world(a=5))
    with pytest.raises(RecipeError, match="none of them was read"):
        scaling(study(), world(a=5))


def test_the_points_of_a_study_are_models_by_seeds_by_steps_at_equal_training():
    own = study(seeds=[3, 4], models={"one": {}, "two": {"init": "elsewhere"}}, scaling={"order": "random"})
    grid = scaling(own, world(a=6))
    assert len(grid.points) == 2 * 2 * 4  # 1, 2, 4 and all 6
    parts = {tuple(sorted(training_part(p.recipe)["train"].items(), key=str)).__repr__() for p in grid.points}
    assert len(parts) == 1
    assert {p.recipe.model.init for p in grid.points if p.labels["model"] == "two"} == {"elsewhere"}
    assert {p.recipe.seed for p in grid.points} == {3, 4} and {p.asked_with for p in grid.points} == {0}
    assert len({p.name for p in grid.points}) == len(grid.points)


def test_a_base_that_has_to_be_made_is_one_for_all_points_of_its_model():
    raw = {"name": "s", "collections": [{"path": "x"}], "model": {"init": "scratch"}, "study": {"seeds": [1, 2]}}
    grid = scaling(parse_study({**raw, "study": {"scaling": {"order": "random"}}}), world(a=3))
    assert len({p.base.model_dump_json() for p in grid.points if p.base}) == 1
    assert all(p.base is not None and p.base.seed == 0 and not p.base.mixture.only for p in grid.points)


def test_parts_with_no_chosen_task_go_and_the_others_stay():
    parts = [
        {"name": "x", "weight": 3, "mixture": "cot"},
        {"name": "y", "weight": 1, "parts": [{"name": "m", "tasks": ["muffin/*"]}, {"name": "n", "tasks": ["niv2/0"]}]},
    ]
    known = world(cot=2, muffin=2, niv2=2)
    grid = scaling(study({"parts": parts}, seeds=[0]), known)
    first, second = (p.recipe.mixture for p in grid.points[:2])
    assert [p.name for p in first.parts] == ["x"] and first.parts[0].weight == 3
    assert [p.name for p in second.parts] == ["x", "y"] and [p.name for p in second.parts[1].parts] == ["m"]
    with pytest.raises(RecipeError, match="no part of the mixture names any"):
        choices.only(study({"parts": parts}).recipe, ["niv2/1"], known)


def test_cot_arms():
    known = world(cot=3, muffin=4)
    grid = cot(study(seeds=[0], cot={"few": [1]}), known)
    arms = {p.labels["arm"]: p for p in grid.points}
    assert list(arms) == ["CoT only", "non-CoT only", "both", "both, no rationales", "non-CoT + 1"]
    assert tasks_of(arms["CoT only"], known) == set(known.mixtures["cot"])
    assert tasks_of(arms["non-CoT only"], known) == set(known.mixtures["muffin"])
    assert tasks_of(arms["both"], known) == set(known.tasks)
    few = tasks_of(arms["non-CoT + 1"], known)
    assert len(few) == 5 and few > set(known.mixtures["muffin"])
    assert {f.rationale for f in arms["both, no rationales"].recipe.mixture.formats} == {"without"}
    assert {f.rationale for f in arms["both"].recipe.mixture.formats} == {None}


def test_a_stated_share_of_reasoning_holds_in_every_arm_that_has_both():
    known = world(cot=3, muffin=4)
    grid = cot(study({"preset": "uniform"}, seeds=[0], cot={"few": [2], "share": 0.25}), known)
    for point in grid.points:
        if point.labels["arm"] in ("both", "non-CoT + 2"):
            parts = {p.name: p for p in point.recipe.mixture.parts}
            assert {n: p.weight for n, p in parts.items()} == {"cot": 0.25, "direct": 0.75}
            assert parts["cot"].cap == 1  # as 'uniform' weighs tasks


def test_cot_needs_both_kinds():
    with pytest.raises(RecipeError, match="no reasoning tasks"):
        cot(study(), world(muffin=3))
    with pytest.raises(RecipeError, match="no other tasks"):
        cot(study(), world(cot=3))


FORMATS = (WeightedFormat(setting="zs_opt", weight=3), WeightedFormat(setting="fs_noopt", weight=1))


@given(share=st.floats(0, 1))
def test_shares_of_formats_are_what_was_asked(share):
    few = choices.few_shot(FORMATS, share, 2)
    total = sum(f.weight for f in few)
    assert sum(f.weight for f in few if make_format(f).shots) / total == pytest.approx(share)
    listed = choices.options(FORMATS, share)
    total = sum(f.weight for f in listed)
    assert sum(f.weight for f in listed if make_format(f).options != "none") / total == pytest.approx(share)
    only = choices.exemplars_only(FORMATS, share)
    shots = [f for f in only if make_format(f).shots]
    assert sum(f.weight for f in shots if not make_format(f).instruction) == pytest.approx(share * 1)
    assert [f for f in only if not make_format(f).shots] == [FORMATS[0]]


@given(share=st.floats(0, 0.95))
def test_inverted_share_is_of_a_task_with_such_wording(share):
    for entry in choices.inverted(FORMATS, share):
        rate = entry.inversion or 0.0
        assert rate / (1 + rate) == pytest.approx(share)


def test_a_kind_of_format_that_is_not_there_is_made_of_the_other():
    zero = (WeightedFormat(setting="zs_opt"),)
    few = choices.few_shot(zero, 1.0, 3)
    assert [make_format(f).shots for f in few] == [3]
    assert [make_format(f).options for f in choices.options(zero, 0.0)] == ["none"]


def test_formats_vary_one_property_at_a_time():
    grid = formats(study(seeds=[0]), world(a=2))
    by_axis: dict[str, list[Any]] = {}
    for point in grid.points:
        by_axis.setdefault(axis_of(point.labels)[0], []).append(axis_of(point.labels)[1])
    assert by_axis == {
        "formats": ["as stated"],
        "few_shot": [0.0, 0.25, 0.5, 0.75, 1.0],
        "inverted": [0.0, 0.25],
        "options": [0.0, 0.5, 1.0],
        "exemplars_only": [0.0, 0.5, 1.0],
        "templates": [1, 2, "all"],
    }
    stated = point_name(study(seeds=[0]).recipe)
    assert [p.name for p in grid.points if p.labels.get("templates") == "all"] == [stated]
    with pytest.raises(RecipeError, match="has its own formats"):
        formats(study({"preset": "flan2022-public"}), world(a=2))


def test_what_is_stated_already_is_no_point_of_its_own():
    mixture = {"formats": [{"setting": "zs_opt", "weight": 3}, {"setting": "fs_opt", "weight": 1}]}
    own = {"few_shot": [0.25, 1], "exemplars_only": [0, 1], "options": [1, 0], "inverted": [0], "templates": ["all", 1]}
    points = formats(study(mixture, seeds=[0], formats=own), world(a=2)).points
    same = [axis_of(p.labels) for p in points if p.name == points[0].name]
    assert same == [
        ("formats", "as stated"), ("few_shot", 0.25), ("inverted", 0), ("options", 1), ("exemplars_only", 0),
        ("templates", "all"),
    ]  # fmt: skip
    assert len({p.name for p in points}) == 5


def test_objectives_ask_what_the_model_can_show():
    known, decoder = world(a=2), world(True, a=2)
    plain = objectives(study(seeds=[0], objectives={"text_shares": [0, 0.2]}), known)
    assert [axis_of(p.labels) for p in plain.points] == [("text", 0), ("text", 0.2)]
    assert any("no decoder" in note for note in plain.notes)
    assert plain.points[0].recipe.mixture.text is None
    assert plain.points[1].recipe.mixture.text is not None and plain.points[1].recipe.mixture.text.share == 0.2
    own = {"ul2r": {"objective": "ul2r", "steps": 5}, "text_shares": []}
    grid = objectives(study(seeds=[0], objectives=own), decoder)
    assert [axis_of(p.labels) for p in grid.points] == [
        ("attention", "causal"),
        ("attention", "prefix"),
        ("before", "nothing"),
        ("before", "UL2R"),
    ]
    before = grid.points[3]
    assert before.base is not None and before.base.pretrain is not None and before.recipe.pretrain is None
    assert grid.points[2].name == grid.points[0].name and before.name != grid.points[2].name


def test_sources_leave_out_add_and_weigh_code():
    known = world(a=2, b=1, code=3)
    own = {"add_to": ["a"], "code": ["code/*"], "code_shares": [0, 0.4]}
    grid = sources(study(seeds=[0], sources=own), known)
    arms = {axis_of(p.labels): p for p in grid.points}
    assert [value for _, value in arms] == [
        "all", "all but a", "all but b", "all but code", "a alone", "a + b", "a + code", 0, 0.4,
    ]  # fmt: skip
    assert tasks_of(arms["sources", "all but code"], known) == {"a/0", "a/1", "b/0"}
    assert tasks_of(arms["sources", "a + b"], known) == {"a/0", "a/1", "b/0"}
    assert arms["sources", "all but code"].name == arms["sources", "a + b"].name
    weights = {p.name: p.weight for p in arms["code", 0.4].recipe.mixture.parts}
    assert weights == {"code": 0.4, "rest": 0.6}
    assert [p.name for p in arms["code", 0].recipe.mixture.parts] == ["rest"]
    with pytest.raises(RecipeError, match="one mixture alone"):
        sources(study(), world(a=2))


def text_of(*names: str) -> dict[str, Any]:
    files = [{"name": name, "files": [f"{name}.txt"], "weight": 1 + k} for k, name in enumerate(names)]
    return {"preset": "proportional", "text": {"share": 0.2, "text": "files", "files": files}}


def test_the_share_of_code_in_the_plain_text_is_a_groups_weight():
    known = world(a=2, b=1)
    own = {"leave_out": False, "add": False, "text_code": "code", "text_code_shares": [0, 0.4]}
    grid = sources(study(text_of("code", "books", "web"), seeds=[0], sources=own), known)
    arms = {axis_of(p.labels): p.recipe.mixture for p in grid.points}
    assert list(arms) == [("sources", "all"), ("text_code", 0), ("text_code", 0.4)]
    weights = [{g.name: g.weight for g in arms["text_code", share].text.groups} for share in (0, 0.4)]
    assert weights[0] == pytest.approx({"books": 0.4, "web": 0.6})
    assert weights[1] == pytest.approx({"code": 0.4, "books": 0.24, "web": 0.36})
    assert {m.text.share for m in arms.values()} == {0.2}  # of the stream it has what it had
    assert len({p.name for p in grid.points}) == 3


@pytest.mark.parametrize("mixture", [None, text_of("code"), text_of("books", "web")])
def test_a_share_of_text_that_is_no_group_is_refused(mixture):
    own = {"leave_out": False, "add": False, "text_code": "code"}
    with pytest.raises(RecipeError, match=r"State mixture\.text with 'text: files' and two groups or more"):
        sources(study(mixture, seeds=[0], sources=own), world(a=2, b=1))


def test_phases_go_with_the_parts_that_a_point_has():
    parts = [{"name": n, "mixture": n} for n in ("cot", "muffin", "niv2")]
    phases = [
        {"until": 0.5, "weights": {"cot": 1, "muffin": 2, "niv2": 0}},
        {"weights": {"cot": 0, "muffin": 1, "niv2": 1}},
    ]
    known = world(cot=2, muffin=2, niv2=2)
    own = study({"parts": parts, "phases": phases}).recipe
    mixture = choices.only(own, ["cot/0", "niv2/1"], known)
    assert [p.weights for p in mixture.phases] == [{"cot": 1, "niv2": 0}, {"cot": 0, "niv2": 1}]
    assert type(mixture).model_validate(mixture.model_dump(mode="json")) == mixture
    with pytest.raises(RecipeError, match="phase 2 of the mixture gives weight 0"):
        choices.only(own, ["cot/0"], known)


def test_names_hang_on_what_is_trained_and_on_nothing_else():
    one = study().recipe
    same = one.model_copy(
        update={
            "name": "other",
            "runs": "elsewhere",
            "eval": one.eval.model_copy(update={"batch_tokens": 5}),
            "train": one.train.model_copy(update={"threads": 3, "checkpoint_every": 7}),
        }
    )
    assert point_name(one) == point_name(same)
    for change in ({"seed": 1}, {"train": one.train.model_copy(update={"steps": 7})}):
        assert point_name(one.model_copy(update=change)) != point_name(one)


def test_a_recipe_with_a_study_is_an_ordinary_recipe_and_a_wrong_key_is_told(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text("name: r\ncollections: [{path: x}]\nstudy: {seeds: [5], scaling: {order: random}}\n")
    assert load_recipe(path).name == "r"
    assert load_study(path, {"study.seeds": [1, 2]}).spec.seeds == (1, 2)
    path.write_text("name: r\ncollections: [{path: x}]\nstudy: {scaling: {ordr: random}}\n")
    with pytest.raises(RecipeError, match=r"study\.scaling\.ordr: unknown key\. Did you mean 'order'\?"):
        load_study(path)
    assert set(GRIDS) == {"scaling", "cot", "formats", "objectives", "sources"}
