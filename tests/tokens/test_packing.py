from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import DataError
from flantune.tokens.packing import Lengths, Packing, assign_rows, mixed_order, pack_examples, standardised
from flantune.types import Encoded, Packed

ALGORITHMS: tuple[Packing, ...] = ("best_fit", "next_fit", "none")
INPUTS, TARGETS = 12, 5


def example(index: int, inputs: int | list[int], targets: int | list[int]) -> Encoded:
    def ids(side: int | list[int], base: int) -> np.ndarray[Any, Any]:
        values = side if isinstance(side, list) else [base + index * 50 + k for k in range(side)]
        return np.array(values, dtype=np.int32)

    return Encoded(inputs=ids(inputs, 1_000), targets=ids(targets, 100_000), index=index, task=f"t{index % 3}")


blocks = st.lists(st.tuples(st.integers(1, INPUTS), st.integers(1, TARGETS)), max_size=40).map(
    lambda sizes: [example(100 + i, a, b) for i, (a, b) in enumerate(sizes)]
)


@settings(deadline=None)
@given(block=blocks, algorithm=st.sampled_from(ALGORITHMS), one_sided=st.booleans())
def test_every_example_is_in_one_row_whole_once_and_rows_fit(
    block: list[Encoded], algorithm: Packing, one_sided: bool
) -> None:
    rows = pack_examples(block, INPUTS, TARGETS, algorithm, one_sided=one_sided)
    seen = {}
    for row in rows:
        if one_sided:
            assert len(row.inputs) + len(row.targets) <= INPUTS + TARGETS
        else:
            assert len(row.inputs) <= INPUTS and len(row.targets) <= TARGETS
        inputs = np.split(row.inputs, np.cumsum(row.inputs_lengths))
        targets = np.split(row.targets, np.cumsum(row.targets_lengths))
        assert len(inputs.pop()) == len(targets.pop()) == 0  # nothing beyond the lengths
        for index, task, a, b in zip(row.indices.tolist(), row.tasks, inputs, targets, strict=True):
            assert index not in seen
            seen[index] = (a.tolist(), b.tolist(), task)
    assert seen == {e.index: (e.inputs.tolist(), e.targets.tolist(), e.task) for e in block}


@settings(deadline=None)
@given(block=blocks, algorithm=st.sampled_from(ALGORITHMS), one_sided=st.booleans())
def test_a_row_keeps_the_streams_order_and_equal_blocks_give_equal_rows(
    block: list[Encoded], algorithm: Packing, one_sided: bool
) -> None:
    rows = pack_examples(block, INPUTS, TARGETS, algorithm, one_sided=one_sided)
    assert all(np.all(np.diff(r.indices) > 0) for r in rows)
    again = pack_examples(block, INPUTS, TARGETS, algorithm, one_sided=one_sided)
    assert [r.indices.tolist() for r in again] == [r.indices.tolist() for r in rows]
    if algorithm != "best_fit":
        firsts = [int(r.indices[0]) for r in rows]
        assert firsts == sorted(firsts)


def best_fit_by_hand(inputs: list[int], targets: list[int], inputs_len: int, targets_len: int) -> list[int]:
    """What `best_fit` says it does, looking at every example at every step. Rows in the order they are filled."""
    rows = [-1] * len(inputs)
    row = 0
    while -1 in rows:
        room_inputs, room_targets = inputs_len, targets_len
        while True:
            fitting = [
                (
                    (float(max(targets_len, 1)) * (room_inputs - inputs[i])) ** 2
                    + (float(inputs_len) * (room_targets - targets[i])) ** 2,
                    -targets[i],
                    -inputs[i],
                    i,
                )
                for i in range(len(inputs))
                if rows[i] < 0 and inputs[i] <= room_inputs and targets[i] <= room_targets
            ]
            if not fitting:
                break
            i = min(fitting)[-1]
            rows[i] = row
            room_inputs -= inputs[i]
            room_targets -= targets[i]
        row += 1
    return rows


def mixed_order_by_hand(rows: list[int], inputs: list[int], targets: list[int], mixtures: list[int]) -> list[int]:
    """`mixed_order` by plain recursion. The features' scale is the same function; what is done with them is not."""
    if not rows:
        return []
    number = {row: k for k, row in enumerate(dict.fromkeys(rows))}
    sums = np.zeros((len(number), max(mixtures) + 1, 3), dtype=np.int64)
    for row, a, b, mixture in zip(rows, inputs, targets, mixtures, strict=True):
        sums[number[row], mixture] += (1, a, b)
    features = [[float(x) for x in line] for line in standardised(sums.reshape(len(sums), -1))]

    def norm(row: int) -> float:
        total = 0.0
        for x in features[row]:
            total += x * x
        return total

    def halved(heaviest_first: list[int]) -> list[int]:
        if len(heaviest_first) < 2:
            return heaviest_first
        balance = [0.0] * len(features[0])
        early, late = [], []
        for one, other in zip(heaviest_first[::2], [*heaviest_first[1::2], None], strict=False):
            if other is None:
                early.append(one)
                break
            tilt = 0.0
            for s, x, y in zip(balance, features[one], features[other], strict=True):
                tilt += s * (x - y)
            if tilt > 0 or (tilt == 0 and one > other):
                one, other = other, one
            balance = [s + (x - y) for s, x, y in zip(balance, features[one], features[other], strict=True)]
            early.append(one)
            late.append(other)
        return halved(early) + halved(late)

    order = halved(sorted(range(len(number)), key=lambda row: (-norm(row), row)))
    return [order.index(number[row]) for row in rows]


