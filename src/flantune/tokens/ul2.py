"""UL2's mixture of denoisers, each kind with a token of its own before its inputs. Tay et al. 2022; spec 7.5.

R   [NLU] a b <0> e f </s>    <0> c d </s>        short spans, little noise
X   [NLG] a <0> </s>          <0> b c d e f </s>  long spans, or much noise
S   [S2S] a b </s>            c d e f </s>        a split at a random place
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

from flantune.errors import ModelError
from flantune.mixtures.sequence import GOLDEN, WORD, name_key
from flantune.recipe import DenoiserSpec, ObjectiveSpec
from flantune.tokens.objectives import prefix_split, span_corrupt
from flantune.tokens.tokenizer import Tokenizer
from flantune.types import Tokens

# UL2R, spec 7.5: S half, R and X a quarter each. X is long spans or much noise, which we read as half and half.
UL2R = (
    DenoiserSpec(kind="S", share=0.5),
    DenoiserSpec(kind="R", share=0.25, mean_span=3, noise_density=0.15),
    DenoiserSpec(kind="X", share=0.125, mean_span=32, noise_density=0.15),
    DenoiserSpec(kind="X", share=0.125, mean_span=3, noise_density=0.5),
)
# UL2's seven, spec 7.5, in equal shares.
UL2 = (
    DenoiserSpec(kind="R", share=1, mean_span=3, noise_density=0.15),
    DenoiserSpec(kind="R", share=1, mean_span=8, noise_density=0.15),
    DenoiserSpec(kind="X", share=1, mean_span=3, noise_density=0.5),
    DenoiserSpec(kind="X", share=1, mean_span=8, noise_density=0.5),
    DenoiserSpec(kind="X", share=1, mean_span=64, noise_density=0.15),
    DenoiserSpec(kind="X", share=1, mean_span=64, noise_density=0.5),
    DenoiserSpec(kind="S", share=1),
)


def denoisers(spec: ObjectiveSpec) -> tuple[DenoiserSpec, ...]:
    """The recipe's own, else those of its objective."""
    return spec.denoisers or (UL2R if spec.objective == "ul2r" else UL2)


def denoiser_at(index: int, mixture: tuple[DenoiserSpec, ...], seed: int) -> DenoiserSpec:
    """Which one the example at `index` gets: each share is kept over any stretch of the stream, give or take a few."""
    place = (name_key("denoiser", seed) + index * GOLDEN) & WORD
    return mixture[int(np.searchsorted(_ends(mixture), np.uint64(place), side="right"))]


@lru_cache(maxsize=16)
def _ends(mixture: tuple[DenoiserSpec, ...]) -> np.ndarray:
    """Ends of all shares but the last one's, on the circle of 64-bit words."""
    total = sum(d.share for d in mixture)
    return np.array([int(part / total * 2**64) for part in list(accumulate(d.share for d in mixture))[:-1]], np.uint64)


def denoised(
    tokens: Tokens,
    index: int,
    spec: ObjectiveSpec,
    seed: int,
    eos_id: int,
    sentinel_ids: Sequence[int],
    mode_ids: Mapping[str, int],
    rng: np.random.Generator,
) -> tuple[Tokens, Tokens, str]:
    """Inputs and targets, both ended with EOS, and the denoiser's kind; the inputs begin with the kind's token."""
    chosen = denoiser_at(index, denoisers(spec), seed)
    if chosen.kind == "S":
        inputs, targets = prefix_split(tokens, eos_id, rng)
    else:
        inputs, targets = span_corrupt(tokens, chosen.noise_density, chosen.mean_span, sentinel_ids, eos_id, rng)
    if chosen.kind in mode_ids:
        inputs = np.append(np.int32(mode_ids[chosen.kind]), inputs).astype(np.int32)
    return inputs, targets, chosen.kind


def special_ids(spec: ObjectiveSpec, tokenizer: Tokenizer, where: str) -> tuple[tuple[int, ...], dict[str, int]]:
    """Ids of the sentinels, and of the mode tokens by kind. A sentinel that serves as a mode token marks no span.

    Raises ModelError where the tokenizer has no single token of a mode token's name.
    """
    vocabulary = tokenizer.hf.get_vocab()
    sentinels: list[int] = []
    while (piece := spec.sentinels.format(len(sentinels))) in vocabulary:
        sentinels.append(int(vocabulary[piece]))
    if spec.objective not in ("ul2", "ul2r"):
        return tuple(sentinels), {}
    kinds = {d.kind for d in denoisers(spec)}
    modes = {kind: token for kind, token in spec.mode_tokens.items() if kind in kinds}
    missing = sorted(token for token in modes.values() if token not in vocabulary)
    if missing:
        spare = spec.sentinels.format(len(sentinels) - 1) if sentinels else "one of its own"
        raise ModelError(
            f"{where}.mode_tokens: expected tokens of the tokenizer, got {', '.join(missing)}, which it does not have. "
            f"Name others it has (such as {spare}), add them to it, or set mode_tokens: {{}} to go without."
        )
    ids: dict[str, int] = {kind: int(vocabulary[token]) for kind, token in modes.items()}
    return tuple(s for s in sentinels if s not in ids.values()), ids
