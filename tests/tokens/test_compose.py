"""Composed examples are those of the rendered text, everything in them; and each text is tokenised once."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import StateError
from flantune.mixtures import Mixture
from flantune.recipe import CollectionSpec, HeldOut, MixtureSpec
from flantune.tasks import ExampleStore, build_store, split_held_out
from flantune.templates import templates_for
from flantune.tokens.boundaries import boundaries_of
from flantune.tokens.compose import Composer, same_example
from flantune.tokens.encode import EncodedBatch, encode_prompts
from flantune.tokens.token_store import STATE, TokenStore
from flantune.tokens.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from flantune.tokens.worded import composes
from flantune.types import Format

from .unigrams import train_unigram

LENGTHS = {"inputs_len": 160, "targets_len": 24, "few_shot_margin": 16}

# Words whose ends meet a template's words in every way; blanks and line breaks at both ends; nothing at all.
words = st.sampled_from(
    ["the", "nine.", "A", "(b)", "it's", "100%", "北京", "—", "x:", "…", "a\nb", "\n", " ", "</s>", "Q:"]
)
phrases = st.lists(words, max_size=6).map(" ".join)
shown = phrases.filter(str.strip)
options = st.lists(shown, min_size=2, max_size=3, unique=True)


def write_rows(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")


def alpaca(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    write_rows(folder, "own", [{"instruction": a, "input": b, "output": c} for a, b, c in rows])


def choices(folder: Path, rows: list[tuple[str, list[str], int]]) -> None:
    """PIQA-like questions with options."""
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"query": q, "choices": c, "gold": g}) for q, c, g in rows]
    (folder / "piqa.jsonl").write_text("\n".join(lines), encoding="utf-8")


def chains(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    """GSM8K with rationales."""
    folder.mkdir(exist_ok=True)
    lines = ["\t".join(t.replace("\n", "\\n") for t in row) for row in rows]
    (folder / "gsm8k_train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def mixture_of(store: ExampleStore, spec: MixtureSpec | None = None, seed: int = 0) -> Mixture:
    names = split_held_out(store.tasks, HeldOut()).train
    tasks = {name: store.tasks[name] for name in names}
    sizes = {name: store.size(name) for name in names}
    return Mixture(spec or MixtureSpec(), seed, tasks, sizes, lambda task: templates_for(task, "any"))


def rendered(mixture: Mixture, store: ExampleStore, tokenizer: Tokenizer, start: int, stop: int, **lengths: int):
    return encode_prompts(list(mixture.prompts(range(start, stop), store)), tokenizer, **(lengths or LENGTHS))


def assert_same(got: EncodedBatch, expected: EncodedBatch) -> None:
    assert got.dropped == expected.dropped and got.formats == expected.formats
    assert [e.index for e in got.examples] == [e.index for e in expected.examples]
    for a, b in zip(got.examples, expected.examples, strict=True):
        assert same_example(a, b), (a.index, a.task, a.template)


@pytest.fixture(scope="module")
def unigram(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("unigram")
    lines = ["the ferry left at nine. A crate holds 6 jars: how many? aaa it's 100% of it"] * 50
    return train_unigram(folder, lines, 90)


@pytest.fixture(scope="module", params=["byte-level", "unigram"])
def own(request: pytest.FixtureRequest, spaced: Tokenizer, unigram: Tokenizer) -> Tokenizer:
    return spaced if request.param == "byte-level" else unigram


@pytest.fixture
def world(tmp_path: Path) -> ExampleStore:
    folder = tmp_path / "in"
    alpaca(folder, [(f"Say it {k}.", "" if k % 3 else f" it {k}\n", f"It's {k}.\n") for k in range(40)])
    choices(folder, [(f"To open a jar {k},", ["turn it", f"heat {k}", "turn it "], k % 3) for k in range(30)])
    chains(folder, [(f"A crate holds {k} jars?\nHow many?", str(k), f"It holds {k}. So {k}.") for k in range(30)])
    return build_store([CollectionSpec(path=str(folder))], tmp_path / "store", 1.0)


def composer_of(store: ExampleStore, tokenizer: Tokenizer, mixture: Mixture, folder: Path | None = None) -> Composer:
    rule = boundaries_of(tokenizer)
    assert rule is not None
    return Composer(mixture, store, tokenizer, TokenStore(store, rule, folder, tokenizer.fingerprint))


@pytest.mark.parametrize(
    "setting", ["zs_opt", "zs_noopt", "fs_opt", "fs_noopt", "fs_opt_single", "wordless", "inverted"]
)
def test_every_format_is_that_of_the_rendered_text(world: ExampleStore, own: Tokenizer, setting: str) -> None:
    kinds: dict[str, dict[str, object]] = {
        "wordless": {"setting": "fs_opt", "instruction": False},
        "inverted": {"setting": "fs_opt", "inverted": True},
    }
    spec = MixtureSpec.model_validate({"formats": [kinds.get(setting, {"setting": setting})]})
    mixture = mixture_of(world, spec)
    composer = composer_of(world, own, mixture)
    assert_same(composer.encode(0, 700, **LENGTHS), rendered(mixture, world, own, 0, 700))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(shown, phrases, shown), min_size=2, max_size=8),
    st.lists(st.tuples(shown, options, st.integers(0, 1)), min_size=2, max_size=6),
)
def test_any_texts(tmp_path_factory, spaced, unigram, rows, questions) -> None:
    folder = tmp_path_factory.mktemp("any")
    alpaca(folder / "in", rows)
    choices(folder / "in", questions)
    store = build_store([CollectionSpec(path=str(folder / "in"))], folder / "store", 1.0)
    mixture = mixture_of(store)
    for tokenizer in (spaced, unigram):
        composer = composer_of(store, tokenizer, mixture)
        assert_same(composer.encode(0, 60, **LENGTHS), rendered(mixture, store, tokenizer, 0, 60))


def test_rarer_formats_are_rendered_among_the_composed(world: ExampleStore, own: Tokenizer) -> None:
    formats = [{"setting": "zs_opt"}, {"setting": "fs_opt", "delimiters": "random"}]
    mixture = mixture_of(world, MixtureSpec.model_validate({"formats": formats}))
    composer = composer_of(world, own, mixture)
    assert_same(composer.encode(10, 400, **LENGTHS), rendered(mixture, world, own, 10, 400))


def test_any_stretch_in_any_order(world: ExampleStore, spaced: Tokenizer) -> None:
    mixture = mixture_of(world)
    composer = composer_of(world, spaced, mixture)
    for start, stop in [(900, 1000), (0, 1), (0, 100), (100, 200), (200, 300), (150, 160), (40, 40)]:
        expected = rendered(mixture, world, spaced, start, stop)
        assert_same(composer.encode(start, stop, **LENGTHS), expected)


def test_exemplars_are_pruned_to_the_token(world: ExampleStore, spaced: Tokenizer) -> None:
    """Budgets around what prompts need, so that one token more or less would show."""
    mixture = mixture_of(world, MixtureSpec.model_validate({"formats": [{"setting": "fs_opt"}]}))
    composer = composer_of(world, spaced, mixture)
    dropped = 0
    for length in range(30, 200, 7):
        lengths = {"inputs_len": length, "targets_len": 8, "few_shot_margin": 4}
        expected = rendered(mixture, world, spaced, 0, 60, **lengths)
        assert_same(composer.encode(0, 60, **lengths), expected)
        dropped += len(expected.dropped)
    assert dropped > 0


def test_a_wrong_rule_is_found_out(world: ExampleStore, spaced: Tokenizer) -> None:
    mixture = mixture_of(world)
    rule = boundaries_of(spaced)
    assert rule is not None
    wrong = replace(rule, prefix="")  # forgets the space before a text
    composer = Composer(mixture, world, spaced, TokenStore(world, wrong, None, spaced.fingerprint))
    with pytest.raises(StateError, match=r"tokens\.reuse to false"):
        composer.encode(0, 200, **LENGTHS)


# The store of tokens -------------------------------------------------------------------------------------------------


def test_nothing_is_tokenised_twice(tmp_path: Path, world: ExampleStore, own: Tokenizer) -> None:
    folder = tmp_path / "tokens"
    first = composer_of(world, own, mixture_of(world), folder)
    first.prepare(0, 3000)
    first.encode(0, 3000, **LENGTHS)
    first._tokens.close()
    again = composer_of(world, own, mixture_of(world), folder)
    again.encode(0, 3000, **LENGTHS)
    assert first._tokens.texts_tokenised > 0 and again._tokens.texts_tokenised == 0
    # Other weights, shots and seed: every row is there, and no text of a source is looked at again.
    spec = MixtureSpec.model_validate(
        {"preset": "uniform", "formats": [{"setting": "fs_noopt"}, {"setting": "zs_opt"}]}
    )
    other = Composer(mixture_of(world, spec, seed=7), world, own, again._tokens)
    other.encode(0, 500, **LENGTHS)
    assert again._tokens.texts_tokenised == 0


def test_another_tokenizer_or_store_begins_anew(tmp_path: Path, world: ExampleStore, spaced: Tokenizer) -> None:
    folder = tmp_path / "tokens"
    composer = composer_of(world, spaced, mixture_of(world), folder)
    composer.encode(0, 300, **LENGTHS)
    composer._tokens.close()
    larger = train_tokenizer(["one two three ferry jars crate"] * 20, 420, tmp_path / "larger")
    mixture = mixture_of(world)
    other = composer_of(world, larger, mixture, folder)
    assert_same(other.encode(0, 300, **LENGTHS), rendered(mixture, world, larger, 0, 300))


def test_a_second_process_keeps_to_itself(tmp_path: Path, world: ExampleStore, spaced: Tokenizer) -> None:
    folder = tmp_path / "tokens"
    mixture = mixture_of(world)
    first = composer_of(world, spaced, mixture, folder)
    second = composer_of(world, spaced, mixture, folder)
    assert second._tokens.folder is None
    assert_same(second.encode(0, 100, **LENGTHS), first.encode(0, 100, **LENGTHS))
    first._tokens.close()


def kill_while_filling(folder: Path, store: Path, tokenizer: Path, saves: int) -> None:
    opened = ExampleStore.open(store)
    own = load_tokenizer(tokenizer)
    composer = composer_of(opened, own, mixture_of(opened), folder)
    for k in range(saves):
        composer.encode(20 * k, 20 * (k + 1), **LENGTHS)
    composer._fill(islice(composer._mixture.draws(2000, 2600), 600))  # added, never saved
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize("saves", [0, 1, 5])
def test_killed_at_any_moment(tmp_path: Path, world: ExampleStore, spaced: Tokenizer, saves: int) -> None:
    folder = tmp_path / "tokens"
    spaced.save(tmp_path / "tokenizer")
    process = multiprocessing.get_context("spawn").Process(
        target=kill_while_filling, args=(folder, world.folder, tmp_path / "tokenizer", saves)
    )
    process.start()
    process.join()
    assert process.exitcode == -9
    mixture = mixture_of(world)
    composer = composer_of(world, spaced, mixture, folder)
    assert_same(composer.encode(0, 600, **LENGTHS), rendered(mixture, world, spaced, 0, 600))
    composer._tokens.close()


def test_files_cut_short_begin_anew(tmp_path: Path, world: ExampleStore, spaced: Tokenizer) -> None:
    folder = tmp_path / "tokens"
    mixture = mixture_of(world)
    expected = rendered(mixture, world, spaced, 0, 200)
    for name in ("ids.bin", "texts.bin", "ends.jsonl", "units.jsonl", STATE):
        composer = composer_of(world, spaced, mixture, folder)
        composer.encode(0, 200, **LENGTHS)
        composer._tokens.close()
        os.truncate(folder / name, 3)
        composer = composer_of(world, spaced, mixture, folder)
        assert_same(composer.encode(0, 200, **LENGTHS), expected)
        composer._tokens.close()


# Real collections ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> ExampleStore:
    """Some files of every kind."""
    specs = [
        CollectionSpec(path=str(data_dir / "niv2"), include=("task0[0-3]*", "task11*", "task14*")),
        CollectionSpec(path=str(data_dir / "t0"), include=("*a*_1*", "ag_news*", "r*")),
        CollectionSpec(path=str(data_dir / "muffin")),
        CollectionSpec(path=str(data_dir / "cot"), include=("aqua*", "creak*")),
    ]
    return build_store(specs, tmp_path_factory.mktemp("real") / "store")


def test_real_collections(real: ExampleStore, own: Tokenizer) -> None:
    mixture = mixture_of(real, MixtureSpec(preset="flan2022-paper-b"))
    lengths = {"inputs_len": 512, "targets_len": 128, "few_shot_margin": 32}
    composer = composer_of(real, own, mixture)
    expected = rendered(mixture, real, own, 0, 1500, **lengths)
    assert_same(composer.encode(0, 1500, **lengths), expected)
    assert len({e.mixture for e in expected.examples}) == 4


def test_all_formats_are_known_to_be_composed_or_not() -> None:
    """A field added to Format must be thought of here: composing that knows nothing of it would be wrong."""
    assert {f.name for f in fields(Format)} == {
        "shots", "rationale", "instruction", "options", "exemplar_templates", "demonstrations", "inverted", "chat",
        "language", "delimiters",
    }  # fmt: skip
    assert composes(Format()) and not composes(Format(chat=True))
