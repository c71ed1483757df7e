"""Leaks are found by n-grams of normalised words, as the slow obvious way finds them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.evals import benchmark_named
from flantune.evals.own_text import own_texts
from flantune.mixtures import contamination
from flantune.mixtures.contamination import (
    Finding,
    OwnText,
    TrainingRow,
    count_verdicts,
    dataset_key,
    find_contamination,
    in_distribution,
)
from flantune.mixtures.ngrams import GramTable, hash_grams, hash_words, normalise, words
from flantune.recipe import CollectionSpec
from flantune.sources import Rejects, read_collection


@dataclass
class Given:
    """Training rows at hand; `made_from` by task."""

    given: Sequence[TrainingRow]
    made_from: dict[str, str]

    def rows(self) -> Iterator[TrainingRow]:
        return iter(self.given)

    def text(self, task: str, row: int) -> str:
        return next(r.text for r in self.given if (r.task, r.row) == (task, row))

    def datasets(self, task: str) -> frozenset[str]:
        return frozenset({dataset_key(self.made_from.get(task, task))})


def item(text: str, id: str = "0", task: str = "t", options: tuple[str, ...] = (), dataset: str = "exam") -> OwnText:
    return OwnText(benchmark="exam", task=task, id=id, text=text, options=options, datasets=(dataset,))


def find(items: Sequence[OwnText], rows: Sequence[TrainingRow | str], **changes: object) -> list[Finding]:
    given = [r if isinstance(r, TrainingRow) else TrainingRow("task", i, r) for i, r in enumerate(rows)]
    made_from = changes.pop("made_from", {})
    asked = {"ngram": 13, "threshold": 0.7, "min_words": 8} | changes
    return find_contamination(items, Given(given, made_from), **asked)  # type: ignore[arg-type]


LONG = "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May than before."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The 1,000 HATS—cost: 3.50 $!", "the 1000 hats cost 3 50"),
        ("don’t  don't\n\tDON'T", "don t don t don t"),
        ("ＦＵＬＬ width２", "full width2"),
        ("Straße STRASSE", "strasse strasse"),
        ("一只鸟，两只鸟", "一 只 鸟 两 只 鸟"),
        ("カタカナ と kanji", "カ タ カ ナ と kanji"),
        ("soft­hyphen", "softhyphen"),
        ("প্রশ্ন: কত?", "প্রশ্ন কত"),
        ("🙂 \ud800", ""),
        ("", ""),
    ],
)
def test_words_are_what_a_reader_calls_the_same(text, expected):
    assert normalise(text) == expected


def test_hashes_of_grams_stand_for_their_words():
    texts = ["a b c d", "b c d", "", "x"]
    grams = hash_grams(hash_words(texts), 3)
    assert [len(grams.of(i)) for i in range(4)] == [2, 1, 0, 0]
    assert grams.of(0)[1] == grams.of(1)[0] != grams.of(0)[0]
    short = hash_grams(hash_words(texts), 3, whole_if_short=True)
    assert [len(short.of(i)) for i in range(4)] == [2, 1, 0, 1]
    places, keys = GramTable(3, grams.of(1)).find(hash_words(texts))
    assert (places.tolist(), keys.tolist()) == ([0, 1], [0, 0])


SMALL = st.lists(st.sampled_from(["a", "B", "c,", "1,2", "鸟"]), max_size=14).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(SMALL, st.sampled_from(["t", "u"])), min_size=1, max_size=14),
    st.lists(st.tuples(SMALL, st.sampled_from(["exam-train", "other"])), max_size=8),
    st.integers(2, 4),
    st.sampled_from([0.3, 0.7, 1.0]),
)
def test_the_slow_obvious_way_gives_the_same_verdicts(texts, rows, n, threshold):
    items = [item(text, str(i), task, dataset="exam-train") for i, (text, task) in enumerate(texts)]
    given = [TrainingRow(task, i, text) for i, (text, task) in enumerate(rows)]
    found = find(items, given, ngram=n, threshold=threshold, min_words=3)
    expected = slow(items, given, n, threshold, min_words=3)
    assert [(f.verdict, f.overlap, f.training_row) for f in found] == expected


def slow(items, rows, n, threshold, min_words):
    """By sets of tuples of words, every item against every row."""

    def grams(text):
        own = words(text)
        return {tuple(own[k : k + n]) for k in range(len(own) - n + 1)}

    told = []
    for noun in items:
        own = {
            gram
            for gram in grams(noun.text)
            if sum(gram in grams(other.text) for other in items if other.task == noun.task)
            <= max(contamination.BOILERPLATE_ITEMS, 0.01 * sum(other.task == noun.task for other in items))
        }
        if own:
            shares = [len(own & grams(row.text)) / len(own) for row in rows]
        elif len(words(noun.text)) < min_words:
            told.append(("unchecked", None, None))
            continue
        else:
            shares = [float(f" {normalise(noun.text)} " in f" {normalise(row.text)} ") for row in rows]
        best = max(shares, default=0.0)
        same = any(share and row.task == "exam-train" for share, row in zip(shares, rows, strict=True))
        verdict = "test_leak" if best >= threshold else "same_task_train" if best and same else "none"
        told.append((verdict, best, shares.index(best) if best else None))
    return told


@pytest.mark.parametrize(
    "copy",
    [LONG, LONG.upper(), LONG.replace(" ", "\n  "), f"Solve this. {LONG} Think!", LONG.replace("48", "４８")],
)
def test_a_copy_is_a_leak_however_it_is_written(copy):
    found = find([item(LONG)], ["Something else altogether.", copy])[0]
    assert (found.verdict, found.overlap, found.training_row) == ("test_leak", 1.0, 1)
    assert found.text == normalise(LONG)


def test_shared_text_below_the_threshold_is_told_apart_by_the_rows_dataset():
    shared = " ".join(LONG.split()[:14]) + " something new"
    row = TrainingRow("exam_train", 7, shared)
    same = find([item(LONG)], [row], made_from={"exam_train": "EXAM"})[0]
    assert (same.verdict, same.training_task, same.training_row) == ("same_task_train", "exam_train", 7)
    assert same.overlap == pytest.approx(2 / 10)
    assert same.text == normalise(" ".join(LONG.split()[:14]))
    other = find([item(LONG)], [row], made_from={"exam_train": "web"})[0]
    assert (other.verdict, other.overlap) == ("none", same.overlap)


def test_the_same_datasets_rows_are_found_also_where_another_row_shares_more():
    longer = TrainingRow("web", 0, " ".join(LONG.split()[:16]))
    shorter = TrainingRow("exam", 0, " ".join(LONG.split()[:14]))
    found = find([item(LONG)], [longer, shorter])[0]
    assert (found.verdict, found.training_task) == ("same_task_train", "web")


def test_wording_that_many_items_share_is_no_items_own():
    wording = "Read the following passage with great care and then answer the question that is put below it now:"
    names = [f"n{i}" for i in range(30)]
    items = [item(f"{wording} where did {' '.join(random.Random(n).sample(names, 16))} go", n) for n in names]
    assert count_verdicts(find(items, [wording, f"{wording} nothing else"])) == dict.fromkeys(
        ("test_leak", "same_task_train", "unchecked"), 0
    ) | {"none": 30}
    assert find(items, [wording, items[3].text])[3].verdict == "test_leak"


def test_short_questions_leak_whole_and_with_every_option_in_any_order():
    noun = item("What is the capital of France?", options=("Paris", "Lyon", "Nice", "Lille"))
    rows = [
        "What is the capital of France? Berlin or Rome",
        "Lille, (B) nice lyon paris. What is the capital of France",
    ]
    assert [f.verdict for f in find([noun], rows)] == ["test_leak"]
    assert find([noun], rows)[0].options_found == 4
    assert find([noun], rows[:1])[0].verdict == "none"
    assert find([noun], ["What is the capital of France? paris lyon nice lillehammer"])[0].verdict == "none"


def test_items_too_short_to_tell_from_chance_are_said_to_be_unchecked():
    found = find([item("not True and False"), item("")], ["not true and false"])
    assert [(f.verdict, f.overlap, f.rule) for f in found] == [("unchecked", None, "too short")] * 2


def test_tasks_of_the_items_datasets_are_named():
    tasks = {"cot/gsm8k": frozenset({"gsm8k"}), "niv2/x": frozenset({"web"})}
    assert in_distribution([item("q", dataset="GSM-8K")], tasks) == ["cot/gsm8k"]


def test_batches_change_nothing(monkeypatch):
    items = [item(LONG, str(i)) for i in range(3)]
    rows = ["x " * 5, " ".join(LONG.split()[:15]), LONG, LONG + " again"]
    whole = find(items, rows)
    monkeypatch.setattr(contamination, "BATCH_CHARACTERS", 1)
    assert find(items, rows) == whole
    assert whole[0].training_row == 2  # the first of equals


# On real benchmarks ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gsm8k_train(data_dir: Path) -> list[TrainingRow]:
    spec = CollectionSpec(path=str(data_dir / "cot"), reader="flan_cot", include=("gsm8k*",))
    (part,) = read_collection(spec, Rejects(), 0.01)
    return [TrainingRow("cot/gsm8k", e.row, "\n".join((*e.fields.values(), *e.targets))) for e in part.examples]


def test_gsm8k_train_against_test_raises_no_alarm(data_dir, gsm8k_train):
    found = find(own_texts(benchmark_named("gsm8k"), data_dir / "gsm8k"), gsm8k_train, made_from={"cot/gsm8k": "gsm8k"})
    assert len(gsm8k_train) == 7_473
    # The three share a template's words with other numbers: "Some of the stamps had a snowflake design, ..."
    assert count_verdicts(found) == {"test_leak": 0, "same_task_train": 3, "none": 1_016, "unchecked": 0}


@pytest.mark.parametrize("number", [1, 10, 100])
def test_planted_gsm8k_items_are_found_and_nothing_else(data_dir, gsm8k_train, number):
    items = own_texts(benchmark_named("gsm8k"), data_dir / "gsm8k")
    rng = random.Random(number)
    planted = rng.sample(range(len(items)), number)
    ways = (str, str.upper, str.swapcase, lambda t: "  ".join(t.split()), lambda t: t.replace(" ", "\n"))
    rows = list(gsm8k_train)
    for k, place in enumerate(planted):
        at = rng.randrange(len(rows))
        rows.insert(at, TrainingRow("web", k, f"Question: {ways[k % len(ways)](items[place].text)}\nAnswer: see below"))
    found = find(items, rows)
    assert {i for i, f in enumerate(found) if f.verdict == "test_leak"} == set(planted)
    assert all((found[p].training_task, found[p].training_row) == ("web", k) for k, p in enumerate(planted))


@pytest.mark.parametrize("number", [1, 10, 100])
def test_planted_mmlu_items_with_options_reordered_are_found_and_nothing_else(data_dir, gsm8k_train, number):
    items = own_texts(benchmark_named("mmlu"), data_dir / "mmlu")
    rng = random.Random(number)
    planted = rng.sample(range(len(items)), number)
    rows = list(gsm8k_train)
    for k, place in enumerate(planted):
        choices = zip("wxyz", rng.sample(items[place].options, 4), strict=True)
        text = "\n".join([items[place].text.lower(), *(f"({letter}) {option}" for letter, option in choices)])
        rows.insert(rng.randrange(len(rows)), TrainingRow("web", k, text))
    found = find(items, rows)
    assert all(found[p].verdict == "test_leak" and found[p].options_found == 4 for p in planted)
    # MMLU asks a few questions twice; the other place of a planted one is as much a leak.
    others = {i for i, f in enumerate(found) if f.verdict == "test_leak"} - set(planted)
    assert all(max(share_of_grams(items[i].text, items[p].text) for p in planted) >= 0.7 for i in others)
    assert len(others) <= 2


def share_of_grams(text: str, other: str) -> float:
    def grams(text: str) -> set[tuple[str, ...]]:
        own = words(text)
        return {tuple(own[k : k + 13]) for k in range(len(own) - 12)}

    return len(grams(text) & grams(other)) / max(1, len(grams(text)))
