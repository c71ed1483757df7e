from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flantune.errors import StateError
from flantune.mixtures.counted import LEAST_SAMPLE, Measured, sample_sizes
from flantune.mixtures.row_order import RowOrder
from flantune.mixtures.sequence import mix, name_key
from flantune.pipeline.data import LENGTHS, open_data
from flantune.pipeline.folder import RunFolder
from flantune.recipe import Recipe, parse_recipe
from flantune.tasks import build_store
from flantune.tasks.lengths import text_lengths
from flantune.tokens import yields
from flantune.tokens.encode import encode_prompts
from flantune.tokens.yields import Sampler

DRAWS = 512


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yields, "SAMPLE", DRAWS)


def write_rows(folder: Path, name: str, count: int, words: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"prompt": f"{name} asks number {i}: " + "why so " * (i % 9), "completion": " ".join(["so"] * (1 + i % words))}
        for i in range(count)
    ]
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = tmp_path_factory.mktemp("counted")
    write_rows(root / "short", "yes", 300, 2)
    write_rows(root / "long", "essay", 200, 60)
    return parse_recipe(
        {
            "name": "counted",
            "runs": str(root / "runs"),
            "collections": [{"path": str(root / m), "mixture": m} for m in ("short", "long")],
            "mixture": {
                "count": "target_tokens",
                "parts": [{"name": "short", "mixture": "short", "weight": 3}, {"name": "long", "mixture": "long"}],
                "formats": [{"setting": "zs_noopt"}, {"setting": "fs_noopt", "shots": 2, "weight": 2}],
            },
            "tokens": {"inputs_len": 90, "targets_len": 64, "few_shot_margin": 10},
            "model": {"tokenizer": {"vocab_size": 700, "sample_mb": 0.02}},
        }
    )


def sampler_of(recipe: Recipe) -> Sampler:
    from flantune.pipeline.data import Readied, composer_of, encoded_draws, make_mixture, open_tokenizer
    from flantune.tasks import split_held_out

    data = open_data(recipe, RunFolder(recipe.folder))
    drawn = make_mixture(recipe, data.store, split_held_out(data.store.tasks, recipe.held_out), "draws")
    tokenizer = open_tokenizer(recipe, RunFolder(recipe.folder), data)
    order = RowOrder({task: text_lengths(data.store, task, "targets") for task in drawn.sizes}, recipe.seed)
    readied = Readied(replace(data, mixture=drawn), tokenizer)
    composer = composer_of(recipe, RunFolder(recipe.folder), readied)
    assert composer is not None
    encode = encoded_draws(recipe, readied, composer)
    return Sampler(drawn, order, encode, tokenizer, recipe.tokens, made_from="here")