def row_sets(rows: Lengths | list[int]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(np.asarray(rows) == r).tolist()) for r in set(map(int, rows))}


lengths = st.integers(4, 300).flatmap(
    lambda inputs_len: st.integers(0, 60).flatmap(
        lambda targets_len: st.tuples(
            st.just(inputs_len),
            st.just(targets_len),
            st.lists(
                st.tuples(st.integers(1, inputs_len), st.integers(min(1, targets_len), targets_len), st.integers(0, 2)),
                max_size=60,
            ),
        )
    )
)


@settings(deadline=None, max_examples=300)
@given(case=lengths)
def test_rows_are_those_of_the_slow_obvious_way(case: tuple[int, int, list[tuple[int, int, int]]]) -> None:
    inputs_len, targets_len, sizes = case
    inputs, targets, mixtures = [list(column) for column in zip(*sizes, strict=True)] if sizes else ([], [], [])
    slow = best_fit_by_hand(inputs, targets, inputs_len, targets_len)
    arrays = [np.array(x, dtype=np.int64) for x in (inputs, targets, mixtures)]
    fast = assign_rows(arrays[0], arrays[1], inputs_len, targets_len)
    assert row_sets(fast) == row_sets(slow)
    assert fast.tolist() == mixed_order_by_hand(slow, inputs, targets, [0] * len(sizes))
    by_mixture = mixed_order(fast, *arrays)
    assert by_mixture.tolist() == mixed_order_by_hand(fast.tolist(), inputs, targets, mixtures)
    assert row_sets(by_mixture) == row_sets(fast)


@pytest.mark.parametrize("targets_len", [512, 48, 0])
def test_a_block_like_flans_gives_the_rows_of_the_slow_obvious_way(targets_len: int) -> None:
    inputs, targets = flans_lengths(400, seed=3)
    targets = np.minimum(targets, targets_len)
    slow = best_fit_by_hand(inputs.tolist(), targets.tolist(), 2048, targets_len)
    assert row_sets(assign_rows(inputs, targets, 2048, targets_len)) == row_sets(slow)


def test_one_side_is_first_fit_decreasing() -> None:
    sizes, _ = flans_lengths(600, seed=5)
    rows = assign_rows(sizes, np.zeros_like(sizes), 2048, 0)
    room: list[int] = []
    placed: dict[int, list[int]] = {}
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        row = next((r for r, left in enumerate(room) if left >= sizes[i]), len(room))
        if row == len(room):
            room.append(2048)
        room[row] -= int(sizes[i])
        placed.setdefault(row, []).append(i)
    assert row_sets(rows) == {frozenset(row) for row in placed.values()}


def next_fit_by_hand(block: list[Encoded]) -> list[list[int]]:
    rows: list[list[Encoded]] = [[]]
    for e in block:
        tried = [*rows[-1], e]
        if sum(len(x.inputs) for x in tried) > INPUTS or sum(len(x.targets) for x in tried) > TARGETS:
            rows.append([e])
        else:
            rows[-1] = tried
    return [[e.index for e in row] for row in rows if row]


@settings(deadline=None)
@given(block=blocks)
def test_next_fit_is_the_plain_loop(block: list[Encoded]) -> None:
    rows = pack_examples(block, INPUTS, TARGETS, "next_fit")
    assert [r.indices.tolist() for r in rows] == next_fit_by_hand(block)


def test_next_fit_gives_the_specs_rows(spec_dir: Path) -> None:
    vectors = json.loads((spec_dir / "test_vectors.json").read_text())["packing"]
    block = [example(i, e["inputs"], e["targets"]) for i, e in enumerate(vectors["examples"])]
    lengths = vectors["lengths"]
    rows = pack_examples(block, lengths["inputs"], lengths["targets"], "next_fit")
    assert [r.indices.tolist() for r in rows] == [[0, 1], [2, 3]]
    total = vectors["concat_length"]
    rows = pack_examples(block, total - 4, 4, "next_fit", one_sided=True)
    assert [r.indices.tolist() for r in rows] == [[0, 1], [2, 3]]


def test_best_fit_fills_what_next_fit_leaves() -> None:
    sizes = [(9, 1), (9, 1), (3, 1), (3, 1)]
    block = [example(i, a, b) for i, (a, b) in enumerate(sizes)]
    assert [r.indices.tolist() for r in pack_examples(block, INPUTS, TARGETS, "best_fit")] == [[0, 2], [1, 3]]
    assert len(pack_examples(block, INPUTS, TARGETS, "next_fit")) == 3


