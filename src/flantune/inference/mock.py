"""A backend without a model, for tests and dry runs: what it says follows from the words it is asked alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flantune.inference.backends import Capabilities, ChatTemplate, Prices, Refused
from flantune.inference.requests import Generated, GenerateRequest, Scored, ScoreRequest
from flantune.inference.stops import cut_at

Say = Callable[[str, int], str]  # prompt and sample to text


def hashed(*content: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(content).encode(), digest_size=6).digest())


def say_a_number(prompt: str, sample: int) -> str:
    """A short chain of thought whose answer is a number or a letter, or one time in ten no answer at all."""
    n = hashed(prompt, sample)
    if n % 10 == 0:
        return "I do not know."
    return f"Let me think.\nThe answer is {'ABCD'[n % 4] if '(A)' in prompt else n % 7}."


class Mock:
    """`max_inputs` counts white-space separated words. `on_answer` hears of every answer before it is given away."""

    capabilities = Capabilities(numbered=True)

    def __init__(
        self,
        name: str = "mock",
        *,
        say: Say = say_a_number,
        max_inputs: int | None = None,
        chat_template: ChatTemplate | None = None,
        prices: Prices | None = None,
        on_answer: Callable[[GenerateRequest | ScoreRequest], None] | None = None,
    ) -> None:
        self.identity: Mapping[str, Any] = {"backend": "mock", "model": name, "max_inputs": max_inputs}
        self.chat_template, self.prices = chat_template, prices
        self.asked: list[GenerateRequest | ScoreRequest] = []
        self._say, self._max_inputs, self._on_answer = say, max_inputs, on_answer

    def num_tokens(self, text: str) -> int:
        return len(text.split())

    def fits(self, prompt: str, *, special: bool = False) -> bool:
        return self._max_inputs is None or self.num_tokens(prompt) <= self._max_inputs

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Generated | Refused]:
        """Out of order, as real ones answer: longest prompts first."""
        for index in sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt)):
            request = requests[index]
            self._answering(request)
            texts = tuple(self._say(request.prompt, s) for s in range(request.first, request.first + request.samples))
            cut = tuple(cut_at(text, request.stop) for text in texts)
            new = sum(self.num_tokens(text) for text in cut)
            yield Generated(index, cut, not self.fits(request.prompt), self.num_tokens(request.prompt), new)

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scored | Refused]:
        for index, request in enumerate(requests):
            self._answering(request)
            scores = tuple(-(hashed(request.prompt, option) % 1000) / 100 - 0.01 for option in request.options)
            yield Scored(index, scores, not self.fits(request.prompt), self.num_tokens(request.prompt))

    def _answering(self, request: GenerateRequest | ScoreRequest) -> None:
        if self._on_answer:
            self._on_answer(request)
        self.asked.append(request)
