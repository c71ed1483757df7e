"""The scan finds what looking at every example in turn finds, wherever it stops and goes on."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.errors import RecipeError
from flantune.explore.search import candidates, find, pattern_of, search_examples, texts
from flantune.explore.views import Hit
from flantune.recipe import CollectionSpec
from flantune.tasks import ExampleStore, build_store
from flantune.tasks.store import SCHEMA


def slowly(store: ExampleStore, text: str, tasks: list[str]) -> list[Hit]:
    pattern = pattern_of(text)
    return [hit for name in tasks for example in store.examples(name) if (hit := find(pattern, example))]


@pytest.mark.parametrize(
    ("text", "limit"),
    [("dog", 7), ("THE", 150), ('said "', 1), (".\n", 40), ("\\", 5), ("伞", 3), (".*", 2), ("the", 9999)],
)
def test_going_on_until_the_end_finds_every_example_once(store: ExampleStore, text: str, limit: int) -> None:
    names = sorted(store.tasks)
    found: list[Hit] = []
    start, scanned = None, 0
    while True:
        answer = search_examples(store, text, names, start=start, limit=limit, seconds=1000)
        found += answer.hits
        scanned += answer.scanned
        start = answer.next
        assert (answer.stopped is None) == (start is None)
        if start is None:
            break
    assert found == slowly(store, text, names)
    assert scanned == answer.total == sum(store.sizes.values())


def test_letter_case_is_folded_as_unicode_does_it() -> None:
    def same(text: str, other: str) -> bool:
        return pattern_of(text).fullmatch(other) is not None

    assert same("Title", "tITLE") and same("ÉΣ", "éς") and not same("i", "İ") and not same("I", "ı")


def test_no_time_stops_after_a_batch_and_goes_on_behind_it(store: ExampleStore) -> None:
    names = sorted(store.tasks)
    ticks = iter(range(10_000))
    start, found, calls = None, [], 0
    while True:
        answer = search_examples(store, "the", names, start=start, limit=9999, seconds=0.5, clock=lambda: next(ticks))
        found += answer.hits
        start, calls = answer.next, calls + 1
        if start is None:
            break
        assert answer.stopped == "0.5 seconds spent" and answer.scanned > 0
    assert calls >= len(names) and found == slowly(store, "the", names)


def test_only_the_tasks_named_are_looked_at(store: ExampleStore) -> None:
    answer = search_examples(store, "e", ["demo/foods_color"], limit=200)
    assert answer.hits and {h.task for h in answer.hits} == {"demo/foods_color"}
    assert answer.total == store.size("demo/foods_color")


def test_a_hit_says_where_it_stands(store: ExampleStore) -> None:
    (first, *_) = search_examples(store, "onerror", sorted(store.tasks)).hits
    assert (first.task, first.row, first.where, first.field) == ("prompts/hostile", 0, "hostile.jsonl:1", "prompt")
    example = store.example(first.task, first.row)
    assert first.before + first.match + first.after in dict(texts(example))["prompt"]


@pytest.mark.parametrize("start", ["x", "3", "-1:demo/foods_color", "3:demo/no_such_task", ":"])
def test_a_place_that_is_none_is_refused(store: ExampleStore, start: str) -> None:
    with pytest.raises(RecipeError, match="begin the search anew"):
        search_examples(store, "a", sorted(store.tasks), start=start)


def test_nothing_to_look_for_is_refused(store: ExampleStore) -> None:
    with pytest.raises(RecipeError, match="some text"):
        search_examples(store, "  ", sorted(store.tasks))


WORDS = st.text(st.sampled_from('aA"\\\n\t/éÉßΣσςİıKk{}:,😀\x00\x1f'), max_size=6)


@given(
    rows=st.lists(st.tuples(WORDS, WORDS, WORDS | st.none()), min_size=1, max_size=5),
    text=WORDS,
    skipped=st.integers(0, 2),
)
def test_no_example_that_holds_the_text_is_passed_over(
    rows: list[tuple[str, str, str | None]], text: str, skipped: int
) -> None:
    import pyarrow as pa

    if not text:
        return
    records = [
        {
            "id": "",
            "fields": orjson.dumps({"a": field}).decode(),
            "targets": ["x", target],
            "rationale": rationale,
            "options": None,
            "where": "",
        }
        for field, target, rationale in rows
    ]
    batch = pa.RecordBatch.from_pylist(records, schema=SCHEMA).slice(skipped)
    pattern = pattern_of(text)
    holding = {
        i
        for i, (field, target, rationale) in enumerate(rows[skipped:])
        if any(pattern.search(t) for t in (field, target, rationale or ""))
    }
    assert holding <= set(candidates(batch, text).tolist())


def test_real_collections_are_searched_whole(data_dir: Path, tmp_path: Path) -> None:
    store = build_store([CollectionSpec(path=str(data_dir / "cot"))], tmp_path / "store")
    names = sorted(store.tasks)
    for text in ("photosynthesis", "GCD", "—"):
        answer = search_examples(store, text, names, limit=100_000, seconds=600)
        assert answer.next is None and list(answer.hits) == slowly(store, text, names)
