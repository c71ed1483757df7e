from __future__ import annotations

import hashlib
import json
import pickle
from collections import Counter, defaultdict
from dataclasses import replace
from math import log2
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from flantune.errors import RecipeError
from flantune.mixtures import Draw, Mixture
from flantune.mixtures.sequence import GOLDEN, name_key, shuffled_places
from flantune.mixtures.weights import WHOLE
from flantune.recipe import FORMATS, MixturePart, MixtureSpec, WeightedFormat
from flantune.types import Example

from .worlds import InventedStore, make_mixture, make_task, make_tasks, make_templates, own_templates

SIZES = {"a/1": 40, "a/2": 7, "b/1": 300, "b/2": 1, "c/1": 90}
FEW = MixtureSpec(formats=(WeightedFormat(setting="fs_noopt"),))  # single template, 2 or 3 exemplars
MIXED = MixtureSpec(formats=(WeightedFormat(setting="fs_opt", shots=3),))


def plain(draw: Draw) -> dict[str, Any]:
    return {
        "index": draw.index,
        "part": draw.part,
        "task": draw.task,
        "row": draw.row,
        "format": repr(draw.format),
        "template": draw.template.name,
        "exemplars": [(row, template.name) for row, template in draw.exemplars],
        "key": draw.key,
    }


def test_any_order_of_asking_gives_what_reading_in_order_gives() -> None:
    in_order = list(make_mixture(SIZES).draws(0, 3000))
    again = make_mixture(SIZES)
    for index in [2999, 0, 1024, 1023, 5, 2048, 17, 1500, 2047]:
        assert again.draw(index) == in_order[index]
    backwards = make_mixture(SIZES)
    assert [backwards.draw(i) for i in range(2999, -1, -7)] == in_order[::-1][::7]
    assert list(make_mixture(SIZES).draws(1000, 1030)) == in_order[1000:1030]
    assert list(again.draws(10, 10)) == []


def test_many_readers_read_together_what_one_reads_alone() -> None:
    alone = list(make_mixture(SIZES).draws(0, 4096))
    readers = [make_mixture(SIZES) for _ in range(5)]
    shared = {i: readers[i % 5].draw(i) for i in range(0, 4096, 3)}
    assert all(draw == alone[i] for i, draw in shared.items())


def test_a_place_far_away_is_reached_at_once_and_goes_on_as_the_stream_does() -> None:
    far = 10**12 + 5
    reader = make_mixture(SIZES)
    assert list(reader.draws(far, far + 2000))[1500] == make_mixture(SIZES).draw(far + 1500)


def test_a_mixture_survives_a_trip_to_another_process() -> None:
    mixture = make_mixture(SIZES)
    there = pickle.loads(pickle.dumps(mixture))
    assert [there.draw(i) for i in (3, 999)] == [mixture.draw(i) for i in (3, 999)]


def test_the_stream_begins_at_zero() -> None:
    with pytest.raises(RecipeError, match="begins at 0"):
        make_mixture(SIZES).draw(-1)
    with pytest.raises(RecipeError, match="begins at 0"):
        list(make_mixture(SIZES).draws(-1, 2))


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=12),
    st.integers(0, 2**32),
    st.integers(0, 10**9),
    st.integers(1, 6),
)
def test_windows_of_whole_blocks_hold_each_share_up_to_a_logarithm(
    sizes: list[int], seed: int, first_block: int, blocks: int
) -> None:
    named = {f"{'abc'[i % 3]}/{i}": size for i, size in enumerate(sizes)}
    mixture = make_mixture(named, seed=seed)
    n = 1024 * blocks
    draws = list(mixture.draws(first_block * 1024, first_block * 1024 + n))
    for shares, name in ((mixture.shares(), "task"), (mixture.mixture_shares(), "mixture")):
        counts = Counter(getattr(d, name) for d in draws)
        assert all(abs(counts[key] - n * share) <= 2 + log2(n) for key, share in shares.items())


