"""Another mixture of the same collections: nothing is tokenised again, and batches come at once.

    python benchmarks/remix.py --data DIR

The first build reads the collections, tokenises what its stream draws and writes packed rows. Then weights, caps,
formats, shots and seed are changed, and the time from opening the stores to the first packed batch is taken, for each
change alone and all together (`ratio` is the longest of them over the first build's time, target 0.02). No text of a
source that the first build tokenised may be tokenised again; with `--all` it tokenised all of them, so none is at all.
The first batch must equal the one that rendering gives.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from flantune.mixtures import Mixture
from flantune.recipe import CollectionSpec, HeldOut, MixtureSpec, TokensSpec
from flantune.tasks import ExampleStore, build_store, split_held_out
from flantune.templates import templates_for
from flantune.tokens.boundaries import boundaries_of
from flantune.tokens.compose import Composer, same_example
from flantune.tokens.encode import encode_prompts
from flantune.tokens.packing import pack_examples
from flantune.tokens.token_store import TokenStore
from flantune.tokens.tokenizer import Tokenizer, train_tokenizer

FOLDERS = ("niv2", "niv2_early", "t0", "muffin", "cot")
TARGET = 0.02
SPEC = TokensSpec()
LENGTHS = {"inputs_len": SPEC.inputs_len, "targets_len": SPEC.targets_len, "few_shot_margin": SPEC.few_shot_margin}
BATCH = 256  # examples of the first batch delivered

FIRST: dict[str, Any] = {"preset": "flan2022-paper-b"}
CHANGES: dict[str, tuple[dict[str, Any], int]] = {
    "weights": ({"preset": "flan2022-paper-a"}, 0),
    "caps": ({"preset": "proportional", "cap": 1000}, 0),
    "formats": ({"preset": "flan2022-paper-b", "formats": [{"setting": "zs_noopt"}, {"setting": "fs_noopt"}]}, 0),
    "shots": ({"preset": "flan2022-paper-b", "formats": [{"setting": "fs_opt", "shots": 2}]}, 0),
    "seed": ({"preset": "flan2022-paper-b"}, 1),
    "all": ({"preset": "uniform", "formats": [{"setting": "fs_opt", "shots": 3}, {"setting": "zs_noopt"}]}, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=200_000, help="of the first build's stream")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        specs = [CollectionSpec(path=str(args.data / name)) for name in FOLDERS if (args.data / name).is_dir()]
        tokenizer = train_tokenizer(texts(build_store(specs, folder / "for-tokenizer")), 32_000, folder / "tokenizer")

        start = time.perf_counter()
        store = build_store(specs, folder / "store")
        with TokenStore(store, boundaries(tokenizer), folder / "tokens", tokenizer.fingerprint) as tokens:
            composer = Composer(mixture_of(store, FIRST, 0), store, tokenizer, tokens)
            rows = 0
            for at in range(0, args.examples, SPEC.block):
                batch = composer.encode(at, min(args.examples, at + SPEC.block), **LENGTHS)
                rows += len(pack_examples(batch.examples, SPEC.inputs_len, SPEC.targets_len))
            # What this stream did not draw another may: the rest of the collections is tokenised with it.
            tokens.fill({task: range(size) for task, size in store.sizes.items()})
            tokenised = tokens.texts_tokenised
        first = time.perf_counter() - start

        seconds, again, equal = {}, 0, True
        for name, (spec, seed) in CHANGES.items():
            took, more, same = remix(specs, folder, tokenizer, spec, seed)
            seconds[name], again, equal = round(took, 3), again + more, equal and same
    worst = max(seconds.values())
    print(
        json.dumps(
            {
                "name": "remix",
                "ratio": round(worst / first, 4),
                "target": TARGET,
                "equal": equal and again == 0,
                "first_build_seconds": round(first, 1),
                "first_build_rows": rows,
                "source_texts_tokenised": tokenised,
                "source_texts_tokenised_again": again,
                "seconds_to_first_batch": seconds,
            }
        )
    )


def remix(
    specs: list[CollectionSpec], folder: Path, tokenizer: Tokenizer, spec: dict[str, Any], seed: int
) -> tuple[float, int, bool]:
    """(seconds from nothing open to the first packed batch, source texts tokenised, equal to rendering)."""
    start = time.perf_counter()
    store = build_store(specs, folder / "store")  # finds the store whole
    with TokenStore(store, boundaries(tokenizer), folder / "tokens", tokenizer.fingerprint) as tokens:
        mixture = mixture_of(store, spec, seed)
        composer = Composer(mixture, store, tokenizer, tokens)
        got = composer.encode(0, BATCH, **LENGTHS)
        rows = pack_examples(got.examples, SPEC.inputs_len, SPEC.targets_len)
        took = time.perf_counter() - start
        expected = encode_prompts(list(mixture.prompts(range(BATCH), store)), tokenizer, **LENGTHS)
        same = got.dropped == expected.dropped and bool(rows) and len(got.examples) == len(expected.examples)
        same = same and all(same_example(a, b) for a, b in zip(got.examples, expected.examples, strict=True))
        return took, tokens.texts_tokenised, same


def mixture_of(store: ExampleStore, spec: dict[str, Any], seed: int) -> Mixture:
    names = split_held_out(store.tasks, HeldOut()).train
    tasks, sizes = {n: store.tasks[n] for n in names}, {n: store.size(n) for n in names}
    return Mixture(MixtureSpec.model_validate(spec), seed, tasks, sizes, lambda task: templates_for(task))


def boundaries(tokenizer: Tokenizer):  # type: ignore[no-untyped-def]
    rule = boundaries_of(tokenizer)
    assert rule is not None
    return rule


def texts(store: ExampleStore):  # type: ignore[no-untyped-def]
    for name in sorted(store.tasks):
        for row in range(min(80, store.size(name))):
            example = store.example(name, row)
            yield from (*example.fields.values(), *example.targets)


if __name__ == "__main__":
    main()
