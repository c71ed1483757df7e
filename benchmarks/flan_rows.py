"""Real examples for the training benchmarks: the paper's mixture over DIR's collections, drawn, rendered, tokenised."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flantune.types import Encoded, Packed

if TYPE_CHECKING:  # the others are imported where they are used: a side's peak memory counts what it has imported
    from flantune.recipe import Recipe

FOLDERS = ("niv2", "niv2_early", "t0", "muffin", "cot")


def flan_recipe(folder: Path, vocab_size: int) -> Recipe:
    from flantune.recipe import parse_recipe

    collections = [{"path": str(folder / name)} for name in FOLDERS if (folder / name).is_dir()]
    if not collections:
        sys.exit(f"--data {folder}: holds none of {', '.join(FOLDERS)}")
    raw = {
        "name": "training",
        "collections": collections,
        "mixture": {"preset": "flan2022-paper-b"},
        "model": {"init": "scratch", "tokenizer": {"sample_mb": 8.0, "vocab_size": vocab_size}},
    }
    return parse_recipe(raw, where="benchmark")


def flan_examples(
    folder: Path, count: int, inputs_len: int, targets_len: int, vocab_size: int = 16_384
) -> list[Encoded]:
    """The first `count` prompts of the stream, those that no exemplar fits left out; the tokenizer is trained here."""
    from flantune.pipeline.data import open_data, open_tokenizer
    from flantune.pipeline.folder import RunFolder
    from flantune.tokens.encode import encode_prompts

    recipe = flan_recipe(folder, vocab_size)
    with tempfile.TemporaryDirectory() as temporary:
        run = RunFolder(Path(temporary))
        data = open_data(recipe, run)
        tokenizer = open_tokenizer(recipe, run, data)
        examples: list[Encoded] = []
        for start in range(0, count, 1024):
            prompts = list(data.mixture.prompts(range(start, min(count, start + 1024)), data.store))
            examples += encode_prompts(
                prompts,
                tokenizer,
                inputs_len=inputs_len,
                targets_len=targets_len,
                few_shot_margin=recipe.tokens.few_shot_margin,
            ).examples
    return examples


def packed_rows(examples: Sequence[Encoded], inputs_len: int, targets_len: int, *, one_sided: bool) -> list[Packed]:
    """In the order of the best-fit packer, as a build writes them; the last row, which may be half empty, left out."""
    from flantune.tokens.packing import pack_examples

    return pack_examples(list(examples), inputs_len, targets_len, "best_fit", one_sided=one_sided)[:-1]


def write_examples(examples: Sequence[Encoded], path: Path) -> None:
    """For another process: token ids end to end, and lengths."""
    np.savez(
        path,
        inputs=np.concatenate([e.inputs for e in examples]),
        targets=np.concatenate([e.targets for e in examples]),
        inputs_lengths=[len(e.inputs) for e in examples],
        targets_lengths=[len(e.targets) for e in examples],
    )


def read_examples(path: Path) -> list[Encoded]:
    held = np.load(path)
    inputs = np.split(held["inputs"], np.cumsum(held["inputs_lengths"])[:-1])
    targets = np.split(held["targets"], np.cumsum(held["targets_lengths"])[:-1])
    pairs = enumerate(zip(inputs, targets, strict=True))
    return [Encoded(inputs=i, targets=t, index=place, task="") for place, (i, t) in pairs]


def in_child(script: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The last line of a run of its own, as JSON: each side starts with the same memory and the same threads."""
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def training_arguments(
    about: str | None, sizes: Iterable[str], rows: int, steps: int = 3, **hidden: type
) -> argparse.Namespace:
    """What the training benchmarks are called with; `hidden` ones are told to the sides, each a process of its own."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of collections")
    parser.add_argument("--examples", type=int, default=6_000, help="prompts of the stream to encode")
    parser.add_argument("--rows", type=int, default=rows, help="packed rows to a step")
    parser.add_argument("--steps", type=int, default=steps, help="timed, after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", choices=tuple(sizes), default="small")
    parser.add_argument(
        "--peer", choices=("bf16", "fp32"), help="what the ratio is to; bf16 where this CPU has instructions for it"
    )
    for name, kind in {"side": str, "held": Path, **hidden}.items():
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS, type=kind)
    asked = parser.parse_args()
    if asked.data is None and not asked.side:
        parser.error("--data is needed")
    asked.peer = asked.peer or peer_precision()
    return asked


def peer_precision() -> str:
    """What the other side is measured in when nothing is said: bf16 where this CPU has instructions for it, whatever
    their speed. Elsewhere torch emulates it, and a step takes minutes: nobody would train in it there."""
    import torch

    flags = torch.cpu.get_capabilities()
    return "bf16" if any(flags.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16")) else "fp32"


def peak_memory() -> int:
    """Bytes this process has held at most. Not getrusage: its figure is handed down from the parent."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024
