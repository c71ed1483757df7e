"""How a benchmark's answers come about: scored or written, once or in several samples, and which sample stands."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from flantune.errors import RecipeError
from flantune.evals.benchmark import Benchmark, Extraction, Reading, read
from flantune.evals.extract import UNREAD
from flantune.evals.selection import (
    HINTED,
    SAMPLES,
    TEMPERATURE,
    TOP_K,
    best_of,
    complexity_vote,
    majority_vote,
    read_samples,
    same_of,
)
from flantune.inference.requests import GREEDY, Sampling
from flantune.recipe import BenchmarkSpec
from flantune.types import Item

Select = Literal["one", "majority", "complexity", "best-of", "hints"]
SHARE_KEPT = 0.5  # of the samples, the longest, that vote under complexity-based selection
OWN_SCORERS = ("logprob", "length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """`scorer` of best-of: logprob (mean log-probability of a token under the model itself), length (characters), or
    a Python file that defines score(prompt, output) -> float or None."""

    samples: int = 1
    sampling: Sampling = GREEDY
    select: Select = "one"
    scorer: str = "logprob"
    keep: int = 0  # samples that vote under complexity-based selection
    hints: int = HINTED  # times a question is asked again with hints, at most

    def sampling_of(self, prompt: str) -> Sampling:
        """With a seed of the prompt's own: items that shared their random numbers would err together."""
        if self.sampling.temperature == 0:
            return self.sampling
        digest = hashlib.blake2b(f"{self.sampling.seed}:{prompt}".encode(), digest_size=8).digest()
        return replace(self.sampling, seed=int.from_bytes(digest, "little") >> 33)  # 31 bits, as servers take

    @property
    def told(self) -> list[str]:
        """What of it is not the usual greedy answer, for a setting's name: ["majority-40", "t0.5"]."""
        drawn = self.sampling
        words = []
        if self.select == "hints":
            words.append(f"hints-{self.hints}")
        elif self.select == "best-of":
            words.append(f"best-of-{self.samples}-{Path(self.scorer).stem}")
        elif self.select == "complexity":
            words.append(f"complexity-{self.keep}-of-{self.samples}")
        elif self.samples > 1:
            words.append(f"majority-{self.samples}")
        elif drawn.temperature > 0:
            words.append("sampled")
        if drawn.temperature > 0:
            words += [f"t{drawn.temperature:g}"] * (drawn.temperature != TEMPERATURE)
            words += [f"k{drawn.top_k or 'all'}"] * (drawn.top_k != TOP_K)
            words += [f"p{drawn.top_p:g}"] if drawn.top_p is not None else []
        return words


ONE_ANSWER = Decoding()


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """All samples of an item, what was read out of each, and which stands."""

    texts: tuple[str, ...]
    answers: tuple[str | None, ...]
    values: tuple[float | None, ...] = ()  # by the scorer of best-of
    votes: int | None = None  # for the answer that stands; None where nothing was voted on
    voters: int | None = None  # samples with a readable answer that had a vote
    chosen: int | None = None  # place of the sample that stands; None where none could be read

    @property
    def agreement(self) -> float | None:
        return self.votes / self.voters if self.votes is not None and self.voters else None


