"""Duplicates are what comparing every row with every other finds; a store without them is a store like any other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flantune.cli.app import app
from flantune.errors import DataError
from flantune.mixtures.duplicates import Duplicates, bands_for, exact_digest, find_duplicates, shingles
from flantune.mixtures.ngrams import words
from flantune.mixtures.unique import unique_store
from flantune.pipeline.data import open_data, open_store
from flantune.pipeline.folder import open_run
from flantune.recipe import CollectionSpec, DuplicatesSpec, parse_recipe
from flantune.tasks import ExampleStore, build_store
from flantune.types import Example, Task

from .worlds import make_task


@dataclass
class Rows:
    """Tasks of (input, target) pairs."""

    given: Mapping[str, list[tuple[str, str]]]

    @property
    def tasks(self) -> Mapping[str, Task]:
        return {name: make_task(name) for name in self.given}

    def size(self, task: str) -> int:
        return len(self.given[task])

    def example(self, task: str, row: int) -> Example:
        text, target = self.given[task][row]
        return Example(task=task, row=row, id=str(row), fields={"input": text}, targets=(target,))

    def examples(self, task: str) -> Iterator[Example]:
        return (self.example(task, row) for row in range(self.size(task)))


def groups(found: Duplicates) -> list[tuple[tuple[str, int], ...]]:
    return [found.group(rows).rows for rows in found.members()]


def make_groups(rows: Rows, alike) -> list[tuple[tuple[str, int], ...]]:
    """Connected rows, every pair compared."""
    places = [(task, row) for task in rows.given for row in range(rows.size(task))]
    group = {place: {place} for place in places}
    for a, b in combinations(places, 2):
        if alike(rows.example(*a), rows.example(*b)) and group[a] is not group[b]:
            group[a] |= group[b]
            for member in group[b]:
                group[member] = group[a]
    distinct = {id(members): members for members in group.values()}.values()
    return sorted(
        (tuple(sorted(m, key=places.index)) for m in distinct if len(m) > 1), key=lambda g: places.index(g[0])
    )


def jaccard(a: str, b: str, n: int = 3) -> float:
    def grams(text: str) -> set[tuple[str, ...]]:
        own = words(text)
        return {tuple(own[k : k + n]) for k in range(max(1, len(own) - n + 1))} if own else {(" ".join(text.split()),)}

    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


WORDS = st.lists(st.sampled_from(["a", "b", "C", "d", "=", "鸟"]), max_size=7).map(" ".join)
TARGETS = st.sampled_from(["yes", "YES", "no", "(", ")", "a  b"])
WORLDS = st.dictionaries(
    st.sampled_from(["x/one", "x/two", "y/one"]),
    st.lists(st.tuples(WORDS, TARGETS), min_size=1, max_size=8),
    min_size=1,
).map(Rows)


@settings(max_examples=40, deadline=None)
@given(WORLDS)
def test_exact_duplicates_are_equal_but_for_white_space(rows):
    def alike(a: Example, b: Example) -> bool:
        texts = [(e.fields["input"].split(), e.targets[0].split()) for e in (a, b)]
        return texts[0] == texts[1]

    assert groups(find_duplicates(rows)) == make_groups(rows, alike)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(WORLDS)
def test_near_duplicates_are_alike_in_fields_and_in_targets(rows):
    """At similarity 1 every band agrees, so nothing can be missed."""

    def alike(a: Example, b: Example) -> bool:
        exact = exact_digest(a) == exact_digest(b)
        return exact or (jaccard(a.fields["input"], b.fields["input"]) == 1 == jaccard(a.targets[0], b.targets[0]))

    assert groups(find_duplicates(rows, near=1.0)) == make_groups(rows, alike)


def test_near_duplicates_are_found_down_to_the_threshold_and_not_below():
    rng = np.random.default_rng(0)
    base = [[f"w{n}" for n in rng.integers(0, 10**6, 60)] for _ in range(60)]
    changed = []
    for number, text in enumerate(base):
        copy = list(text)
        for place in rng.choice(60, size=number % 6, replace=False):
            copy[place] = "changed"
        changed.append(copy)
    rows = Rows(
        {"a/x": [(" ".join(t), "same answer") for t in base], "b/y": [(" ".join(t), "Same answer.") for t in changed]}
    )
    similar = [jaccard(" ".join(a), " ".join(b)) for a, b in zip(base, changed, strict=True)]
    assert sum(s >= 0.8 for s in similar) > 10 < sum(s < 0.8 for s in similar)
    expected = [(("a/x", i), ("b/y", i)) for i, s in enumerate(similar) if s >= 0.8]
    found = find_duplicates(rows, near=0.8)
    assert groups(found) == expected
    assert {found.span(members) for members in found.members()} == {"across sources"}


def test_a_question_with_one_word_changed_and_another_answer_is_no_duplicate():
    question = "I could not pass my maths class though I hired a private tutor. I guess the _ was too {}."
    rows = Rows({"a/x": [(question.format("inept"), "tutor"), (question.format("hard"), "class")]})
    assert jaccard(question.format("inept"), question.format("hard")) > 0.8
    assert groups(find_duplicates(rows, near=0.8)) == []


def test_bands_find_pairs_at_the_threshold_with_the_promised_probability():
    for near in (0.5, 0.7, 0.8, 0.9, 1.0):
        bands, rows = bands_for(near)
        assert bands * rows <= 128
        assert 1 - (1 - near**rows) ** bands >= 0.995
    assert bands_for(1.0) == (1, 128)


def test_texts_without_words_have_a_shingle_of_their_own():
    sets, starts = shingles(["()", "[]", "()", "a b c", "( )", "()"])
    assert np.diff(starts).tolist() == [1] * 6
    own = [sets[s] for s in starts[:-1]]
    assert own[0] == own[2] != own[4]
    assert own[1] != own[5] != own[0]  # targets are never taken for fields


def test_counts_tell_groups_by_span_and_pairs_of_tasks():
    rows = Rows(
        {
            "x/one": [("p", "1"), ("p", "1"), ("q", "1"), ("r", "1")],
            "x/two": [("q", "1"), ("only", "1")],
            "y/one": [("r", "1"), ("r", "1")],
        }
    )
    counted = find_duplicates(rows).count()
    assert counted["rows"] == 8 and counted["exact"] == 4 and counted["near"] is None
    assert counted["groups"] == {"within a task": 1, "across tasks": 1, "across sources": 1}
    assert counted["superfluous"] == {"within a task": 1, "across tasks": 1, "across sources": 2}
    assert counted["within"] == {"x/one": 1, "y/one": 1}
    assert {tuple(p["tasks"]): p["rows"] for p in counted["pairs"]} == {("x/one", "x/two"): 1, ("x/one", "y/one"): 1}


@settings(max_examples=40, deadline=None)
@given(WORLDS, st.sets(st.sampled_from(["x/one", "x/two", "y/one"])))
def test_training_keeps_the_first_of_each_group_and_nothing_that_stands_outside(rows, train):
    found = find_duplicates(rows)
    gone = found.rows_to_leave_out(train)
    seen, expected = set(), {}
    outside = {exact_digest(e) for task in rows.given if task not in train for e in rows.examples(task)}
    for task in rows.given:
        if task not in train:
            continue
        for example in rows.examples(task):
            digest = exact_digest(example)
            if digest in seen or digest in outside:
                expected.setdefault(task, []).append(example.row)
            seen.add(digest)
    assert {task: own.tolist() for task, own in gone.items()} == expected


# The store without duplicates -----------------------------------------------------------------------------------------


def write_collection(folder: Path, name: str, rows: list[tuple[str, str]]) -> CollectionSpec:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.jsonl"
    lines = [json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CollectionSpec(path=str(path), reader="p3")


@pytest.fixture
def collections(tmp_path: Path) -> list[CollectionSpec]:
    many = [(f"Question number {n}?", f"answer {n % 7}") for n in range(1100)]
    return [
        write_collection(tmp_path / "in", "first", many[:700] + many[:3]),
        write_collection(tmp_path / "in", "second", many[600:]),
        write_collection(tmp_path / "in", "exam", [("Asked in the exam?", "yes"), *many[1000:1002]]),
        write_collection(tmp_path / "in", "alone", [("Nothing like it.", "no")]),
        write_collection(tmp_path / "in", "copy", many[:5]),
    ]


def by_end(store: ExampleStore) -> dict[str, str]:
    return {name.rpartition("/")[2]: name for name in store.tasks}


def texts(store: ExampleStore, task: str) -> list[tuple[str, str, str]]:
    return [("|".join(e.fields.values()), e.targets[0], e.where) for e in store.examples(task)]


def test_a_store_without_duplicates_holds_the_first_of_each_and_reads_like_any_other(tmp_path, collections):
    store = build_store(collections, tmp_path / "examples")
    name = by_end(store)
    train = [task for end, task in name.items() if end != "exam"]
    unique = unique_store(store, tmp_path / "unique", DuplicatesSpec(drop="exact"), train)
    assert unique.sizes == {name["first"]: 700, name["second"]: 398, name["exam"]: 3, name["alone"]: 1}
    assert texts(unique, name["first"]) == texts(store, name["first"])[:700]
    whole = texts(store, name["second"])
    assert texts(unique, name["second"]) == whole[100:400] + whole[402:]
    assert [unique.example(name["second"], r).row for r in (0, 397)] == [0, 397]
    assert unique.example(name["second"], 397).fields == store.example(name["second"], 499).fields
    assert texts(unique, name["exam"]) == texts(store, name["exam"])
    told = unique.summary["duplicates"]
    assert told["left_out"] == 3 + 102 + 5 == store.summary["examples"] - unique.summary["examples"]
    assert [e["reason"] for e in unique.summary["empty_tasks"]] == ["every row is another task's"]
    assert ExampleStore.open(tmp_path / "examples").sizes == store.sizes


def test_it_is_made_once_and_anew_where_anything_differs(tmp_path, collections):
    store = build_store(collections, tmp_path / "examples")
    spec = DuplicatesSpec(drop="exact")
    unique = unique_store(store, tmp_path / "unique", spec, store.tasks)
    stamp = (tmp_path / "unique" / "store.json").stat().st_mtime_ns
    assert unique_store(store, tmp_path / "unique", spec, store.tasks).fingerprint == unique.fingerprint
    assert (tmp_path / "unique" / "store.json").stat().st_mtime_ns == stamp
    again = unique_store(store, tmp_path / "again", spec, store.tasks)
    for path in sorted((tmp_path / "unique").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "unique")).read_bytes(), path
    assert again.fingerprint == unique.fingerprint != store.fingerprint
    fewer = unique_store(store, tmp_path / "unique", spec, list(store.tasks)[:2])
    assert fewer.fingerprint != unique.fingerprint


def test_a_collection_of_nothing_but_what_is_held_out_is_an_error(tmp_path):
    same = [("One?", "1"), ("Two?", "2")]
    specs = [write_collection(tmp_path / "in", "a", same), write_collection(tmp_path / "in", "b", same)]
    store = build_store(specs, tmp_path / "examples")
    unique = unique_store(store, tmp_path / "unique", DuplicatesSpec(drop="exact"), [list(store.tasks)[1]])
    assert list(unique.tasks) == [next(iter(store.tasks))]
    empty = build_store([specs[0]], tmp_path / "one")
    (tmp_path / "one" / "tasks.json").write_text("[]")
    with pytest.raises(DataError, match="after duplicates go"):
        unique_store(empty, tmp_path / "none", DuplicatesSpec(drop="exact"), list(empty.tasks))


def test_a_recipe_leaves_out_duplicates_and_what_its_held_out_tasks_hold(tmp_path, collections):
    store = build_store(collections, tmp_path / "examples")
    raw = {
        "name": "r",
        "runs": str(tmp_path / "runs"),
        "collections": [spec.model_dump() for spec in collections],
        "held_out": {"tasks": [by_end(store)["exam"]]},
    }
    kept = parse_recipe(raw)
    assert open_store(kept, open_run(kept)).sizes == store.sizes
    recipe = parse_recipe(raw | {"name": "d", "duplicates": {"drop": "exact"}})
    data = open_data(recipe, open_run(recipe))
    name = by_end(store)
    assert data.mixture.sizes == {name["first"]: 700, name["second"]: 398, name["alone"]: 1}
    shown = {data.mixture.prompt(i, data.store).inputs for i in range(300)}
    assert not any("number 1000?" in text or "number 1001?" in text for text in shown)


def test_the_command_tells_what_it_found(tmp_path, collections):
    result = CliRunner().invoke(app, ["tasks", "duplicates", str(tmp_path / "in"), "--json", "--reader", "p3"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.strip().split("\n")[-1])
    assert told["rows"] == 703 + 500 + 3 + 1 + 5
    assert told["exact"] == 3 + 100 + 2 + 5 and told["near"] is None
    assert told["examples"] and all(len(group["shown"]) == 2 for group in told["examples"])
    shown = CliRunner().invoke(app, ["tasks", "duplicates", str(tmp_path / "in"), "--near", "0.9"])
    assert shown.exit_code == 0 and "repeat an earlier one exactly" in shown.stdout
