"""Where a training step runs, and in which number format its matrix products. Weights and sums stay float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Precision = Literal["bf16", "fp32"]


def best_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def on_best_device(model: PreTrainedModel) -> PreTrainedModel:
    """The model, moved there in place."""
    torch.nn.Module.to(model, best_device())
    return model


def choose_precision(asked: Literal["auto", "bf16", "fp32"], device: torch.device) -> Precision:
    """ "auto" is bf16 where the hardware multiplies it: several times faster there, slower where it is emulated."""
    if asked == "bf16" or (asked == "auto" and _multiplies_bf16(device)):
        return "bf16"
    return "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        flags = torch.cpu.get_capabilities()
        # Not avx512_bf16: on a CPU that has it but no AMX, bf16 products ran at 0.6 to 0.75 of float32's rate
        # (torch 2.13, 3,072 rows by 256 to 1,024 columns). The last is ARM's name.
        return any(bool(flags.get(name)) for name in ("amx_bf16", "bf16"))
    return False
