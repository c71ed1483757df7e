from __future__ import annotations

import csv
import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.errors import RecipeError
from flantune.mixtures import Mixture
from flantune.mixtures.weights import WHOLE, cut_interval, find_leaves
from flantune.recipe import FORMATS, HeldOut, MixturePart, MixtureSpec, WeightedFormat
from flantune.tasks.held_out import split_held_out
from flantune.types import Example, Task

from .worlds import make_mixture, make_task, make_tasks, make_templates, own_templates


def shares_of(spec: MixtureSpec, sizes: dict[str, int]) -> dict[str, float]:
    return make_mixture(sizes, spec).shares()


def part(name: str, *tasks: str, **changes: object) -> MixturePart:
    return MixturePart.model_validate({"name": name, "tasks": tasks, **changes})


@given(
    st.lists(st.fractions(min_value=0, max_value=10**6), min_size=1, max_size=30).filter(any),
    st.integers(0, 2**63),
    st.integers(1, 2**63),
)
def test_an_interval_is_cut_without_gaps_and_each_bound_is_off_by_less_than_one(
    weights: list[Fraction], start: int, length: int
) -> None:
    bounds = cut_interval(start, start + length, weights)
    assert bounds[0] == start and bounds[-1] == start + length and bounds == sorted(bounds)
    done = Fraction(0)
    for weight, bound in zip(weights, bounds[1:], strict=True):
        done += weight
        assert 0 <= start + length * done / sum(weights) - bound < 1


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="sum to nothing"):
        cut_interval(0, WHOLE, [0, 0])


def test_leaves_cover_the_whole_without_gaps() -> None:
    leaves = make_mixture({"a/1": 3, "a/2": 4, "b/1": 5, "c/1": 1}).leaves
    assert leaves[0].start == 0 and leaves[-1].stop == WHOLE
    assert all(x.stop == y.start for x, y in pairwise(leaves))


def test_a_large_task_counts_only_up_to_the_cap() -> None:
    sizes = {"nli/rte": 1_000, "nli/mnli": 390_000}
    assert shares_of(MixtureSpec(cap=3_000), sizes) == {"nli/rte": 0.25, "nli/mnli": 0.75}


def test_proportional_follows_sizes_and_uniform_does_not() -> None:
    sizes = {"a/1": 1, "a/2": 6, "b/1": 1}
    assert shares_of(MixtureSpec(preset="proportional"), sizes) == {"a/1": 0.125, "a/2": 0.75, "b/1": 0.125}
    assert shares_of(MixtureSpec(preset="uniform"), sizes) == pytest.approx(dict.fromkeys(sizes, 1 / 3))


def test_weights_are_relative_to_siblings_and_caps_go_down_to_parts_that_state_none() -> None:
    spec = MixtureSpec(
        parts=(
            MixturePart(name="one", weight=3, cap=10, parts=(part("x", "a/*", weight=2), part("y", "b/*", cap=1))),
            part("two", "c/*", weight=1),
        )
    )
    shares = shares_of(spec, {"a/1": 30, "a/2": 1000, "b/1": 3, "b/2": 9, "c/1": 1, "c/2": 3})
    expected = {"a/1": 1 / 4, "a/2": 1 / 4, "b/1": 1 / 8, "b/2": 1 / 8, "c/1": 1 / 16, "c/2": 3 / 16}
    assert shares == pytest.approx(expected, abs=1e-15)


def test_a_task_that_two_parts_name_has_the_summed_rate() -> None:
    spec = MixtureSpec(parts=(part("one", "a/*"), part("two", "a/1", "b/1")))
    shares = shares_of(spec, {"a/1": 1, "a/2": 1, "b/1": 3})
    assert shares == {"a/1": 1 / 4 + 1 / 8, "a/2": 1 / 4, "b/1": 3 / 8}


def test_a_task_that_two_patterns_of_one_part_match_counts_once() -> None:
    spec = MixtureSpec(parts=(part("one", "a/*", "*/1"),))
    assert shares_of(spec, {"a/1": 1, "a/2": 1}) == {"a/1": 0.5, "a/2": 0.5}