def decoding_of(spec: BenchmarkSpec, seed: int) -> Decoding:
    """What a recipe's entry or a command's options ask for; spec 6.8 where they leave it open."""
    several = spec.select in ("majority", "complexity", "best-of")
    samples = spec.samples if spec.samples is not None else (SAMPLES if several else 1)
    select: Select = spec.select or ("majority" if samples > 1 else "one")
    where = f"benchmark {spec.name}"
    if select == "hints" and samples > 1:
        raise RecipeError(f"{where}: hints are asked one answer at a time; leave samples out.")
    if several and samples < 2:
        raise RecipeError(f"{where}: select '{select}' chooses among samples: give samples 2 or more, got {samples}.")
    if spec.scorer != "logprob" and select != "best-of":
        raise RecipeError(f"{where}: a scorer is for select 'best-of', not '{select}'.")
    if spec.keep is not None and (select != "complexity" or spec.keep > samples):
        raise RecipeError(f"{where}: keep {spec.keep}: expected 1 to {samples}, with select 'complexity' alone.")
    temperature = spec.temperature if spec.temperature is not None else (TEMPERATURE if samples > 1 else 0.0)
    if samples > 1 and temperature == 0:
        raise RecipeError(f"{where}: {samples} samples at temperature 0 would all be one; give a temperature above 0.")
    if temperature == 0 and (spec.top_k is not None or spec.top_p is not None):
        raise RecipeError(f"{where}: top_k and top_p say how tokens are drawn; give a temperature above 0 too.")
    sampling = GREEDY
    if temperature > 0:
        top_k = TOP_K if spec.top_k is None else spec.top_k or None  # 0: all tokens
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=spec.top_p, seed=seed)
    keep = (spec.keep or math.ceil(samples * SHARE_KEPT)) if select == "complexity" else 0
    if select == "best-of":
        load_scorer(spec.scorer)  # what is wrong with it is said before anything is asked
    return Decoding(samples=samples, sampling=sampling, select=select, scorer=spec.scorer, keep=keep)


def load_scorer(name: str) -> Callable[[str, str], float | None] | None:
    """A scorer of prompt and output; None for logprob, which asks the model. Raises RecipeError."""
    if name == "logprob":
        return None
    if name == "length":
        return lambda prompt, output: float(len(output))
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise RecipeError(f"scorer '{name}': expected {', '.join(OWN_SCORERS)}, or a Python file that is there.")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as e:  # whatever the user's own file raises
        raise RecipeError(f"{path}: cannot be run: {type(e).__name__}: {e}") from e
    score: Any = getattr(module, "score", None)
    if not callable(score):
        raise RecipeError(f"{path}: defines no function score(prompt, output).")

    def checked(prompt: str, output: str) -> float | None:
        try:
            value = score(prompt, output)
            told = None if value is None else float(value)
        except Exception as e:
            raise RecipeError(f"{path}: score(prompt, output): {type(e).__name__}: {e}") from e
        if told is not None and math.isnan(told):
            raise RecipeError(f"{path}: score(prompt, output): expected a number or None, came nan.")
        return told

    return checked


def choose(
    decoding: Decoding,
    benchmark: Benchmark,
    item: Item,
    texts: Sequence[str],
    values: Sequence[float | None] = (),
    reading: Reading = "default",
) -> tuple[str, Extraction, Samples]:
    """The output that stands, what is read out of it, and all samples. Samples without an answer have no vote."""
    answers = read_samples(benchmark, item, texts, reading)
    common: dict[str, Any] = {"texts": tuple(texts), "answers": tuple(answers), "values": tuple(values)}
    if decoding.select in ("majority", "complexity"):
        if decoding.select == "complexity":
            vote = complexity_vote(texts, answers, decoding.keep, same_of(benchmark))
        else:
            vote = majority_vote(answers, same_of(benchmark))
        samples = Samples(votes=vote.votes, voters=vote.voters, chosen=vote.chosen, **common)
        if vote.answer is None or vote.chosen is None:
            return texts[0], Extraction(None, UNREAD), samples
        return texts[vote.chosen], Extraction(vote.answer, decoding.select), samples
    if decoding.select == "best-of":
        liked = [v if a is not None else None for v, a in zip(values, answers, strict=True)]
        place = _best(liked)
        if place is None:  # the scorer has nothing to say: the first that can be read
            place = next((i for i, a in enumerate(answers) if a is not None), None)
    else:  # hints: the last that could be read stands
        place = max((i for i, a in enumerate(answers) if a is not None), default=None)
    samples = Samples(chosen=place, **common)
    chosen = texts[place if place is not None else 0]
    return chosen, read(benchmark, item, chosen, reading), samples


def _best(values: Sequence[float | None]) -> int | None:
    return best_of([str(i) for i in range(len(values))], lambda place: values[int(place)])
