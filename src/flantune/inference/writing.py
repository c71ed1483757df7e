"""Continuous batching: rows that end leave the batch and others take their place; when memory runs out, some wait."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch

from flantune.inference.drafts import AHEAD, Repeats
from flantune.inference.logits import Logits
from flantune.inference.memory import Budget, out_of_memory
from flantune.inference.requests import GenerateRequest
from flantune.inference.sampling import Draw, next_tokens
from flantune.inference.stops import StopStrings
from flantune.inference.writers import Checker, Writer

_SMALLEST = 16  # tokens: a prompt is not read in shorter parts than this
_REFILL = (
    8  # new rows are read in when an eighth of the rows are free: reading a few at a time costs more than it saves
)
# Of the rows must be sure of what they will say before any are asked about several tokens: a step of eight, padded for
# all, takes two to three times as long as one of one, and those that are not sure need as many steps as before. With a
# quarter in place of three, texts of which some go in circles took a third longer.
_MANY = 0.75


@dataclass(slots=True)
class Row:
    """One text being written."""

    request: int
    sample: int
    told: list[int] = field(default_factory=list)
    fed: int = 0  # of `told`, how many the model has been given; less than all where a row had to begin again
    repeats: Repeats = field(default_factory=Repeats)

    @property
    def next_input(self) -> int | None:
        return self.told[self.fed - 1] if self.fed else None

    @property
    def is_behind(self) -> bool:
        """It is given again what it has told."""
        return self.fed < len(self.told)

    def tell(self, token: int) -> None:
        self.told.append(token)
        self.repeats.saw(self.told)

    def next_inputs(self, room: int) -> list[int]:
        """The next input and what is guessed to come after it; `room`: tokens that it may still tell."""
        if self.is_behind:
            return self.told[self.fed - 1 : -1][: AHEAD + 1]
        guessed = self.repeats.ahead(self.told, min(AHEAD, room - 1)) if self.repeats.are_sure else []
        return [self.told[-1], *guessed]


@dataclass(frozen=True, slots=True)
class Ending:
    """What ends a text besides its length."""

    eos_ids: frozenset[int]
    stops: StopStrings
    vocab_size: int  # ids past the tokenizer's are padding of the embedding table and spell nothing

    def is_reached(self, row: Row, request: GenerateRequest) -> bool:
        if len(row.told) >= request.max_new_tokens or row.told[-1] in self.eos_ids:
            return True
        return self.stops.is_reached(row.told, request.stop)


def _draw_of(request: GenerateRequest, row: Row, ahead: int = 0) -> Draw:
    return Draw(request.sampling, request.first + row.sample, len(row.told) + ahead)


class Writing:
    """`make_writer` is given how many rows each request's prompt will have; `held`: tokens whose keys and values may be
    kept for the rows at work; `guesses`: several tokens a step where texts go round in circles."""

    def __init__(
        self,
        make_writer: Callable[[Sequence[int]], Writer],
        requests: Sequence[GenerateRequest],
        ending: Ending,
        budget: Budget,
        held: int,
        device: torch.device,
        *,
        guesses: bool = True,
    ) -> None:
        self.make_writer, self.requests, self.ending = make_writer, requests, ending
        self.budget, self.held, self.device = budget, held, device
        self._left = [r.samples if r.max_new_tokens > 0 else 0 for r in requests]
        self._told: list[list[list[int]]] = [[[] for _ in range(r.samples)] for r in requests]
        self.writer = make_writer(self._left)
        self._guesses = guesses
        self.active: list[Row] = []
        self.waiting = deque(Row(r, sample) for r in self.writer.order() for sample in range(self._left[r]))

    def run(self) -> Iterator[tuple[int, list[list[int]]]]:
        """The index of every request as it is finished, and the tokens of its samples, EOS included."""
        for request, left in enumerate(self._left):
            if left == 0:
                yield request, self._told[request]
        while self.waiting or self.active:
            incoming = self._next_rows()
            if incoming:
                yield from self._let_in(incoming)
            else:
                yield from self._step()

    def _next_rows(self) -> list[Row]:
        """Rows to let in now: as many as there is room for."""
        free = self.budget.rows - len(self.active)
        if not self.waiting or free < max(1, min(len(self.waiting), self.budget.rows // _REFILL)):
            return []
        rows: list[Row] = []
        held = sum(self._tokens_of(row) for row in self.active)
        to_read: list[int] = []
        for row in self.waiting:
            held += self._tokens_of(row)
            to_read.append(row.request)
            alone = not rows and not self.active
            too_many = len(rows) >= free or held > self.held
            too_long = bool(rows) and self.writer.tokens_to_read(to_read) > self.budget.tokens
            if not alone and (too_many or too_long):
                break
            rows.append(row)
        return rows

    def _tokens_of(self, row: Row) -> int:
        return self.writer.tokens_held(row.request) + self.requests[row.request].max_new_tokens

    def _let_in(self, rows: list[Row]) -> Iterator[tuple[int, list[list[int]]]]:
        prompts = [row.request for row in rows]
        with out_of_memory(self.device) as error:
            logits = self.writer.add(prompts)
        if error:
            self._take_less(error[0], prompts)
            return
        for _ in rows:
            self.waiting.popleft()
        first = len(self.active)
        self.active += rows
        if logits is not None:
            yield from self._tell(logits, first)

    def _step(self) -> Iterator[tuple[int, list[list[int]]]]:
        if self._guesses and isinstance(self.writer, Checker) and self._are_many_sure():
            yield from self._check(self.writer)
            return
        with out_of_memory(self.device) as error:
            logits = self.writer.step([row.next_input for row in self.active])
        if error:
            self.budget.shrink(error[0], 1, len(self.active))
            self._send_back(self.budget.rows)
            return
        yield from self._tell(logits, 0)

    def _are_many_sure(self) -> bool:
        sure = sum(row.repeats.are_sure for row in self.active)
        return sure >= _MANY * len(self.active) and all(row.fed for row in self.active)

    def _check(self, writer: Checker) -> Iterator[tuple[int, list[list[int]]]]:
        """A step of several tokens for rows that are sure of what they will say."""
        inputs = [row.next_inputs(self.requests[row.request].max_new_tokens - len(row.told)) for row in self.active]
        with out_of_memory(self.device) as error:
            logits = writer.check(inputs)
        if error:
            self._guesses = False
            return
        draws = [
            _draw_of(self.requests[row.request], row, ahead)
            for row, given in zip(self.active, inputs, strict=True)
            for ahead in range(len(given))
        ]
        chosen = iter(next_tokens(logits, draws, self.ending.vocab_size))
        kept, ended = [], []
        for number, (row, given) in enumerate(zip(self.active, inputs, strict=True)):
            tokens, before = list(islice(chosen, len(given))), row.fed
            if row.is_behind:
                row.fed += len(given)
            elif self._tell_checked(row, given, tokens):
                ended.append(number)
            kept.append(row.fed - before)
        writer.keep(kept)
        for number in reversed(ended):
            yield from self._let_go(number)

    def _tell_checked(self, row: Row, given: Sequence[int], chosen: Sequence[int]) -> bool:
        """What the model would have told after each of the tokens given, as far as it was given what it would have
        told. Returns whether the text ends with it."""
        for token, guessed in zip(chosen, [*given[1:], None], strict=True):
            row.tell(token)
            row.fed += 1
            if self.ending.is_reached(row, self.requests[row.request]):
                return True
            if token != guessed:
                break
        return False

    def _take_less(self, error: BaseException, prompts: Sequence[int]) -> None:
        """Memory ran out on reading these prompts."""
        to_read = self.writer.tokens_to_read(prompts)
        if len(set(prompts)) > 1 and to_read > 1:
            self.budget.shrink(error, to_read)
        elif self.writer.splits and min(to_read, self.budget.tokens) > _SMALLEST:
            # One prompt is too long to be read at once: all over again, with prompts cut into shorter runs.
            self.budget.shrink(error, to_read)
            self._send_back(0)
            left = Counter(row.request for row in self.waiting)
            self.writer = self.make_writer([left[r] for r in range(len(self.requests))])
        else:
            self.budget.shrink(error, 1, 2 * len(self.active) if self.active else len(set(prompts)))

    def _send_back(self, first: int) -> None:
        """The rows from `first` on wait again, and will be given what they have told before they go on."""
        for number in reversed(range(first, len(self.active))):
            self.writer.drop(number)
            row = self.active.pop()
            row.fed = 0
            self.waiting.appendleft(row)

    def _tell(self, logits: Logits, first: int) -> Iterator[tuple[int, list[list[int]]]]:
        """Give each row from `first` on its next token, and let go of those that end with it."""
        rows = self.active[first:]
        new = [i for i, row in enumerate(rows) if not row.is_behind]
        if new:
            chosen = logits if len(new) == len(rows) else logits.of(new)
            draws = [_draw_of(self.requests[r.request], r) for r in (rows[i] for i in new)]
            for i, token in zip(new, next_tokens(chosen, draws, self.ending.vocab_size), strict=True):
                rows[i].tell(token)
        for row in rows:
            row.fed += 1
        told_now = set(new)
        for i in reversed(range(len(rows))):
            row = rows[i]
            if i in told_now and self.ending.is_reached(row, self.requests[row.request]):
                yield from self._let_go(first + i)

    def _let_go(self, number: int) -> Iterator[tuple[int, list[list[int]]]]:
        row = self.active[number]
        self.writer.drop(number)
        self.active[number] = self.active[-1]
        self.active.pop()
        self.writer.finish(row.request)
        self._told[row.request][row.sample] = row.told
        self._left[row.request] -= 1
        if self._left[row.request] == 0:
            yield row.request, self._told[row.request]
