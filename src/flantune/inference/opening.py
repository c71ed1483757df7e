"""A model ready to be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flantune.inference.mapped import open_mapped
from flantune.train.precision import Precision, best_device, on_best_device


def open_model(where: str, vocab_size: int, precision: Precision = "fp32") -> Any:
    """Of a folder or hub id: on a CPU, in single precision, a decoder of Llama's make off its files (`mapped.py`); any
    other model whole, on the best device. `vocab_size`: the tokenizer's. Raises ModelError as `load_model` does."""
    folder = Path(where).expanduser()
    if best_device().type == "cpu" and precision == "fp32" and folder.is_dir():
        mapped = open_mapped(folder, vocab_size)
        if mapped is not None:
            return mapped
    from flantune.models.load import load_model

    return on_best_device(load_model(where, dropout=0.0, vocab_size=vocab_size))