def test_a_store_knows_its_rows_lengths_without_their_words(recipe: Recipe) -> None:
    store = build_store(recipe.collections, RunFolder(recipe.folder).store, recipe.max_rejected)
    for task in store.tasks:
        examples = list(store.examples(task))
        fields = [len(json.dumps(dict(e.fields), separators=(",", ":")).encode()) for e in examples]
        targets = [sum(len(t.encode()) for t in e.targets) // len(e.targets) for e in examples]
        assert text_lengths(store, task, "fields").tolist() == fields
        assert text_lengths(store, task, "targets").tolist() == targets


def test_yields_are_what_encoding_the_sampled_prompts_one_by_one_comes_to(recipe: Recipe, tmp_path: Path) -> None:
    sampler = sampler_of(recipe)
    spec = recipe.tokens
    found = sampler.yields(tmp_path / "lengths.json")
    assert {pair: y.draws for pair, y in found.items()} == sample_sizes(sampler.mixture.leaves, DRAWS)
    dropped = 0
    for leaf in sampler.mixture.leaves:
        for format, _ in leaf.formats:
            y = found[leaf.task, format]
            key = name_key("sample", recipe.seed, leaf.task, json.dumps(yields.asdict(format)))
            sums = [0, 0, 0]
            for n in range(min(y.draws, 64)):
                row = sampler.order.row(leaf.task, n, y.draws)
                draw = sampler.mixture.draw_for(leaf, format, row, mix(key + n))
                prompt = sampler.mixture.prompt_of(draw, open_data(recipe, RunFolder(recipe.folder)).store)
                for e in encode_prompts(
                    [prompt], sampler.tokenizer, inputs_len=90, targets_len=64, few_shot_margin=spec.few_shot_margin
                ).examples:
                    sums = [sums[0] + 1, sums[1] + len(e.inputs), sums[2] + len(e.targets)]
            if y.draws <= 64:
                assert sums == [y.examples, y.input_tokens, y.target_tokens]
            dropped += y.draws - y.examples
    assert dropped  # or the test has nothing dropped to count


def test_samples_are_kept_and_only_what_is_new_is_sampled(recipe: Recipe, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "lengths.json"
    first = sampler_of(recipe).yields(file)
    content = file.read_bytes()

    def never(*_: object) -> None:
        raise AssertionError("sampled again")

    with monkeypatch.context() as m:
        m.setattr(Sampler, "_sample", never)
        assert sampler_of(recipe).yields(file) == first
    assert file.read_bytes() == content
    # Another text is another sample; a file cut short, or one of another kind, is said so.
    other = replace(sampler_of(recipe), made_from="elsewhere")
    with monkeypatch.context() as m:
        m.setattr(Sampler, "_sample", never)
        with pytest.raises(AssertionError, match="sampled again"):
            other.yields(file)
    file.write_bytes(content[:-20])
    with pytest.raises(StateError, match=r"lengths\.json: cannot be read"):
        sampler_of(recipe).yields(file)


def test_a_sampling_that_was_killed_goes_on_to_the_same_counts(recipe: Recipe, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    whole = sampler_of(recipe).yields(tmp_path / "whole.json")
    monkeypatch.setattr(yields, "_KEPT_EVERY", LEAST_SAMPLE)
    calls = []
    sample = Sampler._sample

    def dies(self: Sampler, pair: tuple, draws: int):  # type: ignore[no-untyped-def, type-arg]
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(pair)
        return sample(self, pair, draws)

    with monkeypatch.context() as m:
        m.setattr(Sampler, "_sample", dies)
        with pytest.raises(KeyboardInterrupt):
            sampler_of(recipe).yields(tmp_path / "cut.json")
    left = json.loads((tmp_path / "cut.json").read_text())
    assert len(left["yields"]) == 2
    assert sampler_of(recipe).yields(tmp_path / "cut.json") == whole
    assert (tmp_path / "cut.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_a_run_that_counts_target_tokens_gives_each_part_its_share_of_them(recipe: Recipe) -> None:
    folder = RunFolder(recipe.folder)
    data = open_data(recipe, folder)
    assert (folder.store.parent / LENGTHS).is_file()
    assert open_data(recipe, folder).mixture.fingerprint() == data.mixture.fingerprint()
    sampler = sampler_of(recipe)
    tokens = {"short": 0, "long": 0}
    for start in range(0, 3072, 1024):
        prompts = list(data.mixture.prompts(range(start, start + 1024), data.store))
        batch = encode_prompts(prompts, sampler.tokenizer, inputs_len=90, targets_len=64, few_shot_margin=10)
        assert batch.dropped
        for e in batch.examples:
            tokens[e.mixture] += len(e.targets)
    assert tokens["short"] / sum(tokens.values()) == pytest.approx(0.75, abs=0.02)
    assert data.mixture.mixture_shares()["short"] > 0.9  # short answers: many more of them
    assert data.mixture.asked_mixture_shares()["short"] == pytest.approx(0.75)


def test_what_was_measured_names_the_stream(recipe: Recipe, tmp_path: Path) -> None:
    sampler = sampler_of(recipe)
    found = sampler.yields(tmp_path / "lengths.json")
    one = Measured(found, sampler.order)
    pair = next(iter(found))
    other = Measured({**found, pair: replace(found[pair], target_tokens=1)}, sampler.order)
    assert one.fingerprint() == Measured(dict(reversed(found.items())), sampler.order).fingerprint()
    assert one.fingerprint() != other.fingerprint()