def flans_lengths(num: int, seed: int = 0) -> tuple[Lengths, Lengths]:
    rng = np.random.default_rng(seed)  # median 120 and 5 tokens, long tails
    inputs = np.clip(rng.lognormal(np.log(120), 1.07, num), 3, 2048).astype(np.int64)
    targets = np.clip(rng.lognormal(np.log(5), 1.7, num), 2, 512).astype(np.int64)
    return inputs, targets


def fill(inputs: Lengths, rows: Lengths, inputs_len: int) -> float:
    return float(inputs.sum() / ((rows.max() + 1) * inputs_len))


def test_a_block_like_flans_is_nearly_full() -> None:
    inputs, targets = flans_lengths(4096)
    assert fill(inputs, assign_rows(inputs, targets, 2048, 576), 2048) > 0.99
    assert fill(inputs, assign_rows(inputs, targets, 2048, 512, "next_fit"), 2048) < 0.9
    both = np.minimum(inputs, 1536) + targets
    assert fill(both, assign_rows(both, np.zeros_like(both), 2048, 0), 2048) > 0.997


def test_where_targets_bind_they_are_full() -> None:
    inputs, targets = flans_lengths(4096)
    rows = assign_rows(inputs, np.minimum(targets, 64), 4096, 64)
    assert fill(np.minimum(targets, 64), rows, 64) > 0.97


@pytest.mark.parametrize("one_sided", [False, True])
def test_rows_are_mixed_whatever_their_lengths(one_sided: bool) -> None:
    # Mixtures of unlike lengths, as Flan's are; ordered by first example the correlation below is above 0.2.
    rng = np.random.default_rng(1)
    mixture = rng.integers(0, 4, 4096)
    inputs = np.clip(rng.lognormal(np.log([40, 120, 300, 80])[mixture], 0.8), 3, 1024).astype(int)
    targets = np.clip(rng.lognormal(np.log([3, 5, 8, 60])[mixture], 0.8), 2, 256).astype(int)
    block = [
        Encoded(inputs=np.ones(a, np.int32), targets=np.ones(b, np.int32), index=i, task="t", mixture=str(m))
        for i, (a, b, m) in enumerate(zip(inputs, targets, mixture, strict=True))
    ]
    rows = pack_examples(block, 1024, 256, one_sided=one_sided)
    means = np.array([r.inputs_lengths.mean() for r in rows])
    assert abs(spearman(np.arange(len(rows)), means)) < 0.06
    by_first = sorted(rows, key=lambda r: int(r.indices[0]))
    assert spearman(np.arange(len(rows)), np.array([r.inputs_lengths.mean() for r in by_first])) > 0.2

    shuffled = [[rows[i] for i in rng.permutation(len(rows))] for _ in range(20)]
    for weights in (np.ones(len(block)), inputs, targets):
        ours = worst_quarter(rows, mixture, weights)
        assert ours < 0.05
        assert ours < 0.7 * np.mean([worst_quarter(r, mixture, weights) for r in shuffled])
        assert ours < 0.3 * worst_quarter(by_first, mixture, weights)


def worst_quarter(rows: list[Packed], mixture: Lengths, weights: Lengths) -> float:
    """How far a mixture's share of a quarter of the rows is from its share of all, at most."""
    asked = np.bincount(mixture, weights) / weights.sum()
    quarter = -(-len(rows) // 4)
    worst = 0.0
    for start in range(0, len(rows), quarter):
        part = np.concatenate([r.indices for r in rows[start : start + quarter]])
        got = np.bincount(mixture[part], weights[part], minlength=len(asked)) / weights[part].sum()
        worst = max(worst, float(np.abs(got - asked).max()))
    return worst


def spearman(x: Lengths, y: Lengths) -> float:
    return float(np.corrcoef(np.argsort(np.argsort(x)), np.argsort(np.argsort(y)))[0, 1])


def test_an_example_longer_than_a_row_is_named() -> None:
    with pytest.raises(DataError, match=r"stream index 7: field 'targets': expected at most 5 tokens, got 6"):
        pack_examples([example(3, 2, 2), example(7, 2, 6)], INPUTS, TARGETS)
    assert pack_examples([example(7, 2, 6)], INPUTS, TARGETS, one_sided=True)


def test_an_empty_block_has_no_rows() -> None:
    assert pack_examples([], INPUTS, TARGETS) == []


def test_an_example_longer_than_a_row_is_refused_by_lengths_too() -> None:
    with pytest.raises(DataError, match=r"stream index 1: field 'inputs': expected at most 8 tokens, got 9"):
        assign_rows(np.array([1, 9]), np.array([1, 1]), 8, 8)
    assert assign_rows(np.array([], dtype=np.int64), np.array([], dtype=np.int64), 8, 8).tolist() == []
