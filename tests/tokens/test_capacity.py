from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import DataError
from flantune.recipe import TokensSpec
from flantune.tokens.capacity import MULTIPLE, measure_capacity, suggest_capacities
from flantune.tokens.packing import Lengths, assign_rows


def flans_lengths(num: int, longest: int, longest_targets: int) -> tuple[Lengths, Lengths]:
    rng = np.random.default_rng(0)
    inputs = np.clip(rng.lognormal(np.log(180), 0.95, num), 3, longest).astype(np.int64)
    targets = np.clip(rng.lognormal(np.log(6), 1.2, num), 2, longest_targets).astype(np.int64)
    return inputs, targets


def test_a_measure_is_the_packing_counted() -> None:
    inputs, targets = np.array([6, 4, 5, 5, 9]), np.array([1, 2, 3, 1, 2])
    found = measure_capacity(inputs, targets, 10, 4, block=4)  # 6+4, 5+5; 9
    assert (found.inputs_fill, found.targets_fill) == (29 / 30, 9 / 12)
    assert found.slots_fill == 38 / 42 and found.examples_per_row == 5 / 3
    one = measure_capacity(inputs, np.zeros(5, dtype=np.int64), 10, 0, block=5)
    assert one.targets_fill is None and one.inputs_fill == one.slots_fill == 29 / 30
    slow = int(assign_rows(inputs[:4], targets[:4], 10, 4, "next_fit").max()) + 2
    assert measure_capacity(inputs, targets, 10, 4, "next_fit", block=4).examples_per_row == 5 / slow


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 40)), min_size=1, max_size=60),
    more=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    kept=st.booleans(),
)
def test_suggestions_hold_every_example_and_what_is_said_of_them_is_so(
    sizes: list[tuple[int, int]], more: tuple[int, int], kept: bool
) -> None:
    inputs, targets = (np.array(side) for side in zip(*sizes, strict=True))
    holds = (int(inputs.max()) + more[0], int(targets.max()) + more[1])
    found = suggest_capacities(inputs, targets, block=64, holds=holds, inputs_len=holds[0] if kept else None)
    assert found
    for one in found:
        assert one.inputs_len >= holds[0] and one.targets_len >= holds[1] and one.targets_len % MULTIPLE == 0
        assert one.inputs_len == holds[0] if kept else one.inputs_len % MULTIPLE == 0 or len(found) == 1
        assert one == measure_capacity(inputs, targets, one.inputs_len, one.targets_len, block=64)
    fills = [round(one.slots_fill, 3) for one in found]
    assert fills == sorted(fills, reverse=True)


def test_targets_cut_at_the_row_get_a_little_room_beside_them() -> None:
    # Each target cut to 256 fills a row of 256 alone, and its inputs side stays as empty as that example leaves it.
    inputs, targets = flans_lengths(8192, 1024, 256)
    targets[::100] = 256
    now = measure_capacity(inputs, targets, 1024, 256, block=4096)
    best = suggest_capacities(inputs, targets, block=4096, inputs_len=1024)[0]
    assert now.inputs_fill < 0.985 < 0.99 < best.inputs_fill
    assert 256 < best.targets_len <= 256 + 16 * MULTIPLE
    assert best.slots_fill > now.slots_fill


def test_longer_rows_fill_both_sides() -> None:
    inputs, targets = flans_lengths(8192, 1024, 256)
    same = suggest_capacities(inputs, targets, block=4096, inputs_len=1024)[0]
    longer = suggest_capacities(inputs, targets, block=4096)[0]
    assert longer.inputs_len > 1024
    assert longer.inputs_fill > 0.98
    assert longer.targets_fill is not None and same.targets_fill is not None
    assert longer.targets_fill > 2 * same.targets_fill
    assert longer.slots_fill > same.slots_fill + 0.1
    assert all(c.inputs_len <= 2048 for c in suggest_capacities(inputs, targets, block=4096, max_inputs_len=2048))


def test_one_sided_rows_keep_no_targets_side() -> None:
    inputs, targets = flans_lengths(8192, 1536, 512)
    found = suggest_capacities(inputs + targets, np.zeros_like(targets), block=4096, holds=(2048, 0))
    assert {c.targets_len for c in found} == {0}
    assert found[0].inputs_fill > 0.997


def test_what_cannot_be_measured_is_said() -> None:
    none = np.array([], dtype=np.int64)
    with pytest.raises(DataError, match="expected at least one, got 0"):
        measure_capacity(none, none, 8, 8, block=4)
    with pytest.raises(DataError, match="expected at least one, got 0"):
        suggest_capacities(none, none, block=4)
    with pytest.raises(DataError, match="field 'inputs': expected at most 64 tokens, the row's limit, got 65"):
        suggest_capacities(np.array([65]), np.array([1]), block=4, inputs_len=64)
    with pytest.raises(DataError, match="field 'inputs': expected at most 64 tokens, the row's limit, got 80"):
        suggest_capacities(np.array([5]), np.array([1]), block=4, holds=(80, 8), max_inputs_len=64)


def test_an_examples_limit_is_the_rows_unless_it_is_given() -> None:
    assert TokensSpec(inputs_len=64, targets_len=32).example_lens == (64, 32)
    spec = TokensSpec(inputs_len=64, targets_len=32, example_inputs_len=16)
    assert (spec.example_lens, spec.row_lens) == ((16, 32), (64, 32))
    with pytest.raises(ValueError, match="example_targets_len is 40: expected at most targets_len, 32"):
        TokensSpec(inputs_len=64, targets_len=32, example_targets_len=40)
