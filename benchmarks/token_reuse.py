"""Prompts composed from tokens against rendering them and calling the tokenizer's batch encoder.

    python benchmarks/token_reuse.py --data DIR

Two tokenizers are trained on the data: a byte-level BPE, and a SentencePiece Unigram in a T5 tokenizer. First the
ids of `--check` prompts must be equal, every one, on the default few-shot mixture. Then both sides are timed over the
same prompts with two threads: with a filled store of tokens (`ratio`, target 5), and from an empty one over `--cold`
prompts with the filling counted (`ratio_cold`, target 3). The peer is what a user would call: the prompts' text from
the same mixture, then the tokenizer's own batch encoder; for Unigram also the sentencepiece library in its place.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "2"  # before tokenizers is imported

import numpy as np

from flantune.mixtures import Mixture
from flantune.recipe import CollectionSpec, HeldOut, MixtureSpec, TokensSpec
from flantune.tasks import ExampleStore, build_store, split_held_out
from flantune.templates import templates_for
from flantune.tokens.boundaries import boundaries_of
from flantune.tokens.compose import Composer, same_example
from flantune.tokens.encode import encode_prompts
from flantune.tokens.token_store import TokenStore
from flantune.tokens.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

FOLDERS = ("niv2", "niv2_early", "t0", "muffin", "cot")
BLOCK = TokensSpec().block
LENGTHS = {
    "inputs_len": TokensSpec().inputs_len,
    "targets_len": TokensSpec().targets_len,
    "few_shot_margin": TokensSpec().few_shot_margin,
}
TARGET, TARGET_COLD = 5.0, 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--check", type=int, default=50_000, help="prompts whose ids must be equal")
    parser.add_argument("--warm", type=int, default=20_000, help="prompts timed with a filled store")
    parser.add_argument("--cold", type=int, default=200_000, help="prompts timed from an empty store")
    parser.add_argument("--tokenizers", nargs="+", choices=["bpe", "unigram"], default=["bpe", "unigram"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        specs = [CollectionSpec(path=str(args.data / name)) for name in FOLDERS if (args.data / name).is_dir()]
        store = build_store(specs, folder / "store")
        mixture = few_shot_mixture(store)
        figures = {}
        for kind in args.tokenizers:
            tokenizer = train(kind, store, folder / kind)
            figures[kind] = measure(store, mixture, tokenizer, folder / f"{kind}-tokens", args)
            print(kind, json.dumps(figures[kind]), flush=True)
    print(
        json.dumps(
            {
                "name": "token_reuse",
                "ratio": min(f["ratio"] for f in figures.values()),
                "target": TARGET,
                "ratio_cold": min(f["ratio_cold"] for f in figures.values()),
                "target_cold": TARGET_COLD,
                "equal": all(f["equal"] for f in figures.values()),
                "threads": 2,
                **figures,
            }
        )
    )


def few_shot_mixture(store: ExampleStore) -> Mixture:
    """The paper's proportions in the default four settings, half of them few-shot."""
    names = split_held_out(store.tasks, HeldOut()).train
    tasks, sizes = {n: store.tasks[n] for n in names}, {n: store.size(n) for n in names}
    spec = MixtureSpec(preset="flan2022-paper-b")
    return Mixture(spec, 0, tasks, sizes, lambda task: templates_for(task))


def sample_texts(store: ExampleStore, each: int = 80) -> Iterator[str]:
    for name in sorted(store.tasks):
        for example in itertools.islice(store.examples(name), each):
            yield from (*example.fields.values(), *example.targets)


def train(kind: str, store: ExampleStore, folder: Path) -> Tokenizer:
    if kind == "bpe":
        return train_tokenizer(sample_texts(store), 32_000, folder)
    import sentencepiece

    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text.replace("\n", " ")[:4000] for text in sample_texts(store)),
        model_prefix=str(folder / "spiece"),
        vocab_size=32_000,
        model_type="unigram",
        character_coverage=0.9995,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 100}))
    tokenizer = load_tokenizer(folder)
    if tokenizer.sentencepiece is None:
        raise SystemExit("the library's ids are not the wrapper's")
    return tokenizer


