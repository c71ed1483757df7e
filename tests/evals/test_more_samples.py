"""Forty samples after ten: thirty are asked for."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from flantune.evals.asking import converse
from flantune.evals.journal import Journal
from flantune.inference.answers import AnswerStore, Given, Request
from flantune.inference.backends import Capabilities, Refused
from flantune.inference.mock import Mock
from flantune.inference.requests import Generated, GenerateRequest, Sampling

DRAWN = Sampling(temperature=0.7, seed=3)


def request(samples: int) -> GenerateRequest:
    return GenerateRequest(prompt="Q", samples=samples, sampling=DRAWN)


def one_question(samples: int) -> Generator[Sequence[Request], Sequence[Given], Given]:
    (given,) = yield [request(samples)]
    return given


def ask(mock: Any, folder: Path, samples: int, store: AnswerStore | None) -> Given:
    folder.mkdir(exist_ok=True)
    with Journal(folder / "answers.jsonl", mock.identity) as journal:
        return converse(mock, [one_question(samples)], journal, store)[0]


@pytest.mark.parametrize("kept", ["in the store", "in the folder"])
def test_what_is_known_is_not_drawn_again(kept: str, tmp_path: Path):
    store = AnswerStore(tmp_path / "a.sqlite") if kept == "in the store" else None
    folders = (tmp_path / "one", tmp_path / "two") if store else (tmp_path / "one",) * 2
    first, second, alone = Mock(), Mock(), Mock()
    ask(first, folders[0], 10, store)
    given = ask(second, folders[1], 40, store)
    assert [(r.first, r.samples) for r in second.asked if isinstance(r, GenerateRequest)] == [(10, 30)]
    whole = ask(alone, tmp_path / "alone", 40, None)
    assert given.texts == whole.texts and given.new_tokens == whole.new_tokens and not given.reused
    again = Mock()
    assert ask(again, folders[1], 40, store).texts == whole.texts and not again.asked
    assert ask(again, tmp_path / "three", 25, store).texts == whole.texts[:25]
    assert bool(again.asked) == (store is None)


def test_a_backend_that_does_not_number_its_samples_is_asked_for_all(tmp_path: Path):
    mock = Mock()
    mock.capabilities = Capabilities()  # type: ignore[misc]
    ask(mock, tmp_path / "one", 10, None)
    ask(mock, tmp_path / "one", 40, None)
    assert [(r.first, r.samples) for r in mock.asked if isinstance(r, GenerateRequest)] == [(0, 10), (0, 40)]


def test_a_refusal_of_the_rest_is_a_refusal(tmp_path: Path):
    class Refusing(Mock):
        def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Generated | Refused]:
            return (Refused(i, "too long") for i in range(len(requests)))

    ask(Mock(), tmp_path / "one", 10, None)
    assert ask(Refusing(), tmp_path / "one", 40, None).refused == "too long"
