from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from flantune.recipe import Count
from flantune.tokens.card import Asked, DataCard, length_bin
from flantune.tokens.packing import pack_examples
from flantune.types import Encoded


def example(index: int, task: str, inputs: int, targets: int, **lost: int) -> Encoded:
    def ids(n: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return np.full(n, 5, dtype=np.int32)

    mixture = task.split("/")[0]
    return Encoded(
        inputs=ids(inputs), targets=ids(targets), index=index, task=task, template=f"{task}/0", mixture=mixture, **lost
    )


def small_card(one_sided: bool = False) -> DataCard:
    examples = [
        example(0, "m/a", 10, 3),
        example(1, "m/a", 16, 1, inputs_cut=7),
        example(2, "m/b", 4, 4, exemplars_cut=2),
        example(3, "n/c", 2, 4, targets_cut=9),
    ]
    card = DataCard(inputs_len=16, targets_len=8, one_sided=one_sided)
    formats = {0: "zs_opt", 1: "zs_opt", 2: "fs_opt", 3: "zs_noopt"}
    for row in pack_examples(examples, 16, 8, "next_fit", one_sided=one_sided):
        card.add_row(row, {e.index: e for e in examples}, formats)
    card.add_dropped([(4, "no room"), (9, "no room")])
    return card


def test_every_task_and_mixture_is_counted() -> None:
    card = small_card().to_json()
    assert card["total"]["examples"] == 4 and card["total"]["input_tokens"] == 32
    a = card["tasks"]["m/a"]
    assert (a["examples"], a["input_tokens"], a["target_tokens"], a["got"]) == (2, 26, 4, 0.5)
    assert (a["inputs_cut"], a["input_tokens_lost"], a["empty_targets"]) == (1, 7, 1)
    assert card["tasks"]["m/b"]["exemplars_lost"] == 2
    assert card["tasks"]["n/c"]["target_tokens_lost"] == 9
    assert card["mixtures"]["m"]["examples"] == 3 and card["mixtures"]["m"]["got"] == 0.75
    assert card["formats"] == {"fs_opt": 1, "zs_noopt": 1, "zs_opt": 2}
    assert card["templates"] == {"m/a/0": 2, "m/b/0": 1, "n/c/0": 1}
    assert card["dropped"] == {"no room": 2}
    assert card["input_lengths"] == {"2": 1, "4": 1, "8": 1, "16": 1}


def test_fill_is_useful_tokens_over_slots() -> None:
    card = small_card()
    assert card.rows == 3  # 10 | 16 | 4 + 2
    assert card.fill() == {"inputs": 32 / 48, "targets": 12 / 24}
    one = small_card(one_sided=True)
    assert one.rows == 3  # 13 | 17 | 8 + 6, of 24 each
    assert one.fill() == {"row": 44 / 72}


def test_an_empty_card_has_no_fractions() -> None:
    card = DataCard(inputs_len=4, targets_len=4)
    assert card.fill() == {"inputs": None, "targets": None}
    assert card.to_json()["total"]["example_share"] is None


DRAWS = {"m": {"m/a": 0.4, "m/b": 0.35}, "n": {"n/c": 0.15, "n/never": 0.1}}
# By mixture, of the small card: 3 and 1 examples, 30 and 2 input tokens, 8 and 4 target tokens.
GOT = {
    "draws": (3 / 4, 1 / 4),
    "examples": (3 / 4, 1 / 4),
    "input_tokens": (30 / 32, 2 / 32),
    "target_tokens": (8 / 12, 4 / 12),
}


def test_asked_stands_beside_got_and_a_task_without_examples_is_listed() -> None:
    card = small_card()
    told = card.with_asked(Asked(mixtures={"m": 0.75, "n": 0.25}, draws=DRAWS)).to_json()
    tasks = told["tasks"]
    assert (tasks["m/a"]["asked"], tasks["m/a"]["drawn"], tasks["m/a"]["got"]) == (0.4, 0.4, 0.5)
    assert (tasks["n/never"]["examples"], tasks["n/never"]["got"], tasks["n/never"]["mixture"]) == (0, 0.0, "n")
    assert told["mixtures"]["m"]["asked"] == pytest.approx(0.75) == told["mixtures"]["m"]["drawn"]
    assert list(told["mixtures"]) == ["m", "n"]
    assert card.tasks["m/a"].drawn is None  # the first card is as it was


@pytest.mark.parametrize("count", get_args(Count))
def test_shares_got_are_of_what_the_weights_count(count: Count) -> None:
    asked = Asked(count=count, mixtures={"m": 0.6, "n": 0.4}, draws=DRAWS)
    told = small_card().with_asked(asked).to_json()
    assert told["count"] == count
    for name, wanted, got in zip(("m", "n"), (0.6, 0.4), GOT[count], strict=True):
        part = told["mixtures"][name]
        assert (part["asked"], part["got"]) == (wanted, pytest.approx(got))
        assert part["drawn"] == pytest.approx(sum(DRAWS[name].values()))
    # Of a single task only shares of the draws are asked: in its part it keeps its share of them.
    assert told["tasks"]["m/a"]["asked"] == (0.4 if count == "draws" else None)
    assert told["tasks"]["m/a"]["drawn"] == 0.4


def test_a_mixture_that_is_asked_for_by_something_else_is_no_part_of_the_shares_got() -> None:
    asked = Asked(count="target_tokens", mixtures={"m": 1.0, "n": None}, draws=DRAWS)
    told = small_card().with_asked(asked).to_json()
    assert told["mixtures"]["m"]["got"] == 1.0 and told["mixtures"]["n"]["got"] is None
    assert told["tasks"]["n/c"]["got"] is None and told["tasks"]["n/c"]["target_token_share"] == pytest.approx(1 / 3)


def test_a_task_of_two_mixtures_counts_in_each() -> None:
    examples = [example(i, "m/a", 4, 2) for i in range(3)]
    examples[2] = replace(examples[2], mixture="n")
    card = DataCard(inputs_len=16, targets_len=8)
    for row in pack_examples(examples, 16, 8, "next_fit"):
        card.add_row(row, {e.index: e for e in examples})
    told = card.with_asked(Asked(mixtures={"m": 0.5, "n": 0.5}, draws={"m": {"m/a": 0.5}, "n": {"m/a": 0.5}})).to_json()
    assert {name: part["examples"] for name, part in told["mixtures"].items()} == {"m": 2, "n": 1}
    assert told["tasks"]["m/a"]["examples"] == 3 and told["tasks"]["m/a"]["drawn"] == 1.0


@pytest.mark.parametrize("count", get_args(Count))
def test_a_card_survives_json(count: Count) -> None:
    asked = Asked(count=count, mixtures={"m": 0.9, "n": None}, draws=DRAWS)
    told = small_card().with_asked(asked)
    assert DataCard.from_json(json.loads(json.dumps(told.to_json()))).to_json() == told.to_json()


def test_a_card_of_before_counts_is_read() -> None:
    now = small_card().with_asked(Asked(mixtures={"m": 0.75, "n": 0.25}, draws=DRAWS)).to_json()
    before = json.loads(json.dumps(now))
    del before["count"]
    for part in (*before["mixtures"].values(), *before["tasks"].values()):
        del part["drawn"]
    assert DataCard.from_json(before).to_json() == now


def test_length_bins_are_powers_of_two() -> None:
    assert [length_bin(n) for n in (0, 1, 2, 3, 4, 100, 128)] == ["0", "1", "2", "2", "4", "64", "128"]
