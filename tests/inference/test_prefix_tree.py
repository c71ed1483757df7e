from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.inference import prefix_tree
from flantune.inference.prefix_tree import (
    PrefixTree,
    build_tree,
    cut_to_fill,
    is_worth_sharing,
    is_worth_sharing_in_steps,
    share_nothing,
)
from flantune.types import Tokens

WORDS = st.lists(st.integers(0, 2), min_size=1, max_size=12)


def tokens(rows: list[list[int]]) -> list[Tokens]:
    return [np.array(row, dtype=np.int32) for row in rows]


def spelled(tree: PrefixTree, node: int) -> list[int]:
    return [int(t) for n in tree.path(node) for t in tree.nodes[n].tokens]


def always(run: int, members: int, below: int) -> bool:
    return True


@given(st.lists(WORDS, max_size=25), st.sampled_from([is_worth_sharing, always, share_nothing]), st.integers(1, 15))
def test_every_sequence_is_a_way_down_the_tree(rows: list[list[int]], worth: object, longest: int):
    tree = build_tree(tokens(rows), longest, worth)  # type: ignore[arg-type]
    assert [spelled(tree, leaf) for leaf in tree.last] == rows
    for number, node in enumerate(tree.nodes):
        assert 1 <= len(node.tokens) <= longest
        assert node.parent < number < node.end <= len(tree.nodes)
        if node.parent >= 0:
            assert tree.nodes[node.parent].stop == node.start and node.end <= tree.nodes[node.parent].end
        else:
            assert node.start == 0
        below = [n for n in range(len(tree.nodes)) if number in tree.path(n)]
        assert below == list(range(number, node.end))
    for leaf in tree.last:
        for place in range(tree.nodes[leaf].stop):
            holder = tree.nodes[tree.node_at(leaf, place)]
            assert holder.start <= place < holder.stop


@given(st.lists(WORDS, max_size=25))
def test_where_all_is_shared_no_token_is_read_twice(rows: list[list[int]]):
    tree = build_tree(tokens(rows), None, always)
    beginnings = {tuple(row[: i + 1]) for row in rows for i in range(len(row))}
    assert sum(len(n.tokens) for n in tree.nodes) == len(beginnings)


@given(st.lists(WORDS, max_size=25))
def test_sharing_never_reads_more_than_each_sequence_once(rows: list[list[int]]):
    tree = build_tree(tokens(rows))
    assert sum(len(n.tokens) for n in tree.nodes) <= sum(len(r) for r in {tuple(r) for r in rows})


def test_equal_sequences_end_at_one_node():
    tree = build_tree(tokens([[1, 2], [1, 2], [3]]), None, share_nothing)
    assert tree.last[0] == tree.last[1] and len(tree.nodes) == 2


def test_a_long_beginning_is_shared_and_a_short_one_is_not():
    long = list(range(100))
    tree = build_tree(tokens([[*long, 200, 7], [*long, 300, 8]]))
    assert [len(n.tokens) for n in tree.nodes] == [100, 2, 2]
    short = build_tree(tokens([[1, 2, *range(100, 200)], [1, 2, *range(200, 300)]]))
    assert [n.parent for n in short.nodes] == [-1, -1]


def test_a_thousand_questions_behind_each_other_need_no_recursion():
    rows = [list(range(n)) for n in range(1, 1_500)]
    tree = build_tree(tokens(rows), None, always)
    assert len(tree.nodes) == len(rows) and spelled(tree, tree.last[-1]) == rows[-1]


def test_short_runs_of_few_are_not_shared_while_texts_are_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prefix_tree, "STEP_COST", 512)
    head = list(range(2, 102))
    for members, shared in ((5, False), (6, True)):
        tree = build_tree(tokens([[*head, 1, i] for i in range(members)]), None, is_worth_sharing_in_steps)
        assert [spelled(tree, leaf) for leaf in tree.last] == [[*head, 1, i] for i in range(members)]
        assert len(tree.nodes) == members + shared


@given(st.lists(WORDS, max_size=25), st.sampled_from([is_worth_sharing, always]), st.integers(1, 9))
def test_nodes_cut_to_fill_make_full_waves_of_the_same_sequences(rows: list[list[int]], worth: object, size: int):
    whole = build_tree(tokens(rows), None, worth)  # type: ignore[arg-type]
    tree = cut_to_fill(whole, size)
    assert [spelled(tree, leaf) for leaf in tree.last] == rows
    lengths = [len(n.tokens) for n in tree.nodes]
    assert sum(lengths) == sum(len(n.tokens) for n in whole.nodes) and all(lengths)
    ends = set(np.cumsum(lengths).tolist())
    assert all(end in ends for end in range(size, sum(lengths), size))
    for number, node in enumerate(tree.nodes):
        below = [n for n in range(len(tree.nodes)) if number in tree.path(n)]
        assert below == list(range(number, node.end))
        assert node.parent < 0 or tree.nodes[node.parent].stop == node.start
