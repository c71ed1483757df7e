"""Shares held even: every example once, oldest first, within a long example of what was asked, and resumable."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.tokens.encode import EncodedBatch
from flantune.tokens.even import PRIOR_BLOCKS, SLACK, EvenShares
from flantune.types import Encoded

SHARES = {"long": 0.3, "short": 0.7}
BLOCK = 400
LONGEST = 400
Blocks = Callable[[int], EncodedBatch]


def blocks_of(seed: int, *, wrong: float = 1.0, size: int = BLOCK) -> Blocks:
    """Few long targets and many short ones, in the asked shares on average; `wrong` times as many long ones drawn.

    As in a real stream, what one block has too many of the next has too few.
    """

    def surplus(b: int) -> int:
        return int(np.random.default_rng([seed, b, 1]).integers(-2, 3))

    def block(b: int) -> EncodedBatch:
        rng = np.random.default_rng([seed, b])
        num_long = max(0, round(6 * wrong) + surplus(b) - surplus(b + 1))
        long = set(rng.permutation(size)[:num_long].tolist())
        examples = []
        for place in range(size):
            if place in long:
                mixture, length = "long", int(rng.integers(200, LONGEST + 1))
            elif rng.random() < 0.005:
                mixture, length = "text", 50
            else:
                mixture, length = "short", int(rng.integers(2, 20))
            tokens = np.zeros(length, np.int32)
            examples.append(
                Encoded(inputs=tokens[:1], targets=tokens, index=b * size + place, task="", mixture=mixture)
            )
        return EncodedBatch(examples=tuple(examples), dropped=((b, "too long"),), formats=("zs",) * size)

    return block


def delivered(even: EvenShares, blocks: Blocks, numbers: range) -> list[EncodedBatch]:
    return [even.deliver(b, blocks(b)) for b in numbers]


def places(batches: list[EncodedBatch]) -> list[list[int]]:
    return [[e.index for e in batch.examples] for batch in batches]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), wrong=st.sampled_from([0.2, 0.9, 1.0, 1.1, 8.0]), count=st.integers(1, 30))
def test_each_example_comes_at_most_once_in_its_mixtures_order_and_few_wait(
    seed: int, wrong: float, count: int
) -> None:
    even, blocks = EvenShares("target_tokens", SHARES), blocks_of(seed, wrong=wrong)
    out = delivered(even, blocks, range(count))
    came = [e for b in range(count) for e in blocks(b).examples]
    gone = [e for batch in out for e in batch.examples]
    for name in ("long", "short", "text"):
        in_order = [e.index for e in came if e.mixture == name]
        got = [e.index for e in gone if e.mixture == name]
        assert got == in_order[: len(got)]
        if name == "text":
            assert got == in_order
    held = sum(len(own) for own in even.state()["held"].values())
    assert len(came) - len(gone) == held <= BLOCK
    assert [batch.dropped for batch in out] == [blocks(b).dropped for b in range(count)]
    assert all(len(batch.formats) == len(batch.examples) for batch in out)
    assert all(own == sorted(own) for own in places(out))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000))
def test_every_stretch_of_blocks_has_the_share_aimed_at_within_a_long_example(seed: int) -> None:
    blocks = blocks_of(seed)
    out = delivered(EvenShares("target_tokens", SHARES), blocks, range(24))
    came, long, strayed = 0, 0, [0.0]
    for b, batch in enumerate(out):
        came, long = came + sum(tokens(blocks(b)).values()), long + tokens(blocks(b))["long"]
        prior = PRIOR_BLOCKS * came / (b + 1)
        aim = (SHARES["long"] * prior + long) / (prior + came)
        assert abs(aim - SHARES["long"]) < 0.02
        own = tokens(batch)
        strayed.append(strayed[-1] + own["long"] - aim * sum(own.values()))
    # Half a long one at either end, half a short one of the other, and what may lack.
    assert max(strayed) - min(strayed) < LONGEST + 20 + 2 * SLACK * came / 24
    # Without it single blocks stray much further.
    spreads = [np.std([share(b) for b in batches]) for batches in ([blocks(b) for b in range(24)], out)]
    assert spreads[1] < 0.5 * spreads[0]


def tokens(batch: EncodedBatch) -> dict[str, int]:
    return {name: sum(len(e.targets) for e in batch.examples if e.mixture == name) for name in SHARES}


def share(batch: EncodedBatch) -> float:
    own = tokens(batch)
    return own["long"] / sum(own.values())


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), wrong=st.sampled_from([0.3, 1.0, 3.0]), at=st.integers(1, 11))
def test_it_goes_on_from_its_state_as_if_it_had_not_stopped(seed: int, wrong: float, at: int) -> None:
    blocks = blocks_of(seed, wrong=wrong)
    whole = places(delivered(EvenShares("target_tokens", SHARES), blocks, range(12)))
    first = EvenShares("target_tokens", SHARES)
    delivered(first, blocks, range(at))
    state = json.loads(json.dumps(first.state()))
    again, asked = EvenShares("target_tokens", SHARES), list[int]()
    again.restore(state, at, lambda b: asked.append(b) or blocks(b))  # type: ignore[func-returns-value]
    assert places(delivered(again, blocks, range(at, 12))) == whole[at:]
    assert asked == list(range(asked[0], at)) if asked else not state["held"]


def test_a_mixture_of_which_nothing_comes_holds_up_nobody() -> None:
    even = EvenShares("target_tokens", {**SHARES, "rare": 0.0005})
    out = delivered(even, blocks_of(0), range(8))
    assert sum(len(b.examples) for b in out) > 7 * BLOCK


@pytest.mark.parametrize("size", [0, 1, 3])
def test_blocks_of_hardly_anything_pass(size: int) -> None:
    even, blocks = EvenShares("input_tokens", SHARES), blocks_of(1, size=size)
    out = delivered(even, blocks, range(40))
    assert sum(len(b.examples) for b in out) >= 39 * size - 1
