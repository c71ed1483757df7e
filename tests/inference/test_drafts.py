"""What is guessed of texts that repeat themselves, against the slow way: looking through the whole text every time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flantune.inference import drafts
from flantune.inference.drafts import AHEAD, Repeats


def last_after(told: list[int], n: int) -> int | None:
    """What came after the last `n` tokens the last time they stood there."""
    for place in range(len(told) - 1, n - 1, -1):
        if told[place - n : place] == told[len(told) - n :]:
            return told[place]
    return None


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(0, 9))
def test_guesses_are_what_came_after_the_same_tokens(told: list[int], count: int):
    repeats, foreseen, needed = Repeats(), 0, drafts._SURE
    for i in range(len(told)):
        right = i >= 3 and last_after(told[:i], 3) == told[i]
        needed *= 2 if foreseen >= needed and not right else 1
        foreseen = foreseen + 1 if right else 0
        repeats.saw(told[: i + 1])
        assert repeats.are_sure == (foreseen >= needed)
    guessed = repeats.ahead(told, count)
    first = last_after(told, 3) if len(told) >= 3 else None
    assert guessed[:1] == ([] if first is None or count == 0 else [first])
    assert len(guessed) in (0, count)


@given(st.lists(st.integers(0, 99), min_size=1, max_size=12, unique=True), st.integers(0, 11))
def test_a_circle_is_guessed_for_as_long_as_one_likes(circle: list[int], more: int):
    told = circle * (1 + -(-20 // len(circle))) + circle[: more % len(circle)]
    repeats = Repeats()
    for i in range(len(told)):
        repeats.saw(told[: i + 1])
    wanted = (circle * (AHEAD + 2))[more % len(circle) :][:AHEAD]
    assert repeats.are_sure and repeats.ahead(told, AHEAD) == wanted
