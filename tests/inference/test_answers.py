"""The store of answers: what was asked once is found again, by content, from any process."""

from __future__ import annotations

import multiprocessing
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.errors import StateError
from flantune.inference.answers import AnswerStore, Given, content_key, default_path
from flantune.inference.requests import GenerateRequest, Sampling, ScoreRequest

ONE = {"model": "m", "max_inputs": 512}
TOLD = GenerateRequest(prompt="Q: 1+1?", max_new_tokens=8, stop=("\n",))
DRAWN = GenerateRequest(prompt="Q", samples=3, sampling=Sampling(temperature=0.7, top_k=40))
SCORED = ScoreRequest(prompt="Q: 1+1?", options=(" 2", " 3"))


def test_an_answer_is_found_again_whole_and_by_another_opening(tmp_path: Path):
    with_texts = Given(texts=("a", "", "c"), truncated=True, prompt_tokens=7, new_tokens=30)
    with_scores = Given(scores=(-0.5, -1e-9), prompt_tokens=4)
    store = AnswerStore(tmp_path / "deep" / "answers.sqlite")
    assert store.get(ONE, DRAWN) is None
    store.put(ONE, DRAWN, with_texts)
    store.put(ONE, SCORED, with_scores)
    store.close()
    again = AnswerStore(tmp_path / "deep" / "answers.sqlite")
    assert again.get(ONE, DRAWN) == replace(with_texts, reused=True)
    assert again.get(ONE, SCORED) == replace(with_scores, reused=True)
    assert len(again) == 4  # three samples and a score


def test_fewer_samples_are_found_in_more_and_more_are_not_found_in_fewer(tmp_path: Path):
    store = AnswerStore(tmp_path / "a.sqlite")
    store.put(ONE, DRAWN, Given(texts=("a", "b", "c"), new_tokens=3))
    found = store.get(ONE, replace(DRAWN, samples=2))
    assert found is not None and (found.texts, found.new_tokens) == (("a", "b"), 2)
    assert store.get(ONE, replace(DRAWN, samples=4)) is None
    store.put(ONE, replace(DRAWN, samples=4), Given(texts=("other", "b", "c", "d"), new_tokens=4))
    found = store.get(ONE, replace(DRAWN, samples=4))
    assert found is not None and found.texts == ("a", "b", "c", "d")  # what was told once stays


def test_samples_are_kept_by_number_and_those_up_to_the_first_gap_are_a_beginning(tmp_path: Path):
    store = AnswerStore(tmp_path / "a.sqlite")
    store.put(ONE, replace(DRAWN, samples=2), Given(texts=("a", "b"), new_tokens=2))
    store.put(ONE, replace(DRAWN, first=3, samples=2), Given(texts=("d", "e"), new_tokens=2))
    begun = store.begun(ONE, replace(DRAWN, samples=5))
    assert begun is not None and begun.texts == ("a", "b") and store.get(ONE, replace(DRAWN, samples=5)) is None
    later = store.get(ONE, replace(DRAWN, first=3, samples=2))
    assert later is not None and later.texts == ("d", "e")
    assert store.begun(ONE, replace(DRAWN, first=2, samples=2)) is None
    store.put(ONE, replace(DRAWN, first=2, samples=1), Given(texts=("c",), new_tokens=1))
    whole = store.get(ONE, replace(DRAWN, samples=5))
    assert whole is not None and whole.texts == ("a", "b", "c", "d", "e") and whole.new_tokens == 5


