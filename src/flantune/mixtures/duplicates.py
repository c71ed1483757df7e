"""Rows that stand in a collection more than once: exactly, or nearly.

exact   fields and targets are equal but for white space
near    the fields' sets of three-word shingles (words as in `ngrams`) have a Jaccard similarity of at least `near`, and
        so have the targets': two questions that differ in a word and in the answer are no duplicates. Found by MinHash
        and bands, then checked on the sets themselves, so no pair below it is joined. Near groups are chains: two
        members of one may be less similar than neighbours are.

Rows are numbered through the tasks in their order. Shingles and bands lie in temporary files; what is held in memory is
a few numbers per row.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import numpy.typing as npt

from flantune.compiled import compiled
from flantune.mixtures.ngrams import Places, hash_grams, hash_words
from flantune.types import Example, Task

SHINGLE = 3  # words
PERMUTATIONS = 128
RECALL = 0.995  # of pairs exactly at the threshold; more similar ones are missed less
MAX_LEADERS = 16  # rows of one bucket that the others are compared with
BATCH_ROWS = 4096
_SEED = 1

Span = Literal["within a task", "across tasks", "across sources"]
SPANS: tuple[Span, ...] = ("within a task", "across tasks", "across sources")


class Examples(Protocol):
    """What is needed of a store of examples (flantune.tasks.store.ExampleStore)."""

    @property
    def tasks(self) -> Mapping[str, Task]: ...

    def size(self, task: str) -> int: ...

    def example(self, task: str, row: int) -> Example: ...

    def examples(self, task: str) -> Iterator[Example]: ...


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are duplicates of one another, in order; the first is the one to keep."""

    rows: tuple[tuple[str, int], ...]
    exact: bool  # all of them
    span: Span


class Duplicates:
    """`exact[i]` and `near[i]` are the numbers of the first row of row i's group; itself where it has no duplicate."""

    def __init__(self, tasks: Mapping[str, Task], sizes: Sequence[int], exact: Places, near: Places | None) -> None:
        self.tasks = list(tasks.values())
        self.starts = np.cumsum([0, *sizes], dtype=np.int64)
        self.exact, self.near = exact, near

    @property
    def roots(self) -> Places:
        return self.exact if self.near is None else self.near

    def place(self, number: int) -> tuple[str, int]:
        """The task and row of a row's number."""
        task = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.tasks[task].name, number - int(self.starts[task])

    def members(self) -> Iterator[Places]:
        """The numbers of each group's rows, groups in the order of their first."""
        order = np.argsort(self.roots, kind="stable")
        ordered = self.roots[order]
        bounds = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1], True])
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            if stop - start > 1:
                yield order[start:stop]

    def span(self, rows: Places) -> Span:
        tasks = np.unique(self._task_of(rows))
        if len(tasks) == 1:
            return "within a task"
        sources = {self.tasks[t].mixture for t in tasks.tolist()}
        return "across tasks" if len(sources) == 1 else "across sources"

    def group(self, rows: Places) -> Group:
        exact = bool((self.exact[rows] == self.exact[rows[0]]).all())
        return Group(tuple(self.place(n) for n in rows.tolist()), exact, self.span(rows))

    def count(self) -> dict[str, Any]:
        """Groups and superfluous rows (all but a group's first), by kind and span, and by pair of tasks."""
        groups, superfluous = dict.fromkeys(SPANS, 0), dict.fromkeys(SPANS, 0)
        pairs: Counter[tuple[str, str]] = Counter()
        within: Counter[str] = Counter()
        for rows in self.members():
            span = self.span(rows)
            groups[span] += 1
            superfluous[span] += len(rows) - 1
            tasks, counts = np.unique(self._task_of(rows), return_counts=True)
            for task, number in zip(tasks.tolist(), counts.tolist(), strict=True):
                if number > 1:
                    within[self.tasks[task].name] += number - 1
            for (a, count_a), (b, count_b) in combinations(zip(tasks.tolist(), counts.tolist(), strict=True), 2):
                pairs[self.tasks[a].name, self.tasks[b].name] += min(count_a, count_b)
        everything = np.arange(len(self.exact))
        exact = int((self.exact != everything).sum())
        return {
            "rows": len(self.exact),
            "exact": exact,
            "near": None if self.near is None else int((self.near != everything).sum()) - exact,
            "groups": groups,
            "superfluous": superfluous,
            "within": dict(within.most_common()),
            "pairs": [{"tasks": list(pair), "rows": number} for pair, number in pairs.most_common()],
        }

    def rows_to_leave_out(self, train: Collection[str]) -> dict[str, Places]:
        """By training task, ascending: rows that an earlier training row says already, and rows that a task outside
        `train` (held out, say) has too, wherever that stands."""
        trained = np.array([task.name in train for task in self.tasks], dtype=np.bool_)
        outside = ~trained[self._task_of(np.arange(len(self.roots)))]
        spoilt = np.zeros(len(self.roots), dtype=np.bool_)
        spoilt[self.roots[outside]] = True
        first = np.full(len(self.roots), len(self.roots), dtype=np.int64)
        inside = np.flatnonzero(~outside)
        np.minimum.at(first, self.roots[inside], inside)
        gone = inside[spoilt[self.roots[inside]] | (first[self.roots[inside]] != inside)]
        tasks = self._task_of(gone)
        return {self.tasks[t].name: gone[tasks == t] - self.starts[t] for t in np.unique(tasks).tolist()}

    def _task_of(self, numbers: Places) -> Places:
        return np.searchsorted(self.starts, numbers, side="right") - 1


