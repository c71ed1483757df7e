from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import RecipeError
from flantune.mixtures import Mixture
from flantune.mixtures.counted import LEAST_SAMPLE, Measured, Yield, reweighed, sample_sizes
from flantune.mixtures.row_order import RowOrder
from flantune.mixtures.weights import WHOLE, find_leaves
from flantune.recipe import Count, MixturePart, MixtureSpec, WeightedFormat
from flantune.types import Format

from .worlds import InventedStore, make_tasks, own_templates

SIZES = {"a/1": 400, "a/2": 70, "b/1": 300, "b/2": 90, "c/1": 900}
TOKENS = {"a/1": 2, "a/2": 300, "b/1": 11, "b/2": 5, "c/1": 40}  # of a target
FORMATS = (WeightedFormat(weight=3), WeightedFormat(shots=2))
PARTS = tuple(MixturePart(name=name, tasks=(f"{name}/*",), weight=w) for name, w in (("a", 5), ("b", 3), ("c", 2)))


def spec_of(count: Count, **more: object) -> MixtureSpec:
    return MixtureSpec(count=count, parts=PARTS, formats=FORMATS, **more)  # type: ignore[arg-type]


def leaves_of(spec: MixtureSpec):  # type: ignore[no-untyped-def]
    return find_leaves(spec, make_tasks(*SIZES), SIZES).leaves


def made_up(spec: MixtureSpec, tokens: dict[str, int] = TOKENS, kept: float = 0.5) -> Measured:
    """Targets of a task are all as long as `tokens` says; of few-shot draws only the share `kept` fits."""
    yields = {}
    for leaf in leaves_of(spec):
        for format, _ in leaf.formats:
            examples = int(100 * kept) if format.shots else 100
            yields[leaf.task, format] = Yield(100, examples, examples * 7, examples * tokens[leaf.task])
    order = RowOrder({task: np.full(size, tokens[task]) for task, size in SIZES.items()}, 0)
    return Measured(yields, order)


def mixture_of(count: Count, **more: object) -> Mixture:
    spec = spec_of(count)
    return Mixture(spec, 0, make_tasks(*SIZES), SIZES, own_templates, measured=made_up(spec, **more))  # type: ignore[arg-type]


@settings(deadline=None)
@given(
    st.sampled_from([c for c in get_args(Count) if c != "draws"]),
    st.fixed_dictionaries({task: st.integers(1, 500) for task in SIZES}),
    st.floats(0.1, 1),
)
def test_parts_get_their_shares_of_what_is_counted_and_tasks_keep_their_shares_of_their_part(
    count: Count, tokens: dict[str, int], kept: float
) -> None:
    spec = spec_of(count)
    asked, measured = leaves_of(spec), made_up(spec, tokens, kept)
    drawn, without = reweighed(asked, measured, count)
    assert without == () and drawn[0].start == 0 and drawn[-1].stop == WHOLE
    assert all(a.stop == b.start for a, b in pairwise(drawn))
    # The slow way: what the whole circle yields, part by part.
    yielded: Counter[str] = Counter()
    for leaf in drawn:
        for format, p in leaf.formats:
            y = measured.yields[leaf.task, format]
            mean = {"examples": y.examples, "input_tokens": y.input_tokens, "target_tokens": y.target_tokens}[count]
            yielded[leaf.mixture] += (leaf.stop - leaf.start) * Fraction(p) * Fraction(mean, 100)  # type: ignore[assignment]
    total = sum(yielded.values())
    assert {m: float(y / total) for m, y in yielded.items()} == pytest.approx({"a": 0.5, "b": 0.3, "c": 0.2}, abs=1e-8)
    before, after = ({leaf.task: leaf.probability for leaf in leaves} for leaves in (asked, drawn))
    for one, other in (("a/1", "a/2"), ("b/1", "b/2")):
        assert after[one] / after[other] == pytest.approx(before[one] / before[other], rel=1e-6)


@pytest.mark.parametrize("count", ["examples", "input_tokens", "target_tokens"])
def test_any_ten_thousand_examples_hold_each_mixtures_share(count):
    mixture = mixture_of(count)
    weights, groups = [], []
    for draw in mixture.draws(0, 60_000):
        if draw.format.shots and (draw.key >> 20) % 2:
            continue  # dropped: half of the few-shot draws, by chance
        weights.append({"examples": 1, "input_tokens": 7, "target_tokens": TOKENS[draw.task]}[count])
        groups.append(draw.mixture)
    sums = np.cumsum([0, *weights])
    for name, asked in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
        own = np.cumsum([0, *(w * (g == name) for w, g in zip(weights, groups, strict=True))])
        shares = (own[10_000:] - own[:-10_000]) / (sums[10_000:] - sums[:-10_000])
        assert abs(shares - asked).max() < 0.03  # what is dropped is left to chance here
        assert mixture.asked_mixture_shares()[name] == pytest.approx(asked)