def test_any_window_is_closer_to_its_shares_than_independent_draws_come() -> None:
    mixture = make_mixture({"a/1": 1, "b/1": 2})
    tasks = [d.task for d in mixture.draws(0, 6000)]
    for start in range(0, 3000, 97):
        # Two ragged ends of shuffled blocks, hypergeometric: at most 16 * sqrt(p (1 - p)) each. Six of these: a fault.
        assert abs(tasks[start : start + 2900].count("a/1") - 2900 / 3) < 6 * 2**0.5 * 7.6


def test_each_format_has_its_share_of_each_task() -> None:
    formats = (WeightedFormat(weight=3), WeightedFormat(shots=2), WeightedFormat(setting="zs_opt", weight=2))
    mixture = make_mixture({"a/1": 30, "b/1": 10}, MixtureSpec(formats=formats))
    counts: dict[str, Counter[Any]] = defaultdict(Counter)
    for d in mixture.draws(0, 4096):
        counts[d.task][d.format] += 1
    for leaf in mixture.leaves:
        total = sum(counts[leaf.task].values())
        assert all(abs(counts[leaf.task][f] - total * p) <= 2 + log2(total) for f, p in leaf.formats)
    assert sum(mixture.format_shares().values()) == pytest.approx(1)


def test_every_row_is_drawn_once_before_any_is_drawn_again() -> None:
    rows: dict[str, list[int]] = defaultdict(list)
    for d in make_mixture(SIZES).draws(0, 4000):
        assert d.occurrence == len(rows[d.task])
        rows[d.task].append(d.row)
    for task, size in SIZES.items():
        epochs = [rows[task][i : i + size] for i in range(0, len(rows[task]) - size, size)]
        assert len(epochs) >= 5 and all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert size < 5 or epochs[0] != epochs[1]


def test_a_task_in_two_parts_still_draws_each_row_once_before_any_again() -> None:
    parts = (
        MixturePart(name="one", tasks=("a/*",), formats=(WeightedFormat(shots=2),)),
        MixturePart(name="two", tasks=("a/1", "b/1"), formats=(WeightedFormat(),)),
    )
    mixture = make_mixture({"a/1": 50, "a/2": 20, "b/1": 30}, MixtureSpec(parts=parts))
    draws = [d for d in mixture.draws(0, 400) if d.task == "a/1"]
    assert {d.part for d in draws} == {"one", "two"}
    assert {(d.part, d.format.shots) for d in draws} == {("one", 2), ("two", 0)}
    rows = [d.row for d in draws]
    assert sorted(rows[:50]) == list(range(50)) and sorted(rows[50:100]) == list(range(50))


def test_the_cap_clips_the_rate_and_not_the_data() -> None:
    mixture = make_mixture({"a/1": 500, "b/1": 10}, MixtureSpec(cap=10))
    rows = [d.row for d in mixture.draws(0, 900) if d.task == "a/1"]
    assert len(set(rows)) == len(rows) and abs(len(rows) - 450) < 30


def test_adding_a_task_changes_no_other_tasks_rows_templates_or_exemplars() -> None:
    def of_task(mixture: Mixture, task: str) -> list[Any]:
        return [(d.row, d.template, d.exemplars, d.key) for d in mixture.draws(0, 4000) if d.task == task][:150]

    for task in ("a/1", "c/1"):
        before = of_task(make_mixture(SIZES, FEW), task)
        after = of_task(make_mixture(SIZES | {"a/0": 60, "bb/1": 50}, FEW), task)
        assert before == after and len(before) == 150


def test_another_seed_is_another_stream() -> None:
    one, two = (make_mixture(SIZES, seed=seed) for seed in (0, 1))
    assert one.fingerprint() != two.fingerprint()
    equal = sum(a.task == b.task and a.row == b.row for a, b in zip(one.draws(0, 500), two.draws(0, 500), strict=True))
    assert equal < 60


def test_templates_are_drawn_equally_often() -> None:
    counts = Counter(d.template.name for d in make_mixture({"a/1": 500}, MixtureSpec()).draws(0, 4000))
    assert len(counts) == 4 and chisquare(list(counts.values())).pvalue > 1e-4


