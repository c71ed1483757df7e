from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import DataError, StateError
from flantune.recipe import CollectionSpec
from flantune.sources import Rejects, TaskRows, read_collection
from flantune.tasks import store as store_module
from flantune.tasks.catalog import task_from_json, task_to_json
from flantune.tasks.store import BATCH_ROWS, ExampleStore, Progress, build_store, write_task
from flantune.types import Example, FewShotLayout, Task, Template


def collection(folder: Path, **sizes: int) -> list[CollectionSpec]:
    folder.mkdir(exist_ok=True)
    for name, size in sizes.items():
        rows = [json.dumps({"prompt": f"{name} {i}", "completion": f"answer {i}"}) for i in range(size)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return [CollectionSpec(path=str(folder))]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_every_example_comes_back_as_the_reader_gave_it(tmp_path):
    specs = collection(tmp_path / "in", a=3, b=2 * BATCH_ROWS + 1, c=BATCH_ROWS)
    store = build_store(specs, tmp_path / "store")
    for rows in read_collection(specs[0], Rejects(), 0.01):
        name, expected = rows.task.name, list(rows.examples)
        assert store.tasks[name] == rows.task
        assert store.size(name) == len(expected)
        assert list(store.examples(name)) == expected
        assert [store.example(name, i) for i in reversed(range(len(expected)))] == expected[::-1]


@pytest.mark.parametrize("start", [0, 1, BATCH_ROWS - 1, BATCH_ROWS, 2 * BATCH_ROWS, 2 * BATCH_ROWS + 1])
def test_batches_hold_every_row_from_any_place_on(tmp_path, start):
    store = build_store(collection(tmp_path / "in", a=2 * BATCH_ROWS + 1), tmp_path / "store")
    following = start
    ids: list[str] = []
    for first, batch in store.batches("prompts/a", start):
        assert first == following and batch.schema == store_module.SCHEMA
        following += batch.num_rows
        ids += batch["id"].to_pylist()
    assert ids == [e.id for e in store.examples("prompts/a")][start:]


texts = st.text(st.characters(codec="utf-8"), max_size=20)
shown = texts.filter(str.strip)


@given(
    st.lists(
        st.builds(
            lambda fields, targets, rationale, options, name: {
                "fields": fields, "targets": tuple(targets), "rationale": rationale,
                "options": None if options is None else tuple(options), "id": name,
            },
            st.dictionaries(texts, texts, max_size=3), st.lists(shown, min_size=1, max_size=3), st.none() | shown,
            st.none() | st.lists(shown, max_size=3), texts,
        ),
        max_size=8,
    )
)  # fmt: skip
@settings(max_examples=40)
def test_any_text_survives_the_store(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any") / "t.arrow"
    task = Task(name="t", mixture="m", dataset="d", category="c", templates="generic", fields=())
    examples = [Example(task="t", row=i, where=f"f:{i}", **r) for i, r in enumerate(rows)]
    measured, count = write_task(TaskRows(task, iter(examples)), folder)
    assert count == len(examples)
    assert measured.has_rationale == any(e.rationale is not None for e in examples)
    assert measured.has_options == any(e.options is not None for e in examples)
    entry = {"task": task_to_json(measured), "rows": count, "file": folder.name}
    assert list(ExampleStore(folder.parent, [entry], {}).examples("t")) == examples


def test_a_task_comes_back_whole_from_json():
    layout = FewShotLayout(inputs="{x}", targets="{answer}")
    task = Task(
        name="t",
        mixture="m",
        dataset="d",
        category="c",
        templates="generic",
        fields=("x", "y"),
        demonstrations=(Example(task="t", row=-1, id="p", fields={"x": "1"}, targets=("a", "b"), options=("a", "b")),),
        own_templates=(Template(name="t/direct/0", kind="direct", inputs="{x}", targets="{answer}", few_shot=layout),),
        licence="MIT",
    )
    assert task_from_json(json.loads(json.dumps(task_to_json(task)))) == task


def test_equal_inputs_give_equal_bytes(tmp_path):
    specs = collection(tmp_path / "in", a=30, b=700)
    first, second = tmp_path / "one", tmp_path / "two"
    build_store(specs, first)
    build_store(specs, second)
    assert contents(first) == contents(second)


def test_a_store_of_the_same_files_is_not_built_again(tmp_path):
    specs = collection(tmp_path / "in", a=3)
    seen: list[Progress] = []
    build_store(specs, tmp_path / "store", on_progress=seen.append)
    assert [(p.task, p.examples, p.files, p.files_total) for p in seen] == [("prompts/a", 3, 1, 1)]
    build_store(specs, tmp_path / "store", on_progress=seen.append)
    assert len(seen) == 1


@pytest.mark.parametrize("change", ["content", "time", "spec", "limit", "file"])
def test_any_change_builds_it_anew(tmp_path, change):
    specs = collection(tmp_path / "in", a=3)
    before = build_store(specs, tmp_path / "store").fingerprint
    limit = 0.01
    if change == "content":
        collection(tmp_path / "in", a=4)
    elif change == "time":
        os.utime(tmp_path / "in" / "a.jsonl", ns=(1, 1))
    elif change == "spec":
        specs = [specs[0].model_copy(update={"mixture": "other"})]
    elif change == "limit":
        limit = 0.5
    else:
        collection(tmp_path / "in", b=1)
    assert build_store(specs, tmp_path / "store", limit).fingerprint != before


def test_a_change_to_rows_beside_a_yaml_builds_it_anew(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "t.task.yaml").write_text("{name: m/t, dataset: d, category: c, fields: [x]}")
    (tmp_path / "in" / "t.jsonl").write_text('{"fields": {"x": "1"}, "target": "2"}')
    specs = [CollectionSpec(path=str(tmp_path / "in"))]
    assert build_store(specs, tmp_path / "store").size("m/t") == 1
    with (tmp_path / "in" / "t.jsonl").open("a") as f:
        f.write('\n{"fields": {"x": "2"}, "target": "3"}')
    assert build_store(specs, tmp_path / "store").size("m/t") == 2


def test_empty_tasks_and_skipped_files_are_listed_and_left_out(tmp_path):
    specs = collection(tmp_path / "in", a=2)
    (tmp_path / "in" / "trec_x.jsonl").write_text('{"prompt": "p\\n", "completion": "<|endoftext|>"}')
    (tmp_path / "in" / "zero.jsonl").write_text("")
    store = build_store(specs, tmp_path / "store")
    assert list(store.tasks) == ["prompts/a"]
    assert [t["task"] for t in store.summary["empty_tasks"]] == ["t0/trec_x"]
    assert [Path(p).name for p in store.summary["skipped_files"]] == ["zero.jsonl"]
    assert (store.summary["rows"], store.summary["examples"], store.summary["rejected"]) == (3, 2, 1)
    lines = (tmp_path / "store" / "rejected.jsonl").read_text().strip().split("\n")
    assert {json.loads(x)["file"].rpartition("/")[2] for x in lines} == {"trec_x.jsonl", "zero.jsonl"}


def test_collections_that_keep_nothing_are_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "trec_x.jsonl").write_text('{"prompt": "p\\n", "completion": "<|endoftext|>"}')
    with pytest.raises(DataError, match="at least one"):
        build_store([CollectionSpec(path=str(tmp_path / "in"))], tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_failed_build_leaves_the_old_store_and_nothing_else(tmp_path):
    specs = collection(tmp_path / "in", a=3, b=3)
    build_store(specs, tmp_path / "store")
    before = contents(tmp_path / "store")
    (tmp_path / "in" / "b.jsonl").write_text('{"prompt": "p", "completion": "c"}\nbroken')
    with pytest.raises(DataError):
        build_store(specs, tmp_path / "store")
    assert contents(tmp_path / "store") == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "store"]


def test_a_full_disk_is_an_error_of_ours_and_leaves_nothing(tmp_path, monkeypatch):
    specs = collection(tmp_path / "in", a=3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "write_task", full)
    with pytest.raises(StateError, match="No space left on device"):
        build_store(specs, tmp_path / "store")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_killed_build_leaves_nothing_that_opens_and_the_next_one_sweeps(tmp_path):
    specs = collection(tmp_path / "in", a=3)
    code = (
        "import sys, time\n"
        "from flantune.recipe import CollectionSpec\n"
        "from flantune.tasks import build_store\n"
        "def stop(p):\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(60)\n"
        f"build_store([CollectionSpec(path={specs[0].path!r})], {str(tmp_path / 'store')!r}, on_progress=stop)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert list(tmp_path.glob(".store.partial-*"))
    with pytest.raises(StateError, match="no store"):
        ExampleStore.open(tmp_path / "store")
    assert build_store(specs, tmp_path / "store").size("prompts/a") == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "store"]


def test_another_process_still_building_is_left_alone(tmp_path):
    specs = collection(tmp_path / "in", a=3)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        other = tmp_path / f".store.partial-{sleeper.pid}"
        other.mkdir()
        build_store(specs, tmp_path / "store")
        assert other.exists()
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_text("{"), lambda p: p.write_text("[]")])
@pytest.mark.parametrize("file", ["store.json", "tasks.json"])
def test_what_is_not_whole_does_not_open_and_is_built_again(tmp_path, file, damage: Callable[[Path], None]):
    specs = collection(tmp_path / "in", a=3)
    folder = tmp_path / "store"
    build_store(specs, folder)
    damage(folder / file)
    with pytest.raises(StateError):
        ExampleStore.open(folder)
    assert build_store(specs, folder).size("prompts/a") == 3


