"""Own texts are the benchmark's items, id for id, without what is put around them."""

from __future__ import annotations

from pathlib import Path

import pytest

from flantune.evals import BENCHMARKS, Tasks, benchmark_named
from flantune.evals.own_text import own_texts
from flantune.recipe import CollectionSpec
from flantune.tasks import build_store

BENCHMARK_FILES = Path(__file__).parents[1] / "data" / "benchmarks"


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_ids_and_words_are_the_items(name):
    benchmark = benchmark_named(name)
    path = BENCHMARK_FILES / benchmark.folder
    texts = own_texts(benchmark, path)
    for mode in benchmark.modes:
        items = [posed.item for posed in benchmark.items(path, mode, shots=0)]
        assert [(t.id, t.task, t.benchmark) for t in texts] == [(i.id, i.task, i.benchmark) for i in items]
        for text, item in zip(texts, items, strict=True):
            assert text.text.strip() in item.prompt
            assert all(option.strip() in item.prompt for option in text.options)
    assert all(t.datasets for t in texts)


def test_a_benchmark_not_known_here_is_taken_by_its_prompts():
    class Other:
        name, folder, modes, default_split = "other", "other", ("direct",), "test"

        def items(self, path, mode, *, shots, split):
            return benchmark_named("gsm8k").items(path, mode, shots=shots, split=split)

    texts = own_texts(Other(), BENCHMARK_FILES / "gsm8k")  # type: ignore[arg-type]
    assert texts and all(t.text.startswith("Question: ") and t.benchmark == "other" for t in texts)


def test_a_collections_rows_are_their_fields(tmp_path):
    (tmp_path / "pets.jsonl").write_text('{"prompt": "Name a pet.", "completion": "cat"}\n' * 2, encoding="utf-8")
    store = build_store([CollectionSpec(path=str(tmp_path / "pets.jsonl"), reader="p3")], tmp_path / "store")
    benchmark = Tasks(store, tuple(store.tasks))
    texts = own_texts(benchmark, Path())
    items = [posed.item for posed in benchmark.items(Path(), "direct")]
    assert [t.id for t in texts] == [i.id for i in items]
    assert {t.text for t in texts} == {"Name a pet."}
