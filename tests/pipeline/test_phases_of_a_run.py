"""A curriculum from recipe to rows: where phases end, what each holds, and the same bytes however it is built."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from parallel_runs import digests, job_of, small_recipe

from flantune.demo.files import write_world
from flantune.errors import RecipeError, StateError
from flantune.explore.stream import ExampleStream
from flantune.mixtures import Mixture
from flantune.pipeline.data import block_spans, build, encoded_blocks, open_data, open_store, quiet, reopen
from flantune.pipeline.folder import RunFolder, open_run
from flantune.pipeline.parallel import BlocksAhead, LocalCrew
from flantune.pipeline.phases import FILE, MOST_BLOCKS, measured_ends, rows_of_phases
from flantune.recipe import Recipe, parse_recipe
from flantune.tokens.build import build_shards
from flantune.tokens.card import DataCard
from flantune.tokens.encode import EncodedBatch
from flantune.tokens.shards import ShardReader
from flantune.types import Encoded

PHASES = [{"until": 0.3, "weights": {"foods": 4, "sums": 1}}, {"weights": {"foods": 1, "sums": 3}}]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phases")
    write_world(folder / "world")
    return folder


def recipe_over(world: Path, runs: Path, **changes: Any) -> Recipe:
    """Some fifteen blocks of two sources, in two phases."""
    raw = small_recipe(world)
    mixture = {
        "parts": [{"name": "foods", "tasks": ["*foods_*"]}, {"name": "sums", "tasks": ["*arithmetic_*"]}],
        "formats": raw["mixture"]["formats"],
        "phases": PHASES,
        **changes.pop("mixture", {}),
    }
    return parse_recipe({**raw, "runs": str(runs), "mixture": mixture, **changes})


CASES: dict[str, dict[str, Any]] = {
    "draws": {"text": {"share": 0.2, "window": 64}},
    "target tokens": {"count": "target_tokens"},
}


@pytest.fixture(scope="module", params=CASES)
def built(request: pytest.FixtureRequest, world: Path) -> tuple[Recipe, RunFolder, DataCard]:
    recipe = recipe_over(world, world / request.param.replace(" ", "-"), mixture=CASES[request.param])
    run = open_run(recipe)
    return recipe, run, build(recipe, run)


def copied(run: RunFolder, to: Path) -> RunFolder:
    """The run as it was when its data were readied, without its rows."""
    shutil.copytree(run.root, to)
    shutil.rmtree(to / "data" / "shards")
    return RunFolder(to)


class TestWhatIsBuilt:
    def test_phases_end_where_their_share_of_the_rows_is_written(self, built) -> None:
        recipe, _, card = built
        rows = recipe.train.steps * recipe.train.batch_rows
        assert card.rows == rows and len(card.phases) == 2
        # Blocks of this run are a fifteenth of it; kept even, each leaves some of its examples to the next.
        evened = recipe.mixture.count == "target_tokens"
        assert card.phases[0].rows == pytest.approx(0.3 * rows, abs=0.04 * rows if evened else 3)

    def test_each_phase_has_its_shares(self, built) -> None:
        _, _, card = built
        told = card.to_json()
        for phase, weights in zip(told["phases"], PHASES, strict=True):
            got = {name: phase["mixtures"][name]["got"] for name in weights["weights"]}
            whole = sum(got.values())  # plain text has its share besides
            asked = {n: w / sum(weights["weights"].values()) for n, w in weights["weights"].items()}
            # Of draws some are dropped; what is counted in examples or tokens is only as near as whole examples come.
            assert {n: g / whole for n, g in got.items()} == pytest.approx(asked, abs=0.03)
            wanted = [own["asked"] for own in phase["mixtures"].values() if own["asked"] is not None]
            assert sum(wanted) == pytest.approx(1)
        assert sum(p["row_share"] for p in told["phases"]) == pytest.approx(1)

    def test_the_whole_is_what_the_phases_are(self, built) -> None:
        _, _, card = built
        for name, whole in card.mixtures.items():
            parts = [p.mixtures[name] for p in card.phases if name in p.mixtures]
            assert whole.examples == sum(p.examples for p in parts)
            assert whole.target_tokens == sum(p.target_tokens for p in parts)
        told = card.to_json()["mixtures"]
        got, asked = ({name: told[name][key] for name in ("foods", "sums")} for key in ("got", "asked"))
        assert got["foods"] / got["sums"] == pytest.approx(asked["foods"] / asked["sums"], rel=0.06)

    def test_no_row_is_of_two_phases_and_phases_come_in_order(self, built) -> None:
        recipe, run, card = built
        mixture = open_data(recipe, run).mixture
        shards = ShardReader(run.shards)
        of_rows = []
        for row in shards.rows(range(len(shards))):
            phases = {mixture.phase_of(i) for i in row.indices.tolist() if i >= 0}
            assert len(phases) <= 1
            of_rows += phases
        assert of_rows == sorted(of_rows)
        if recipe.mixture.text is None:
            assert Counter(of_rows) == {n: p.rows for n, p in enumerate(card.phases)}

    def test_rows_come_again_only_when_their_task_is_through(self, built) -> None:
        recipe, run, _ = built
        data = open_data(recipe, run)
        last = data.mixture.phases[-1].stop
        seen: Counter[tuple[str, int]] = Counter((d.task, d.row) for d in data.mixture.draws(0, last))
        for task, size in data.mixture.sizes.items():
            counts = [seen[task, row] for row in range(size)]
            assert max(counts) - min(counts) <= 1


class TestTheSameBytes:
    def test_killed_anywhere_it_goes_on_to_them(self, built, tmp_path: Path) -> None:
        recipe, whole, _ = built
        run = copied(whole, tmp_path / "small")
        for stop in (5, 9, None):
            _, arguments = job_of(recipe, run)
            blocks = encoded_blocks(recipe, run, reopen(recipe, run))
            spans = block_spans(recipe, reopen(recipe, run).data.mixture)

            class Killed(Exception):
                pass

            def until(b: int, stop: int | None = stop, blocks=blocks, error=Killed) -> EncodedBatch:
                if b == stop:
                    raise error
                return blocks(b)

            try:
                build_shards(until, **arguments, phase_of=spans.phase)
            except Killed:
                assert stop is not None
        assert digests(run) == digests(whole)

    @pytest.mark.slow
    def test_workers_write_them(self, built, tmp_path: Path) -> None:
        recipe, whole, _ = built
        run = copied(whole, tmp_path / "small")
        job, arguments = job_of(recipe, run)
        spans = block_spans(recipe, reopen(recipe, run).data.mixture)
        with BlocksAhead(LocalCrew(job), 2) as blocks:
            build_shards(blocks, **arguments, phase_of=spans.phase)
        assert digests(run) == digests(whole)

    def test_an_example_is_shown_in_the_row_that_was_written(self, built) -> None:
        recipe, run, card = built
        stream = ExampleStream(recipe, run, quiet)
        shards = ShardReader(run.shards)
        first = stream.data.mixture.phases[1].first
        for place in (card.phases[0].rows - 1, card.phases[0].rows, card.phases[0].rows + 9):
            row = shards.row(place)
            index = int(max(row.indices))
            pack = stream.example(index).pack
            assert [m.index for m in pack.members] == row.indices.tolist()
            assert pack.first <= place_in(recipe, index) or recipe.mixture.count == "target_tokens"
            assert (index >= first) == (place >= card.phases[0].rows)
            assert stream.example(index, tokens=False, pack=False).phase == 1 + (index >= first)
        shown = stream.mixture_view().phases
        assert [{s.name for s in phase} for phase in shown] == [{"foods", "sums"}] * 2
        assert shown[0][0].share > shown[1][0].share

    def test_where_phases_end_is_decided_once(self, built, monkeypatch: pytest.MonkeyPatch) -> None:
        recipe, run, _ = built
        before = open_data(recipe, run).mixture.fingerprint()
        monkeypatch.setattr("flantune.pipeline.data.measured_ends", None)
        assert open_data(recipe, run).mixture.fingerprint() == before

    def test_a_file_that_is_none_of_ours_is_said_so(self, built, tmp_path: Path) -> None:
        recipe, whole, _ = built
        run = copied(whole, tmp_path / "small")
        (run.root / "data" / FILE).write_text("{}")
        with pytest.raises(StateError, match=r"phases\.json: cannot be read"):
            open_data(recipe, run)


def place_in(recipe: Recipe, index: int) -> int:
    from flantune.tokens.text_share import place_of

    text = recipe.mixture.text
    return index if text is None else place_of(text.share, index)


def test_plain_text_is_drawn_by_the_parts_own_weights(world: Path, tmp_path: Path) -> None:
    recipe = recipe_over(world, tmp_path)
    run = open_run(recipe)
    data = open_data(recipe, run)
    shares = data.for_text.mixture_shares()
    assert shares == pytest.approx({"foods": 0.5, "sums": 0.5}) and not data.for_text.phases


def test_a_phase_without_a_row_is_refused(world: Path, tmp_path: Path) -> None:
    recipe = recipe_over(world, tmp_path, train={"steps": 1, "batch_rows": 1})
    with pytest.raises(RecipeError, match="phase 1 would have none of the run's 1 packed rows"):
        open_data(recipe, open_run(recipe))


def test_rows_of_phases_are_all_rows() -> None:
    parts = [{"name": "a", "tasks": ["x"]}]
    raw = {"name": "r", "collections": [{"path": "."}]}
    recipe = parse_recipe({**raw, "mixture": {"parts": parts, "phases": [{"until": 1 / 3}, {"until": 2 / 3}, {}]}})
    assert rows_of_phases(recipe.mixture, 100) == [33, 34, 33]


@pytest.mark.parametrize("blocks", [3, 50])
def test_long_phases_are_measured_on_some_blocks_and_taken_to_go_on_alike(world: Path, blocks: int) -> None:
    """Examples of 16 tokens in rows of 64 in the first phase, of 32 in the second: 4 and 2 to a row."""
    raw = small_recipe(world)
    parts = [{"name": "a", "tasks": ["x"]}]
    recipe = parse_recipe(
        {
            **raw,
            "mixture": {"parts": parts, "phases": [{"until": 0.5}, {}]},
            "tokens": {"inputs_len": 64, "targets_len": 64, "block": 64},
            "train": {"steps": 32 * blocks, "batch_rows": 1},
        }
    )
    asked: list[tuple[int, int]] = []

    def open_phase(number: int, ends: Any) -> Any:
        length = 16 if number == 0 else 32

        def places(start: int, stop: int) -> EncodedBatch:
            asked.append((number, stop - start))
            tokens = range(1, length + 1)
            import numpy as np

            ids = np.array(tokens, np.int32)
            return EncodedBatch(
                examples=tuple(
                    Encoded(inputs=ids, targets=ids[:1], index=i, task="x", mixture="a") for i in range(start, stop)
                )
            )

        return places

    ends = measured_ends(recipe, False, open_phase, lambda done, total: None)
    assert ends == (16 * blocks * 4, 16 * blocks * 4 + 16 * blocks * 2)
    assert max(Counter(number for number, _ in asked).values()) <= MOST_BLOCKS


def test_a_mixture_of_the_store_alone_has_no_phases(world: Path, tmp_path: Path) -> None:
    """For what asks the tasks and not the stream: nothing is measured."""
    from flantune.pipeline.data import make_mixture
    from flantune.tasks import split_held_out

    recipe = recipe_over(world, tmp_path)
    store = open_store(recipe, open_run(recipe))
    mixture: Mixture = make_mixture(recipe, store, split_held_out(store.tasks, recipe.held_out), "draws")
    assert not mixture.phases