@given(st.data())
def test_the_key_changes_with_everything_an_answer_depends_on_and_with_nothing_else(data: st.DataObject):
    base = GenerateRequest(prompt="p", max_new_tokens=4, sampling=Sampling(temperature=0.5, seed=1), samples=2)
    other = data.draw(
        st.sampled_from(
            [
                replace(base, prompt="p "),
                replace(base, max_new_tokens=5),
                replace(base, stop=("x",)),
                replace(base, special=True),
                replace(base, sampling=Sampling(temperature=0.6, seed=1)),
                replace(base, sampling=Sampling(temperature=0.5, seed=2)),
                replace(base, sampling=Sampling(temperature=0.5, seed=1, top_k=3)),
                replace(base, sampling=Sampling(temperature=0.5, seed=1, top_p=0.9)),
                ScoreRequest(prompt="p", options=("x",)),
                ScoreRequest(prompt="p", options=("x",), special=True),
                ScoreRequest(prompt="p", options=("x", "y")),
            ]
        )
    )
    assert content_key(ONE, other) != content_key(ONE, base)
    assert content_key(ONE, base) != content_key(ONE | {"max_inputs": 511}, base)
    assert content_key(ONE, base) == content_key(dict(reversed(ONE.items())), replace(base, samples=9, first=3))
    greedy = GenerateRequest(prompt="p", sampling=Sampling(seed=1))
    assert content_key(ONE, greedy) == content_key(ONE, replace(greedy, sampling=Sampling(seed=2)))


def test_a_refusal_is_not_kept(tmp_path: Path):
    store = AnswerStore(tmp_path / "a.sqlite")
    store.put(ONE, TOLD, Given(refused="too long"))
    assert store.get(ONE, TOLD) is None and len(store) == 0


def test_the_place_is_the_stated_folder_else_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("FLANTUNE_CACHE", str(tmp_path))
    assert default_path() == tmp_path / "answers.sqlite"
    monkeypatch.delenv("FLANTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert default_path() == tmp_path / "c" / "flantune" / "answers.sqlite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_path() == Path.home() / ".cache" / "flantune" / "answers.sqlite"


def test_a_damaged_file_a_foreign_one_and_a_folder_are_named_with_a_way_out(tmp_path: Path):
    (tmp_path / "text.sqlite").write_text("these are not the answers" * 100)
    with pytest.raises(StateError, match=r"text\.sqlite: the store of answers is damaged.*--no-reuse"):
        AnswerStore(tmp_path / "text.sqlite")
    with sqlite3.connect(tmp_path / "foreign.sqlite") as db:
        db.execute("CREATE TABLE answers (x)")
    with pytest.raises(StateError, match="not a store of answers of this version"):
        AnswerStore(tmp_path / "foreign.sqlite")
    with pytest.raises(StateError, match="FLANTUNE_CACHE"):
        AnswerStore(tmp_path)


def test_damage_inside_a_good_file_is_named_when_it_is_met(tmp_path: Path):
    store = AnswerStore(tmp_path / "a.sqlite")
    store.put(ONE, TOLD, Given(texts=("x",)))
    store._db.execute("UPDATE answers SET value = '{'")
    with pytest.raises(StateError, match=r"a\.sqlite: an answer in it cannot be read"):
        store.get(ONE, TOLD)
    for number in range(200):
        store.put(ONE, replace(TOLD, prompt=f"{number}" * 50), Given(texts=("y" * 500,)))
    store.close()
    data = bytearray((tmp_path / "a.sqlite").read_bytes())
    data[4096:-4096] = b"\xaa" * (len(data) - 8192)
    (tmp_path / "a.sqlite").write_bytes(bytes(data))
    with pytest.raises(StateError, match="damaged"):
        damaged = AnswerStore(tmp_path / "a.sqlite")
        for number in range(200):
            damaged.get(ONE, replace(TOLD, prompt=f"{number}" * 50))


def write_many(path: str, start: int, number: int) -> None:
    store = AnswerStore(Path(path))
    for n in range(start, start + number):
        store.put(ONE, replace(TOLD, prompt=str(n)), Given(texts=(f"answer {n}",)))


def test_two_processes_write_at_once_and_lose_nothing(tmp_path: Path):
    path = tmp_path / "a.sqlite"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(str(path), start, 300)) for start in (0, 200)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [w.exitcode for w in writers] == [0, 0]
    store = AnswerStore(path)
    assert len(store) == 500
    found = [store.get(ONE, replace(TOLD, prompt=str(n))) for n in range(500)]
    assert [f and f.texts for f in found] == [(f"answer {n}",) for n in range(500)]
