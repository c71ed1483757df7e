from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import ModelError
from flantune.recipe import PretrainSpec
from flantune.tokens.objectives import (
    keyed_generator,
    prefix_split,
    pretraining_example,
    random_partition,
    span_corrupt,
    spans_noise_mask,
    windows,
)

EOS = 1
SENTINELS = tuple(range(999, 899, -1))


@settings(deadline=None)
@given(
    docs=st.lists(st.lists(st.integers(2, 50), max_size=12), max_size=12),
    window=st.integers(2, 9),
)
def test_windows_hold_the_whole_stream_in_order(docs: list[list[int]], window: int) -> None:
    got = [w.tolist() for w in windows((np.array(d, dtype=np.int32) for d in docs), window, EOS)]
    stream = [t for d in docs for t in [*d, EOS]]
    if len(stream) % window == 1:
        stream.pop()  # one token alone is no window
    assert [t for w in got for t in w] == stream
    assert all(len(w) == window for w in got[:-1])


def restored(inputs: list[int], targets: list[int]) -> list[int]:
    """The text back: each sentinel in the inputs replaced by what follows it in the targets."""
    assert inputs[-1] == targets[-1] == EOS
    spans: dict[int, list[int]] = {}
    for token in targets[:-1]:
        if token in SENTINELS:
            assert token not in spans
            spans[token] = []
            current = token
        else:
            spans[current].append(token)
    assert list(spans) == list(SENTINELS[: len(spans)]) == [t for t in inputs if t in SENTINELS]
    assert all(spans.values())
    return [t for token in inputs[:-1] for t in spans.get(token, [token])]


@settings(deadline=None)
@given(
    length=st.integers(2, 300),
    density=st.floats(0.01, 0.9),
    mean_span=st.floats(1.0, 40.0),
    seed=st.integers(0, 2**40),
)
def test_de_corrupting_gives_the_text_back(length: int, density: float, mean_span: float, seed: int) -> None:
    tokens = np.arange(2, 2 + length, dtype=np.int32)
    if length * density / mean_span > 99:
        return
    inputs, targets = span_corrupt(tokens, density, mean_span, SENTINELS, EOS, keyed_generator(seed, 0))
    assert inputs.dtype == targets.dtype == np.int32
    assert restored(inputs.tolist(), targets.tolist()) == tokens.tolist()


@settings(deadline=None)
@given(length=st.integers(2, 600), density=st.sampled_from([0.15, 0.5]), mean_span=st.sampled_from([3.0, 8.0]))
def test_noise_tokens_and_spans_are_as_many_as_t5_rounds_to(length: int, density: float, mean_span: float) -> None:
    mask = spans_noise_mask(length, density, mean_span, keyed_generator(length, 1))
    num_noise = min(max(int(np.round(np.float32(length) * np.float32(density))), 1), length - 1)
    assert len(mask) == length and mask.sum() == num_noise
    assert not mask[0]  # the first span is kept, the last one is noise
    assert mask[-1]
    num_spans = int((np.diff(mask.astype(int)) == 1).sum())
    assert num_spans == max(int(np.round(np.float32(num_noise) / np.float32(mean_span))), 1)


def test_t5s_own_numbers_for_its_pretraining_window() -> None:
    """568 tokens at 0.15 and 3 become inputs of 512 and targets of 114, T5's published pair (both with EOS)."""
    tokens = np.arange(2, 570, dtype=np.int32)
    inputs, targets = span_corrupt(tokens, 0.15, 3.0, [10_000 - k for k in range(100)], EOS, keyed_generator(0, 0))
    assert (len(inputs), len(targets)) == (512, 114)


def test_partitions_are_all_equally_likely() -> None:
    rng = keyed_generator(3, 0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(6000):
        sizes = tuple(random_partition(5, 3, rng).tolist())
        counts[sizes] = counts.get(sizes, 0) + 1
    assert set(counts) == {(a, b, 5 - a - b) for a in range(1, 4) for b in range(1, 5 - a)}
    assert all(abs(n - 1000) < 150 for n in counts.values())  # 5 standard deviations


def test_too_few_sentinels_is_an_error_that_says_how_many() -> None:
    tokens = np.arange(2, 2050, dtype=np.int32)
    with pytest.raises(ModelError, match=r"at least 102 sentinel tokens .* got 100"):
        span_corrupt(tokens, 0.15, 3.0, SENTINELS, EOS, keyed_generator(0, 0))


@settings(deadline=None)
@given(length=st.integers(2, 50), seed=st.integers(0, 1000))
def test_a_prefix_split_leaves_something_on_both_sides(length: int, seed: int) -> None:
    tokens = np.arange(2, 2 + length, dtype=np.int32)
    inputs, targets = prefix_split(tokens, EOS, keyed_generator(seed, 0))
    assert inputs[-1] == targets[-1] == EOS and len(inputs) > 1 and len(targets) > 1
    assert [*inputs[:-1], *targets[:-1]] == tokens.tolist()


def test_an_example_depends_on_seed_and_index_alone() -> None:
    tokens = np.arange(2, 130, dtype=np.int32)
    spec = PretrainSpec(prefix_share=0.3)

    def make(index: int, seed: int = 0) -> tuple[str, list[int], list[int]]:
        e = pretraining_example(tokens, index, seed=seed, spec=spec, eos_id=EOS, sentinel_ids=SENTINELS)
        assert e.index == index
        return e.template, e.inputs.tolist(), e.targets.tolist()

    forwards = [make(i) for i in range(400)]
    assert [make(i) for i in reversed(range(400))] == forwards[::-1]
    assert make(7) != make(8) and make(7) != make(7, seed=1)
    share = sum(kind == "prefix" for kind, _, _ in forwards) / 400
    assert abs(share - 0.3) < 0.12  # 5 standard deviations


def test_a_causal_window_is_all_target() -> None:
    tokens = np.arange(2, 20, dtype=np.int32)
    e = pretraining_example(tokens, 0, seed=0, spec=PretrainSpec(), eos_id=EOS, sentinel_ids=(), kind="causal")
    assert len(e.inputs) == 0 and e.targets.tolist() == tokens.tolist()


def test_draws_are_the_same_on_every_machine() -> None:
    assert keyed_generator(0, 0).integers(0, 1000, 5).tolist() == [685, 190, 712, 934, 449]
