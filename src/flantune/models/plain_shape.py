"""What a decoder of Llama's make consists of, by its config.json: names and shapes of its tensors."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_NEEDED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads"),
)


@dataclass(frozen=True, slots=True)
class Named:
    """A module's tensors in the file."""

    part: str  # of the layer: "self_attn", "mlp" or none
    weight: str
    bias: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    config: Any  # what the file states, as attributes
    kind: str
    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int
    head_dim: int
    eps: float
    theta: float
    window: int | None
    output: str
    embedding: str = "model.embed_tokens.weight"

    def layer(self, number: int) -> dict[str, Named]:
        """Of each module of a layer."""
        stated = vars(self.config)
        biased = stated.get("attention_bias", False)
        with_bias = {
            **dict.fromkeys(
                ("q_proj", "k_proj", "v_proj"), self.kind == "qwen2" or (self.kind != "mistral" and biased)
            ),
            "o_proj": self.kind in ("llama", "qwen3") and biased,
            **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), self.kind == "llama" and stated.get("mlp_bias")),
        }
        found = {}
        for name in self._sizes():
            part = "self_attn" if name[1:] in ("_proj", "_norm") else "mlp" if name.endswith("_proj") else ""
            full = ".".join(filter(None, ("model.layers", str(number), part, name)))
            found[name] = Named(part, f"{full}.weight", f"{full}.bias" if with_bias.get(name) else None)
        return found

    def _sizes(self) -> dict[str, tuple[int, ...]]:
        own, seen = self.heads * self.head_dim, self.groups * self.head_dim
        sizes: dict[str, tuple[int, ...]] = {
            "input_layernorm": (self.hidden,),
            "post_attention_layernorm": (self.hidden,),
            "q_proj": (own, self.hidden),
            "k_proj": (seen, self.hidden),
            "v_proj": (seen, self.hidden),
            "o_proj": (self.hidden, own),
            "gate_proj": (self.inner, self.hidden),
            "up_proj": (self.inner, self.hidden),
            "down_proj": (self.hidden, self.inner),
        }
        if self.kind == "qwen3":
            sizes |= {"q_norm": (self.head_dim,), "k_norm": (self.head_dim,)}
        return sizes

    def sizes(self) -> tuple[int, int]:
        """Numbers of the output matrix, and of all the model."""
        expected = self.expected()
        return math.prod(expected[self.output]), sum(map(math.prod, expected.values()))

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape."""
        made: dict[str, tuple[int, ...]] = {
            self.embedding: (self.vocabulary, self.hidden),
            self.output: (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        for number in range(self.layers):
            layer = self.layer(number)
            for name, size in self._sizes().items():
                named = layer[name]
                made[named.weight] = size
                if named.bias is not None:
                    made[named.bias] = size[:1]
        return made


def read_shape(folder: Path) -> Shape | None:
    """None where the file is not there, is not whole, or asks for more than the plain architecture."""
    try:
        stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(stated, dict):
        return None
    kind = str(stated.get("model_type"))
    theta = _theta(stated)
    plain = (
        kind in _ARCHITECTURES
        and stated.get("architectures") == [_ARCHITECTURES[kind]]
        and all(isinstance(stated.get(name), int) and stated[name] > 0 for name in _NEEDED)
        and isinstance(stated.get("rms_norm_eps"), float)
        and stated.get("hidden_act") == "silu"
        and not stated.get("quantization_config")
        and not stated.get("use_sliding_window")
        and (kind != "qwen3" or isinstance(stated.get("head_dim"), int))
    )
    if not plain or theta is None:
        return None
    window = stated.get("sliding_window") if kind == "mistral" else None
    return Shape(
        config=SimpleNamespace(**{**stated, "is_encoder_decoder": False}),
        kind=kind,
        vocabulary=stated["vocab_size"],
        hidden=stated["hidden_size"],
        inner=stated["intermediate_size"],
        layers=stated["num_hidden_layers"],
        heads=stated["num_attention_heads"],
        groups=stated["num_key_value_heads"],
        head_dim=stated.get("head_dim") or stated["hidden_size"] // stated["num_attention_heads"],
        eps=stated["rms_norm_eps"],
        theta=theta,
        window=window,
        output="model.embed_tokens.weight" if stated.get("tie_word_embeddings", False) else "lm_head.weight",
    )


def _theta(stated: dict[str, Any]) -> float | None:
    """The base of plain rotary positions, in the words of transformers 5 or of those before; None where they are
    stretched or not stated."""
    given = stated.get("rope_parameters")
    if given is None and stated.get("rope_scaling") is None:
        given = {"rope_theta": stated.get("rope_theta"), "rope_type": "default"}
    if not isinstance(given, dict) or set(given) != {"rope_theta", "rope_type"} or given["rope_type"] != "default":
        return None
    return float(given["rope_theta"]) if isinstance(given["rope_theta"], (int, float)) else None
