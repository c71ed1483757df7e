"""A mixture in phases: one stream, whose parts have other weights from some example on. Any phases, sizes and seed."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flantune.errors import RecipeError
from flantune.mixtures import Mixture
from flantune.mixtures.counted import Measured, Yield
from flantune.mixtures.row_order import RowOrder
from flantune.recipe import MixtureSpec, WeightedFormat

from .worlds import make_mixture, make_tasks, own_templates

FORMATS = [{"weight": 2}, {"setting": "fs_noopt"}]
PARTS = ("a", "b", "c")


def spec_of(*weights: dict[str, float], count: str = "draws") -> MixtureSpec:
    """Equal phases with those weights of parts a, b and c."""
    untils = [(i + 1) / len(weights) for i in range(len(weights))]
    raw = {
        "parts": [{"name": n, "tasks": [f"{n}/*"], "weight": w} for n, w in zip(PARTS, (5, 3, 2), strict=True)],
        "formats": FORMATS,
        "count": count,
        "phases": [{"until": u, "weights": w} for u, w in zip(untils, weights, strict=True)],
    }
    return MixtureSpec.model_validate(raw)


def sizes_of(*counts: int) -> dict[str, int]:
    return {f"{part}/{k}": size for part, size in zip(PARTS, counts, strict=True) for k in range(2)}


def mixture_of(spec: MixtureSpec, sizes: dict[str, int], ends: tuple[int, ...] = (), seed: int = 0) -> Mixture:
    return Mixture(spec, seed, make_tasks(*sizes), sizes, own_templates, phase_ends=ends)


weights_of_parts = st.fixed_dictionaries({n: st.sampled_from([0.1, 0.5, 1.0, 3.0]) for n in PARTS})
three_sizes = st.tuples(*[st.integers(2, 300)] * 3)
two_ends = st.tuples(st.integers(1, 3000), st.integers(1, 3000)).map(lambda e: (e[0], e[0] + e[1]))


@settings(deadline=None, max_examples=25)
@given(weights_of_parts, weights_of_parts, three_sizes, two_ends, st.integers(0, 2**40))
def test_shares_hold_within_each_phase(first, second, sizes, ends, seed) -> None:
    mixture = mixture_of(spec_of(first, second), sizes_of(*sizes), ends, seed)
    # The last phase goes on, and a block of it that is begun is read in random order.
    last = (ends[0], -(-ends[1] // 1024) * 1024)
    for (start, stop), weights in zip(((0, ends[0]), last), (first, second), strict=True):
        drawn = Counter(d.mixture for d in mixture.draws(start, stop))
        for name, weight in weights.items():
            wanted = (stop - start) * weight / sum(weights.values())
            # The golden sequence's counts are off by a few, here at both ends of an interval.
            assert abs(drawn[name] - wanted) <= 2 + np.log2(stop + 1)


@settings(deadline=None, max_examples=20)
@given(weights_of_parts, weights_of_parts, three_sizes, two_ends, st.integers(0, 2**40))
def test_every_row_stands_once_in_an_epoch_over_all_phases(first, second, sizes, ends, seed) -> None:
    named = sizes_of(*sizes)
    rows: dict[str, list[int]] = defaultdict(list)
    for draw in mixture_of(spec_of(first, second), named, ends, seed).draws(0, ends[1]):
        assert draw.occurrence == len(rows[draw.task])
        rows[draw.task].append(draw.row)
    for task, drawn in rows.items():
        for start in range(0, len(drawn), named[task]):
            epoch = drawn[start : start + named[task]]
            assert len(set(epoch)) == len(epoch) and set(epoch) <= set(range(named[task]))
        seen = Counter(drawn)
        assert max(seen.values()) - min(seen[r] for r in range(named[task])) <= 1


@settings(deadline=None, max_examples=20)
@given(
    weights_of_parts,
    weights_of_parts,
    three_sizes,
    two_ends,
    st.integers(0, 2**40),
    st.lists(st.integers(0, 7000), min_size=1, max_size=8),
    st.integers(0, 2000),
)
def test_any_order_of_asking_gives_the_same_draws(first, second, sizes, ends, seed, asked, length) -> None:
    def new() -> Mixture:
        return mixture_of(spec_of(first, second), sizes_of(*sizes), ends, seed)

    mixture = new()
    around = [*asked, ends[0] - 1, ends[0], ends[1] + 5]
    there = [mixture.draw(i) for i in around]
    assert [mixture.draw(i) for i in reversed(around)] == there[::-1]
    assert [new().draw(i) for i in around] == there
    start = max(0, ends[0] - length)
    stretch = list(new().draws(start, ends[0] + 40))
    assert stretch == [*new().draws(start, ends[0]), *new().draws(ends[0], ends[0] + 40)]


@settings(deadline=None, max_examples=15)
@given(weights_of_parts, weights_of_parts, three_sizes, two_ends, st.integers(0, 2**40))
def test_the_first_phase_is_the_stream_of_its_weights_alone(first, second, sizes, ends, seed) -> None:
    spec = spec_of(first, second)
    alone = mixture_of(spec.in_phase(0), sizes_of(*sizes), (), seed)
    # Only the last block before the end is shuffled otherwise.
    whole = ends[0] // 1024 * 1024
    assert list(mixture_of(spec, sizes_of(*sizes), ends, seed).draws(0, whole)) == list(alone.draws(0, whole))


@settings(deadline=None, max_examples=15)
@given(weights_of_parts, three_sizes, st.integers(1, 3), st.integers(0, 2**40))
def test_equal_phases_that_end_with_blocks_are_no_phases(weights, sizes, blocks, seed) -> None:
    ends = (1024 * blocks, 1024 * (blocks + 1))
    spec = spec_of(weights, weights)
    phased = mixture_of(spec, sizes_of(*sizes), ends, seed)
    assert list(phased.draws(0, 5000)) == list(mixture_of(spec.in_phase(0), sizes_of(*sizes), (), seed).draws(0, 5000))


def test_a_part_may_come_late_or_go_early() -> None:
    spec = spec_of({"a": 1, "b": 1, "c": 0}, {"a": 0, "b": 1, "c": 1})
    mixture = mixture_of(spec, sizes_of(50, 50, 50), (1500, 4000))
    assert {d.mixture for d in mixture.draws(0, 1500)} == {"a", "b"}
    assert {d.mixture for d in mixture.draws(1500, 6000)} == {"b", "c"}
    assert not mixture.left_out and [mixture.phase_of(i) for i in (0, 1499, 1500, 10**9)] == [0, 0, 1, 1]


def test_shares_of_the_run_are_those_of_what_is_drawn_in_it() -> None:
    spec = spec_of({"a": 1, "b": 1, "c": 0}, {"a": 0, "b": 1, "c": 3})
    mixture = mixture_of(spec, sizes_of(50, 80, 90), (1000, 4000))
    drawn = Counter(d.mixture for d in mixture.draws(0, 4000))
    for name, share in mixture.mixture_shares().items():
        assert drawn[name] / 4000 == pytest.approx(share, abs=0.003)
    assert mixture.mixture_shares() == pytest.approx({"a": 0.125, "b": 0.3125, "c": 0.5625})
    assert mixture.asked_in_phase(1) == pytest.approx({"b": 0.25, "c": 0.75})
    assert sum(mixture.format_shares().values()) == pytest.approx(1)


def test_tokens_are_asked_for_in_each_phase() -> None:
    sizes = sizes_of(200, 200, 200)
    drawn = mixture_of(spec_of({}, {}).model_copy(update={"phases": ()}), sizes)
    lengths = {task: np.full(size, 4) for task, size in sizes.items()}
    tokens = {"a": 30, "b": 10, "c": 2}
    yields = {
        (leaf.task, f): Yield(10, 10, 50, 10 * tokens[leaf.mixture]) for leaf in drawn.leaves for f, _ in leaf.formats
    }
    spec = spec_of({"a": 1, "b": 1, "c": 1}, {"a": 0, "b": 1, "c": 3}, count="target_tokens")
    mixture = Mixture(
        spec,
        0,
        make_tasks(*sizes),
        sizes,
        own_templates,
        measured=Measured(yields, RowOrder(lengths, 0)),
        phase_ends=(5000, 20_000),
    )
    for number, (start, stop) in enumerate(((0, 5000), (5000, 20_000))):
        made = Counter()
        for d in mixture.draws(start, stop):
            made[d.mixture] += tokens[d.mixture]
        for name, share in mixture.asked_in_phase(number).items():
            assert made[name] / made.total() == pytest.approx(share, abs=0.005)
    whole = Counter()
    for d in mixture.draws(0, 20_000):
        whole[d.mixture] += tokens[d.mixture]
    for name, share in mixture.asked_mixture_shares().items():
        assert whole[name] / whole.total() == pytest.approx(share, abs=0.005)


def test_the_fingerprint_knows_the_phases() -> None:
    first, second = {"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 2, "c": 1}
    sizes = sizes_of(20, 20, 20)
    prints = {
        mixture_of(spec_of(first, second), sizes, (900, 2000)).fingerprint(),
        mixture_of(spec_of(first, second), sizes, (901, 2000)).fingerprint(),
        mixture_of(spec_of(second, first), sizes, (900, 2000)).fingerprint(),
        mixture_of(spec_of(first), sizes, (2000,)).fingerprint(),
    }
    assert len(prints) == 4
    # Where the run is expected to end changes no draw.
    assert mixture_of(spec_of(first, second), sizes, (900, 5000)).fingerprint() in prints


def test_without_phases_a_recipe_has_no_word_of_them() -> None:
    """Names of points and bytes of recipes are made of what is dumped."""
    spec = MixtureSpec(preset="uniform", formats=(WeightedFormat(),))
    assert "phases" not in spec.model_dump(mode="json") and "phases" not in spec.model_dump_json()
    phased = spec_of({"a": 1, "b": 1, "c": 1}, {})
    assert MixtureSpec.model_validate(phased.model_dump(mode="json")) == phased


def test_without_phases_the_stream_is_what_it_was_before_there_were_any() -> None:
    """Digests that the stream had then; VERSION of the mixture is raised where another one is meant."""
    mixture = make_mixture({"a/0": 40, "a/1": 7, "b/0": 300})
    digest = hashlib.sha256()
    for d in [*mixture.draws(0, 3000), *mixture.draws(10**9, 10**9 + 50)]:
        shown = d.exemplars and [row for row, _ in d.exemplars]
        told = f"{d.index} {d.part} {d.task} {d.row} {d.occurrence} {d.template.name} {shown} {d.key}\n"
        digest.update(told.encode())
    assert mixture.fingerprint() == "ee5797c9355be48840a411a75a702cd7"
    assert digest.hexdigest() == "e92790e99b3b60a0bc13cf85bcb5119e83918411dbce23b4668e86bece93bd69"


def test_a_mixture_in_phases_must_know_where_they_end() -> None:
    spec = spec_of({"a": 1, "b": 1, "c": 1}, {})
    with pytest.raises(RecipeError, match=r"mixture\.phases: where a phase ends"):
        mixture_of(spec, sizes_of(5, 5, 5))
    with pytest.raises(RecipeError, match="cannot end at examples 9, 9"):
        mixture_of(spec, sizes_of(5, 5, 5), (9, 9))


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ([{"until": 0.5}], "of which the last is 1, got 0.5"),
        ([{"until": 0.6}, {"until": 0.5}, {}], "ascending 'until'"),
        ([{"until": 0.5, "weights": {"a": 1}}, {}], "missing or unknown b, c"),
        ([{"until": 0.5, "weights": {"a": 0, "b": 0, "c": 0}}, {}], "all weights are 0"),
        ([{"weights": {"a": 0, "b": 1, "c": 1}}], "part 'a' has weight 0 in every phase"),
        ([{"until": 0}, {}], "greater than 0"),
    ],
)
def test_phases_that_cannot_be_are_said_so(phases, said) -> None:
    parts = [{"name": n, "tasks": [f"{n}/*"]} for n in PARTS]
    with pytest.raises(ValidationError, match=said):
        MixtureSpec.model_validate({"parts": parts, "phases": phases})


def test_phases_need_parts() -> None:
    with pytest.raises(ValidationError, match="state 'parts'"):
        MixtureSpec.model_validate({"preset": "uniform", "phases": [{}]})
