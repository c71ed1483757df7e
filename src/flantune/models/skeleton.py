"""A recipe's model without its weights: transformers' own class on the meta device, for counting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from flantune import presets
from flantune.errors import ModelError
from flantune.models.load import quiet_transformers, scratch_model
from flantune.models.place import located
from flantune.recipe import ModelSpec


def skeleton(spec: ModelSpec) -> PreTrainedModel:
    """Nothing is downloaded for a base that a preset knows; for other hub ids, its config.json is."""
    with quiet_transformers(), torch.device("meta"):
        if spec.init == "scratch":
            family = "t5" if spec.family == "auto" else spec.family
            return scratch_model(family, spec.size, vocab_size=_vocabulary(spec), eos_id=1, pad_id=0)
        known = presets.of_base(spec.init)
        return of_config(_from_values(known.config) if known else _read(located(spec.init)))


def of_config(config: PreTrainedConfig) -> PreTrainedModel:
    """A stock model of this configuration, on the device that is the default."""
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model: PreTrainedModel = auto.from_config(config)
    # transformers ties every T5 it builds; files of T5 1.1 hold an output matrix of their own, and loading keeps it.
    if getattr(config, "scale_decoder_outputs", None) is False:
        head: Any = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(torch.empty_like(head.weight))
    return model


def _from_values(values: Mapping[str, Any]) -> PreTrainedConfig:
    return AutoConfig.for_model(**values)


def _read(name: str) -> PreTrainedConfig:
    local = Path(name).expanduser().is_dir()
    try:
        return AutoConfig.from_pretrained(name, local_files_only=local, trust_remote_code=False)
    except Exception as e:  # transformers raises OSError, ValueError, KeyError and its validators' own kinds
        first = str(e).strip().split("\n")[0][:200]
        raise ModelError(f"{name}: expected a model's config.json that transformers can read: {first}") from e


def _vocabulary(spec: ModelSpec) -> int:
    if spec.tokenizer.path is None:
        return spec.tokenizer.vocab_size
    from flantune.tokens.tokenizer import load_tokenizer

    return load_tokenizer(spec.tokenizer.path).vocab_size
