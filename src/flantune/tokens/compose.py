"""Prompts composed from tokens: what `encode_prompts` gives for the rendered text, without rendering or tokenising it.

    Draw --choices--> template, rows --plan--> parts (literals, fields) --join at safe cuts--> places in the token store

The order of parts, what is left out and what is stripped are those of `formats.render`, which stays the reference: the
ids must equal those of the rendered text, and the first prompts of every composer are checked against it. Formats that
are rarer (chat, stored demonstrations, random delimiters) are rendered and tokenised as they always were.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

import numpy as np

from flantune.errors import StateError, TemplateError
from flantune.formats.few_shot import kept_exemplars
from flantune.mixtures import Draw, Mixture
from flantune.tasks import ExampleStore
from flantune.tokens.encode import NO_EXEMPLAR_FITS, EncodedBatch, encode_prompts, format_name
from flantune.tokens.gather import Counts, gather
from flantune.tokens.token_store import Part, TokenStore
from flantune.tokens.tokenizer import Tokenizer
from flantune.tokens.worded import Worded, Worder, composes
from flantune.types import Encoded, Format, Prompt, Tokens

CHECKED = 64  # prompts of a composer that are also rendered and tokenised, to see that both agree
MOST_AHEAD = 32_768  # draws whose rows are read and tokenised together
LONGEST_UNIT = 64  # characters; longer ones hardly come twice, so their ids are not kept


class Composer:
    """Encodes stretches of a mixture's stream. Equal to `encode_prompts` over `mixture.prompts`."""

    def __init__(self, mixture: Mixture, store: ExampleStore, tokenizer: Tokenizer, tokens: TokenStore) -> None:
        self._mixture = mixture
        self._store = store
        self._tokenizer = tokenizer
        self._tokens = tokens
        self._worder = Worder(mixture, store, tokens)
        self._format_names: dict[Format, str] = {}
        self._unchecked = CHECKED
        self._drawn: tuple[range, list[Draw]] = range(0), []

    def close(self) -> None:
        """Save and close the token store."""
        self._tokens.close()

    def prepare(self, start: int, stop: int) -> None:
        """Tokenise what examples start <= i < stop need and the store lacks. Many at once cost least."""
        self._drawn = range(start, stop), list(self._mixture.draws(start, stop))
        if self._fill(self._drawn[1]):
            self._tokens.save()

    def _draws(self, start: int, stop: int) -> list[Draw]:
        """The draws of a stretch, their rows tokenised; reading on, ever longer stretches are prepared at a time."""
        known, draws = self._drawn
        if not (known.start <= start and stop <= known.stop):
            follows = known.stop == start and len(known) > 0
            ahead = min(MOST_AHEAD, 2 * len(known)) if follows else 0
            self.prepare(start, max(stop, start + ahead))
            known, draws = self._drawn
        return draws[start - known.start : stop - known.start]

    def _fill(self, draws: Iterable[Draw]) -> int:
        return self._tokens.fill(_rows_of(draws))

    def encode(self, start: int, stop: int, *, inputs_len: int, targets_len: int, few_shot_margin: int) -> EncodedBatch:
        """Examples start <= i < stop of the stream, trimmed, pruned and ended with EOS."""
        with _no_garbage_collection():
            draws = self._draws(start, stop)
        return self.encode_draws(draws, inputs_len=inputs_len, targets_len=targets_len, few_shot_margin=few_shot_margin)

    def encode_draws(
        self, draws: Sequence[Draw], *, inputs_len: int, targets_len: int, few_shot_margin: int
    ) -> EncodedBatch:
        """The same of any draws, whose indices are different and ascend."""
        lengths = {"inputs_len": inputs_len, "targets_len": targets_len, "few_shot_margin": few_shot_margin}
        with _no_garbage_collection():
            batch = self._composed(draws, **lengths)
        if self._unchecked > 0 and draws:
            self._check(batch, draws[: self._unchecked], lengths)
        self._tokens.give_back()
        return batch

    def _composed(self, draws: Sequence[Draw], inputs_len: int, targets_len: int, few_shot_margin: int) -> EncodedBatch:
        self._tokens.look_up(_rows_of(draws))
        composed: list[Worded] = []
        rendered: set[int] = set()
        for draw in draws:
            try:
                made = self._worder.word(draw) if composes(draw.format) else None
            except TemplateError:
                made = None  # rendering says what is wrong with the row
            if made is None:
                rendered.add(draw.index)
            else:
                composed.append(made)
        budget = inputs_len - few_shot_margin
        self._prune([c for c in composed if c.exemplars and not _surely_fits(c, budget)], budget)
        dropped = [(c.draw.index, NO_EXEMPLAR_FITS) for c in composed if c.exemplars and not c.kept]
        kept = [c for c in composed if c.kept or not c.exemplars]
        batch = self._encoded(kept, inputs_len, targets_len, dropped)
        if rendered:
            by_text = encode_prompts(
                self._prompts(draw for draw in draws if draw.index in rendered),
                self._tokenizer.as_loaded,
                inputs_len=inputs_len,
                targets_len=targets_len,
                few_shot_margin=few_shot_margin,
            )
            batch = _joined(batch, by_text)
        return batch

    def _prompts(self, draws: Iterable[Draw]) -> list[Prompt]:
        return [self._mixture.prompt_of(draw, self._store) for draw in draws]

    def _check(self, batch: EncodedBatch, draws: Sequence[Draw], lengths: dict[str, int]) -> None:
        """Raises StateError where a composed example is not what its rendered text gives."""
        expected = encode_prompts(self._prompts(draws), self._tokenizer.as_loaded, **lengths)
        last = draws[-1].index
        got = {e.index: e for e in batch.examples if e.index <= last}
        for example in expected.examples:
            own = got.get(example.index)
            if own is None or not same_example(own, example):
                raise StateError(
                    f"index {example.index} of the stream (task '{example.task}', template '{example.template}'): the "
                    "ids composed from tokens are not those of the rendered text. Set tokens.reuse to false and "
                    "please report it with the tokenizer's name."
                )
        if dict(expected.dropped) != {i: why for i, why in batch.dropped if i <= last}:
            raise StateError(f"stream from {draws[0].index}: composing dropped other examples than rendering does.")
        self._unchecked -= len(draws)

    def _spans(self, texts: Iterable[tuple[list[Part], bool]]) -> _Spans:
        """Each text's spans; True strips blanks from its end, as `Prompt.inputs` does."""
        spans = _Spans()
        boundary, prefix, units = self._tokens.boundaries.cut.match, self._tokens.boundaries.prefix, self._tokens.units
        places, counts = spans.places, spans.counts
        for parts, strip in texts:
            open_unit = prefix
            empty = True
            for head, place, count, tail, first in parts:
                if first and open_unit and boundary(open_unit[-1] + first):
                    spans.close(open_unit, units)
                    open_unit = ""
                    empty = False
                if tail is None:
                    open_unit += head
                    continue
                # `close`, written out: most of all units end here
                unit = open_unit + head
                known = units.get(unit)
                if known is None:
                    spans.close(unit, units)
                else:
                    places.append(known[0])
                    counts.append(known[1])
                if count:
                    places.append(place)
                    counts.append(count)
                open_unit = tail
                empty = False
            if strip:
                open_unit = open_unit.rstrip(" ")
            # An empty text has no ids: nothing is put before it.
            if open_unit and not (empty and open_unit == prefix):
                spans.close(open_unit, units)
            spans.ends.append(len(places))
        return spans

    def _resolved(self, spans: _Spans) -> tuple[Tokens, Counts, Counts]:
        """(more ids, places, counts) with every unit known: short ones in the store, long ones behind its ids."""
        store = self._tokens
        fresh = list(spans.pending)
        short = [unit for unit in fresh if len(unit) <= LONGEST_UNIT]
        long = [unit for unit in fresh if len(unit) > LONGEST_UNIT]
        store.add_units(short)
        rows = store.boundaries.encode(long) if long else []
        more = np.concatenate([np.empty(0, dtype=np.int32), *rows])
        found = {}
        end = len(store.ids)
        for unit, row in zip(long, rows, strict=True):
            found[unit] = (end, len(row))
            end += len(row)
        places, counts = np.array(spans.places, dtype=np.int64), np.array(spans.counts, dtype=np.int64)
        if fresh:
            known = np.array([found.get(u) or store.units[u] for u in fresh], dtype=np.int64)
            open_ = places < 0
            numbers = -1 - places[open_]
            places[open_], counts[open_] = known[numbers, 0], known[numbers, 1]
        return more, places, counts

    def _prune(self, composed: Sequence[Worded], budget: int) -> None:
        """Exemplars to the budget, counted as `encode_prompts` counts: each piece on its own."""
        texts: list[tuple[list[Part], bool]] = []
        for one in composed:
            texts.append((one.instruction + one.query, True))
            for asked, answered, _ in one.exemplars:
                texts += [(asked, False), (answered, False)]
        spans = self._spans(texts)
        _, _, counts = self._resolved(spans)
        num_tokens = np.diff(np.concatenate([[0], np.cumsum(counts)])[np.array([0, *spans.ends], dtype=np.int64)])
        sizes = iter(num_tokens.tolist())
        for one in composed:
            query = next(sizes)
            one.kept = kept_exemplars(query, [next(sizes) + next(sizes) for _ in one.exemplars], budget)

    def _encoded(
        self, composed: Sequence[Worded], inputs_len: int, targets_len: int, dropped: list[tuple[int, str]]
    ) -> EncodedBatch:
        texts: list[tuple[list[Part], bool]] = []
        for one in composed:
            texts += [(one.inputs(), True), (one.target, False)]
        spans = self._spans(texts)
        more, places, counts = self._resolved(spans)
        ends = np.array(spans.ends, dtype=np.int64)
        limits = np.tile(np.array([inputs_len, targets_len], dtype=np.int64), len(composed))
        out, stops, totals = gather(self._tokens.ids, more, places, counts, ends, limits, self._tokenizer.eos_id)
        bounds = [0, *stops.tolist()]
        sizes = totals.tolist()
        names = self._format_names
        examples = []
        formats = []
        for k, one in enumerate(composed):
            draw = one.draw
            examples.append(
                Encoded(
                    inputs=out[bounds[2 * k] : bounds[2 * k + 1]],
                    targets=out[bounds[2 * k + 1] : bounds[2 * k + 2]],
                    index=draw.index,
                    task=draw.task,
                    template=one.template,
                    mixture=draw.mixture,
                    inputs_cut=max(0, sizes[2 * k] - (inputs_len - 1)),
                    targets_cut=max(0, sizes[2 * k + 1] - (targets_len - 1)),
                    exemplars_cut=len(one.exemplars) - one.kept,
                )
            )
            if draw.format not in names:
                names[draw.format] = format_name(draw.format)
            formats.append(names[draw.format])
        return EncodedBatch(examples=tuple(examples), dropped=tuple(dropped), formats=tuple(formats))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of small tuples are made and dropped, none in a cycle: looking for cycles takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _surely_fits(one: Worded, budget: int) -> bool:
    """Whether all exemplars fit, said without looking up the texts' ends: no ASCII character is more than a token."""
    most = 0
    for parts in (one.instruction, one.query, *(half for e in one.exemplars for half in e[:2])):
        most += 2
        for head, _, count, tail, _ in parts:
            if not (head.isascii() and (tail is None or tail.isascii())):
                return False
            most += count + len(head) + (len(tail) if tail is not None else 0) + 2
    return most <= budget