def find_duplicates(
    store: Examples,
    *,
    near: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    work: Path | None = None,
) -> Duplicates:
    """Exact duplicates and, with `near` in (0, 1], near ones. `work`: where the temporary files go.

    `on_progress` is told rows read, of all.
    """
    sizes = [store.size(task) for task in store.tasks]
    total = sum(sizes)
    with tempfile.TemporaryDirectory(prefix=".duplicates-", dir=work) as folder:
        sketches = None if near is None else Sketches(Path(folder), near)
        digests = np.empty((total, 2), dtype=np.uint64)
        done = 0
        for batch in _batches(example for task in store.tasks for example in store.examples(task)):
            digests[done : done + len(batch)] = [exact_digest(example) for example in batch]
            if sketches is not None:
                sketches.add([part for example in batch for part in near_texts(example)])
            done += len(batch)
            if on_progress is not None:
                on_progress(done, total)
        exact = _first_equal(digests)
        joined = None if sketches is None else sketches.join(exact)
    return Duplicates(store.tasks, sizes, exact, joined)


def exact_digest(example: Example) -> tuple[int, int]:
    """128 bits of fields and targets; runs of white space are one blank, case and punctuation count."""
    parts = [*example.fields.values(), "\x1e", *example.targets]
    text = "\x1f".join(" ".join(part.split()) if part != "\x1e" else part for part in parts)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def near_texts(example: Example) -> tuple[str, str]:
    """What must be alike, each with its counterpart: the fields and the targets."""
    return "\n".join(example.fields.values()), "\n".join(example.targets)


def bands_for(near: float, permutations: int = PERMUTATIONS, recall: float = RECALL) -> tuple[int, int]:
    """(bands, rows per band): the most selective split that finds pairs at `near` with probability `recall`."""
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if 1 - (1 - near**rows) ** bands >= recall:
            return bands, rows
    return permutations, 1


class Sketches:
    """Shingle sets and MinHash bands of rows, appended to two files."""

    def __init__(self, folder: Path, near: float) -> None:
        self.near = near
        self.bands, self.per_band = bands_for(near)
        self._shingles, self._bands = folder / "shingles", folder / "bands"
        self._sizes: list[Places] = []
        self._files: list[BinaryIO] = [self._shingles.open("wb"), self._bands.open("wb")]

    def add(self, texts: Sequence[str]) -> None:
        """Two texts per row: fields and targets."""
        from rensa import RMinHash

        sets, starts = shingles(texts)
        # Of the union of both sets: where each part is alike from `near` on, so is the whole.
        ends = starts[::2].astype(np.uint64)
        signatures = RMinHash.digest_matrix_from_flat_token_hashes(sets, ends, PERMUTATIONS, _SEED).to_rows()
        number = len(texts) // 2
        rows = np.array(signatures, dtype=np.uint64).reshape(number, PERMUTATIONS)
        mixed = rows[:, : self.bands * self.per_band].reshape(number, self.bands, self.per_band)
        keys = np.zeros((number, self.bands), dtype=np.uint64)
        for k in range(self.per_band):
            keys = (keys ^ mixed[:, :, k]) * np.uint64(0x9E3779B97F4A7C15)
            keys ^= keys >> np.uint64(32)
        self._sizes.append(np.diff(starts))
        self._files[0].write(sets.tobytes())
        self._files[1].write(keys.tobytes())

    def join(self, roots: Places) -> Places:
        """Groups of rows that are near duplicates, or are together in `roots` already."""
        for file in self._files:
            file.close()
        sizes = np.concatenate([*self._sizes, np.empty(0, np.int64)])
        starts = np.r_[0, np.cumsum(sizes)].astype(np.int64)
        parents = roots.copy()
        if not len(roots):
            return parents
        sets = np.memmap(self._shingles, dtype=np.uint64, mode="r")
        bands = np.memmap(self._bands, dtype=np.uint64, mode="r").reshape(-1, self.bands)
        alone = np.flatnonzero(roots == np.arange(len(roots)))  # what repeats a row exactly is in its group already
        for band in range(self.bands):
            keys = bands[alone, band]
            order = np.argsort(keys, kind="stable")
            compiled(_join_band)(alone[order], keys[order], sets, starts, parents, self.near, MAX_LEADERS)
        return np.asarray(compiled(_roots)(parents))


