"""Plain text as training examples: T5's span corruption, UL2's mixture, prefix splits, plain language modelling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from flantune.errors import ModelError, RecipeError
from flantune.recipe import ObjectiveSpec
from flantune.types import Encoded, Tokens

TASK = "pretrain"


def windows(docs: Iterable[Tokens], window: int, eos_id: int) -> Iterator[Tokens]:
    """Documents joined, EOS after each, cut into windows of `window` tokens; the last one may be shorter, from 2 up."""
    waiting: list[Tokens] = []
    count = 0
    for doc in docs:
        waiting.append(np.append(doc, np.int32(eos_id)).astype(np.int32, copy=False))
        count += len(waiting[-1])
        if count < window:
            continue
        joined = np.concatenate(waiting)
        whole = count // window * window
        yield from joined[:whole].reshape(-1, window)
        waiting, count = [joined[whole:]], count - whole
    if count >= 2:  # one token leaves nothing to predict it from
        yield np.concatenate(waiting)


def pretraining_example(
    tokens: Tokens,
    index: int,
    *,
    seed: int,
    spec: ObjectiveSpec,
    eos_id: int,
    sentinel_ids: Sequence[int],
    mode_ids: Mapping[str, int] | None = None,
    kind: Literal["encoder-decoder", "causal"] = "encoder-decoder",
    task: str = TASK,
) -> Encoded:
    """The window at place `index` of the stream as an example, a function of its arguments alone.

    `spec.objective` says what is asked of it (`chosen_objective`); of span corruption, `spec.prefix_share` of the
    examples are split at a random place instead. ul2 and ul2r: flantune.tokens.ul2. In a decoder's row, where the
    inputs run into the targets, no EOS stands between them; plain language modelling has no inputs at all.
    """
    rng = keyed_generator(seed, index, task)
    objective = chosen_objective(spec, kind)
    joined = kind == "causal"
    if objective == "lm":
        inputs, targets = np.empty(0, dtype=np.int32), tokens.astype(np.int32, copy=False)
        template = "lm"
    elif objective in ("ul2", "ul2r"):
        from flantune.tokens.ul2 import denoised

        inputs, targets, template = denoised(tokens, index, spec, seed, eos_id, sentinel_ids, mode_ids or {}, rng)
    elif objective == "prefix" or rng.random() < spec.prefix_share:
        (inputs, targets), template = prefix_split(tokens, eos_id, rng), "prefix"
    else:
        inputs, targets = span_corrupt(tokens, spec.noise_density, spec.mean_span, sentinel_ids, eos_id, rng)
        template = "span_corruption"
    if joined and len(inputs):
        inputs = inputs[:-1]
        if template in ("prefix", "S"):
            targets = targets[:-1]  # the text goes on after the window, and has its own EOS where it ends
    return Encoded(inputs=inputs, targets=targets, index=index, task=task, template=template, mixture=task)


def chosen_objective(
    spec: ObjectiveSpec, kind: Literal["encoder-decoder", "causal"]
) -> Literal["span_corruption", "prefix", "lm", "ul2", "ul2r"]:
    """What auto comes to. Raises RecipeError for plain language modelling of an encoder-decoder."""
    if spec.objective == "auto":
        return "lm" if kind == "causal" else "span_corruption"
    if spec.objective == "lm" and kind != "causal":
        raise RecipeError("objective: lm: expected a decoder; an encoder-decoder needs inputs, as 'prefix' gives it.")
    return spec.objective


def longest_sides(spec: ObjectiveSpec, kind: Literal["encoder-decoder", "causal"], window: int) -> tuple[int, int]:
    """Tokens of inputs and targets that any example of a window has at most, T5's arithmetic; EOS counted."""
    objective = chosen_objective(spec, kind)
    if objective == "lm":
        return 0, window
    if objective in ("ul2", "ul2r"):
        from flantune.tokens.ul2 import denoisers

        mixture = denoisers(spec)
        pairs = [_corrupted(window, d.noise_density, d.mean_span) for d in mixture if d.kind != "S"]
        pairs += [(window, window)] * any(d.kind == "S" for d in mixture)
        return max(a for a, _ in pairs) + 1, max(b for _, b in pairs)  # and the mode token
    split = [(window, window)] if objective == "prefix" or spec.prefix_share > 0 else []
    corrupted = [_corrupted(window, spec.noise_density, spec.mean_span)] if objective == "span_corruption" else []
    return max(a for a, _ in [*split, *corrupted]), max(b for _, b in [*split, *corrupted])


