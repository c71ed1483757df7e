"""Models in and out: a local folder, a hub id, the embedded base, or a new one of a stated size. Safetensors only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.utils import logging as hf_logging

from flantune import recipe
from flantune.errors import ModelError
from flantune.models.attention import PACKED, prepare
from flantune.models.family import family_of_type
from flantune.models.place import ASKING, HUB_ID, Asking, first_line, located, read_config, require_safetensors
from flantune.whole import atomic_folder

ScratchFamily = Literal["t5", "llama", "qwen3"]


def load_model(
    init: str,
    *,
    dropout: float | None = None,
    vocab_size: int | None = None,
    how: Mapping[str, Any] | None = None,
    hollow: bool = False,
) -> PreTrainedModel:
    """A model in float32, with our attention and dropout, in evaluation mode; `init` is a folder, a hub id, or an
    embedded base's name.

    `dropout` replaces the configuration's: every dropout of a T5, the attention dropout of a decoder (the only one
    those have). `vocab_size`, the tokenizer's, must fit the embedding. `how`: more for from_pretrained, such as a
    quantisation. `hollow`: read the configuration alone; the weights have names and shapes and no numbers, which
    another process gives (`train.parallel.shard`). Raises ModelError where there are no whole safetensors weights,
    where the architecture is not one of `models.family`, or where any weight is missing: transformers would fill it
    with random numbers and go on.
    """
    name = located(init)
    local = Path(name).expanduser()
    if local.is_dir():
        name = str(local)
        require_safetensors(local)
    elif init in recipe.EMBEDDED or local.is_absolute() or not HUB_ID.fullmatch(name):
        raise ModelError(f"{name}: expected a folder that holds a model, or a hub id; found no such folder.")
    config = read_config(name, local.is_dir())
    family = family_of_type(config.model_type, where=name)
    if dropout is not None:
        _set_dropout(config, dropout)
    auto = AutoModelForCausalLM if family.one_sided else AutoModelForSeq2SeqLM
    if hollow:
        with without_weights(), quiet_transformers():
            model = auto.from_config(config, dtype=torch.float32, attn_implementation=PACKED)
    else:
        model = _read_weights(auto, name, config, local.is_dir(), how or {})
    if vocab_size is not None:
        check_vocabulary(model, vocab_size, where=name)
    return prepare(model).eval()


@contextmanager
def without_weights() -> Iterator[None]:
    """Parameters that are made inside have no numbers: they are on the meta device. Buffers, which configurations
    give (the frequencies of rotary positions), are real."""
    real = torch.nn.Module.register_parameter

    def register(module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        real(module, name, parameter)
        if parameter is not None and not parameter.is_meta:
            shell = torch.nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
            module._parameters[name] = shell

    torch.nn.Module.register_parameter = register  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = real  # type: ignore[method-assign]


def check_vocabulary(model: PreTrainedModel, vocab_size: int, where: str = "model") -> None:
    embedding: Any = model.get_input_embeddings()
    rows = embedding.weight.shape[0]
    if rows < vocab_size:
        raise ModelError(
            f"{where}: expected at least {vocab_size} rows in the embedding, one for each id of the tokenizer, got "
            f"{rows}. Set model.tokenizer.path to the tokenizer this model was trained with."
        )


def scratch_model(
    family: ScratchFamily,
    size: recipe.ModelSize,
    *,
    vocab_size: int,
    eos_id: int,
    pad_id: int,
    dropout: float = 0.0,
    seed: int = 0,
) -> PreTrainedModel:
    """A new model with random weights, the same for the same seed; otherwise as `load_model` gives them.

    t5: T5 1.1's shape (gated GELU, RMS norm, 32 relative buckets to distance 128; spec 5.1) unless `size.activation`
    says T5 1.0's ReLU; `layers` on each side, or `decoder_layers` on the decoder's.
    llama, qwen3: `layers` decoder layers. In all of them the output matrix is the embedding: at these sizes the
    vocabulary is most of the model, and transformers 5.23 ties every T5 it builds. A tied T5 scales its last hidden
    states by d_model ** -0.5, as T5 1.0 did.
    """
    ids: dict[str, Any] = {"vocab_size": vocab_size, "eos_token_id": eos_id, "pad_token_id": pad_id}
    config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    if family == "t5":
        model_class = T5ForConditionalGeneration
        ids["decoder_start_token_id"] = pad_id
        config = T5Config(
            d_model=size.d_model,
            d_kv=size.d_kv,
            d_ff=size.d_ff,
            num_layers=size.layers,
            num_decoder_layers=size.decoder_layers,
            num_heads=size.heads,
            feed_forward_proj=size.activation,
            dropout_rate=dropout,
            **ids,
        )
    else:
        # An embedding row at the padding id gets no gradient in these models: where EOS pads, EOS must still learn.
        ids["pad_token_id"] = pad_id if pad_id != eos_id else None
        config_class, model_class = {
            "llama": (LlamaConfig, LlamaForCausalLM),
            "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        }[family]
        config = config_class(
            hidden_size=size.d_model,
            intermediate_size=size.d_ff,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads or size.heads,
            head_dim=size.d_kv,
            attention_dropout=dropout,
            tie_word_embeddings=True,
            bos_token_id=None,
            **ids,
        )
    config._attn_implementation = PACKED
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return prepare(model_class(config)).eval()


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path, asking: Asking | None = None
) -> None:
    """The finished model and its tokenizer as `AutoModel...from_pretrained` loads them. Whole or not at all."""
    with atomic_folder(folder) as temporary, quiet_transformers():
        model.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        if asking is not None:
            (temporary / ASKING).write_text(json.dumps(asdict(asking)), encoding="utf-8")


def count_parameters(model: PreTrainedModel) -> int:
    """Numbers that are trained; a matrix used in two places counts once."""
    return sum(p.numel() for p in model.parameters())


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no warnings from transformers: what matters of them is checked here and raised."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _read_weights(
    auto: Any, name: str, config: PreTrainedConfig, local: bool, how: Mapping[str, Any]
) -> PreTrainedModel:
    try:
        with quiet_transformers():
            model, info = auto.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,  # master weights; transformers 5 would keep the file's bf16
                attn_implementation=PACKED,
                use_safetensors=True,
                local_files_only=local,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told below, by name and shape
                **how,
            )
    except Exception as e:
        raise ModelError(f"{name}: the weights cannot be read: {first_line(e)}") from e
    _check_whole(name, info)
    return model


def _check_whole(name: str, info: Mapping[str, Any]) -> None:
    if missing := sorted(str(k) for k in info.get("missing_keys") or ()):
        raise ModelError(
            f"{name}: expected a weight for every parameter, got {len(missing)} missing, the first "
            f"{missing[0]}. The weights belong to another configuration or were cut short."
        )
    if unlike := sorted((str(k), tuple(file), tuple(stated)) for k, file, stated in info.get("mismatched_keys") or ()):
        key, file, stated = unlike[0]
        raise ModelError(
            f"{name}: weights of another shape than config.json says, the first of {len(unlike)} {key}: expected "
            f"{stated}, got {file}. Take the config.json that was saved with the weights."
        )


def _set_dropout(config: PreTrainedConfig, dropout: float) -> None:
    stacks = [own for own in (getattr(config, "encoder", None), getattr(config, "decoder", None)) if own is not None]
    for own in (config, *stacks):  # T5Gemma's stacks have configurations of their own
        for name in ("dropout_rate", "attention_dropout"):
            if hasattr(own, name):
                setattr(own, name, dropout)
