"""Low-rank adapters through PEFT: put into a model in place, trained alone, kept beside the model, merged at the end.

The model stays the class it was: PEFT replaces its linear layers, so families, packing and checkpoints work as they do
on the whole model. What is trained is what `requires_grad` says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from flantune.errors import ModelError, RecipeError, StateError
from flantune.models.attention import is_prepared, prepare
from flantune.recipe import AdapterSpec
from flantune.whole import atomic_folder

NAME = "default"  # PEFT's own name for the one adapter there is
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # PEFT's files
_ATTENTION = {"q", "k", "v", "o", "q_proj", "k_proj", "v_proj", "o_proj"}  # T5's names, and everyone else's


def is_target(name: str, spec: AdapterSpec) -> bool:
    """Whether the linear layer of this name gets an adapter. The output matrix never does."""
    last = name.rpartition(".")[2]
    if spec.targets == "linear":
        return True
    return last in (_ATTENTION if spec.targets == "attention" else spec.targets)


def target_names(model: torch.nn.Module, spec: AdapterSpec) -> tuple[str, ...]:
    """Last parts of the adapted layers' names, in order. Raises RecipeError where one of `spec.targets` is none."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    inside_head = set() if head is None else {id(m) for m in head.modules()}
    linear = {
        name.rpartition(".")[2]: name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and id(module) not in inside_head
    }
    found = tuple(sorted(last for last in linear if is_target(last, spec)))
    missing = sorted(set(spec.targets) - set(found)) if isinstance(spec.targets, tuple) else []
    if missing or not found:
        raise RecipeError(
            f"model.adapter.targets: expected names of linear layers of {type(model).__name__}, got "
            f"{', '.join(missing) or spec.targets}. It has: {', '.join(sorted(linear))}."
        )
    return found


def peft_config(model: PreTrainedModel, spec: AdapterSpec, targets: Iterable[str]) -> Any:
    return _peft().LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        use_rslora=spec.rank_stabilised,
        target_modules=sorted(targets),
        bias="none",
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )


def add_adapter(model: PreTrainedModel, spec: AdapterSpec, seed: int) -> PreTrainedModel:
    """Freeze `model` and put adapters beside its linear layers, in place: A random, the same for the same seed; B zero,
    so that nothing changes before the first step. Adapters are float32 whatever the frozen weights are."""
    peft = _peft()
    config = peft_config(model, spec, target_names(model, spec))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model, adapter_name=NAME)
    for name, parameter in model.named_parameters():
        adapting = _is_adapter(name)
        parameter.requires_grad_(adapting)
        if adapting:
            parameter.data = parameter.data.float()
    if spec.load == "bf16":
        for module in _linear_of(model, spec):
            module.weight.data = module.weight.data.bfloat16()
    if is_prepared(model):
        prepare(model)  # the adapters' own dropout came just now
    return model.eval()


def has_adapter(model: torch.nn.Module) -> bool:
    return any(_is_adapter(name) for name, _ in model.named_parameters())


def adapter_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The adapters' numbers under PEFT's names for files."""
    return {_file_name(name): p.detach() for name, p in model.named_parameters() if _is_adapter(name)}


def save_adapter(model: PreTrainedModel, spec: AdapterSpec, base: str, folder: Path) -> None:
    """As `PeftModel.from_pretrained(base, folder)` reads it. Whole or not at all."""
    weights = {name: p.cpu().contiguous() for name, p in adapter_weights(model).items()}
    adapted = {name.partition(".lora_")[0].rpartition(".")[2] for name in weights}
    config = peft_config(model, spec, adapted)
    config.base_model_name_or_path = base
    config.inference_mode = True
    with atomic_folder(folder) as temporary:
        save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})
        config.save_pretrained(temporary)


def load_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Numbers of a saved adapter into a model that has one of the same shape. Raises StateError where it has not."""
    saved = load_file(folder / WEIGHTS)
    own = {_file_name(name): p for name, p in model.named_parameters() if _is_adapter(name)}
    if {k: tuple(v.shape) for k, v in saved.items()} != {k: tuple(v.shape) for k, v in own.items()}:
        raise StateError(f"{folder}: expected the adapter of this recipe's model and rank, got another one.")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(saved[name])


def merge_adapter(trained: PreTrainedModel, base: PreTrainedModel, spec: AdapterSpec) -> PreTrainedModel:
    """`base`, freshly loaded in float32, with what `trained` learned added to its weights, in place.

    Merging into whole weights, not into the ones trained beside, loses nothing where those were bf16 or 4 bits.
    W + s B A, with s alpha / rank (or alpha / sqrt(rank)), as PEFT merges.
    """
    scale = spec.alpha / (math.sqrt(spec.rank) if spec.rank_stabilised else spec.rank)
    learned = adapter_weights(trained)
    modules = dict(base.named_modules())
    prefix, first, second = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
    with torch.no_grad():
        for key, a in learned.items():
            if not key.endswith(first):
                continue
            b = learned[key.removesuffix(first) + second]
            weight: Any = modules[key.removeprefix(prefix).removesuffix(first)].weight
            weight += (scale * (b.float() @ a.float())).to(weight)
    return base


def quantised(spec: AdapterSpec) -> Mapping[str, Any]:
    """What `from_pretrained` is to be given so that the frozen weights are held as `spec.load` says.

    QLoRA's four bits: NF4, double quantisation, products in bf16 (arXiv 2305.14314), on the GPU where there is one.
    Raises ModelError where bitsandbytes is missing.
    """
    if spec.load != "4bit":
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ModelError(
            "model.adapter.load: 4bit: expected the package bitsandbytes, which is not installed. pip install "
            "'flantune[qlora]', or use load: bf16, which holds the frozen weights in two bytes."
        ) from None
    from transformers import BitsAndBytesConfig

    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config, "device_map": {"": device}}


def check_precision(spec: AdapterSpec, precision: str) -> None:
    """Frozen weights of two bytes or less are multiplied in bf16: float32 products would not take them."""
    if spec.load != "fp32" and precision != "bf16":
        raise RecipeError(
            f"model.adapter.load: {spec.load}: expected train.precision bf16, got {precision}. Set it, or load: fp32."
        )


def describe(folder: Path) -> dict[str, Any]:
    """A saved adapter's configuration."""
    return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise ModelError(
            "model.adapter: expected the package peft, which is not installed. pip install 'flantune[lora]'."
        ) from None
    return peft


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _file_name(name: str) -> str:
    return f"base_model.model.{name.replace(f'.{NAME}.', '.')}"


def _linear_of(model: torch.nn.Module, spec: AdapterSpec) -> Iterator[torch.nn.Linear]:
    """The frozen linear layers, adapted ones and others, without the output's."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    inside = set() if head is None else {id(m) for m in head.modules()}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not _is_adapter(f".{name}") and id(module) not in inside:
            yield module