def test_the_public_mixture_nested_as_its_code_nests_it_has_the_published_rates(spec_dir: Path) -> None:
    with (spec_dir / "public_mixture_rates.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1389
    sizes, published = {}, {}
    tops: dict[str, dict[str, dict[str, int]]] = {}
    for n, row in enumerate(rows):
        name = f"{row['submixture']}/{row['setting']}/{row['component']}/{n}"
        sizes[name], published[name] = int(row["num_cases"]), float(row["prob_in_flan2022"])
        components = tops.setdefault(row["submixture"], {}).setdefault(row["setting"], {})
        components[row["component"]] = int(row["cap"])
    weights = {"flan2021": 0.40, "t0": 0.32, "niv2": 0.20, "cot": 0.05, "dialog": 0.03}

    def setting_part(top: str, setting: str, components: dict[str, int]) -> MixturePart:
        inner = tuple(
            part(c, f"{top}/{setting}/{c}/*", cap=cap, weight=0.3 if c.endswith("-II") else 1.0)
            for c, cap in components.items()
        )
        return MixturePart(name=setting, parts=inner)

    parts = tuple(
        MixturePart(name=top, weight=weights[top], parts=tuple(setting_part(top, s, c) for s, c in settings.items()))
        for top, settings in tops.items()
    )
    shares = shares_of(MixtureSpec(parts=parts), sizes)
    assert shares == pytest.approx(published, rel=1e-6)

    cases = json.loads((spec_dir / "test_vectors.json").read_text())["mixture_rates"]["cases"]
    named = {name: rows[int(name.rpartition("/")[2])] for name in shares}
    for case in cases:
        task = case["task"].split(" ")[0]
        component = "FLAN" if task in ("bool_q", "wmt16_translate_csen") else {"qrecc": "Dialog"}.get(task, "CoT")
        wanted = {"task": task, "setting": case["setting"], "component": component}
        rate = sum(p for name, p in shares.items() if wanted.items() <= named[name].items())
        assert rate == pytest.approx(case["value"], rel=1e-12), case


@pytest.mark.parametrize(
    ("preset", "proportions"),
    [
        ("paper-a", {"muffin": 52, "t0_sf": 15, "cot": 3, "niv2": 30}),
        ("paper-b", {"muffin": 46.0, "t0_sf": 27.9, "cot": 1.8, "niv2": 24.2}),
    ],
)
def test_the_papers_presets_renormalise_over_the_mixtures_present(preset: str, proportions: dict[str, float]) -> None:
    sizes = {f"{m}/{i}": 10 + i for m in proportions for i in range(3)} | {"mine/1": 1000}
    for absent in (None, "cot", "muffin"):
        present = {n: s for n, s in sizes.items() if absent is None or not n.startswith(absent)}
        got = make_mixture(present, MixtureSpec(preset=preset)).mixture_shares()  # type: ignore[arg-type]
        wanted = {m: p for m, p in proportions.items() if m != absent}
        assert got == pytest.approx({m: p / sum(wanted.values()) for m, p in wanted.items()})


def test_the_papers_preset_clips_each_mixture_at_its_own_cap() -> None:
    sizes = {f"{m}/{i}": size for m in ("muffin", "t0_sf", "cot", "niv2") for i, size in enumerate([1_000, 10**6])}
    mixture = make_mixture(sizes, MixtureSpec(preset="paper-b"))
    shares, tops = mixture.shares(), mixture.mixture_shares()
    for m, cap in {"muffin": 30_000, "t0_sf": 20_000, "cot": 100_000, "niv2": 5_000}.items():
        assert shares[f"{m}/0"] == pytest.approx(tops[m] * 1_000 / (1_000 + cap))


def test_cot_and_niv2_have_no_noopt_formats_in_a_preset_unless_the_recipe_states_formats() -> None:
    sizes = {"cot/1": 5, "niv2/1": 5, "muffin/1": 5}
    by_task = {leaf.task: leaf.formats for leaf in make_mixture(sizes, MixtureSpec(preset="paper-b")).leaves}
    assert [f for f, _ in by_task["cot/1"]] == [FORMATS["zs_opt"], FORMATS["fs_opt"]]
    assert [p for _, p in by_task["niv2/1"]] == [0.5, 0.5]
    assert [f for f, _ in by_task["muffin/1"]] == [FORMATS[n] for n in ("zs_opt", "fs_opt", "zs_noopt", "fs_noopt")]
    stated = MixtureSpec(preset="paper-b", formats=(WeightedFormat(setting="zs_noopt"),))
    assert {f for leaf in make_mixture(sizes, stated).leaves for f, _ in leaf.formats} == {FORMATS["zs_noopt"]}


def test_the_papers_niv2_is_1556_tasks_with_a_capped_total_of_4235910(spec_dir: Path) -> None:
    with (spec_dir / "niv2_tasks.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    tasks = {f"niv2/{r['task']}": make_task(f"niv2/{r['task']}", source="niv2") for r in rows}
    sizes = {f"niv2/{r['task']}": int(r["num_examples"]) for r in rows}
    split = split_held_out(tasks, HeldOut())
    trained = {name: tasks[name] for name in split.train}
    mixture = Mixture(MixtureSpec(preset="paper-b"), 0, trained, sizes, own_templates)
    shares = mixture.shares()
    assert len(shares) == 1556 and not any("mmmlu" in name for name in shares)
    capped = max(shares.values())
    clipped = [name for name in shares if sizes[name] > 5_000]
    assert len(clipped) == 577 and all(shares[name] == pytest.approx(capped, rel=1e-12) for name in clipped)
    assert 5_000 / capped == pytest.approx(4_235_910)
    assert not any("mmmlu" in d.task for d in mixture.draws(0, 4096))
    # With the exclusion in effect here too, they stay out even if the caller hands them over.
    again = Mixture(MixtureSpec(preset="paper-b"), 0, tasks, sizes, own_templates, held_out=split.excluded)
    assert again.shares() == shares and len(again.left_out) == 57


def test_held_out_and_empty_tasks_are_never_leaves_and_are_listed() -> None:
    tasks = make_tasks("a/1", "a/2", "a/3")
    found = find_leaves(MixtureSpec(), tasks, {"a/1": 5, "a/2": 5, "a/3": 0}, held_out=["a/2"])
    assert [leaf.task for leaf in found.leaves] == ["a/1"]
    assert found.left_out == (("a/2", "held out"), ("a/3", "without examples"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (MixtureSpec(parts=(part("p", "a/*", "zzz*"),)), r"part 'p': 'zzz\*' matches none of 4 tasks"),
        (MixtureSpec(parts=(part("p", "a/11"),)), r"Did you mean 'a/1'\?"),
        (MixtureSpec(parts=(part("p", "a/1"), part("q", "held/*"))), "part 'q': nothing to draw from: 1 held out"),
        (MixtureSpec(parts=(part("p", "empty/*"),)), "part 'p': nothing to draw from: 1 without examples"),
        (MixtureSpec(parts=(part("p", "a/1"), part("p", "b/*"))), "two parts are named 'p'"),
        (MixtureSpec(parts=(MixturePart(name="p", mixture="nope"),)), "no task of mixture 'nope'. Mixtures read: a, b"),
        (MixtureSpec(preset="paper-a"), "preset 'flan2022-paper-a': no task of muffin"),
        (MixtureSpec(preset="paper-a", cap=5), "has its own caps"),
        (MixtureSpec(preset="uniform", cap=5), "a cap changes nothing"),
        (
            MixtureSpec(parts=(MixturePart(name="p", parts=(part("q", "a/*"), part("r", "held/*"))),)),
            "part 'p/r': nothing to draw from",
        ),
        (
            MixtureSpec(formats=(WeightedFormat(shots=1, demonstrations=True),)),
            "preset 'proportional': nothing to draw from: 2 none of the part's formats",
        ),
    ],
)
def test_a_part_of_nothing_is_an_error_that_names_it(spec: MixtureSpec, message: str) -> None:
    sizes = {"a/1": 5, "b/1": 5, "empty/1": 0, "held/1": 5}
    with pytest.raises(RecipeError, match=message):
        Mixture(spec, 0, make_tasks(*sizes), sizes, own_templates, held_out=("held/1",))


def test_formats_that_do_not_suit_a_task_leave_their_weight_to_those_that_do() -> None:
    stored = Example(task="t/shown", row=0, id="", fields={"input": "x"}, targets=("y",))
    wordings = make_templates("t/inverted") + make_templates("t/inverted", kind="inverted")
    tasks = {
        "t/plain": make_task("t/plain"),
        "t/single": make_task("t/single"),
        "t/shown": make_task("t/shown", demonstrations=(stored,)),
        "t/inverted": make_task("t/inverted", own_templates=wordings),
        "t/reasoned": make_task("t/reasoned", own_templates=make_templates("t", kind="rationale"), has_rationale=True),
    }
    sizes = {name: 1 if name == "t/single" else 10 for name in tasks}
    zero, few, demo, inverted, reasoned = (
        WeightedFormat(weight=w, **fields)  # type: ignore[arg-type]
        for w, fields in [
            (1, {}),
            (2, {"shots": 2}),
            (4, {"shots": 1, "demonstrations": True}),
            (8, {"inverted": True}),
            (16, {"rationale": "with"}),
        ]
    )
    spec = MixtureSpec(formats=(zero, few, demo, inverted, reasoned))
    mixture = Mixture(spec, 0, tasks, sizes, own_templates)
    got = {leaf.task: [p for _, p in leaf.formats] for leaf in mixture.leaves}
    assert got == {
        "t/plain": [1 / 3, 2 / 3],
        "t/single": [1.0],
        "t/shown": [1 / 7, 2 / 7, 4 / 7],
        "t/inverted": [1 / 11, 2 / 11, 8 / 11],
        "t/reasoned": [1 / 19, 2 / 19, 16 / 19],
    }


def test_equal_formats_are_joined() -> None:
    spec = MixtureSpec(formats=(WeightedFormat(), WeightedFormat(weight=2, shots=0), WeightedFormat(shots=1)))
    leaf = make_mixture({"a/1": 5}, spec).leaves[0]
    assert [(f.shots, p) for f, p in leaf.formats] == [(0, 0.75), (1, 0.25)]


def test_the_order_of_the_tasks_given_does_not_matter() -> None:
    sizes = {"b/1": 4, "a/2": 7, "a/1": 5}
    spec = MixtureSpec(preset="proportional")

    def leaves(names: list[str]) -> object:
        tasks: dict[str, Task] = make_tasks(*names)
        return Mixture(spec, 0, tasks, sizes, own_templates).leaves

    assert leaves(list(sizes)) == leaves(sorted(sizes))
