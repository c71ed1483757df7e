"""A sum and its norm in one pass, against transformers' module and against the loop read as Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.t5.modeling_t5 import T5LayerNorm

from flantune.inference import norm_loops


def some(rows: int, width: int) -> tuple[T5LayerNorm, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(rows * 1_000 + width)
    norm = T5LayerNorm(width, eps=1e-3)
    with torch.no_grad():
        norm.weight.normal_(generator=draw)
    return norm, torch.randn(rows, width, generator=draw), torch.randn(rows, width, generator=draw)


@settings(max_examples=40)
@given(st.integers(0, 70), st.integers(1, 70), st.booleans())
def test_a_sum_and_its_norm(rows: int, width: int, shared: bool):
    norm, x, more = some(rows, width)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        if not shared:
            patch.setattr(norm_loops, "shared_threads", lambda: False)
        wanted = x + more
        got = norm_loops.add_normed(norm, x, more)
        assert torch.equal(x, wanted)
        torch.testing.assert_close(got, norm(wanted), atol=1e-6, rtol=1e-5)


def test_the_loop_read_as_python_computes_the_same():
    norm, x, more = some(5, 21)
    arrays = [t.detach().numpy().copy() for t in (x, more, norm.weight)]
    out = np.empty((5, 21), dtype=np.float32)
    norm_loops._add_normed(*arrays, out, norm.variance_epsilon)
    torch.testing.assert_close(norm_loops.add_normed(norm, x, more), torch.from_numpy(out), atol=1e-6, rtol=1e-5)
