"""Plain text to pretrain on: blocks of documents, each block a function of its number alone."""

from __future__ import annotations

import mmap
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

from flantune.errors import RecipeError
from flantune.mixtures import Mixture
from flantune.mixtures.sequence import GOLDEN, WORD, count_before, name_key
from flantune.mixtures.weights import cut_interval
from flantune.recipe import ObjectiveSpec, TextFiles
from flantune.tasks import ExampleStore
from flantune.types import Example

Documents = Callable[[int], list[str]]


def collection_documents(mixture: Mixture, store: ExampleStore, block: int) -> Documents:
    """Records of the mixture's tasks as plain text, unworded: fields and target, a line each.

    Tasks are drawn in the mixture's proportions; held-out tasks are not in the mixture, so not in the text either.
    """

    def documents(b: int) -> list[str]:
        draws = mixture.draws(b * block, (b + 1) * block)
        return [plain(store.example(d.task, d.row)) for d in draws]

    return documents


def plain(example: Example) -> str:
    """An example as running text; fields that repeat another's text are left out."""
    parts: list[str] = []
    for text in (*example.fields.values(), example.rationale or "", example.targets[0]):
        text = text.strip()
        if text and not any(text in p for p in parts):
            parts.append(text)
    return "\n".join(parts)


def text_documents(spec: ObjectiveSpec, seed: int, block: int) -> Documents:
    """Documents of the files that the recipe states, alike or by group."""
    if not spec.groups:
        return file_documents([Path(path) for path in spec.paths], seed, block)
    return group_documents(spec.groups, seed, block)


def file_documents(paths: Sequence[Path], seed: int, block: int) -> Documents:
    """Documents of UTF-8 files, parted by blank lines, in a new order every epoch.

    Only the documents' places are held in memory. Raises RecipeError for a missing, empty or undecodable file.
    """
    if not paths:
        raise RecipeError("pretrain.files: expected at least one text file when pretrain.text is 'files', got none.")
    text = FileText(paths, str(seed))
    return lambda b: [text.document(i) for i in range(b * block, (b + 1) * block)]


def group_documents(groups: Sequence[TextFiles], seed: int, block: int) -> Documents:
    """Documents of groups of files in the shares of their weights, as even as the mixture's own stream.

    A group's documents come in an order of its own, whatever the weights and the other groups.
    """
    texts = [FileText([Path(path) for path in group.files], f"{seed}:{group.name}") for group in groups]
    bounds = cut_interval(0, WORD + 1, [Fraction(str(group.weight)) for group in groups])
    offset = name_key("documents", seed)

    def documents(b: int) -> list[str]:
        counts = count_before(offset, b * block, bounds)
        found = []
        for i in range(b * block, (b + 1) * block):
            group = bisect_right(bounds, (offset + i * GOLDEN) & WORD) - 1
            found.append(texts[group].document(counts[group]))
            counts[group] += 1
        return found

    return documents


class FileText:
    """Documents of some files by number, without end: all of them once an epoch, in an order that `key` names."""

    def __init__(self, paths: Sequence[Path], key: str) -> None:
        self._paths, self._key = paths, key
        self._maps: list[mmap.mmap] = []
        self._places: list[tuple[int, int, int]] = []
        self._orders: dict[int, list[int]] = {}
        for number, path in enumerate(paths):
            self._maps.append(map_text(path))
            self._places += [(number, start, stop) for start, stop in paragraphs(self._maps[-1])]
        if not self._places:
            raise RecipeError(f"{', '.join(map(str, paths))}: no document found; documents are parted by blank lines.")

    def document(self, number: int) -> str:
        epoch, position = divmod(number, len(self._places))
        file, start, stop = self._places[self._order(epoch)[position]]
        try:
            return self._maps[file][start:stop].decode("utf-8")
        except UnicodeDecodeError as e:
            raise RecipeError(f"{self._paths[file]}: byte {start + e.start}: not UTF-8 ({e.reason}).") from None

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            self._orders.clear()  # blocks come in order: at most two epochs meet in one
            count = len(self._places)
            self._orders[epoch] = random.Random(f"{self._key}:documents:{epoch}").sample(range(count), count)
        return self._orders[epoch]


def map_text(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as e:
        raise RecipeError(f"{path}: expected a text file with documents, got: {e}") from None


def paragraphs(text: mmap.mmap) -> list[tuple[int, int]]:
    """(start, stop) of what blank lines part, in bytes."""
    places = []
    start = 0
    while start < len(text):
        stop = text.find(b"\n\n", start)
        stop = len(text) if stop < 0 else stop
        if text[start:stop].strip():
            places.append((start, stop))
        start = stop + 2
    return places
