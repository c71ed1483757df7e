"""Example N in full: what is shown is what a build of the same recipe writes and training reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flantune.explore.collection import DrawFilter
from flantune.explore.stream import ExampleStream
from flantune.models.place import located
from flantune.pipeline.data import build, quiet
from flantune.pipeline.folder import open_run
from flantune.tokens.collate import concatenate
from flantune.tokens.encode import format_name
from flantune.tokens.shards import ShardReader

from .conftest import recipe_over

TWO_SIDED = {"model": {"init": "demo"}}
ONE_SIDED = {
    "model": {
        "family": "llama",
        "tokenizer": {"path": located("demo")},
        "size": {"d_model": 32, "layers": 1, "heads": 2, "d_kv": 16, "d_ff": 64},
    },
}


EVEN = {**TWO_SIDED, "mixture": {"preset": "uniform", "count": "target_tokens"}}


@pytest.mark.parametrize(("name", "changes"), [("two-sided", TWO_SIDED), ("one-sided", ONE_SIDED), ("even", EVEN)])
def test_ids_and_packs_are_those_of_the_built_shards(files: Path, name: str, changes: dict[str, object]) -> None:
    recipe = recipe_over(files, name, **changes)
    folder = open_run(recipe)
    build(recipe, folder)
    reader = ShardReader(folder.shards)
    stream = ExampleStream(recipe, folder, quiet)
    seen = 0
    rows_before = {0: 0}
    for number, row in enumerate(reader.rows(range(len(reader)))):
        # A one-sided model reads each example's inputs and targets end to end; a two-sided one each side by itself.
        joined = concatenate(row)[0] if stream.one_sided else None
        for place, index in enumerate(row.indices.tolist()):
            view = stream.example(index)
            pack, tokens = view.pack, view.tokens
            assert pack is not None and tokens is not None and tokens.inputs is not None and tokens.targets is not None
            before = rows_before.setdefault(pack.block, number)
            assert (pack.row, pack.place) == (number - before, place)
            assert [m.index for m in pack.members] == row.indices.tolist()
            assert tuple(m.task for m in pack.members) == row.tasks
            for ids, (start, stop), side in (
                (tokens.inputs.ids, pack.members[place].inputs, row.inputs),
                (tokens.targets.ids, pack.members[place].targets, row.targets),
            ):
                laid_out = side if joined is None else joined
                assert ids == tuple(laid_out[start:stop].tolist())
            seen += 1
    assert seen > 80 and len(rows_before) > 1


def test_every_example_of_a_block_is_in_one_pack_or_said_to_be_dropped(stream: ExampleStream) -> None:
    packed = dropped = 0
    for index in range(stream.recipe.tokens.block):
        view = stream.example(index)
        assert view.tokens is not None
        if view.tokens.dropped:
            assert view.pack is None and view.tokens.inputs is None and view.prompt.exemplars
            assert all(e.cut for e in view.prompt.exemplars)
            dropped += 1
        else:
            assert view.pack is not None and view.pack.members[view.pack.place].index == index
            packed += 1
    block = stream.block_view(0)
    assert (packed, dropped) == (block.examples, block.dropped)
    assert sum(b.count for b in block.lengths.inputs.bins) == packed


def test_what_is_cut_is_what_is_missing_from_the_ids(stream: ExampleStream) -> None:
    """Decoding gives back the text that is shown as kept, and only that."""
    cuts = 0
    for index in range(200):
        view = stream.example(index, pack=False)
        tokens = view.tokens
        assert tokens is not None
        if tokens.inputs is None or tokens.targets is None:
            continue
        kept = "".join(s.text for s in view.prompt.segments if s.role not in ("rationale", "target") and not s.cut)
        text = stream.tokenizer.decode(np.array(tokens.inputs.ids[:-1]))
        if tokens.inputs.cut == 0:
            assert text == kept.rstrip(" ")
        else:
            assert kept.startswith(text) and len(text) < len(kept)
        assert sum(e.cut for e in view.prompt.exemplars) == tokens.exemplars_cut
        cuts += tokens.exemplars_cut > 0
    assert cuts > 0


def test_exemplars_are_the_rows_named(stream: ExampleStream) -> None:
    shown = 0
    for index in range(100):
        prompt = stream.example(index, tokens=False, pack=False).prompt
        task = stream.data.store.tasks[prompt.task]
        for number, exemplar in enumerate(prompt.exemplars):
            row = stream.data.store.example(prompt.task, exemplar.row)
            assert exemplar.where == row.where and exemplar.row != prompt.row
            text = "".join(s.text for s in prompt.segments if s.exemplar == number)
            assert all(value.strip() in text for name, value in row.fields.items() if name in task.fields)
            shown += 1
    assert shown > 100


def test_a_filtered_walk_finds_what_a_plain_one_passes_over(stream: ExampleStream) -> None:
    mixture = stream.data.mixture
    everything = [mixture.draw(i) for i in range(300)]
    chosen = everything[40]
    category = stream.data.store.tasks[chosen.task].category
    wanted = DrawFilter(category=category, format=format_name(chosen.format))
    expected = [
        d.index
        for d in everything
        if stream.data.store.tasks[d.task].category == category and d.format == chosen.format
    ]
    found = stream.draws(0, len(expected), wanted)
    assert [d.index for d in found.draws] == expected and found.scanned == expected[-1] + 1
    back = stream.draws(299, len(expected), wanted, backwards=True)
    assert [d.index for d in back.draws] == expected[::-1]


def test_a_walk_that_finds_nothing_ends_and_says_where(stream: ExampleStream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flantune.explore.stream.SCANNED_DRAWS", 70)
    found = stream.draws(5, 3, DrawFilter(task="no such task"))
    assert (found.draws, found.scanned, found.next) == ((), 70, 75)
    assert stream.draws(2, 3, DrawFilter(task="no such task"), backwards=True).next is None


def test_shares_sum_to_one_and_held_out_tasks_have_none(stream: ExampleStream) -> None:
    mixture = stream.mixture_view()
    for shares in (mixture.mixtures, mixture.formats, mixture.tasks):
        assert sum(s.share for s in shares) == pytest.approx(1, abs=1e-12)
    names = {s.name for s in mixture.tasks}
    assert "demo/verbs_ing" not in names and not any(n.startswith("demo/towns") for n in names)
