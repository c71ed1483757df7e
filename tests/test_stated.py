"""YAML that people write: as PyYAML reads it, but a key stated twice is told of."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from flantune.errors import DataError, RecipeError
from flantune.evals.own import load_benchmark
from flantune.recipe import load_recipe
from flantune.sources.native import read_keys
from flantune.stated import load_stated

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=12,
)


@given(values)
def test_what_states_each_key_once_is_read_as_pyyaml_reads_it(value: object):
    for flow in (True, False):
        text = yaml.safe_dump(value, default_flow_style=flow)  # written as they are, PyYAML's own '\x85' reads as ' '
        assert load_stated(text) == yaml.safe_load(text) == value


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train: {steps: 1}\nname: a\ntrain: {steps: 2}\n", 3),
        ("train:\n  steps: 1\n  rows: 2\n  steps: 3\n", 4),
        ("- {a: 1, b: {c: 1, 'c': 2}}\n", 1),
        ("1: a\n1: b\n", 2),
    ],
)
def test_a_key_stated_twice_is_named_with_both_places(text: str, line: int):
    with pytest.raises(yaml.YAMLError, match=rf"the first is here(?s:.)*a second time here(?s:.)*line {line}, column"):
        load_stated(text)


def test_what_is_merged_in_may_be_stated_anew():
    text = "base: &base {steps: 1, rows: 2}\nmine:\n  <<: *base\n  steps: 3\n"
    assert load_stated(text)["mine"] == {"steps": 3, "rows": 2}


def test_recipes_tasks_and_benchmarks_are_refused_with_the_file_and_the_line(tmp_path: Path):
    recipe, task, benchmark = tmp_path / "r.yaml", tmp_path / "t.task.yaml", tmp_path / "b.yaml"
    for file in (recipe, task, benchmark):
        file.write_text("name: a\nname: b\n")
    for read, error in ((load_recipe, RecipeError), (read_keys, DataError), (load_benchmark, RecipeError)):
        file = {load_recipe: recipe, read_keys: task, load_benchmark: benchmark}[read]
        with pytest.raises(error, match=rf"{file.name}(?s:.)*'name' is stated a second time"):
            read(file)
