"""Log-probabilities of options in decoders: every shared beginning read once, and only the logits that are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from flantune.errors import ModelError
from flantune.inference.memory import Budget, out_of_memory
from flantune.inference.output import Pending
from flantune.inference.plain_decoder import Reader
from flantune.inference.prefix_tree import Node, PrefixTree, build_tree, cut_to_fill, is_worth_sharing
from flantune.inference.waves import Segment, Store, Wave
from flantune.models.layout import Ints
from flantune.types import Tokens


class Totals:
    """Sums of log-probabilities being filled in, and which requests they complete."""

    def __init__(self, options: Sequence[Sequence[Tokens]]) -> None:
        self.first = np.cumsum([0, *(len(given) for given in options)])  # number of each request's first option
        self.sums = np.zeros(int(self.first[-1]))
        self.missing = np.array([sum(len(o) for o in given) for given in options], dtype=np.int64)
        self.owner = np.repeat(np.arange(len(options)), np.diff(self.first))

    def add(self, numbers: Ints, values: npt.NDArray[np.float64]) -> list[tuple[int, tuple[float, ...]]]:
        """`values` belong to the options `numbers`. Returns the requests that are complete now, and their sums."""
        if not np.isfinite(values).all():
            raise ModelError("the model gives log-probabilities that are no finite numbers; its weights are broken.")
        np.add.at(self.sums, numbers, values)
        owners, counts = np.unique(self.owner[numbers], return_counts=True)
        self.missing[owners] -= counts
        done = [int(r) for r in owners[self.missing[owners] == 0]]
        return [(r, tuple(self.sums[self.first[r] : self.first[r + 1]].tolist())) for r in done]


def score_in_tree(
    model: Any,
    prompts: Sequence[Tokens],
    options: Sequence[Sequence[Tokens]],
    budget: Budget,
    *,
    both_ways: bool = False,
) -> Iterator[tuple[int, tuple[float, ...]]]:
    """Index and sums of every request, as they are complete. `both_ways`: a prompt's tokens see each other both ways,
    so that prompts share nothing; the options share their prompt all the same."""
    left = list(range(len(prompts)))
    while left:  # again, with what is missing, where memory ran out
        done = set()
        for i, sums in _score_once(model, [prompts[r] for r in left], [options[r] for r in left], budget, both_ways):
            done.add(left[i])
            yield left[i], sums
        left = [r for r in left if r not in done]


def _score_once(
    model: Any, prompts: Sequence[Tokens], options: Sequence[Sequence[Tokens]], budget: Budget, both_ways: bool
) -> Iterator[tuple[int, tuple[float, ...]]]:
    tree, wanted = _plan(prompts, options, budget, both_ways)
    totals, store, reader = Totals(options), Store(), Reader(model)
    pending = Pending(model, budget.tokens)
    first = 0
    while first < len(tree.nodes):
        end, tokens = _until(tree, first, budget.tokens)
        chosen = slice(*np.searchsorted(wanted.node, [first, end]).tolist())
        with out_of_memory(model.device) as error:
            states, places = _read(reader, tree, store, first, end, wanted, chosen, both_ways)
            pending.add(states, places, wanted.token[chosen], wanted.option[chosen])
            told = pending.finished(at_once=end == len(tree.nodes))
        if error:
            budget.shrink(error[0], 1 if both_ways and end - first == 1 else tokens)
            return
        for numbers, values in told:
            yield from totals.add(numbers, values)
        first = end


def _read(
    reader: Reader,
    tree: PrefixTree,
    store: Store,
    first: int,
    end: int,
    wanted: _Wanted,
    chosen: slice,
    both_ways: bool,
) -> tuple[Tensor, Ints]:
    """Hidden states that the nodes `first` to `end` are wanted for, (n, hidden), and for each token wanted the place of
    its own. Nodes are read in the tree's own order, so that no more is kept of them than the way to the next."""
    nodes = tree.nodes
    segments = [
        Segment(
            tokens=nodes[i].tokens,
            start=nodes[i].start,
            ancestors=tree.path(i)[:-1],
            key=i,
            both_ways=both_ways and nodes[i].parent < 0,
        )
        for i in range(first, end)
    ]
    keep = frozenset(i for i in range(first, end) if nodes[i].end > end)
    spent = [key for key in store if nodes[key].end <= end]
    wave = Wave(segments, store, reader.model.device, keep, spent=spent)
    places, which = np.unique(wave.firsts[wanted.node[chosen] - first] + wanted.offset[chosen], return_inverse=True)
    states = reader.states(wave.ids, wave.positions, wave, places)
    for key in spent:
        store.drop(key)
    return states, which


def _until(tree: PrefixTree, first: int, budget: int) -> tuple[int, int]:
    """One past the last node of the wave that begins with `first`, and its tokens: in the budget, or one node alone."""
    tokens = len(tree.nodes[first].tokens)
    for end in range(first + 1, len(tree.nodes)):
        more = len(tree.nodes[end].tokens)
        if tokens + more > budget:
            return end, tokens
        tokens += more
    return len(tree.nodes), tokens


class _Wanted:
    """Tokens whose log-probability is asked for, in the order of the nodes they are read off. Parallel int64 arrays:
    the token stands after place `offset` of `node` and belongs to the option of that number."""

    def __init__(self, rows: list[tuple[int, int, int, int]]) -> None:
        table = np.array(sorted(rows), dtype=np.int64).reshape(-1, 4)
        self.node, self.offset, self.token, self.option = table.T


def _plan(
    prompts: Sequence[Tokens], options: Sequence[Sequence[Tokens]], budget: Budget, both_ways: bool
) -> tuple[PrefixTree, _Wanted]:
    """The tree of every prompt and, behind it, its longer options without their last token: nothing follows that."""
    if both_ways:
        return _plan_apart(prompts, options)
    sequences, owners = [], []
    for prompt, given in zip(prompts, options, strict=True):
        for option in given:
            sequences.append(np.concatenate([prompt, option[:-1]]) if len(option) > 1 else prompt)
            owners.append(len(prompt) - 1)
    # Full waves: all of one size, so that memory is laid out, and code for products made, once.
    tree = cut_to_fill(build_tree(sequences, worth=is_worth_sharing), max(1, budget.tokens))
    rows = []
    flat = (option for given in options for option in given)
    for number, (option, before) in enumerate(zip(flat, owners, strict=True)):
        for i, token in enumerate(option.tolist()):
            node = tree.node_at(tree.last[number], before + i)
            rows.append((node, before + i - tree.nodes[node].start, token, number))
    return tree, _Wanted(rows)


def _plan_apart(prompts: Sequence[Tokens], options: Sequence[Sequence[Tokens]]) -> tuple[PrefixTree, _Wanted]:
    """As `_plan`, but a node is a whole prompt, longest first, or what an option adds to it."""
    first_option = np.cumsum([0, *(len(given) for given in options)])
    nodes: list[Node] = []
    rows: list[tuple[int, int, int, int]] = []
    for r in sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i)):
        prompt, own = prompts[r], len(nodes)
        longer = [j for j, option in enumerate(options[r]) if len(option) > 1]
        nodes.append(Node(prompt, 0, -1, own + 1 + len(longer)))
        for j, option in enumerate(options[r]):
            rows.append((own, len(prompt) - 1, int(option[0]), int(first_option[r]) + j))
        for j in longer:
            option = options[r][j]
            rows += [(len(nodes), i, int(t), int(first_option[r]) + j) for i, t in enumerate(option[1:])]
            nodes.append(Node(option[:-1], len(prompt), own, len(nodes) + 1))
    return PrefixTree(tuple(nodes), ()), _Wanted(rows)
