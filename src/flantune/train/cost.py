"""What a training costs before it starts: parameters, floating-point operations, memory by part. No weight is made.

Parameters are exact: transformers' own model is built on the meta device and counted. Operations are those of the
matrix products and of attention. The optimizer's memory is exact; activations are counted from what the layers keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flantune.recipe import AdapterSpec, OptimizerSpec

FORWARD, BACKWARD = 2.0, 4.0  # operations per weight and token: a product and a sum; twice that for two gradients
KEPT_OF_LOGITS = 3  # arrays of the logits' size alive at once: the logits, their softmax, its gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's parameters by where they are used. Weights of matrix products are counted apart: they are the work."""

    model_type: str
    two_sided: bool  # encoder and decoder
    parameters: tuple[tuple[str, tuple[int, ...]], ...]  # every one, by name
    linear: tuple[tuple[str, int, int], ...]  # name, outputs, inputs of every linear layer but the output's
    head: int  # weights of the output matrix, tied or not
    cross_kv: int  # weights that a decoder applies to the encoder's tokens
    d_model: int
    d_ff: int
    gated: bool
    query_dim: int  # heads times head size
    kv_dim: int
    heads: int
    layers: tuple[int, int]  # of encoder and decoder; a decoder alone has (0, n)
    vocabulary: int

    @property
    def total(self) -> int:
        return sum(math.prod(shape) for _, shape in self.parameters)

    @property
    def products(self) -> int:
        """Weights of all matrix products but the output's."""
        return sum(out * inputs for _, out, inputs in self.linear)

    @property
    def encoder(self) -> int:
        return sum(o * i for name, o, i in self.linear if _in_encoder(name))

    @property
    def decoder(self) -> int:
        """Applied to the decoder's own tokens."""
        return self.products - self.encoder - self.cross_kv


