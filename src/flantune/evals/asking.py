"""Dialogues with a backend, many at once: what one needs next is asked together with what all the others need.

A dialogue yields requests and is sent their answers, until it returns. All requests that wait at one moment are one
call of the backend, so that it can share what they have in common; what the journal or the store knows is not asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from flantune.errors import RecipeError
from flantune.evals.journal import Journal
from flantune.inference.answers import AnswerStore, Given, Request
from flantune.inference.backends import Backend, Refused
from flantune.inference.requests import GenerateRequest, Scored, ScoreRequest

T = TypeVar("T")
Dialogue = Generator[Sequence[Request], Sequence[Given], T]


def converse(
    backend: Backend,
    dialogues: Sequence[Dialogue[T]],
    journal: Journal,
    store: AnswerStore | None,
    on_end: Callable[[int], None] = lambda index: None,
) -> list[T]:
    """What the dialogues returned, in their order. `on_end` hears of each by its place when it is over."""
    talk = _Talk(dialogues, journal, on_end)
    while talk.waiting:
        wanted = talk.take_wanted()
        unknown = []
        for request in wanted:
            given = journal.get(request) or _stored(request, backend, journal, store)
            if given is None:
                unknown.append(request)
            else:
                talk.answer(request, given)
        for request, given in _ask_rest(backend, unknown, journal, store):
            journal.add(request, given)
            if store is not None:
                store.put(backend.identity, request, given)
            talk.answer(request, given)
    return talk.returned()


class _Talk:
    """Which dialogues wait for which answers."""

    def __init__(self, dialogues: Sequence[Dialogue[Any]], journal: Journal, on_end: Callable[[int], None]) -> None:
        self._dialogues, self._journal, self._on_end = dialogues, journal, on_end
        self._asked: dict[int, list[Request]] = {}  # by dialogue: what it waits for
        self._answers: dict[int, dict[str, Given]] = {}  # by dialogue: what it has got of that
        self._waiters: dict[str, list[int]] = defaultdict(list)
        self._results: dict[int, Any] = {}
        for index in range(len(dialogues)):
            self._advance(index, None)

    @property
    def waiting(self) -> bool:
        return bool(self._asked)

    def take_wanted(self) -> list[Request]:
        """Every request that is waited for, once, in the order of the dialogues; of several sizes the largest."""
        wanted: dict[str, Request] = {}
        for requests in self._asked.values():
            for request in requests:
                key = self._journal.key(request)
                known = wanted.get(key)
                if known is None or _size(request) > _size(known):
                    wanted[key] = request
        return list(wanted.values())

    def answer(self, request: Request, given: Given) -> None:
        key = self._journal.key(request)
        for index in self._waiters.pop(key, ()):
            self._answers[index][key] = given
            keys = [self._journal.key(r) for r in self._asked[index]]
            if all(k in self._answers[index] for k in keys):
                requests = self._asked.pop(index)
                got = self._answers.pop(index)
                self._advance(index, [_part(r, got[k]) for r, k in zip(requests, keys, strict=True)])

    def _advance(self, index: int, answers: list[Given] | None) -> None:
        try:
            dialogue = self._dialogues[index]
            requests = next(dialogue) if answers is None else dialogue.send(answers)
        except StopIteration as done:
            self._results[index] = done.value
            self._on_end(index)
            return
        self._asked[index], self._answers[index] = list(requests), {}
        for key in dict.fromkeys(self._journal.key(r) for r in requests):
            self._waiters[key].append(index)

    def returned(self) -> list[Any]:
        return [self._results[index] for index in range(len(self._dialogues))]


def _size(request: Request) -> int:
    return request.samples if isinstance(request, GenerateRequest) else 1


def _part(request: Request, given: Given) -> Given:
    """The request's own samples of an answer that has more."""
    if not isinstance(request, GenerateRequest) or given.refused or len(given.texts) == request.samples:
        return given
    return Given(
        texts=given.texts[: request.samples],
        truncated=given.truncated,
        prompt_tokens=given.prompt_tokens,
        new_tokens=round(given.new_tokens * request.samples / len(given.texts)),
        reused=given.reused,
    )


def _stored(request: Request, backend: Backend, journal: Journal, store: AnswerStore | None) -> Given | None:
    given = None if store is None else store.get(backend.identity, request)
    if given is not None:
        journal.add(request, given)
    return given


def _ask_rest(
    backend: Backend, requests: Sequence[Request], journal: Journal, store: AnswerStore | None
) -> Iterator[tuple[Request, Given]]:
    """As `_ask`, but samples that are known are not drawn again, where the backend draws them by number."""
    asked: dict[int, tuple[Request, Given]] = {}
    rest: list[Request] = []
    for request in requests:
        begun = _begun(request, backend, journal, store)
        if begun is None or not isinstance(request, GenerateRequest):
            rest.append(request)
            continue
        had = len(begun.texts)
        rest.append(replace(request, first=request.first + had, samples=request.samples - had))
        asked[id(rest[-1])] = (request, begun)
    for request, given in _ask(backend, rest):
        whole, begun = asked.get(id(request), (request, None))
        yield whole, given if begun is None else begun.joined(given)


def _begun(request: Request, backend: Backend, journal: Journal, store: AnswerStore | None) -> Given | None:
    """The first samples of an answer of which some are lacking."""
    if not isinstance(request, GenerateRequest) or not backend.capabilities.numbered:
        return None
    found = [journal.begun(request), None if store is None else store.begun(backend.identity, request)]
    begun = [given for given in found if given is not None and given.texts]
    return max(begun, key=lambda given: len(given.texts), default=None)


def _ask(backend: Backend, requests: Sequence[Request]) -> Iterator[tuple[Request, Given]]:
    """Scored requests first: they are quick, and their results appear early."""
    scored = [r for r in requests if isinstance(r, ScoreRequest)]
    told = [r for r in requests if isinstance(r, GenerateRequest)]
    if scored and not backend.capabilities.score:
        raise RecipeError(
            "this backend gives no log-probabilities of stated options. Let it write its answers: give --generate."
        )
    if not backend.capabilities.sampling and any(r.sampling.temperature > 0 for r in told):
        raise RecipeError("this backend does not sample: ask it at temperature 0.")
    for s in backend.score(scored) if scored else ():
        yield scored[s.index], _given(s)
    for g in backend.generate(told) if told else ():
        yield told[g.index], _given(g)


def _given(answer: Any) -> Given:
    if isinstance(answer, Refused):
        return Given(refused=answer.reason)
    if isinstance(answer, Scored):
        return Given(scores=tuple(answer.scores), truncated=answer.truncated, prompt_tokens=answer.prompt_tokens)
    return Given(
        texts=tuple(answer.texts),
        truncated=answer.truncated,
        prompt_tokens=answer.prompt_tokens,
        new_tokens=answer.new_tokens,
    )
