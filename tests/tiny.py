"""A recipe, a tokenizer and a decoder so small that they are trained, saved and asked in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

from flantune.models.load import save_model
from flantune.tokens.tokenizer import Tokenizer, train_tokenizer


def tiny_recipe(
    folder: Path, tasks: Sequence[str] = ("foods", "arithmetic", "towns"), **sections: Any
) -> dict[str, Any]:
    """A from-scratch T5 of a few thousand weights on these tasks of the embedded world, which lies in `folder`/world.

    The towns are held out. `sections` stand in place of the recipe's own, or beside them.
    """
    return {
        "name": "tiny",
        "runs": str(folder / "runs"),
        "collections": [
            {"path": str(folder / "world"), "reader": "native", "include": [f"{name}_*.task.yaml" for name in tasks]}
        ],
        "held_out": {"categories": ["towns"]},
        "mixture": {"preset": "uniform", "formats": [{"setting": "zs_opt"}, {"setting": "fs_noopt", "shots": 2}]},
        "tokens": {"inputs_len": 96, "targets_len": 48, "block": 64, "shard_rows": 8},
        "model": {
            "family": "t5",
            "init": "scratch",
            "size": {"d_model": 32, "layers": 1, "heads": 2, "d_kv": 16, "d_ff": 64},
            "tokenizer": {"vocab_size": 512, "sample_mb": 0.1},
        },
        **sections,
    }


def tiny_decoder(folder: Path, width: int = 16, layers: int = 1, **config: Any) -> tuple[LlamaForCausalLM, Tokenizer]:
    """Of random weights, and its tokenizer, which is written to `folder`."""
    texts = ["Q: Which of these floats?\n(A) Duckweed (B) Flint\nA: Let's think step by step."] * 30
    tokenizer = train_tokenizer(texts, 400, folder)
    shape = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=tokenizer.eos_id,
        **config,
    )
    return LlamaForCausalLM(shape), tokenizer


def saved_decoder(folder: Path, **how: Any) -> Path:
    """`tiny_decoder` as a model's folder."""
    model, tokenizer = tiny_decoder(folder / "tokenizer", **how)
    save_model(model, tokenizer.hf, folder / "model")
    return folder / "model"