def test_exemplars_are_distinct_other_rows_and_single_template_ones_are_two_or_three() -> None:
    numbers = Counter()
    for d in make_mixture({"a/1": 6, "b/1": 400}, FEW).draws(0, 3000):
        rows = [row for row, _ in d.exemplars]
        numbers[len(rows)] += 1
        assert len(set(rows)) == len(rows) and d.row not in rows
        assert all(template == d.template for _, template in d.exemplars)
    assert set(numbers) == {2, 3} and abs(numbers[2] - 1500) < 150  # mean 2.5


def test_a_task_with_fewer_rows_than_shots_shows_all_it_has() -> None:
    mixture = make_mixture({"a/1": 3}, MixtureSpec(formats=(WeightedFormat(shots=8),)))
    assert all(sorted([d.row, *(r for r, _ in d.exemplars)]) == [0, 1, 2] for d in mixture.draws(0, 60))


def test_every_row_serves_as_exemplar_about_equally_often() -> None:
    rows = Counter(row for d in make_mixture({"a/1": 20}, FEW).draws(0, 4000) for row, _ in d.exemplars)
    assert len(rows) == 20 and chisquare(list(rows.values())).pvalue > 1e-4


def test_mixed_exemplars_go_through_consecutive_templates() -> None:
    starts = set()
    for d in make_mixture({"a/1": 50}, MIXED).draws(0, 200):
        numbers = [int(t.name[-1]) for _, t in d.exemplars]
        assert [(n - numbers[0]) % 4 for n in numbers] == [0, 1, 2]
        starts.add((numbers[0], int(d.template.name[-1])))
    assert len(starts) == 16


def test_prompts_are_the_draws_in_words() -> None:
    mixture, store = make_mixture(SIZES, FEW), InventedStore()
    for prompt in mixture.prompts(range(300), store):
        draw = mixture.draw(prompt.index)
        assert (prompt.task, prompt.row, prompt.template) == (draw.task, draw.row, draw.template.name)
        assert prompt.exemplars == tuple(row for row, _ in draw.exemplars)
        assert prompt.format == draw.format and prompt.mixture == draw.mixture
        assert f"{draw.task} {draw.row}" in prompt.inputs
        assert prompt.target in (f"answer {draw.row}", f"reply {draw.row}")
    assert {p.target.split()[0] for p in mixture.prompts(range(50), store)} == {"answer", "reply"}
    assert mixture.prompt(77, store) == next(make_mixture(SIZES, FEW).prompts([77], store))


def test_a_row_that_says_what_the_query_says_is_no_exemplar() -> None:
    repeated = {("a/1", row): {"input": "the same"} for row in range(0, 40, 2)}
    store = InventedStore(fields=repeated)
    short = 0
    for prompt in make_mixture({"a/1": 40}, FEW).prompts(range(400), store):
        even = [row for row in prompt.exemplars if row % 2 == 0]
        assert prompt.row % 2 == 1 or not even
        assert prompt.row not in prompt.exemplars and len(set(prompt.exemplars)) == len(prompt.exemplars)
        short += len(prompt.exemplars) < 2
    assert short == 0


def test_where_all_rows_say_the_same_there_are_no_exemplars_and_no_endless_search() -> None:
    same = {("a/1", row): {"input": "the same"} for row in range(5000)}
    store = InventedStore(fields=same)
    prompts = list(make_mixture({"a/1": 5000}, FEW).prompts(range(20), store))
    assert all(p.exemplars == () for p in prompts)
    assert store.reads <= 20 * 70


def test_a_row_with_a_blank_field_gets_another_of_the_tasks_templates() -> None:
    wordings = make_templates("a/1") + make_templates("a/1/context", inputs="{context} {input}")
    task = make_task("a/1", fields=("context", "input"), own_templates=wordings)
    fields = {("a/1", r): {"context": "" if r % 3 else f"context {r}", "input": f"input {r}"} for r in range(60)}
    for spec in (FEW, MIXED):
        mixture = Mixture(spec, 0, {"a/1": task}, {"a/1": 60}, own_templates)
        prompts = list(mixture.prompts(range(600), InventedStore(fields=fields)))
        blank = [p for p in prompts if p.row % 3]
        assert not any("context" in p.template for p in blank)
        counts = Counter(p.template for p in blank)
        assert len(counts) == 4 and chisquare(list(counts.values())).pvalue > 1e-4
        assert any("context" in p.template for p in prompts)
        assert all(len(p.exemplars) >= 2 for p in prompts)


