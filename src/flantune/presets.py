"""Named settings: every row of the paper's hyperparameter table, and today's open bases. A preset fills in what a
recipe leaves out; what the recipe says stands.

    preset: flan-t5-xl       model.init google/t5-xl-lm-adapt, dropout 0.05, steps 38000, batch_rows 64, lr 5e-4
    train: {steps: 500}      changed here
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flantune.errors import RecipeError

# Shapes of T5 1.1 (spec 5.1): head size 64, gated GELU, an output matrix of its own, 32,128 rows in both.
_T5_SHARED = {"model_type": "t5", "d_kv": 64, "feed_forward_proj": "gated-gelu", "vocab_size": 32_128}
_T5 = {  # size: d_model, layers per stack, heads, d_ff
    "small": (512, 8, 6, 1024),
    "base": (768, 12, 12, 2048),
    "large": (1024, 24, 16, 2816),
    "xl": (2048, 24, 32, 5120),
    "xxl": (4096, 24, 64, 10_240),
}
# Appendix E, Table 22, as spec 5.1 has it: batch in packed rows, dropout, rate, steps. Adafactor, constant rate.
_TABLE_22 = {
    "Flan-T5-Small": (64, 0.05, 5e-4, 98_000),
    "Flan-T5-Base": (64, 0.05, 5e-4, 84_000),
    "Flan-T5-Large": (64, 0.05, 5e-4, 64_000),
    "Flan-T5-XL": (64, 0.05, 5e-4, 38_000),
    "Flan-T5-XXL": (64, 0.05, 5e-4, 14_000),
    "Flan-PaLM-8B": (32, 0.05, 3e-3, 40_000),
    "Flan-PaLM-62B": (32, 0.05, 3e-3, 40_000),
    "Flan-PaLM-540B": (32, 0.1, 1e-3, 21_000),
    "Flan-cont-PaLM-62B": (32, 0.05, 3e-3, 60_000),
    "Flan-U-PaLM-540B": (32, 0.1, 1e-3, 30_000),
}
# The parameters that the paper's account of compute goes by: T5's first sizes, not the labels (spec 7.4).
_COUNTED = {"Small": 60e6, "Base": 220e6, "Large": 770e6, "XL": 3e9, "XXL": 11e9, "8B": 8e9, "62B": 62e9, "540B": 540e9}
# PaLM's shapes (Chowdhery et al. 2022, Table 1): heads of 256, one key and value head for all, inner width 4 d_model,
# SwiGLU, tied embeddings of 256,000 rows. A Llama with those has the same matrices, and a norm more in every layer.
_PALM = {"8B": (4096, 32, 16), "62B": (8192, 64, 32), "540B": (18_432, 118, 48)}  # d_model, layers, heads
_PALM_VOCABULARY = 256_000

_LLAMA_3 = {"model_type": "llama", "vocab_size": 128_256, "num_key_value_heads": 8}
_QWEN_3 = {"model_type": "qwen3", "vocab_size": 151_936, "num_key_value_heads": 8, "head_dim": 128}
_GEMMA_3 = {
    **{"model_type": "gemma3_text", "vocab_size": 262_144, "num_attention_heads": 4, "num_key_value_heads": 1},
    **{"head_dim": 256, "sliding_window": 512},
}
_GEMMA_2 = {"model_type": "gemma2", "vocab_size": 256_000, "head_dim": 256, "sliding_window": 4096}
_GEMMA = {"model_type": "gemma", "vocab_size": 256_000, "head_dim": 256}
# Of each: the base on the hub, the shape its config.json states (width, inner width, layers, heads, then what differs
# from the family), whether embeddings are tied.
_OPEN: dict[str, tuple[str, Mapping[str, Any], tuple[int, int, int, int], Mapping[str, Any]]] = {
    "llama-3.2-1b": ("meta-llama/Llama-3.2-1B", _LLAMA_3, (2048, 8192, 16, 32), {"tie_word_embeddings": True}),
    "llama-3.2-3b": ("meta-llama/Llama-3.2-3B", _LLAMA_3, (3072, 8192, 28, 24), {"tie_word_embeddings": True}),
    "llama-3.1-8b": ("meta-llama/Llama-3.1-8B", _LLAMA_3, (4096, 14_336, 32, 32), {}),
    "llama-3.1-70b": ("meta-llama/Llama-3.1-70B", _LLAMA_3, (8192, 28_672, 80, 64), {}),
    "qwen3-0.6b": ("Qwen/Qwen3-0.6B-Base", _QWEN_3, (1024, 3072, 28, 16), {"tie_word_embeddings": True}),
    "qwen3-1.7b": ("Qwen/Qwen3-1.7B-Base", _QWEN_3, (2048, 6144, 28, 16), {"tie_word_embeddings": True}),
    "qwen3-4b": ("Qwen/Qwen3-4B-Base", _QWEN_3, (2560, 9728, 36, 32), {"tie_word_embeddings": True}),
    "qwen3-8b": ("Qwen/Qwen3-8B-Base", _QWEN_3, (4096, 12_288, 36, 32), {"tie_word_embeddings": False}),
    "qwen3-14b": ("Qwen/Qwen3-14B-Base", _QWEN_3, (5120, 17_408, 40, 40), {"tie_word_embeddings": False}),
    "gemma-3-270m": ("google/gemma-3-270m", _GEMMA_3, (640, 2048, 18, 4), {}),
    "gemma-3-1b": ("google/gemma-3-1b-pt", _GEMMA_3, (1152, 6912, 26, 4), {}),
    "gemma-2-2b": ("google/gemma-2-2b", _GEMMA_2, (2304, 9216, 26, 8), {"num_key_value_heads": 4}),
    "gemma-2-9b": ("google/gemma-2-9b", _GEMMA_2, (3584, 14_336, 42, 16), {"num_key_value_heads": 8}),
    "gemma-2b": ("google/gemma-2b", _GEMMA, (2048, 16_384, 18, 8), {"num_key_value_heads": 1}),
    "gemma-7b": ("google/gemma-7b", _GEMMA, (3072, 24_576, 28, 16), {"num_key_value_heads": 16}),
}
# What Tülu 3 tuned Llama 3.1 8B with (arXiv 2411.15124; open-instruct's tulu_finetune_mix.sh): AdamW, batches of 128,
# no weight decay, a warm-up of 3 % of the steps and then a straight line to zero. Rows of 2,048 and 512 are spec 3.6's.
_TULU_3_RATE, _TULU_3_BATCH, _TULU_3_WARMUP = 5e-6, 128, 0.03
_STEPS = 2000  # ours: no base's authors say how many steps another's data is worth
_SMALL_RATE = 1e-5  # ours, for bases under 4B: twice Tülu's, as smaller models are commonly given


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One named set of a recipe's values.

    `config` is what the base's config.json says (transformers' names), so that a plan needs no download; empty where
    the model is from scratch and its shape stands in `values`. `counted` is N of the paper's FLOPs, spec 7.4.
    """

    name: str
    title: str
    source: str
    values: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    counted: float | None = None
    note: str = ""

    @property
    def init(self) -> str | None:
        """The base it begins from; None of a preset that states no model."""
        return self.values.get("model", {}).get("init")


