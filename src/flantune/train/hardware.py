"""Named hardware: peak rates of dense matrix products and memory, each with its source; and what this machine does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from flantune.errors import RecipeError

HERE = "here"
USABLE = 0.92  # of a device's memory: the rest goes to the CUDA context, the allocator's holes and the kernels' space


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """One device. Rates in FLOP/s, dense (vendors also print twice that, for 2:4 sparsity); memory in bytes."""

    name: str
    bf16: float
    fp32: float
    memory: float
    per_node: int
    source: str
    measured: bool = False
    gpu: bool = True  # or a TPU; else a processor's cores

    def peak(self, precision: str) -> float:
        return self.bf16 if precision == "bf16" else self.fp32


def _device(name: str, bf16: float, fp32: float, gigabytes: float, per_node: int, source: str) -> Hardware:
    return Hardware(
        name=name, bf16=bf16 * 1e12, fp32=fp32 * 1e12, memory=gigabytes * 1e9, per_node=per_node, source=source
    )


HARDWARE: Mapping[str, Hardware] = {
    device.name: device
    for device in (
        _device("h100", 989, 67, 80, 8, "NVIDIA H100 data sheet, SXM"),
        _device("h200", 989, 67, 141, 8, "NVIDIA H200 data sheet, SXM"),
        _device("b200", 2250, 75, 180, 8, "NVIDIA DGX B200 data sheet"),
        _device("a100", 312, 19.5, 80, 8, "NVIDIA A100 data sheet, 80 GB SXM"),
        _device("a100-40gb", 312, 19.5, 40, 8, "NVIDIA A100 data sheet, 40 GB"),
        _device("l4", 121, 30.3, 24, 8, "NVIDIA L4 data sheet, half of the sparse rate"),
        _device("l40s", 362, 91.6, 48, 8, "NVIDIA L40S data sheet"),
        _device("rtx4090", 165, 82.6, 24, 1, "NVIDIA Ada white paper, bf16 with float32 accumulation"),
        _device("mi300x", 1307, 163, 192, 8, "AMD MI300X data sheet"),
        # TPUs are named for comparison with the paper's runs. No float32 unit: products are made of bf16 ones, three of
        # them at the least.
        _device("tpu-v4", 275, 275 / 3, 32, 4, "Google Cloud TPU v4 page, per chip"),
        _device("tpu-v5e", 197, 197 / 3, 16, 8, "Google Cloud TPU v5e page, per chip"),
        _device("tpu-v5p", 459, 459 / 3, 95, 4, "Google Cloud TPU v5p page, per chip"),
    )
}


@dataclass(frozen=True, slots=True)
class Asked:
    """Hardware as the command line names it: h100:8 is eight of them; h100 alone as many as are needed."""

    device: Hardware
    count: int | None


def parse_hardware(text: str) -> Asked:
    """Raises RecipeError for a name that is not in the table or a count that is none."""
    name, colon, number = text.strip().lower().partition(":")
    if name == HERE:
        device = this_machine()
    elif name in HARDWARE:
        device = HARDWARE[name]
    else:
        raise RecipeError(f"--hardware {text}: expected one of {', '.join(HARDWARE)} or {HERE}, got '{name}'.")
    if colon and not (number.isdecimal() and int(number) > 0):
        raise RecipeError(f"--hardware {text}: expected NAME or NAME:COUNT, as in h100:8.")
    if name == HERE and number not in ("", "1"):
        raise RecipeError(f"--hardware {text}: there is one machine here; give '{HERE}' alone.")
    return Asked(device, int(number) if colon else (1 if name == HERE else None))


def this_machine(seconds: float = 0.5) -> Hardware:
    """What this process reaches in a plain matrix product, and its memory. Both are measured, not looked up."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        memory, size = float(properties.total_memory), 8192
    else:
        memory, size = _memory(), 1024
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates = {dtype: _matmul_rate(device, dtype, size, seconds) for dtype in (torch.float32, torch.bfloat16)}
    return Hardware(
        name=HERE,
        bf16=rates[torch.bfloat16],
        fp32=rates[torch.float32],
        memory=memory,
        per_node=1,
        source=f"measured: products of {size:,} by {size:,} matrices"
        + ("" if device.type == "cuda" else f" on {torch.get_num_threads()} threads"),
        measured=True,
        gpu=device.type == "cuda",
    )


def _matmul_rate(device: object, dtype: object, size: int, seconds: float) -> float:
    """FLOP/s of the best of repeated products."""
    import torch

    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))  # type: ignore[call-overload]
    best, until = float("inf"), time.perf_counter() + seconds
    torch.mm(a, b)
    while time.perf_counter() < until or best == float("inf"):
        began = time.perf_counter()
        torch.mm(a, b)
        if a.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def _memory() -> float:
    import os

    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
