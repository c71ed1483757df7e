"""The model, its tokenizer, and adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flantune.recipe.section import Section

DEMO = "demo"  # models of these names are the embedded base models
DEMO_SMALL = "demo-small"
EMBEDDED = (DEMO, DEMO_SMALL)


class ModelSize(Section):
    """A from-scratch model's shape. T5 1.1 names (spec 5.1); a decoder has `layers` and no encoder."""

    d_model: int = 256
    layers: int = 4
    heads: int = 4
    d_kv: int = 64
    d_ff: int = 512
    decoder_layers: int | None = Field(None, description="of an encoder-decoder; `layers` when not given")
    activation: Literal["gated-gelu", "relu"] = Field("gated-gelu", description="t5: 1.1's, or 1.0's")
    kv_heads: int | None = None


class TokenizerSpec(Section):
    path: str | None = Field(None, description="folder or hub id; the model's own when not given")
    vocab_size: int = Field(16_384, gt=300, description="when one is trained on the collections' text")
    sample_mb: float = Field(40, gt=0, description="text to train it on")
    prefix_space: bool = Field(True, description="a text's first word gets the id it has inside text")


class AdapterSpec(Section):
    """Low-rank adapters instead of the whole weights: flantune.models.adapt."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank, or alpha / sqrt(rank)")
    dropout: float = Field(0.0, ge=0, lt=1, description="of what goes into the adapters")
    targets: Literal["linear", "attention"] | tuple[str, ...] = Field(
        "linear",
        description="which matrices: every linear one but the output's, those of attention, or last parts of names",
    )
    rank_stabilised: bool = Field(False, description="scale by alpha / sqrt(rank), arXiv 2312.03732")
    load: Literal["fp32", "bf16", "4bit"] = Field(
        "fp32", description="how the frozen weights are held; 4bit is QLoRA's NF4 (bitsandbytes)"
    )


class ModelSpec(Section):
    family: Literal["t5", "llama", "qwen3", "auto"] = "auto"
    attention: Literal["causal", "prefix"] = Field(
        "causal", description="of a decoder; prefix: inputs see each other both ways (prefix-LM, spec 4.3)"
    )
    init: str = Field("scratch", description="local folder, hub id, 'scratch', 'demo' or 'demo-small'")
    size: ModelSize = ModelSize()
    tokenizer: TokenizerSpec = TokenizerSpec()
    dropout: float = Field(0.05, ge=0, lt=1, description="spec 5.1")
    adapter: AdapterSpec | None = Field(None, description="train adapters only; all weights when not given")