def _corrupted(window: int, noise_density: float, mean_span: float) -> tuple[int, int]:
    num_noise, num_spans = noise_counts(window, noise_density, mean_span)
    return window - num_noise + num_spans + 1, num_noise + num_spans + 1


def keyed_generator(seed: int, index: int, name: str = TASK) -> np.random.Generator:
    """Equal keys give equal draws, on any machine and in any order."""
    digest = hashlib.blake2b(f"{name}:{seed}:{index}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def span_corrupt(
    tokens: Tokens,
    noise_density: float,
    mean_span: float,
    sentinel_ids: Sequence[int],
    eos_id: int,
    rng: np.random.Generator,
) -> tuple[Tokens, Tokens]:
    """T5's denoising pair, both ended with EOS. Raffel et al. 2020, 3.1.4.

    tokens a b c d e f, noise b c and e:   inputs a <0> d <1> f </s>    targets <0> b c <1> e </s>
    """
    noise = spans_noise_mask(len(tokens), noise_density, mean_span, rng)
    num_spans = int(np.count_nonzero(np.diff(noise.astype(np.int8)) == 1))
    if num_spans > len(sentinel_ids):
        raise ModelError(
            f"span corruption of a window of {len(tokens)} tokens: expected at least {num_spans} sentinel tokens "
            f"(<extra_id_0>, ...) in the tokenizer, got {len(sentinel_ids)}. Use a tokenizer with sentinels, a smaller "
            "pretrain.window or a larger pretrain.mean_span."
        )
    ids = np.asarray(sentinel_ids, dtype=np.int32)
    return _replace_spans(tokens, noise, ids, eos_id), _replace_spans(tokens, ~noise, ids, eos_id)


def spans_noise_mask(
    length: int, noise_density: float, mean_span: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """(length,) True on noise. T5's random_spans_noise_mask: kept and noise spans alternate, the first one is kept.

    Counts are rounded half to even in float32, as T5 does; both kinds of span are random partitions into non-empty
    parts. One difference: no more spans than kept tokens, where T5's arithmetic would run out of them.
    """
    if length < 2:
        raise ValueError(f"span corruption needs at least 2 tokens, got {length}")
    num_noise, num_spans = noise_counts(length, noise_density, mean_span)
    num_kept = length - num_noise
    noise_lengths = random_partition(num_noise, num_spans, rng)
    kept_lengths = random_partition(num_kept, num_spans, rng)
    spans = np.stack([kept_lengths, noise_lengths], axis=1).reshape(-1)
    return np.repeat(np.arange(len(spans)) % 2 == 1, spans)


def noise_counts(length: int, noise_density: float, mean_span: float) -> tuple[int, int]:
    """Noise tokens and spans of a window."""
    num_noise = int(np.round(np.float32(length) * np.float32(noise_density)))
    num_noise = min(max(num_noise, 1), length - 1)
    num_spans = max(int(np.round(np.float32(num_noise) / np.float32(mean_span))), 1)
    return num_noise, min(num_spans, length - num_noise)


def random_partition(items: int, parts: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Sizes of `parts` non-empty parts that sum to `items`, all such lists equally likely."""
    cuts = np.zeros(items - 1, dtype=bool)
    cuts[: parts - 1] = True
    rng.shuffle(cuts)
    ends = np.append(np.flatnonzero(cuts) + 1, items)
    return np.diff(ends, prepend=0)


def prefix_split(tokens: Tokens, eos_id: int, rng: np.random.Generator) -> tuple[Tokens, Tokens]:
    """Beginning and end of the window, split at a uniformly random place, at least one token each; EOS on both."""
    if len(tokens) < 2:
        raise ValueError(f"a prefix split needs at least 2 tokens, got {len(tokens)}")
    at = int(rng.integers(1, len(tokens)))
    eos = np.int32(eos_id)
    return np.append(tokens[:at], eos).astype(np.int32), np.append(tokens[at:], eos).astype(np.int32)


def _replace_spans(tokens: Tokens, masked: npt.NDArray[np.bool_], sentinels: Tokens, eos_id: int) -> Tokens:
    """Every run of `masked` becomes the next sentinel."""
    starts = masked & ~np.append(False, masked[:-1])
    replaced = tokens.astype(np.int32, copy=True)
    replaced[starts] = sentinels[: np.count_nonzero(starts)]
    return np.append(replaced[starts | ~masked], np.int32(eos_id)).astype(np.int32)
