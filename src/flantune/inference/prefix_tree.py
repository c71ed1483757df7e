"""What prompts have in common: a tree over tokens, so that a model reads every shared beginning once.

    7 8 9 1 1                 [7 8 9] -- [1 1]
    7 8 9 2          ->               \\- [2]
    5 6                       [5 6]

Shared beginnings are found on whole tokenisations: a prompt's pieces tokenised apart can be other tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from flantune.types import Tokens

# A branch costs every layer one more piece of attention to start and, for each token below it, one to merge: as much
# as reading so many tokens. Measured on small decoders; a wrong guess costs time alone.
BRANCH_COST = 8.0
MERGE_COST = 1 / 32
# Tokens of a run times its sequences. With fewer, a step is quicker if they are the rows' own than in calls apart; they
# are then read again for every sequence, which some thirty steps make up for.
STEP_COST = 512


@dataclass(frozen=True, slots=True)
class Node:
    """A run of tokens that one sequence has, or several share, after those of its parents."""

    tokens: Tokens
    start: int  # place of its first token in its sequences
    parent: int  # -1: none
    end: int  # one past the last node below it; nodes are numbered parents first, branch after branch

    @property
    def stop(self) -> int:
        """One past the place of its last token."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class PrefixTree:
    nodes: tuple[Node, ...]
    last: tuple[int, ...]  # the node at whose end each sequence ends

    def path(self, node: int) -> tuple[int, ...]:
        """From the root down, the node itself included."""
        found = []
        while node >= 0:
            found.append(node)
            node = self.nodes[node].parent
        return tuple(reversed(found))

    def node_at(self, node: int, place: int) -> int:
        """The node on the way down to `node` that holds the token at `place` of the sequence."""
        while self.nodes[node].start > place:
            node = self.nodes[node].parent
        return node


def is_worth_sharing(run: int, members: int, tokens_below: int) -> bool:
    """Whether reading a common run of tokens once saves more than the branch costs."""
    return run * (members - 1) > BRANCH_COST + MERGE_COST * tokens_below


def is_worth_sharing_in_steps(run: int, members: int, tokens_below: int) -> bool:
    """The same where texts are written: every step looks at a shared run in calls of its own, in every layer."""
    return run * members >= STEP_COST and is_worth_sharing(run, members, tokens_below)


def share_nothing(run: int, members: int, tokens_below: int) -> bool:
    """For models in which a prompt's beginning depends on its end; equal sequences are still one."""
    return False


def build_tree(
    sequences: Sequence[Tokens],
    longest_node: int | None = None,
    worth: Callable[[int, int, int], bool] = is_worth_sharing,
) -> PrefixTree:
    """Every sequence as a way down the tree; equal ones end at the same node. `longest_node`: longer runs are cut into
    a chain of nodes, so that a long prompt can be read in parts. Sequences must not be empty."""
    keys = [np.ascontiguousarray(s, dtype=">u4").tobytes() for s in sequences]  # sorts as the tokens do
    order = sorted(set(keys))
    unique = [np.frombuffer(key, dtype=">u4").astype(np.int32) for key in order]
    builder = _Builder(unique, longest_node, worth)
    builder.build()
    place = {key: i for i, key in enumerate(order)}
    return PrefixTree(_numbered(builder.runs), tuple(builder.last[place[key]] for key in keys))


def cut_to_fill(tree: PrefixTree, size: int) -> PrefixTree:
    """The same sequences; nodes are cut in two wherever `size` tokens are full, counted over the nodes in their
    order."""
    runs: list[tuple[Tokens, int, int]] = []
    became: list[int] = []  # the last piece of each node
    room = size
    for node in tree.nodes:
        parent = became[node.parent] if node.parent >= 0 else -1
        first = 0
        while first < len(node.tokens):
            piece = node.tokens[first : first + room]
            runs.append((piece, node.start + first, parent))
            parent, first = len(runs) - 1, first + len(piece)
            room = room - len(piece) or size
        became.append(parent)
    return PrefixTree(_numbered(runs), tuple(became[node] for node in tree.last))


def _numbered(runs: Sequence[tuple[Tokens, int, int]]) -> tuple[Node, ...]:
    """Of tokens, start and parent of each, branch after branch."""
    ends = [i + 1 for i in range(len(runs))]
    for i in range(len(runs) - 1, -1, -1):
        parent = runs[i][2]
        if parent >= 0:
            ends[parent] = max(ends[parent], ends[i])
    return tuple(Node(t, s, p, e) for (t, s, p), e in zip(runs, ends, strict=True))


class _Builder:
    def __init__(
        self, unique: Sequence[Tokens], longest_node: int | None, worth: Callable[[int, int, int], bool]
    ) -> None:
        self.unique, self.longest_node, self.worth = unique, longest_node, worth
        self.lengths = np.array([len(s) for s in unique], dtype=np.int64)
        self.common = np.array([_common(a, b) for a, b in pairwise(unique)], dtype=np.int64)
        self.runs: list[tuple[Tokens, int, int]] = []  # tokens, start, parent
        self.last = [-1] * len(unique)

    def build(self) -> None:
        waiting = [(0, len(self.unique), 0, -1)] if self.unique else []  # first, one past the last, tokens had, parent
        while waiting:
            first, end, had, parent = waiting.pop()
            if end - first == 1:
                self.last[first] = self._add(first, had, int(self.lengths[first]), parent)
                continue
            common = self.common[first : end - 1]
            shared = int(common.min())
            below = int(self.lengths[first:end].sum()) - (end - first) * shared
            if shared > had and self.worth(shared - had, end - first, below):
                parent, had = self._add(first, had, shared, parent), shared
            cuts = [first, *(first + 1 + np.flatnonzero(common == shared)).tolist(), end]
            groups = list(pairwise(cuts))
            if self.lengths[first] == had and groups[0] == (first, first + 1):
                self.last[first] = parent  # it ends where the others go on
                groups = groups[1:]
            # Last in, first out: a branch is finished before the next begins, so nodes come out in their order.
            waiting += [(a, b, had, parent) for a, b in reversed(groups)]

    def _add(self, sequence: int, had: int, until: int, parent: int) -> int:
        step = self.longest_node or max(1, until - had)
        for start in range(had, until, step):
            stop = min(until, start + step)
            self.runs.append((self.unique[sequence][start:stop], start, parent))
            parent = len(self.runs) - 1
        return parent


def _common(a: Tokens, b: Tokens) -> int:
    """Tokens that both begin with."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n
