"""The same build on a Ray cluster of several nodes (raylets of this machine): the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from parallel_runs import digests, job_of, small_recipe

from flantune.demo.files import write_world
from flantune.errors import RecipeError, StateError
from flantune.pipeline.data import build
from flantune.pipeline.folder import RunFolder, open_run
from flantune.pipeline.parallel import BlocksAhead, Workers
from flantune.recipe import Recipe, parse_recipe
from flantune.tokens.block import PackedBlock
from flantune.tokens.build import build_shards
from ray_cluster import two_nodes

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_nodes(2) as made:
        yield made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, RunFolder]:
    """A run built by itself, without workers."""
    folder = tmp_path_factory.mktemp("alone")
    write_world(folder / "world")
    recipe = parse_recipe(small_recipe(folder))
    run = open_run(recipe)
    build(recipe, run)
    return recipe, run


@pytest.fixture
def begun(built: tuple[Recipe, RunFolder], tmp_path: Path) -> tuple[Recipe, RunFolder]:
    """The same run with its store and tokenizer and no shards."""
    recipe, run = built
    other = RunFolder(tmp_path / run.root.name)
    shutil.copytree(run.root, other.root, ignore=shutil.ignore_patterns("shards"))
    return recipe.model_copy(update={"runs": str(tmp_path)}), other


@pytest.mark.parametrize("count", [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_a_cluster_writes_the_same_bytes(
    cluster: Any, built: tuple[Recipe, RunFolder], begun: tuple[Recipe, RunFolder], count: int
) -> None:
    (_, alone), (recipe, run) = built, begun
    told: list[int] = []
    build(
        recipe,
        run,
        lambda stage, done, _: told.append(done) if stage == "build" else None,
        Workers(count=count, ray="auto"),
    )
    assert digests(run) == digests(alone)
    assert {"index.json", "card.json", "shard-00001.arrow"} <= digests(run).keys()
    assert told == sorted(told) and told[-1] == recipe.train.steps * recipe.train.batch_rows


@pytest.mark.slow
def test_a_killed_worker_changes_no_byte(
    cluster: Any, built: tuple[Recipe, RunFolder], begun: tuple[Recipe, RunFolder]
) -> None:
    from flantune.pipeline.ray_build import open_crew

    (_, alone), (recipe, run) = built, begun
    job, arguments = job_of(recipe, run)
    crew, _ = open_crew("auto", job)
    killed: list[int] = []
    with BlocksAhead(crew, 2) as blocks:

        def killing(b: int) -> PackedBlock:
            if b == 3:
                killed.append(next(iter(crew.processes().values())))
                os.kill(killed[0], signal.SIGKILL)
            return blocks(b)

        build_shards(killing, **arguments)
        assert killed[0] not in crew.processes().values()
    assert digests(run) == digests(alone)


@pytest.mark.slow
def test_a_node_that_goes_changes_no_byte(
    cluster: Any, built: tuple[Recipe, RunFolder], begun: tuple[Recipe, RunFolder]
) -> None:
    from flantune.pipeline.ray_build import open_crew

    (_, alone), (recipe, run) = built, begun
    job, arguments = job_of(recipe, run)
    going = cluster.add_node(num_cpus=2, object_store_memory=80 << 20)
    cluster.wait_for_nodes()
    crew, _ = open_crew("auto", job)
    with BlocksAhead(crew, 6) as blocks:  # every processor there is, those of the going node too

        def leaving(b: int) -> PackedBlock:
            if b == 3:
                assert len(crew.processes()) == 6
                cluster.remove_node(going, allow_graceful=False)
            return blocks(b)

        build_shards(leaving, **arguments)
    assert digests(run) == digests(alone)


@pytest.mark.slow
def test_machines_that_do_not_see_the_runs_folder_get_a_copy(
    cluster: Any, built: tuple[Recipe, RunFolder], begun: tuple[Recipe, RunFolder], tmp_path: Path
) -> None:
    from flantune.pipeline import ray_build

    (_, alone), (recipe, run) = built, begun
    job, arguments = job_of(recipe, run)
    crew = ray_build.RayCrew(ray, job, stop_ray=False, always_copy=True)
    with BlocksAhead(crew, 2) as blocks:

        def hiding(b: int) -> PackedBlock:
            if b == 3:  # by now both have begun: whatever they read, it is not here
                run.store.rename(tmp_path / "gone")
                run.tokenizer.rename(tmp_path / "gone too")
            return blocks(b)

        build_shards(hiding, **arguments)
        assert crew.copies()
    assert digests(run) == digests(alone)
    assert not [c for c in crew.copies() if c.exists()]


def test_without_ray_the_error_says_what_to_install(
    begun: tuple[Recipe, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = begun
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RecipeError, match=r"pip install 'flantune\[ray\]'"):
        build(recipe, run, workers=Workers(ray="auto"))


def test_a_cluster_that_is_not_there_is_an_error_of_ours(
    begun: tuple[Recipe, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flantune.pipeline.ray_build import open_crew

    job, _ = job_of(*begun)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "somewhere"):
        with pytest.raises(StateError, match=f"{address}: no cluster could be reached.*HOST:PORT"):
            open_crew(address, job)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(StateError, match=f"127.0.0.1:{port}"):
        open_crew("auto", job)