def test_rationale_exemplars_all_have_rationales() -> None:
    class Partly(InventedStore):
        def example(self, task: str, row: int) -> Example:
            example = super().example(task, row)
            return replace(example, rationale=f"because {row}") if row % 2 else example

    wordings = make_templates("a/1", kind="rationale") + make_templates("a/1")
    task = make_task("a/1", own_templates=wordings, has_rationale=True)
    for spec in (FEW, MIXED):
        mixture = Mixture(spec, 0, {"a/1": task}, {"a/1": 40}, own_templates)
        for prompt in mixture.prompts(range(200), Partly()):
            kind = "rationale" if prompt.row % 2 else "direct"
            assert kind in prompt.template and ("because" in prompt.target) == (kind == "rationale")
            assert kind == "direct" or all(row % 2 for row in prompt.exemplars)


def test_stored_demonstrations_count_from_minus_one_down() -> None:
    stored = tuple(Example(task="a/1", row=i, id="", fields={"input": f"shown {i}"}, targets=("y",)) for i in range(3))
    tasks = {"a/1": make_task("a/1", demonstrations=stored)}
    spec = MixtureSpec(formats=(WeightedFormat(shots=2, demonstrations=True),))
    mixture = Mixture(spec, 0, tasks, {"a/1": 1}, own_templates)
    assert [row for row, _ in mixture.draw(0).exemplars] == [-1, -2]
    prompt = mixture.prompt(0, InventedStore())
    assert prompt.exemplars == (-1, -2) and "shown 0" in prompt.inputs and "shown 1" in prompt.inputs


def test_the_fingerprint_changes_with_whatever_changes_the_stream() -> None:
    base = make_mixture(SIZES).fingerprint()
    assert make_mixture(SIZES).fingerprint() == base
    reworded = {n: make_task(n, own_templates=make_templates(n, inputs="{input}!")) for n in SIZES}
    others = [
        make_mixture(SIZES | {"a/1": 41}),
        make_mixture(SIZES, MixtureSpec(cap=5)),
        make_mixture(SIZES, FEW),
        make_mixture(SIZES, seed=1),
        Mixture(MixtureSpec(), 0, reworded, SIZES, own_templates),
    ]
    assert len({base, *(m.fingerprint() for m in others)}) == 6


def test_held_out_tasks_are_never_drawn() -> None:
    mixture = Mixture(MixtureSpec(), 0, make_tasks(*SIZES), SIZES, own_templates, held_out=("b/1",))
    assert "b/1" not in {d.task for d in mixture.draws(0, 3000)} and "b/1" not in mixture.shares()


def test_equal_recipes_give_the_stream_they_always_gave() -> None:
    # Change VERSION in mixtures/mixture.py together with this digest: builds of other versions are other data.
    mixture = make_mixture(SIZES, MixtureSpec(), seed=7)
    assert set(FORMATS.values()) == set(mixture.format_shares())
    text = json.dumps([plain(d) for d in mixture.draws(0, 200)])
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "a8096cb38e87f4a55d75255c62567865c6f261598e10fa44ac92d3212824bd7b"
    )


def test_leaves_and_occurrences_equal_those_of_walking_the_sequence_one_place_at_a_time() -> None:
    mixture = make_mixture(SIZES, seed=3)
    offset, block_key = name_key("offset", 3), name_key("block", 3)
    seen: Counter[str] = Counter()
    for block in range(3):
        # The same reading order, the sequence itself walked with plain integers.
        for i, place in enumerate(shuffled_places(block_key, block, 1024).tolist()):
            turn = (offset + place * GOLDEN) % WHOLE
            leaf = next(leaf for leaf in mixture.leaves if leaf.start <= turn < leaf.stop)
            draw = mixture.draw(block * 1024 + i)
            assert (draw.task, draw.occurrence) == (leaf.task, seen[leaf.task])
            seen[leaf.task] += 1
