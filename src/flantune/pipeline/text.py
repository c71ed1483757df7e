"""Plain text to pretrain on: blocks of documents, each block a function of its number alone."""

from __future__ import annotations

import mmap
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from flantune.errors import RecipeError
from flantune.mixtures import Mixture
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


def file_documents(paths: Sequence[Path], seed: int, block: int) -> Documents:
    """Documents of UTF-8 files, parted by blank lines, in a new order every epoch.

    Only the documents' places are held in memory. Raises RecipeError for a missing, empty or undecodable file.
    """
    if not paths:
        raise RecipeError("pretrain.files: expected at least one text file when pretrain.text is 'files', got none.")
    maps: list[mmap.mmap] = []
    places: list[tuple[int, int, int]] = []
    for number, path in enumerate(paths):
        maps.append(map_text(path))
        places += [(number, start, stop) for start, stop in paragraphs(maps[-1])]
    if not places:
        raise RecipeError(f"{', '.join(map(str, paths))}: no document found; documents are parted by blank lines.")

    orders: dict[int, list[int]] = {}

    def order(epoch: int) -> list[int]:
        if epoch not in orders:
            orders.clear()  # blocks come in order: at most two epochs meet in one
            orders[epoch] = random.Random(f"{seed}:documents:{epoch}").sample(range(len(places)), len(places))
        return orders[epoch]

    def documents(b: int) -> list[str]:
        found = []
        for i in range(b * block, (b + 1) * block):
            epoch, position = divmod(i, len(places))
            number, start, stop = places[order(epoch)[position]]
            try:
                found.append(maps[number][start:stop].decode("utf-8"))
            except UnicodeDecodeError as e:
                raise RecipeError(f"{paths[number]}: byte {start + e.start}: not UTF-8 ({e.reason}).") from None
        return found

    return documents


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