def shingles(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint64], Places]:
    """Each text's shingles, ascending and each once, and where each text's begin. Never none: a text without words has
    one that only equal texts have. Every second text's are of a kind of their own."""
    grams = hash_grams(hash_words(texts), SHINGLE, whole_if_short=True)
    hashes, starts = grams.words, grams.starts
    bare = np.flatnonzero(np.diff(starts) == 0)
    if len(bare):
        own = [" ".join(texts[i].split()).encode("utf-8", "surrogatepass") for i in bare.tolist()]
        digests = [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") for text in own]
        hashes = np.insert(hashes, starts[bare], np.array(digests, dtype=np.uint64))
        starts = np.r_[0, np.cumsum(np.maximum(np.diff(starts), 1))].astype(np.int64)
    second = np.repeat(np.arange(len(texts)) % 2 == 1, np.diff(starts))
    distinct: tuple[npt.NDArray[np.uint64], Places] = compiled(_distinct)(
        np.where(second, hashes ^ np.uint64(0xA5A5A5A5A5A5A5A5), hashes), starts
    )
    return distinct


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    batch: list[Example] = []
    for example in examples:
        batch.append(example)
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _first_equal(digests: npt.NDArray[np.uint64]) -> Places:
    """(rows,) number of the first row with the same digest."""
    if not len(digests):
        return np.empty(0, dtype=np.int64)
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal digests stay in row order
    ordered = digests[order]
    new = np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)]
    firsts = np.empty(len(digests), dtype=np.int64)
    firsts[order] = order[new][np.cumsum(new) - 1]
    return firsts


def _distinct(hashes: npt.NDArray[np.uint64], starts: Places) -> tuple[npt.NDArray[np.uint64], Places]:
    """Each text's hashes ascending, each once."""
    kept = np.empty_like(hashes)
    out_starts = np.zeros_like(starts)
    count = 0
    for text in range(len(starts) - 1):
        own = np.sort(hashes[starts[text] : starts[text + 1]])
        for k in range(len(own)):
            if k == 0 or own[k] != own[k - 1]:
                kept[count] = own[k]
                count += 1
        out_starts[text + 1] = count
    return kept[:count].copy(), out_starts


def _join_band(
    rows: Places,
    keys: npt.NDArray[np.uint64],
    sets: npt.NDArray[np.uint64],
    starts: Places,
    parents: Places,
    near: float,
    max_leaders: int,
) -> None:
    """Join rows of equal key that are similar; a group's parent is its first row. `rows` ascend within a key.

    Row r's two sets begin at starts[2r] and starts[2r + 1].
    """
    leaders = np.empty(max_leaders, dtype=np.int64)
    number = 0
    for place in range(len(rows)):
        if place == 0 or keys[place] != keys[place - 1]:
            number = 0
        row = rows[place]
        root = row
        while parents[root] != root:
            root = parents[root]
        parents[row] = root
        matched = False
        for k in range(number):
            leader = leaders[k]
            while parents[leader] != leader:
                leader = parents[leader]
            if leader == root:
                matched = True
                break
            alike = True
            for part in (1, 0):  # targets are shorter
                i, j, common = starts[2 * leaders[k] + part], starts[2 * row + part], 0
                stop_i, stop_j = starts[2 * leaders[k] + part + 1], starts[2 * row + part + 1]
                size_i, size_j = stop_i - i, stop_j - j
                if min(size_i, size_j) < near * max(size_i, size_j):
                    alike = False
                    break
                while i < stop_i and j < stop_j:
                    if sets[i] == sets[j]:
                        common += 1
                        i += 1
                        j += 1
                    elif sets[i] < sets[j]:
                        i += 1
                    else:
                        j += 1
                if common < near * (size_i + size_j - common):
                    alike = False
                    break
            if alike:
                low, high = min(leader, root), max(leader, root)
                parents[high] = low
                matched = True
                break
        if not matched and number < max_leaders:
            leaders[number] = row
            number += 1


def _roots(parents: Places) -> Places:
    roots = parents.copy()
    for row in range(len(roots)):  # a parent comes before its children, so its root is known
        roots[row] = roots[roots[row]]
    return roots
