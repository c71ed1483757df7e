from __future__ import annotations

import random
from pathlib import Path

import orjson
from hypothesis import given
from hypothesis import strategies as st

from flantune.formats import draw_separator, kept_exemplars, same_template_positions


def vectors(spec_dir: Path, name: str) -> list[dict[str, object]]:
    return orjson.loads((spec_dir / "test_vectors.json").read_bytes())[name]["cases"]


def test_length_pruning_follows_the_vectors(spec_dir: Path):
    for case in vectors(spec_dir, "few_shot_length_pruning"):
        kept = kept_exemplars(case["query_tokens"], case["exemplar_tokens"], budget=1920)  # type: ignore[arg-type]
        assert list(range(kept)) == case["kept"], case["why"]


def test_template_pruning_follows_the_vectors(spec_dir: Path):
    for case in vectors(spec_dir, "few_shot_template_pruning"):
        kept = same_template_positions(case["query_template"], case["stream_offset"])  # type: ignore[arg-type]
        assert list(kept) == case["kept_positions"]


@given(st.integers(0, 50), st.lists(st.integers(0, 20), max_size=8), st.integers(0, 60))
def test_kept_exemplars_are_the_longest_beginning_that_fits(query: int, sizes: list[int], budget: int):
    fitting = [k for k in range(len(sizes) + 1) if sum(sizes[:k]) <= budget - query]
    assert kept_exemplars(query, sizes, budget) == max(fitting, default=0)


def test_single_template_prompts_keep_two_or_three_exemplars_two_and_a_half_on_average():
    counts = [len(same_template_positions(t, offset)) for t in range(10) for offset in range(10)]
    assert set(counts) == {2, 3} and sum(counts) / len(counts) == 2.5


def test_a_mixed_prompts_separator_is_one_two_or_three_line_breaks():
    drawn = [draw_separator(random.Random(i)) for i in range(300)]
    assert set(drawn) == {"\n", "\n\n", "\n\n\n"} and min(map(drawn.count, set(drawn))) > 70
