"""Shares of the four mixtures over any 10,000 consecutive examples of packed rows, against what was asked.

    python benchmarks/realised_mix.py --data DIR [--examples 61440] [--counts target_tokens]

Reads DIR's collections, mixes them as flan2022-paper-b with its four formats and weights that count packed examples,
input tokens or target tokens, trains a tokenizer on a sample, encodes and packs the stream's first examples block by
block, as a build does, and slides a window of 10,000 examples over the rows in their order, an example at a time.
Checked first: the stream asked for one by one, in random order, by a mixture opened anew is the stream read in order.
`value` is the worst deviation of any mixture in any window, in shares; 0.01 is one point. Nearly all of the
time goes into rendering and encoding.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flantune.pipeline.data import Data, Readied, composer_of, even_shares, lengths_of, open_data, open_tokenizer
from flantune.pipeline.folder import RunFolder
from flantune.recipe import Recipe, parse_recipe
from flantune.tokens.compose import Composer
from flantune.tokens.packing import pack_examples

FOLDERS = ("niv2", "niv2_early", "t0", "muffin", "cot")
COUNTS = ("examples", "input_tokens", "target_tokens")
WINDOW = 10_000
SAMPLE_MB = 8.0  # of text, for the tokenizer
ASKED_ONE_BY_ONE = 300
TARGET = 0.01

Places = npt.NDArray[np.int64]


def recipe_of(data: Path, runs: Path, count: str, given: argparse.Namespace) -> Recipe:
    collections = [{"path": str(data / name)} for name in FOLDERS if (data / name).is_dir()]
    if not collections:
        sys.exit(f"--data {data}: holds none of {', '.join(FOLDERS)}")
    raw = {
        "name": "realised-mix",
        "runs": str(runs),
        "collections": collections,
        "mixture": {"preset": "flan2022-paper-b", "count": count},
        "tokens": {"inputs_len": given.inputs_len, "targets_len": given.targets_len},
        "model": {"init": "scratch", "tokenizer": {"sample_mb": SAMPLE_MB}},
    }
    return parse_recipe(raw, where="benchmark")


def one_by_one(recipe: Recipe, folder: RunFolder, data: Data, examples: int) -> bool:
    """Whether places asked for alone, out of order, of a mixture opened anew, hold what reading in order gives."""
    again = open_data(recipe, folder).mixture
    places = random.Random(0).sample(range(examples), min(ASKED_ONE_BY_ONE, examples))
    in_order = {place: draw for place in sorted(places) for draw in data.mixture.draws(place, place + 1)}
    return again.fingerprint() == data.mixture.fingerprint() and all(again.draw(p) == in_order[p] for p in places)


def packed_order(data: Data, composer: Composer, recipe: Recipe, examples: int) -> dict[str, Any]:
    """Mixture and tokens of each example, in the order of the packed rows, and how many were dropped."""
    spec = recipe.tokens
    names = list(data.mixture.asked_mixture_shares())
    columns: dict[str, list[int]] = {"mixture": [], "input_tokens": [], "target_tokens": [], "examples": []}
    dropped = 0
    even = even_shares(recipe, data)
    for start in range(0, examples, spec.block):
        encoded = composer.encode(start, start + spec.block, **lengths_of(spec))
        dropped += len(encoded.dropped)
        if even is not None:
            encoded = even.deliver(start // spec.block, encoded)
        mixture = {e.index: names.index(e.mixture) for e in encoded.examples}
        for row in pack_examples(encoded.examples, spec.inputs_len, spec.targets_len, spec.packing):
            columns["mixture"] += [mixture[i] for i in row.indices.tolist()]
            columns["input_tokens"] += row.inputs_lengths.tolist()
            columns["target_tokens"] += row.targets_lengths.tolist()
            columns["examples"] += [1] * len(row.indices)
    return {"names": names, "dropped": dropped, **{k: np.array(v, dtype=np.int64) for k, v in columns.items()}}


def worst(order: dict[str, Any], count: str, asked: dict[str, float]) -> dict[str, dict[str, float]]:
    """Per mixture: share asked, share over all, and the least and the largest of any window."""
    weights: Places = order[count]
    total = np.r_[0, np.cumsum(weights)]
    found = {}
    for number, name in enumerate(order["names"]):
        own = np.r_[0, np.cumsum(weights * (order["mixture"] == number))]
        shares = (own[WINDOW:] - own[:-WINDOW]) / (total[WINDOW:] - total[:-WINDOW])
        found[name] = {
            "asked": asked[name],
            "over_all": float(own[-1] / total[-1]),
            "least": float(shares.min()),
            "largest": float(shares.max()),
            "worst": float(np.abs(shares - asked[name]).max()),
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of real collections")
    parser.add_argument("--examples", type=int, default=61_440, help="of the stream, for each count")
    parser.add_argument("--counts", nargs="+", choices=COUNTS, default=list(COUNTS))
    parser.add_argument("--inputs-len", type=int, default=2048)
    parser.add_argument("--targets-len", type=int, default=512)
    parser.add_argument("--runs", type=Path, help="keep the store, the tokenizer and the samples here for another run")
    given = parser.parse_args()
    results: dict[str, Any] = {}
    equal = True
    with tempfile.TemporaryDirectory() as temporary:
        for count in given.counts:
            recipe = recipe_of(given.data, given.runs or Path(temporary), count, given)
            folder = RunFolder(recipe.folder)
            began = time.perf_counter()
            data = open_data(recipe, folder)
            opened = time.perf_counter() - began
            equal &= one_by_one(recipe, folder, data, given.examples)
            readied = Readied(data, open_tokenizer(recipe, folder, data))
            composer = composer_of(recipe, folder, readied)
            assert composer is not None
            order = packed_order(data, composer, recipe, given.examples)
            composer.close()
            if len(order["examples"]) < WINDOW:
                sys.exit(f"--examples {given.examples}: {len(order['examples'])} were packed, less than one window")
            mixtures = worst(order, count, data.mixture.asked_mixture_shares())
            results[count] = {
                "worst": max(m["worst"] for m in mixtures.values()),
                "open_seconds": round(opened, 1),
                "examples": len(order["examples"]),
                "dropped": order["dropped"],
                "mixtures": mixtures,
            }
            print(count, json.dumps(results[count]), flush=True)
    value = max(r["worst"] for r in results.values())
    line = {"name": "realised_mix", "value": value, "target": TARGET, "equal": equal, "window": WINDOW}
    print(json.dumps({**line, "met": equal and value <= TARGET, "counts": results}))
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
