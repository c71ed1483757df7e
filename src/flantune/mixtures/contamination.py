"""Leakage: is an evaluation item's own text among what was trained on?

The evaluation items' n-grams are held in memory, the training rows stream past once. An item's own text is its
question as the benchmark's files have it, without instruction, exemplars and layout. Verdicts:

    test_leak         one training row holds at least `threshold` of the item's own n-grams (where the question is
                      shorter than n words, or is its task's wording alone: all of it and every option, in any order)
    same_task_train   less than that, but some of it stands in a row of the same dataset: its training split
    none              neither
    unchecked         fewer than `min_words` words in all: too short to tell a leak from chance

n-grams that stand in many items of a task (more than BOILERPLATE_ITEMS, and than BOILERPLATE_SHARE of them) are the
task's wording and no item's own; they count nowhere.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from flantune.mixtures.ngrams import GramTable, Hashes, Places, WordHashes, hash_grams, hash_words, normalise, words

BOILERPLATE_ITEMS = 10
BOILERPLATE_SHARE = 0.01
MIN_ANCHOR = 3  # words: the longest piece of a short item must have as many for the item to be looked for
BATCH_CHARACTERS = 4_000_000  # of training text looked through at a time

Verdict = Literal["test_leak", "same_task_train", "none", "unchecked"]
VERDICTS: tuple[Verdict, ...] = ("test_leak", "same_task_train", "none", "unchecked")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnText:
    """An evaluation item reduced to what is its own. `datasets` names what its task was made from."""

    benchmark: str
    task: str
    id: str
    text: str
    options: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """All the words that one row brings into training."""

    task: str
    row: int
    text: str


class TrainingText(Protocol):
    """What is trained on, row by row; flantune.pipeline.contamination has the recipe's."""

    def rows(self) -> Iterator[TrainingRow]: ...

    def text(self, task: str, row: int) -> str:
        """One row's text again."""
        ...

    def datasets(self, task: str) -> frozenset[str]:
        """What the task was made from, as `dataset_key` spells it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one item. `overlap` is the share of its own n-grams in the one training row that has most."""

    item: OwnText
    verdict: Verdict
    overlap: float | None  # None: unchecked
    rule: Literal["n-grams", "whole text", "too short"]
    training_task: str | None = None  # of the row with most overlap
    training_row: int | None = None
    text: str = ""  # the longest run of words both have
    options_found: int | None = None  # of the item's options, in that row; None where there is no such row


def dataset_key(name: str) -> str:
    """ "GSM-8K" and "gsm8k" are one dataset."""
    return "".join(c for c in name.casefold() if c.isalnum())


def find_contamination(
    items: Sequence[OwnText],
    training: TrainingText,
    *,
    ngram: int,
    threshold: float,
    min_words: int,
    on_progress: Callable[[int], None] | None = None,
) -> list[Finding]:
    """One finding per item, in order. `on_progress` is told the training rows seen."""
    index = ItemIndex(items, ngram, min_words)
    best = BestRows(index)
    seen = 0
    for batch in _batches(training.rows()):
        best.add(batch, training)
        seen += len(batch)
        if on_progress is not None:
            on_progress(seen)
    return [best.finding(i, training, threshold) for i in range(len(items))]


class ItemIndex:
    """The items' own n-grams: of each, in which items it stands. 64-bit hashes; what is found is checked in words."""

    def __init__(self, items: Sequence[OwnText], ngram: int, min_words: int) -> None:
        self.items, self.ngram = items, ngram
        texts = hash_words([item.text for item in items])
        grams = hash_grams(texts, ngram)
        own = _own_grams(items, grams)
        self.own: list[Hashes] = own
        self.counts = np.array([len(o) for o in own], dtype=np.int64)
        self.anchors: dict[int, list[str]] = {}  # item -> its first words looked for; its rule is "whole text"
        self.short: set[int] = set()
        for i in np.flatnonzero(self.counts == 0).tolist():
            anchor = _anchor(items[i], ngram, min_words)
            if anchor is None:
                self.short.add(i)
            else:
                self.anchors[i] = anchor
        where = np.repeat(np.arange(len(items)), self.counts)
        self.table, self.postings = _table(ngram, np.concatenate([*own, np.empty(0, np.uint64)]), where)
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, anchor in self.anchors.items():
            by_length[len(anchor)].append(i)
        self.anchor_tables = []
        for length, own_items in sorted(by_length.items()):
            anchors = hash_words([" ".join(self.anchors[i]) for i in own_items])
            self.anchor_tables.append(_table(length, hash_grams(anchors, length).words, np.array(own_items)))


