"""Whoever answers: our engine, vLLM, a server, a mock. One small protocol, so that an evaluation knows none of them.

A backend's `identity` and a request together are all that an answer depends on: what both name alike is asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from flantune.inference.requests import Generated, GenerateRequest, Scored, ScoreRequest

if TYPE_CHECKING:
    from flantune.inference.engine import Engine
    from flantune.tokens.tokenizer import Tokenizer

ENGINE = 1  # raised whenever the engine's answers change: those kept from before are then asked again
BackendName = Literal["ours", "vllm", "openai", "mock"]
ChatTemplate = Callable[[list[dict[str, str]]], str]  # messages to the prompt of a request with `special`


@dataclass(frozen=True, slots=True)
class Capabilities:
    score: bool = True  # can give log-probabilities of stated options
    sampling: bool = True
    numbered: bool = False  # a sample depends on its number, so that `GenerateRequest.first` means something


@dataclass(frozen=True, slots=True)
class Refused:
    """A request this backend will never answer, as a prompt that a server finds too long."""

    index: int  # of the request
    reason: str


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost, in the user's currency."""

    prompt: float = 0.0
    new: float = 0.0

    def cost(self, prompt_tokens: int, new_tokens: int) -> float:
        return (prompt_tokens * self.prompt + new_tokens * self.new) / 1e6


class Backend(Protocol):
    """Answers come in no promised order, each as soon as it is known, with the index of its request."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, tokenizer and way of asking: whatever an answer depends on besides the request. Plain JSON values."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def chat_template(self) -> ChatTemplate | None:
        """None where the model has none."""
        ...

    @property
    def prices(self) -> Prices | None: ...

    def num_tokens(self, text: str) -> int | None:
        """Tokens of the text alone; None where nobody here knows."""
        ...

    def fits(self, prompt: str, *, special: bool = False) -> bool:
        """True also where nobody here knows; such a backend refuses what turns out too long."""
        ...

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Generated | Refused]: ...

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scored | Refused]: ...


class Local:
    """A tokenizer at hand: counts tokens, words chats. `max_inputs` None: everything fits."""

    def __init__(self, tokenizer: Tokenizer, max_inputs: int | None = None, prompt_eos: bool = False) -> None:
        self.tokenizer, self.max_inputs, self.prompt_eos = tokenizer, max_inputs, prompt_eos

    def num_tokens(self, text: str) -> int:
        return len(self.tokenizer.encode_batch([text])[0])

    def fits(self, prompt: str, *, special: bool = False) -> bool:
        if self.max_inputs is None:
            return True
        tokens = self.tokenizer.encode_batch([prompt], parse_special=special)[0]
        return len(tokens) + self.prompt_eos <= self.max_inputs

    @property
    def chat_template(self) -> ChatTemplate | None:
        if not self.tokenizer.has_chat_template:
            return None
        hf: Any = self.tokenizer.hf

        def apply(messages: list[dict[str, str]]) -> str:
            return str(hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

        return apply


class Ours(Local):
    """Our engine. `model` is a fingerprint of weights, configuration and tokenizer."""

    capabilities = Capabilities(numbered=True)
    prices: Prices | None = None

    def __init__(self, engine: Engine, model: str) -> None:
        self.engine = engine
        super().__init__(engine.tokenizer, engine.max_inputs, engine.prompt_eos)
        self.identity: Mapping[str, Any] = engine_identity(
            model, engine.family, engine.max_inputs, engine.prompt_eos, engine.precision, engine.prompt_bos
        )

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Generated | Refused]:
        return self.engine.generate(requests)

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scored | Refused]:
        return self.engine.score(requests)


def engine_identity(
    model: str, family: str, max_inputs: int, prompt_eos: bool, precision: str, prompt_bos: int | None
) -> dict[str, Any]:
    return {
        "backend": "flantune",
        "engine": ENGINE,
        "model": model,
        "family": family,
        "max_inputs": max_inputs,
        "prompt_eos": prompt_eos,
        "prompt_bos": prompt_bos,
        "precision": precision,
    }