def _train(row: tuple[int, float, float, int]) -> dict[str, Any]:
    batch, _, rate, steps = row
    return {"steps": steps, "batch_rows": batch, "optimizer": {"name": "adafactor", "lr": rate, "decay": "constant"}}


def _flan_t5(size: str) -> Preset:
    d_model, layers, heads, d_ff = _T5[size]
    title = f"Flan-T5-{size.upper() if size.startswith('x') else size.title()}"
    row = _TABLE_22[title]
    return Preset(
        name=title.lower(),
        title=title,
        source="spec 5.1: Table 22, T5 1.1's shapes; from the LM-adapted T5 1.1",
        values={
            "model": {"family": "t5", "init": f"google/t5-{size}-lm-adapt", "dropout": row[1]},
            "tokens": {"inputs_len": 2048, "targets_len": 512},
            "train": _train(row),
        },
        config={**_T5_SHARED, "d_model": d_model, "num_layers": layers, "num_heads": heads, "d_ff": d_ff}
        | {"tie_word_embeddings": False},
        counted=_COUNTED[title.removeprefix("Flan-T5-")],
    )


def _flan_palm(title: str) -> Preset:
    size = title.rpartition("-")[2]
    d_model, layers, heads = _PALM[size]
    row = _TABLE_22[title]
    shape = {"d_model": d_model, "layers": layers, "heads": heads, "kv_heads": 1, "d_kv": 256, "d_ff": 4 * d_model}
    return Preset(
        name=title.lower(),
        title=title,
        source="spec 5.1: Table 22; PaLM's Table 1 for the shape",
        values={
            "model": {
                **{"family": "llama", "init": "scratch", "dropout": row[1], "size": shape},
                "tokenizer": {"vocab_size": _PALM_VOCABULARY},
            },
            "tokens": {"inputs_len": 2048, "targets_len": 512},
            "train": _train(row),
        },
        counted=_COUNTED[size],
        note="for plans: PaLM's weights were not released; a decoder of its shape would begin from random ones",
    )