def measure(
    store: ExampleStore, mixture: Mixture, tokenizer: Tokenizer, folder: Path, args: argparse.Namespace
) -> dict[str, object]:
    rule = boundaries_of(tokenizer)
    if rule is None:
        raise SystemExit("no rule for this tokenizer")
    wrapper = tokenizer.as_loaded
    with TokenStore(store, rule, folder / "check", tokenizer.fingerprint) as tokens:
        composer = Composer(mixture, store, tokenizer, tokens)
        unequal = count_unequal(composer, mixture, store, wrapper, args.check)
        compose(composer, args.warm)  # whatever its rows and units still lacked is there now
        warm, warm_tokens = timed(lambda: compose(composer, args.warm))
    peer, peer_tokens = timed(lambda: render(mixture, store, wrapper, args.warm))
    result: dict[str, object] = {
        "equal": unequal == 0 and warm_tokens == peer_tokens,
        "checked": args.check,
        "unequal": unequal,
        "prompts": args.warm,
        "tokens_per_second": round(warm_tokens / warm),
        "peer_tokens_per_second": round(peer_tokens / peer),
        "ratio": round(peer / warm, 2),
    }
    if tokenizer.sentencepiece is not None:
        library, _ = timed(lambda: render(mixture, store, tokenizer, args.warm))
        result["ratio_to_the_library"] = round(library / warm, 2)

    with TokenStore(store, rule, folder / "cold", tokenizer.fingerprint) as tokens:
        cold, cold_tokens = timed(lambda: compose(Composer(mixture, store, tokenizer, tokens), args.cold))
    peer, peer_tokens = timed(lambda: render(mixture, store, wrapper, args.cold))
    result |= {
        "equal": result["equal"] and cold_tokens == peer_tokens,
        "cold_prompts": args.cold,
        "cold_tokens": cold_tokens,
        "cold_seconds": round(cold, 1),
        "peer_cold_seconds": round(peer, 1),
        "ratio_cold": round(peer / cold, 2),
    }
    return result


def timed(work: object) -> tuple[float, int]:
    start = time.perf_counter()
    tokens = work()  # type: ignore[operator]
    return time.perf_counter() - start, tokens


def count_unequal(composer: Composer, mixture: Mixture, store: ExampleStore, wrapper: Tokenizer, count: int) -> int:
    """Examples that differ in anything from those of the rendered text, of `count` prompts."""
    unequal = 0
    for start in range(0, count, BLOCK):
        stop = min(count, start + BLOCK)
        got = composer.encode(start, stop, **LENGTHS)
        expected = encode_prompts(list(mixture.prompts(range(start, stop), store)), wrapper, **LENGTHS)
        same = {e.index: e for e in got.examples}
        unequal += sum(e.index not in same or not same_example(same[e.index], e) for e in expected.examples)
        unequal += len(set(got.dropped) ^ set(expected.dropped))
    return unequal


def compose(composer: Composer, count: int) -> int:
    """Tokens of the first `count` prompts, before trimming; one pass."""
    tokens = 0
    for start in range(0, count, BLOCK):
        batch = composer.encode(start, min(count, start + BLOCK), **EVERYTHING)
        tokens += sum(len(e.inputs) + len(e.targets) - 2 for e in batch.examples)
    return tokens


def render(mixture: Mixture, store: ExampleStore, tokenizer: Tokenizer, count: int) -> int:
    tokens = 0
    for start in range(0, count, BLOCK):
        prompts = list(mixture.prompts(range(start, min(count, start + BLOCK)), store))
        tokens += sum(map(len, tokenizer.encode_batch([p.inputs for p in prompts])))
        tokens += sum(map(len, tokenizer.encode_batch([p.target for p in prompts])))
    return tokens


# Nothing pruned or trimmed, so that both sides make the same tokens: the peer neither prunes nor trims.
EVERYTHING = {"inputs_len": np.iinfo(np.int32).max, "targets_len": np.iinfo(np.int32).max, "few_shot_margin": 0}

if __name__ == "__main__":
    main()