def test_a_cut_example_file_is_noticed_at_once_and_built_again(tmp_path):
    specs = collection(tmp_path / "in", a=3)
    build_store(specs, tmp_path / "store")
    (file,) = (tmp_path / "store" / "examples").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StateError, match="cut or exchanged"):
        ExampleStore.open(tmp_path / "store")
    assert build_store(specs, tmp_path / "store").example("prompts/a", 2).targets == ("answer 2",)


def test_rows_and_tasks_that_are_not_there_are_refused(tmp_path):
    store = build_store(collection(tmp_path / "in", a=3), tmp_path / "store")
    for row in (-1, 3):
        with pytest.raises(IndexError, match="rows 0 to 2"):
            store.example("prompts/a", row)
    with pytest.raises(KeyError, match="prompts/b"):
        store.size("prompts/b")


def test_more_tasks_than_open_files_can_be_read_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "OPEN_TASKS", 4)
    specs = collection(tmp_path / "in", **{f"t{i}": 2 for i in range(20)})
    store = build_store(specs, tmp_path / "store")
    for _ in range(2):
        for name in store.tasks:
            assert store.example(name, 1).fields["prompt"] == f"{name.removeprefix('prompts/')} 1"
    assert len(store._open) == 4


def test_a_store_travels_to_another_process_by_its_path(tmp_path):
    store = build_store(collection(tmp_path / "in", a=3), tmp_path / "store")
    store.example("prompts/a", 0)
    assert pickle.loads(pickle.dumps(store)).example("prompts/a", 2) == store.example("prompts/a", 2)


