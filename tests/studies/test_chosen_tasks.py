"""What a point may leave out of a mixture: tasks by name, and wordings; nothing else of the stream moves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from flantune.demo.files import write_world
from flantune.errors import RecipeError
from flantune.pipeline.data import Data, make_mixture
from flantune.recipe import Recipe
from flantune.studies.choices import World, only
from flantune.tasks import ExampleStore, build_store, split_held_out

from .grids import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("chosen")
    write_world(made / "world")
    return made


@pytest.fixture(scope="module")
def store(folder: Path) -> ExampleStore:
    return build_store(tiny(folder).collections, folder / "store")


def data_of(recipe: Recipe, store: ExampleStore) -> Data:
    split = split_held_out(store.tasks, recipe.held_out)
    return Data(store, split, make_mixture(recipe, store, split, "draws"))


def drawn(recipe: Recipe, store: ExampleStore, count: int = 600) -> list[tuple[str, int, str]]:
    return [(d.task, d.row, d.template.name) for d in data_of(recipe, store).mixture.draws(0, count)]


@pytest.mark.parametrize("preset", ["uniform", "proportional"])
def test_only_the_chosen_tasks_are_drawn_in_the_presets_shares_and_row_order(folder, store, preset):
    recipe = tiny(folder, mixture={"preset": preset})
    whole = data_of(recipe, store)
    world = World({t: store.tasks[t] for t in whole.split.train}, {t: store.size(t) for t in whole.split.train})
    chosen = sorted(world.tasks)[::2]
    fewer = recipe.model_copy(update={"mixture": only(recipe, chosen, world)})
    shares = Counter()
    for leaf in data_of(fewer, store).mixture.leaves:
        shares[leaf.task] += leaf.probability
    before = {leaf.task: leaf.probability for leaf in whole.mixture.leaves if leaf.task in chosen}
    assert shares == pytest.approx({t: p / sum(before.values()) for t, p in before.items()}, rel=1e-9)
    rows = {t: [row for task, row, _ in drawn(fewer, store) if task == t] for t in chosen}
    for task, own in rows.items():
        other = [row for t, row, _ in drawn(recipe, store, 1200) if t == task][: len(own)]
        assert own[: len(other)] == other  # adding or taking away tasks moves none of the others' rows


def test_all_tasks_chosen_leave_the_mixture_as_it_is(folder, store):
    recipe = tiny(folder)
    train = split_held_out(store.tasks, recipe.held_out).train
    world = World({t: store.tasks[t] for t in train}, {t: store.size(t) for t in train})
    assert only(recipe, train, world) is recipe.mixture


def test_a_name_that_is_none_is_told_of(folder, store):
    with pytest.raises(RecipeError, match=r"mixture\.only: 'demo/foods_tust\*' matches none. Near: demo/foods"):
        data_of(tiny(folder, mixture={"preset": "uniform", "only": ["demo/foods_tust*"]}), store)


def test_wordings_are_the_first_of_each_kind(folder, store):
    one = {name for *_, name in drawn(tiny(folder, mixture={"preset": "uniform", "wordings": 1}), store)}
    every = {name for *_, name in drawn(tiny(folder, mixture={"preset": "uniform"}), store)}
    assert one < every
    kinds = Counter((name.rsplit("/", 1)[0]) for name in one)
    assert set(kinds.values()) == {1}