class Postings:
    """Items by key: items[starts[k]:starts[k + 1]] hold key k."""

    def __init__(self, starts: Places, items: Places) -> None:
        self.starts, self.items = starts, items

    def join(self, keys: Places) -> tuple[Places, Places]:
        """Every (place in `keys`, item) pair."""
        sizes = self.starts[keys + 1] - self.starts[keys]
        places = np.repeat(np.arange(len(keys)), sizes)
        within = np.arange(len(places)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return places, self.items[np.repeat(self.starts[keys], sizes) + within]


def _table(n: int, hashes: Hashes, items: Places) -> tuple[GramTable, Postings]:
    order = np.lexsort((items, hashes))
    keys, firsts = np.unique(hashes[order], return_index=True)
    starts = np.append(firsts, len(hashes)).astype(np.int64)
    return GramTable(n, keys), Postings(starts, items[order].astype(np.int64))


def _own_grams(items: Sequence[OwnText], grams: WordHashes) -> list[Hashes]:
    """Each item's distinct n-grams but for its task's boilerplate, ascending."""
    own = [np.unique(grams.of(i)) for i in range(len(items))]
    tasks: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        tasks[item.benchmark, item.task].append(i)
    for members in tasks.values():
        allowed = max(BOILERPLATE_ITEMS, BOILERPLATE_SHARE * len(members))
        if len(members) <= allowed:
            continue
        values, counts = np.unique(np.concatenate([own[i] for i in members]), return_counts=True)
        common = values[counts > allowed]
        if len(common):
            for i in members:
                own[i] = own[i][~np.isin(own[i], common)]
    return own


def _anchor(item: OwnText, ngram: int, min_words: int) -> list[str] | None:
    """The first words of the longest piece of an item that is looked for whole; None where it is too short for that."""
    pieces = [words(piece) for piece in (item.text, *item.options)]
    longest = max(pieces, key=len)
    if not pieces[0] or sum(map(len, pieces)) < min_words or len(longest) < MIN_ANCHOR:
        return None
    return longest[:ngram]


class BestRows:
    """For each item the training row with most of its own n-grams, overall and among rows of its own dataset.

    Among equals the first in the order of the stream.
    """

    def __init__(self, index: ItemIndex) -> None:
        self.index = index
        number = len(index.items)
        self._count = np.zeros(number, dtype=np.int64)
        self._same = np.zeros(number, dtype=np.bool_)
        self._row: dict[int, tuple[str, int]] = {}
        self._item_datasets = [frozenset(map(dataset_key, item.datasets)) for item in index.items]
        self._pieces: dict[int, list[str]] = {}

    def add(self, batch: Sequence[TrainingRow], training: TrainingText) -> None:
        texts = hash_words([row.text for row in batch])
        rows, keys = self.index.table.find(texts)
        if len(rows):
            self._add_grams(batch, training, rows, keys)
        for table, postings in self.index.anchor_tables:
            rows, keys = table.find(texts)
            if len(rows):
                self._add_whole(batch, rows, keys, postings)

    def _add_grams(self, batch: Sequence[TrainingRow], training: TrainingText, rows: Places, keys: Places) -> None:
        # A key counts once for a row, however often it stands there.
        pairs = np.unique(np.stack((rows, keys), axis=1), axis=0)
        places, items = self.index.postings.join(pairs[:, 1])
        overlaps, counts = np.unique(np.stack((items, pairs[places, 0]), axis=1), axis=0, return_counts=True)
        order = np.lexsort((overlaps[:, 1], -counts, overlaps[:, 0]))
        ordered, counts = overlaps[order], counts[order]
        first = np.r_[True, ordered[1:, 0] != ordered[:-1, 0]]
        for place in np.flatnonzero(first & (counts > self._count[ordered[:, 0]])).tolist():
            item, row = ordered[place].tolist()
            self._count[item] = counts[place]
            self._row[item] = (batch[row].task, batch[row].row)
        for item, row in ordered[~self._same[ordered[:, 0]]].tolist():
            if not self._same[item] and self._item_datasets[item]:
                self._same[item] = bool(training.datasets(batch[row].task) & self._item_datasets[item])

    def _add_whole(self, batch: Sequence[TrainingRow], rows: Places, keys: Places, postings: Postings) -> None:
        places, items = postings.join(keys)
        spaced: dict[int, str] = {}
        for place, item in zip(places.tolist(), items.tolist(), strict=True):
            if item in self._row:
                continue
            row = int(rows[place])
            if row not in spaced:
                spaced[row] = f" {normalise(batch[row].text)} "
            if all(piece in spaced[row] for piece in self._pieces_of(item)):
                self._row[item] = (batch[row].task, batch[row].row)

    def _pieces_of(self, item: int) -> list[str]:
        if item not in self._pieces:
            noun = self.index.items[item]
            texts = (normalise(piece) for piece in (noun.text, *noun.options))
            self._pieces[item] = [f" {text} " for text in texts if text]
        return self._pieces[item]

    def finding(self, i: int, training: TrainingText, threshold: float) -> Finding:
        item = self.index.items[i]
        if i in self.index.short:
            return Finding(item=item, verdict="unchecked", overlap=None, rule="too short")
        rule: Literal["n-grams", "whole text"] = "whole text" if i in self.index.anchors else "n-grams"
        if i not in self._row:
            return Finding(item=item, verdict="none", overlap=0.0, rule=rule)
        task, row = self._row[i]
        text = training.text(task, row)
        spaced = f" {normalise(text)} "
        options = sum(f" {normalise(option)} " in spaced for option in item.options) if item.options else None
        if rule == "whole text":
            overlap, shared = 1.0, normalise(item.text)
        else:
            overlap, shared = shared_words(item.text, text, self.index.ngram, self.index.own[i])
        verdict: Verdict = "none"
        if overlap >= threshold:
            verdict = "test_leak"
        elif overlap > 0 and self._same[i]:
            verdict = "same_task_train"
        return Finding(
            item=item,
            verdict=verdict,
            overlap=overlap,
            rule=rule,
            training_task=task,
            training_row=row,
            text=shared,
            options_found=options,
        )


def shared_words(text: str, other: str, n: int, own: Hashes) -> tuple[float, str]:
    """Share of the text's distinct n-grams among `own` that `other` holds, and the longest run of words in them.

    Compared word by word: a collision of hashes is not taken for an overlap.
    """
    mine, theirs = words(text), words(other)
    known = {tuple(theirs[k : k + n]) for k in range(len(theirs) - n + 1)}
    hashes = hash_grams(hash_words([text]), n).words
    counted = np.isin(hashes, own)
    grams = [tuple(mine[k : k + n]) for k in range(len(mine) - n + 1)]
    distinct = {gram for gram, counts in zip(grams, counted.tolist(), strict=True) if counts}
    longest, begun = (0, 0), None
    for k, gram in enumerate([*grams, None]):
        if gram is not None and gram in known:
            begun = k if begun is None else begun
        elif begun is not None:
            longest = max(longest, (k - begun + n - 1, -begun))
            begun = None
    length, start = longest[0], -longest[1]
    share = len(distinct & known) / len(distinct) if distinct else 0.0
    return share, " ".join(mine[start : start + length])


def count_verdicts(findings: Iterable[Finding]) -> dict[str, int]:
    counts = Counter(f.verdict for f in findings)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def in_distribution(items: Sequence[OwnText], tasks: Mapping[str, frozenset[str]]) -> list[str]:
    """Trained tasks made from a dataset that the items were made from."""
    datasets = {dataset_key(name) for item in items for name in item.datasets}
    return sorted(task for task, own in tasks.items() if own & datasets)


def _batches(rows: Iterable[TrainingRow]) -> Iterator[list[TrainingRow]]:
    batch: list[TrainingRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