def _open_base(name: str) -> Preset:
    init, family, (d_model, d_ff, layers, heads), more = _OPEN[name]
    config = {**family, "hidden_size": d_model, "intermediate_size": d_ff, "num_hidden_layers": layers}
    rate = _SMALL_RATE if d_model < 2560 else _TULU_3_RATE
    optimizer = {"name": "adamw", "lr": rate, "weight_decay": 0.0, "betas": [0.9, 0.999], "decay": "linear"}
    return Preset(
        name=name,
        title=init.partition("/")[2],
        source="the hub's config.json; Tülu 3's settings (arXiv 2411.15124), ours where it is silent",
        values={
            "model": {"family": "auto", "init": init, "dropout": 0.0},
            "tokens": {"inputs_len": 2048, "targets_len": 512},
            "train": {
                **{"steps": _STEPS, "batch_rows": _TULU_3_BATCH, "micro_rows": 4, "precision": "bf16"},
                "optimizer": {**optimizer, "warmup_steps": round(_TULU_3_WARMUP * _STEPS)},
            },
        },
        config={**config, "num_attention_heads": heads, **more},
    )


# T5Gemma 2B-2B: both stacks have Gemma 2 2B's shape, which is transformers' default for the type.
_T5GEMMA = Preset(
    name="t5gemma-2b-2b",
    title="t5gemma-2b-2b-ul2",
    source="the hub's config.json (transformers' defaults for t5gemma); the T5 rows of spec 5.1 for the rest",
    values={
        "model": {"family": "auto", "init": "google/t5gemma-2b-2b-ul2", "dropout": 0.05},
        "tokens": {"inputs_len": 2048, "targets_len": 512},
        "train": {**_train(_TABLE_22["Flan-T5-XL"]), "steps": _STEPS},
    },
    config={"model_type": "t5gemma"},
)
# UL2R's continuation of a finished base (spec 7.5): 20,000 steps of 32 rows of 1,024 + 1,024 tokens, cosine from 1e-4
# to 1e-6. Adafactor is PaLM's. Windows are ours: 512 tokens, several to a row, since a corruption of one half of 1,024
# in spans of three would take 171 sentinels, and tokenizers of T5's kind have 100.
_UL2R = Preset(
    name="ul2r",
    title="UL2R",
    source="spec 7.5",
    values={
        "pretrain": {
            **{"objective": "ul2r", "window": 512, "inputs_len": 1024, "targets_len": 1024},
            **{"steps": 20_000, "batch_rows": 32},
            "optimizer": {"name": "adafactor", "lr": 1e-4, "decay": "cosine", "final_lr": 1e-6, "warmup_steps": 0},
        }
    },
)
PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        *(_flan_t5(size) for size in _T5),
        *(_flan_palm(title) for title in _TABLE_22 if "PaLM" in title),
        *(_open_base(name) for name in _OPEN),
        _T5GEMMA,
        _UL2R,
    )
}


def preset(name: str, where: str = "preset") -> Preset:
    """Raises RecipeError for an unknown name."""
    found = PRESETS.get(str(name).lower())
    if found is None:
        close = difflib.get_close_matches(str(name).lower(), PRESETS, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"There are: {', '.join(PRESETS)}."
        raise RecipeError(f"{where}: no preset '{name}'. {hint}")
    return found


def of_base(init: str) -> Preset | None:
    """A preset that begins from this base, which knows the base's shape."""
    return next((p for p in PRESETS.values() if p.init == init and p.config), None)


def filled(raw: Mapping[str, Any], where: str = "recipe") -> dict[str, Any]:
    """A recipe's mapping with what its `preset` says put under it; of several, the first is uppermost. Without `preset`
    it comes back as it was."""
    named = raw.get("preset")
    made = dict(raw)
    for name in [named] if isinstance(named, str) else named or []:
        made = _under(made, preset(name, f"{where}: key 'preset'").values)
    return made


def _under(above: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(below))
    for key, value in above.items():
        beneath = merged.get(key)
        merged[key] = _under(value, beneath) if isinstance(value, Mapping) and isinstance(beneath, Mapping) else value
    return merged