def _rows_of(draws: Iterable[Draw]) -> dict[str, list[int]]:
    """Rows whose texts the draws need, by task."""
    wanted: dict[str, list[int]] = {}
    for draw in draws:
        if composes(draw.format):
            rows = wanted.setdefault(draw.task, [])
            rows.append(draw.row)
            rows += [row for row, _ in draw.exemplars]
    return wanted


@dataclass(slots=True)
class _Spans:
    """Spans of texts, end to end: places in the store's ids, or -1 - k for unit k of those not yet tokenised."""

    places: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # of each text, in spans
    pending: dict[str, int] = field(default_factory=dict)

    def close(self, unit: str, units: dict[str, tuple[int, int]]) -> None:
        known = units.get(unit)
        if known is not None:
            self.places.append(known[0])
            self.counts.append(known[1])
        else:
            self.places.append(-1 - self.pending.setdefault(unit, len(self.pending)))
            self.counts.append(0)


def same_example(a: Encoded, b: Encoded) -> bool:
    """Whether two encoded examples are equal in everything, ids included."""
    arrays = np.array_equal(a.inputs, b.inputs) and np.array_equal(a.targets, b.targets)
    return arrays and all(
        getattr(a, f.name) == getattr(b, f.name) for f in fields(Encoded) if f.name not in ("inputs", "targets")
    )


def _joined(a: EncodedBatch, b: EncodedBatch) -> EncodedBatch:
    """Two batches as one, in the stream's order."""
    both = [*zip(a.examples, a.formats, strict=True), *zip(b.examples, b.formats, strict=True)]
    both.sort(key=lambda pair: pair[0].index)
    return EncodedBatch(
        examples=tuple(example for example, _ in both),
        dropped=tuple(sorted((*a.dropped, *b.dropped))),
        formats=tuple(name for _, name in both),
    )
