"""What a model is asked and what it answers: the nouns every backend shares. No torch here.

A request states everything its answer depends on besides the model, so that the answer can be found again by content.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy: the likeliest token, nothing drawn.

    A draw depends on the request's `seed`, the sample's number and the token's place alone, so that neither batching
    nor what else is asked changes it (up to float rounding).
    """

    temperature: float = 0.0
    top_k: int | None = None  # the k likeliest tokens alone; None: all
    top_p: float | None = None  # the fewest likeliest tokens that together reach this probability; None: all
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature {self.temperature}: expected at least 0")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k}: expected at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: expected a probability above 0")


GREEDY = Sampling()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    prompt: str
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()  # the text ends before the first of these
    samples: int = 1
    first: int = 0  # number of the first sample: 30 from 10 on are the last of 40
    sampling: Sampling = GREEDY
    special: bool = False  # control tokens spelled in the prompt are read as tokens: a chat template wrote it

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples {self.samples}: expected at least 1")
        if self.first < 0:
            raise ValueError(f"first {self.first}: expected the number of a sample, 0 or more")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(f"{self.samples} samples at temperature 0 would all be one text; give a temperature")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    prompt: str
    options: tuple[str, ...]
    special: bool = False

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("a request without options cannot be scored")


@dataclass(frozen=True, slots=True)
class Generated:
    index: int  # of the request
    texts: tuple[str, ...]  # one per sample
    truncated: bool  # the prompt was cut to what the model takes
    prompt_tokens: int = 0
    new_tokens: int = 0  # over all samples, each one's EOS counted

    @property
    def text(self) -> str:
        return self.texts[0]


@dataclass(frozen=True, slots=True)
class Scored:
    index: int
    scores: tuple[float, ...]  # summed log-probabilities of the options, nats; no EOS counted, no length division
    truncated: bool
    prompt_tokens: int = 0
