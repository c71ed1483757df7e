from __future__ import annotations

import json

import numpy as np
import pytest

from flantune.tokens.card import DataCard, length_bin
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
    assert card.to_json()["total"]["got"] is None


def test_asked_stands_beside_got_and_a_task_without_examples_is_listed() -> None:
    card = small_card()
    told = card.with_asked({"m/a": 0.4, "m/b": 0.35, "n/c": 0.15, "n/never": 0.1})
    tasks = told.to_json()["tasks"]
    assert (tasks["m/a"]["asked"], tasks["m/a"]["got"]) == (0.4, 0.5)
    assert (tasks["n/never"]["examples"], tasks["n/never"]["got"]) == (0, 0.0)
    assert told.to_json()["mixtures"]["m"]["asked"] == pytest.approx(0.75)
    assert card.tasks["m/a"].asked is None  # the first card is as it was


def test_a_card_survives_json() -> None:
    told = small_card().with_asked({"m/a": 1.0})
    assert DataCard.from_json(json.loads(json.dumps(told.to_json()))).to_json() == told.to_json()


def test_length_bins_are_powers_of_two() -> None:
    assert [length_bin(n) for n in (0, 1, 2, 3, 4, 100, 128)] == ["0", "1", "2", "2", "4", "64", "128"]
