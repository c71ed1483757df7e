"""What the pages are answered from: a collection, perhaps a recipe's stream over it, and one request at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import flantune
from flantune.errors import RecipeError
from flantune.explore.collection import Collection, TaskFilter, Use
from flantune.explore.search import search_examples
from flantune.explore.views import Overview, SearchView
from flantune.recipe import SETTINGS
from flantune.tasks import ExampleStore
from flantune.tokens.encode import format_name
from flantune.tokens.tokenizer import Tokenizer
from flantune.types import Format

if TYPE_CHECKING:
    from flantune.explore.stream import ExampleStream  # imports torch, which a collection alone can do without

T = TypeVar("T")


class Explorer:
    """What the server answers from. Stores and tokenizers serve one request at a time; searches, which are long, have
    a store of their own, so that the page goes on working beside them."""

    def __init__(
        self,
        collection: Collection,
        *,
        stream: ExampleStream | None = None,
        tokenizer: Tokenizer | None = None,
        read_from: tuple[str, ...] = (),
    ) -> None:
        self.collection, self.stream, self._tokenizer, self._read_from = collection, stream, tokenizer, read_from
        self._lock = threading.Lock()
        self._search_lock = threading.Lock()
        self._search_store: ExampleStore | None = None

    def overview(self) -> Overview:
        store = self.collection.store
        return Overview(
            version=flantune.__version__,
            tasks=len(store.tasks),
            examples=sum(store.sizes.values()),
            rejected=store.summary["rejected"],
            recipe=self.stream.recipe.name if self.stream else None,
            formats=tuple(SETTINGS),
            tokenizer=self.stream is not None or self._tokenizer is not None,
            read_from=self._read_from,
        )

    def tokenizer(self) -> Tokenizer | None:
        return self.stream.tokenizer if self.stream is not None else self._tokenizer

    def alone(self, answer: Callable[[], T]) -> T:
        """Answer while nothing else reads the store."""
        with self._lock:
            return answer()

    def search(self, text: str, wanted: TaskFilter, start: str | None, limit: int, seconds: float) -> SearchView:
        with self._search_lock:
            if self._search_store is None:
                self._search_store = ExampleStore.open(self.collection.store.folder)
            names = self.collection.names(wanted)
            return search_examples(self._search_store, text, names, start=start, limit=limit, seconds=seconds)

    def streamed(self, answer: Callable[[ExampleStream], T]) -> T:
        stream = self.stream
        if stream is None:
            raise RecipeError("there is no stream to show: flantune tasks explore was started without --recipe.")
        return self.alone(lambda: answer(stream))


def format_of(name: str, shots: int | None = None) -> Format:
    """A named setting, with another number of shots where one is given."""
    if name not in SETTINGS:
        raise RecipeError(f"format '{name}': expected one of {', '.join(SETTINGS)}.")
    return SETTINGS[name] if shots is None else replace(SETTINGS[name], shots=shots)


def uses_of(stream: ExampleStream) -> dict[str, Use]:
    """What the recipe makes of every task of its store."""
    split, mixture = stream.data.split, stream.data.mixture
    shares, left_out = mixture.shares(), dict(mixture.left_out)
    formats: dict[str, dict[str, None]] = {}
    for leaf in mixture.leaves:
        formats.setdefault(leaf.task, {}).update(dict.fromkeys(format_name(f) for f, _ in leaf.formats))
    uses = {name: Use(use="held out", share=None, formats=()) for name in split.held_out}
    uses |= {name: Use(use="excluded", share=None, formats=()) for name in split.excluded}
    for name in split.train:
        if name in shares:
            uses[name] = Use(use="trained", share=shares[name], formats=tuple(formats[name]))
        else:
            why = left_out.get(name, "no part of the mixture names it")
            uses[name] = Use(use=f"left out: {why}", share=None, formats=())
    return uses
