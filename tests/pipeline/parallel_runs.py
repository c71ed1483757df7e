"""A small run that several tests build with workers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from flantune.pipeline.data import asked, even_shares, reopen
from flantune.pipeline.folder import RunFolder
from flantune.pipeline.parallel import Job
from flantune.recipe import Recipe


def small_recipe(folder: Path, count: str = "draws") -> dict[str, Any]:
    """Some fifteen blocks and as many shards of the embedded world, which lies in `folder`/world."""
    return {
        "name": "small",
        "runs": str(folder / "runs"),
        "collections": [{"path": str(folder / "world"), "reader": "native", "include": ["foods_*", "arithmetic_*"]}],
        "mixture": {
            "preset": "uniform",
            "count": count,
            "formats": [{"setting": "zs_opt"}, {"setting": "fs_noopt", "shots": 2}],
        },
        "tokens": {"inputs_len": 128, "targets_len": 64, "block": 64, "shard_rows": 16},
        "model": {"family": "t5", "init": "scratch", "tokenizer": {"vocab_size": 512, "sample_mb": 0.05}},
        "train": {"steps": 60, "batch_rows": 4},
    }


def job_of(recipe: Recipe, run: RunFolder) -> tuple[Job, dict[str, Any]]:
    """The job of a run whose store and tokenizer are there, and what `build_shards` takes beside the blocks."""
    readied = reopen(recipe, run)
    arguments = {
        "num_rows": recipe.train.steps * recipe.train.batch_rows,
        "spec": recipe.tokens,
        "folder": run.shards,
        "fingerprint": readied.fingerprint,
        "asked": asked(recipe, readied.data),
        "even": even_shares(recipe, readied.data),
    }
    return Job.of(recipe, run, readied, one_sided=False), arguments


def digests(run: RunFolder) -> dict[str, str]:
    """sha256 of every file of the shards' folder, card and index included."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(run.shards.iterdir())}