def test_memory_does_not_grow_with_the_collection(tmp_path):
    """A build's peak over 16 times the rows stays within a small constant of the smaller one's."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak is read from /proc")
    code = (
        "import sys\n"
        "from flantune.recipe import CollectionSpec\n"
        "from flantune.tasks import build_store\n"
        "build_store([CollectionSpec(path=sys.argv[1])], sys.argv[2])\n"
        # Not getrusage: its peak is inherited from the process that started this one.
        "print(next(x.split()[1] for x in open('/proc/self/status') if x.startswith('VmHWM')))\n"
    )
    peaks = []
    for rows in (2_000, 32_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        line = json.dumps({"prompt": "x" * 2_000, "completion": "y"}) + "\n"
        (folder / "a.jsonl").write_text(line * rows)
        out = subprocess.run(
            [sys.executable, "-c", code, str(folder), str(tmp_path / f"store{rows}")], capture_output=True, check=True
        )
        peaks.append(int(out.stdout) / 1024)
    assert peaks[1] - peaks[0] < 24, peaks  # MiB; the second file alone is 61


def test_the_real_collections_are_stored_with_what_they_hold(data_dir, tmp_path):
    specs = [CollectionSpec(path=str(data_dir / name)) for name in ("cot", "muffin")]
    store = build_store(specs, tmp_path / "store")
    assert sum(store.sizes.values()) == store.summary["examples"]
    assert store.tasks["cot/gsm8k"].has_rationale and not store.tasks["muffin/nq_open"].has_rationale
    assert store.tasks["muffin/rte"].has_options and not store.tasks["muffin/dart"].has_options
    assert store.example("cot/gsm8k", 0).targets == ("72",)
    for name, task in store.tasks.items():
        first = store.example(name, 0)
        assert set(first.fields) == set(task.fields), name
        assert first.targets
