"""How a model's matrices lie in memory while it writes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def lay_out_for_few_rows(model: Any) -> None:
    """Linear weights (out, in), the same numbers, turned in memory so that a column is consecutive.

    A product of few rows with such a weight is 1.5 to 2 times as fast on a CPU (40 rows, 512 to 2,048 wide, float32,
    MKL; no slower from 256 rows on), and writing is little else. Weights that are looked up as embeddings too stay.
    """
    looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for module in model.modules():
        if type(module) is not nn.Linear or id(module.weight) in looked_up:
            continue
        if _is_lying(module.weight):
            module.weight.data = module.weight.data.t().contiguous().t()


def _is_lying(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.is_contiguous()