def shape_of(model: Any) -> Shape:
    """Of any transformers model, on the meta device or not; of one with adapters, the model's without them."""
    import torch

    config = model.config
    text = getattr(config, "decoder", None) or config
    head = model.get_output_embeddings()
    head_weight = getattr(head, "weight", None)
    if head_weight is None:  # T5Gemma wraps its output layer
        head, head_weight = head.out_proj, head.out_proj.weight
    linear = tuple(
        (_bare(name), module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head and not _is_adapter(name)
    )
    two_sided = bool(config.is_encoder_decoder)
    d_model, heads, d_kv, kv_heads, d_ff = _widths(config, text)
    cross = sum(o * i for name, o, i in linear if _in_cross(name) and name.rpartition(".")[2] in _KEYS_AND_VALUES)
    stacks = _stacks(config, two_sided)
    return Shape(
        model_type=config.model_type,
        two_sided=two_sided,
        parameters=tuple((_bare(n), tuple(p.shape)) for n, p in model.named_parameters() if not _is_adapter(n)),
        linear=linear,
        head=head_weight.numel(),
        cross_kv=cross,
        d_model=d_model,
        d_ff=d_ff,
        gated=any(name.endswith(("wi_1", "up_proj")) for name, _, _ in linear),
        query_dim=heads * d_kv,
        kv_dim=kv_heads * d_kv,
        heads=heads,
        layers=stacks,
        vocabulary=int(head_weight.shape[0]),
    )


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _bare(name: str) -> str:
    """An adapted layer's weight stands one level deeper: q.base_layer.weight."""
    return ".".join(part for part in name.split(".") if part != "base_layer")


_KEYS_AND_VALUES = ("k", "v", "k_proj", "v_proj")


def _in_encoder(name: str) -> bool:
    return "encoder." in f"{name}." and "decoder." not in name


def _in_cross(name: str) -> bool:
    return "EncDecAttention" in name or "cross_attn" in name


def _widths(config: Any, text: Any) -> tuple[int, int, int, int, int]:
    """d_model, heads, head size, key and value heads, inner width."""
    if hasattr(config, "d_kv"):  # the T5 family's names
        return config.d_model, config.num_heads, config.d_kv, config.num_heads, config.d_ff
    heads = text.num_attention_heads
    d_kv = getattr(text, "head_dim", None) or text.hidden_size // heads
    return text.hidden_size, heads, d_kv, getattr(text, "num_key_value_heads", None) or heads, text.intermediate_size


def _stacks(config: Any, two_sided: bool) -> tuple[int, int]:
    if not two_sided:
        return 0, config.num_hidden_layers
    if hasattr(config, "num_decoder_layers"):
        return config.num_layers, config.num_decoder_layers
    return config.encoder.num_hidden_layers, config.decoder.num_hidden_layers


# ---- floating-point operations ----


def paper_flops(parameters: float, slots: float, two_sided: bool) -> float:
    """The paper's account, spec 7.4: 6 N T for a decoder; 3 N T for an encoder-decoder, where a token passes through
    about half of the parameters. `slots` are all places of the packed rows, padding included."""
    return (3.0 if two_sided else 6.0) * parameters * slots


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Of one packed row: places on both sides, and how long an example is, as a token meets it (attention's cost)."""

    inputs_len: int
    targets_len: int
    example_inputs: float
    example_targets: float
    targets_filled: float = 1.0  # share of the target places that hold a token: only those meet the output matrix

    @property
    def slots(self) -> int:
        return self.inputs_len + self.targets_len


def row_flops(shape: Shape, tokens: Tokens, adapter_weights: int | None = None, recomputed: bool = False) -> float:
    """Operations of one packed row, forward and back. With adapters the frozen weights need no gradient of their own.

    Attention is over an example, not over the row, and half of that where it is causal. `recomputed`: activation
    checkpointing does the forward pass twice.
    """
    passes = FORWARD + (BACKWARD if adapter_weights is None else BACKWARD / 2) + (FORWARD if recomputed else 0.0)
    heads_passes = FORWARD + (BACKWARD if adapter_weights is None else BACKWARD / 2)
    head = heads_passes * shape.head * tokens.targets_len * tokens.targets_filled
    adapters = 0.0 if adapter_weights is None else (FORWARD + BACKWARD) * adapter_weights * tokens.slots
    # Scores and their sum with the values: two products of the query's width for every token attended to; both of
    # their operands get a gradient, frozen weights or not.
    attention_passes = FORWARD + BACKWARD + (FORWARD if recomputed else 0.0)
    if not shape.two_sided:
        length = tokens.example_inputs + tokens.example_targets
        attended = tokens.slots * shape.layers[1] * length / 2
        products = shape.products * tokens.slots
    else:
        e, d = tokens.example_inputs, tokens.example_targets
        encoder = shape.layers[0] * tokens.inputs_len * e
        attended = encoder + shape.layers[1] * tokens.targets_len * (d / 2 + e)
        products = (shape.encoder + shape.cross_kv) * tokens.inputs_len + shape.decoder * tokens.targets_len
    return passes * products + head + adapters + attention_passes * 2 * shape.query_dim * attended


# ---- memory ----


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one device, by part."""

    weights: float
    working_copies: float  # in bf16, for the products; of gathered layers where weights are sharded
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return sum(asdict(self).values())

    def to_json(self) -> dict[str, float]:
        return {**asdict(self), "total": self.total}


def adapter_parameters(shape: Shape, spec: AdapterSpec) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the two matrices beside every adapted one."""
    from flantune.models.adapt import is_target

    return [
        (f"{name}.lora_{side}", matrix)
        for name, out, inputs in shape.linear
        if is_target(name, spec)
        for side, matrix in (("A", (spec.rank, inputs)), ("B", (out, spec.rank)))
    ]


def optimizer_bytes(parameters: Sequence[tuple[str, tuple[int, ...]]], spec: OptimizerSpec) -> int:
    """Of an optimizer's running means, float32. Adafactor keeps a row and a column where two dims are long enough."""
    if spec.name == "adamw":
        return sum(8 * math.prod(shape) for _, shape in parameters)
    return sum(4 * _adafactor_numbers(shape, spec.min_dim_factored) for _, shape in parameters)


def _adafactor_numbers(shape: tuple[int, ...], least: int) -> int:
    if len(shape) < 2 or sorted(shape)[-2] < least:
        return math.prod(shape)
    largest, second = sorted(shape)[-1], sorted(shape)[-2]
    whole = math.prod(shape)
    return whole // largest + whole // second


def activation_bytes(shape: Shape, tokens: Tokens, rows: int, precision: str, checkpointed: bool = False) -> float:
    """What `rows` packed rows keep between forward and backward.

    Counted from the tensors that the layers save. With checkpointing a layer keeps its input, and one layer at a time
    keeps all.
    """
    if not shape.two_sided:
        layer = tokens.slots * _decoder_token(shape, precision)
        kept, layers = tokens.slots * 4.0 * shape.d_model, shape.layers[1]
        return rows * (kept * layers + layer if checkpointed else layer * layers)
    size = 2.0 if precision == "bf16" else 4.0
    encoder = tokens.inputs_len * _t5_token(shape, precision, cross=False)
    # A decoder's layer keeps the encoder's tokens as keys and values, and in bf16 their states cast once for each.
    crossed = size * 2 * (shape.query_dim + (shape.d_model if precision == "bf16" else 0))
    decoder = tokens.targets_len * _t5_token(shape, precision, cross=True) + tokens.inputs_len * crossed
    if checkpointed:
        kept = 4.0 * shape.d_model * (shape.layers[0] * tokens.inputs_len + shape.layers[1] * tokens.targets_len)
        return rows * (kept + max(encoder, decoder))
    return rows * (shape.layers[0] * encoder + shape.layers[1] * decoder)


def _decoder_token(shape: Shape, precision: str) -> float:
    """Bytes a layer of a Llama-like decoder keeps for a token: what both norms read and give, what the products read,
    queries, keys, values and their result, the result once more in the order of the tokens, and four arrays of the
    inner width. What short examples are padded to is not counted: a few in a hundred."""
    d, inner = shape.d_model, 3 * shape.query_dim + 2 * shape.kv_dim + 4 * shape.d_ff
    return 4.0 * 6 * d + 4.0 * inner if precision == "fp32" else 4.0 * 4 * d + 2.0 * (5 * d + inner)


def _t5_token(shape: Shape, precision: str, *, cross: bool) -> float:
    """Bytes a T5 layer keeps for a token: of each part what its norm reads and gives and what its products read, of
    attention queries, keys, values and their result (no scores: they are made again), and of the inner width what GELU
    keeps by its formula. Dropout keeps a seed."""
    d, parts = shape.d_model, 3 if cross else 2
    inner = (6 if cross else 4) * shape.query_dim + (7 if shape.gated else 2) * shape.d_ff
    if precision == "fp32":
        return 4.0 * (3 * parts * d + inner)
    casts = 3 + cross + (2 if shape.gated else 1)  # one for each product
    return 4.0 * 2 * parts * d + 2.0 * (casts * d + inner)


def memory_of(
    shape: Shape,
    tokens: Tokens,
    optimizer: OptimizerSpec,
    *,
    rows: int,
    precision: str,
    ranks: int = 1,
    adapter: AdapterSpec | None = None,
    checkpointed: bool = False,
    logits_at_once: int = 1 << 27,
) -> Memory:
    """On each of `ranks` devices that share weights, gradients and optimizer state (FSDP2), `rows` packed rows at a
    time on each. float32 master weights; frozen ones as the adapter's `load` says."""
    trained = shape.parameters if adapter is None else adapter_parameters(shape, adapter)
    trained_count = sum(math.prod(s) for _, s in trained)
    frozen = 0.0 if adapter is None else _frozen_bytes(shape, adapter)
    size = 2.0 if precision == "bf16" else 4.0
    products = shape.products + shape.head
    if ranks > 1:  # two layers are gathered at a time: the one at work and the next
        copies = size * (2 * shape.products / max(1, sum(shape.layers)) + shape.head)
    elif precision == "bf16" and (adapter is None or adapter.load == "fp32"):
        copies = 2.0 * products
    else:
        copies = 0.0
    numbers = min(rows * tokens.targets_len * shape.vocabulary, logits_at_once)
    return Memory(
        weights=(4.0 * trained_count + frozen) / ranks,
        working_copies=copies,
        gradients=4.0 * trained_count / ranks,
        optimizer=optimizer_bytes(trained, optimizer) / ranks,
        activations=activation_bytes(shape, tokens, rows, precision, checkpointed),
        logits=4.0 * KEPT_OF_LOGITS * numbers,
    )


# NF4 with double quantisation: four bits, and 0.127 more for the scales (QLoRA, arXiv 2305.14314, section 3).
_BYTES: Mapping[str, float] = {"fp32": 4.0, "bf16": 2.0, "4bit": (4 + 0.127) / 8}


def _frozen_bytes(shape: Shape, adapter: AdapterSpec) -> float:
    """Linear layers as `load` says; embeddings, norms and the output matrix stay float32."""
    return _BYTES[adapter.load] * shape.products + 4.0 * (shape.total - shape.products)
