from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from flantune.demo.files import write_world
from flantune.explore.collection import Collection
from flantune.explore.explorer import Explorer, uses_of
from flantune.explore.stream import ExampleStream
from flantune.pipeline.data import quiet
from flantune.pipeline.folder import open_run
from flantune.recipe import CollectionSpec, Recipe, parse_recipe
from flantune.tasks import ExampleStore, build_store

HOSTILE = '<script>window.ran = true</script><img src="x" onerror="window.ran = true">&amp; "quoted"'


@pytest.fixture(scope="package")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded world, and a task whose text is HTML that would run."""
    folder = tmp_path_factory.mktemp("explore") / "world"
    write_world(folder)
    rows = [{"prompt": f"{HOSTILE} number {i}", "completion": f"</pre>{HOSTILE}"} for i in range(12)]
    (folder / "hostile.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in rows) + b"\n")
    return folder


@pytest.fixture(scope="package")
def store(files: Path) -> ExampleStore:
    return build_store([CollectionSpec(path=str(files))], files.parent / "store")


@pytest.fixture(scope="package")
def collection(store: ExampleStore) -> Collection:
    return Collection(store)


def recipe_over(files: Path, name: str = "explored", **changes: object) -> Recipe:
    raw: dict[str, object] = {
        "name": name,
        "seed": 3,
        "runs": str(files.parent / "runs"),
        "collections": [{"path": str(files)}],
        "held_out": {"categories": ["towns"], "tasks": ["demo/verbs_ing"]},
        "mixture": {"preset": "uniform", "formats": [{"setting": "zs_opt"}, {"setting": "fs_opt", "weight": 2}]},
        "tokens": {"inputs_len": 160, "targets_len": 48, "few_shot_margin": 16, "block": 32, "shard_rows": 8},
        "model": {"init": "demo"},
        "train": {"steps": 14, "batch_rows": 4},
    }
    return parse_recipe({**raw, **changes})


@pytest.fixture(scope="package")
def stream(files: Path) -> ExampleStream:
    recipe = recipe_over(files)
    return ExampleStream(recipe, open_run(recipe), quiet)


@pytest.fixture(scope="package")
def explorer(stream: ExampleStream) -> Explorer:
    return Explorer(Collection(stream.data.store, uses_of(stream)), stream=stream, read_from=("world",))
