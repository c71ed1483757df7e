from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import DataError
from flantune.tokens.packing import Packing, assign_rows, pack_examples
from flantune.types import Encoded

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
@given(block=blocks, algorithm=st.sampled_from(ALGORITHMS))
def test_rows_come_in_the_order_of_their_first_example(block: list[Encoded], algorithm: Packing) -> None:
    rows = pack_examples(block, INPUTS, TARGETS, algorithm)
    firsts = [int(r.indices[0]) for r in rows]
    assert firsts == sorted(firsts)
    assert all(np.all(np.diff(r.indices) > 0) for r in rows)


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


def test_best_fit_wastes_little_of_a_block_like_flans() -> None:
    rng = np.random.default_rng(0)  # median 120 and 5 tokens, long tails
    inputs = np.clip(rng.lognormal(np.log(120), 1.07, 1024), 3, 2048).astype(np.int64)
    targets = np.clip(rng.lognormal(np.log(5), 1.7, 1024), 2, 512).astype(np.int64)
    num_rows = {a: int(assign_rows(inputs, targets, 2048, 512, a).max()) + 1 for a in ("best_fit", "next_fit")}
    fewest = -(-int(inputs.sum()) // 2048)
    assert num_rows["best_fit"] <= 1.04 * fewest
    assert num_rows["next_fit"] > 1.05 * num_rows["best_fit"]


def test_an_example_longer_than_a_row_is_named() -> None:
    with pytest.raises(DataError, match=r"stream index 7: field 'targets': expected at most 5 tokens, got 6"):
        pack_examples([example(3, 2, 2), example(7, 2, 6)], INPUTS, TARGETS)
    assert pack_examples([example(7, 2, 6)], INPUTS, TARGETS, one_sided=True)


def test_an_empty_block_has_no_rows() -> None:
    assert pack_examples([], INPUTS, TARGETS) == []
