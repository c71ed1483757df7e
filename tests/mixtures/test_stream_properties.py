"""The index function, for any tasks, sizes, weights and seed: by draws, and counting tokens over measured rows."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.mixtures import Draw, Mixture
from flantune.mixtures.counted import Measured, Yield
from flantune.mixtures.row_order import RowOrder
from flantune.recipe import MixtureSpec, WeightedFormat

from .worlds import make_task, own_templates

FORMATS = (WeightedFormat(weight=2), WeightedFormat(setting="fs_noopt"), WeightedFormat(setting="fs_opt", shots=2))
names = st.sampled_from([f"{m}/{i}" for m in "abc" for i in range(4)])
sizes_of_tasks = st.dictionaries(names, st.integers(1, 300), min_size=1, max_size=6)
# Edges of blocks are where an off-by-one would show; far places, where a count would.
places = st.one_of(st.integers(0, 3000), st.sampled_from([1023, 1024, 2047, 2048]), st.integers(10**9, 10**9 + 3000))


def mixture_of(sizes: dict[str, int], seed: int, counted: bool) -> Mixture:
    tasks = {name: make_task(name) for name in sizes}
    spec = MixtureSpec(formats=FORMATS)
    if not counted:
        return Mixture(spec, seed, tasks, sizes, own_templates)
    drawn = Mixture(spec, seed, tasks, sizes, own_templates)
    # Lengths that depend on the task's own name and rows alone.
    lengths = {name: np.arange(size) * len(name) % 11 for name, size in sizes.items()}
    yields = {}
    for leaf in drawn.leaves:
        for format, _ in leaf.formats:
            yields[leaf.task, format] = Yield(10, 10, 90, 10 + 7 * (ord(leaf.task[-1]) % 5))
    measured = Measured(yields, RowOrder(lengths, seed))
    return Mixture(
        spec.model_copy(update={"count": "target_tokens"}), seed, tasks, sizes, own_templates, measured=measured
    )


@settings(deadline=None, max_examples=15)
@given(sizes_of_tasks, st.integers(0, 2**40), st.booleans(), st.lists(places, min_size=1, max_size=8))
def test_any_order_of_asking_gives_the_same_draws(
    sizes: dict[str, int], seed: int, counted: bool, asked: list[int]
) -> None:
    mixture = mixture_of(sizes, seed, counted)
    there = [mixture.draw(i) for i in asked]
    assert [mixture.draw(i) for i in reversed(asked)] == there[::-1]
    assert [mixture_of(sizes, seed, counted).draw(i) for i in asked] == there
    assert all(draw.index == i for draw, i in zip(there, asked, strict=True))


@settings(deadline=None, max_examples=15)
@given(sizes_of_tasks, st.integers(0, 2**40), st.booleans(), places, st.integers(0, 1500), st.integers(0, 1500))
def test_a_stretch_is_its_two_halves(
    sizes: dict[str, int], seed: int, counted: bool, start: int, first: int, second: int
) -> None:
    a, b, c = start, start + first, start + first + second
    mixture = mixture_of(sizes, seed, counted)
    halves = [*mixture.draws(a, b), *mixture.draws(b, c)]
    assert halves == list(mixture_of(sizes, seed, counted).draws(a, c))


@settings(deadline=None, max_examples=12)
@given(sizes_of_tasks, st.integers(0, 2**40), st.booleans())
def test_every_row_stands_once_in_an_epoch(sizes: dict[str, int], seed: int, counted: bool) -> None:
    rows: dict[str, list[int]] = defaultdict(list)
    for draw in mixture_of(sizes, seed, counted).draws(0, 3000):
        assert draw.occurrence == len(rows[draw.task])
        rows[draw.task].append(draw.row)
    for task, size in sizes.items():
        for start in range(0, len(rows[task]), size):
            epoch = rows[task][start : start + size]
            assert len(set(epoch)) == len(epoch) and set(epoch) <= set(range(size))


@settings(deadline=None, max_examples=12)
@given(sizes_of_tasks, names, st.integers(1, 300), st.integers(0, 2**40), st.booleans())
def test_another_task_changes_no_tasks_order_of_rows_or_choices(
    sizes: dict[str, int], name: str, size: int, seed: int, counted: bool
) -> None:
    def by_task(given: dict[str, int]) -> dict[str, list[tuple[object, ...]]]:
        found: dict[str, list[tuple[object, ...]]] = defaultdict(list)
        for d in mixture_of(given, seed, counted).draws(0, 2500):
            found[d.task].append(chosen(d))
        return found

    def chosen(d: Draw) -> tuple[object, ...]:
        return d.row, d.key, d.format, d.template, d.exemplars

    before, after = by_task(sizes), by_task(sizes | {name: sizes.get(name, size)})
    for task in sizes:
        same = min(len(before[task]), len(after[task]))
        # The format goes with the leaf's own turns, so it stays too.
        assert before[task][:same] == after[task][:same]