def test_target_tokens_that_the_sampled_rows_lack_are_made_good():
    rng = np.random.default_rng(5)
    lengths = {task: np.exp(rng.normal(3, 1.5, size)).astype(np.int64) + 1 for task, size in SIZES.items()}
    order = RowOrder(lengths, 0)
    for task, own in lengths.items():
        few = [int(own[order.row(task, n, 16)]) for n in range(16)]
        measured = Measured({(task, Format()): Yield(16, 16, 0, 3 * sum(few))}, order)  # three tokens for each unit
        assert measured.mean((task, Format()), "target_tokens") == 3 * Fraction(int(own.sum()), len(own))
        assert measured.mean((task, Format()), "examples") == 1


def test_counting_draws_changes_nothing():
    plain, counted = Mixture(spec_of("draws"), 0, make_tasks(*SIZES), SIZES, own_templates), mixture_of("draws")
    assert plain.leaves == counted.leaves and plain.shares() == plain.asked_shares()


def test_a_measured_stream_is_a_function_of_recipe_seed_and_what_was_measured():
    one, two = mixture_of("target_tokens"), mixture_of("target_tokens")
    assert one.fingerprint() == two.fingerprint() != mixture_of("target_tokens", kept=0.51).fingerprint()
    in_order = list(one.draws(0, 3000))
    assert [two.draw(i) for i in (2999, 0, 1024, 5, 2048)] == [in_order[i] for i in (2999, 0, 1024, 5, 2048)]
    rows = [d.row for d in in_order if d.task == "a/2"]
    assert sorted(rows[:70]) == list(range(70)) or len(rows) < 70


def test_every_row_stands_once_in_an_epoch_of_a_measured_stream():
    rows: dict[str, list[int]] = {task: [] for task in SIZES}
    for draw in mixture_of("input_tokens").draws(0, 9000):
        assert draw.occurrence == len(rows[draw.task])
        rows[draw.task].append(draw.row)
    for task, size in SIZES.items():
        epochs = [rows[task][i : i + size] for i in range(0, len(rows[task]) - size, size)]
        assert epochs and all(sorted(epoch) == list(range(size)) for epoch in epochs)


def test_counting_tokens_without_a_tokenizer_is_an_error_that_says_so():
    with pytest.raises(RecipeError, match="'target_tokens' needs the lengths of prompts in tokens, so a tokenizer"):
        Mixture(spec_of("target_tokens"), 0, make_tasks(*SIZES), SIZES, own_templates)


def test_a_task_that_yields_nothing_gives_its_share_to_its_part_and_a_part_that_does_is_an_error():
    spec = spec_of("target_tokens")
    measured = made_up(spec, TOKENS | {"a/2": 0})
    mixture = Mixture(spec, 0, make_tasks(*SIZES), SIZES, own_templates, measured=measured)
    assert ("a/2", "no prompt of it fits") in mixture.left_out and "a/2" not in mixture.shares()
    assert mixture.asked_mixture_shares()["a"] == pytest.approx(0.5)
    with pytest.raises(RecipeError, match=r"part 'c': no prompt of its tasks fits.*target_tokens"):
        Mixture(spec, 0, make_tasks(*SIZES), SIZES, own_templates, measured=made_up(spec, TOKENS | {"c/1": 0}))


def test_samples_are_powers_of_two_that_go_with_the_share():
    sizes = sample_sizes(leaves_of(spec_of("draws")), 1000)
    assert all(n & (n - 1) == 0 and n >= LEAST_SAMPLE for n in sizes.values())
    for leaf in leaves_of(spec_of("draws")):
        for format, p in leaf.formats:
            wanted = 1000 * leaf.probability * p
            assert wanted - 1 <= sizes[leaf.task, format] <= max(LEAST_SAMPLE, 2 * wanted)


def test_a_prompt_asked_for_by_its_row_is_the_one_the_stream_would_make_of_that_draw():
    mixture, store = mixture_of("draws"), InventedStore()
    for draw in mixture.draws(0, 60):
        leaf = next(leaf for leaf in mixture.leaves if (leaf.path, leaf.task) == (draw.part, draw.task))
        alone, there = (
            mixture.prompt_of(mixture.draw_for(leaf, draw.format, draw.row, draw.key), store),
            mixture.prompt(draw.index, store),
        )
        assert alone.index == -1 and alone.segments == there.segments and alone.exemplars == there.exemplars
