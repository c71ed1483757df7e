"""Tiny models and random packed rows for the tests of models and training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedModel

from flantune.models.load import ScratchFamily, scratch_model
from flantune.recipe import ModelSize
from flantune.types import Packed

EOS, PAD = 1, 0


def packed_row(lengths: Sequence[tuple[int, int]], seed: int, vocab_size: int = 96) -> Packed:
    """Random examples of the lengths given, both sides ending in EOS; the EOS counts."""
    rng = np.random.default_rng(seed)

    def side(sizes: list[int]) -> np.ndarray:
        return np.concatenate([[*rng.integers(3, vocab_size, size - 1), EOS] for size in sizes]).astype(np.int32)

    inputs, targets = [a for a, _ in lengths], [b for _, b in lengths]
    return Packed(
        inputs=side(inputs),
        targets=side(targets),
        inputs_lengths=np.asarray(inputs, dtype=np.int32),
        targets_lengths=np.asarray(targets, dtype=np.int32),
        indices=np.arange(len(lengths), dtype=np.int64) + 100 * seed,
        tasks=("task",) * len(lengths),
    )


def random_row(seed: int, examples: int = 3, vocab_size: int = 96) -> Packed:
    rng = np.random.default_rng(seed + 1_000_000)
    lengths = [(int(rng.integers(1, 12)), int(rng.integers(1, 8))) for _ in range(examples)]
    return packed_row(lengths, seed, vocab_size)


def tiny_model(
    family: ScratchFamily = "t5", seed: int = 0, dropout: float = 0.0, vocab_size: int = 96
) -> PreTrainedModel:
    size = ModelSize(d_model=32, layers=2, heads=2, d_kv=16, d_ff=64)
    return scratch_model(family, size, vocab_size=vocab_size, eos_id=EOS, pad_id=PAD, dropout=dropout, seed=seed)
