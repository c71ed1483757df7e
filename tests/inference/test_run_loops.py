"""Attention to a run that rows share as compiled loops, against one softmax and against the loops read as Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.compiled import shared_threads
from flantune.inference import row_loops, run_loops
from flantune.inference.vectors import LANES

pytestmark = pytest.mark.skipif(not shared_threads(), reason="no OpenMP that numba and torch share")


@settings(max_examples=40)
@given(st.integers(1, 3), st.integers(1, 150), st.integers(1, 150), st.integers(1, 2), st.booleans())
def test_queries_look_at_the_run_as_by_one_softmax(groups: int, queries: int, keys: int, lanes: int, large: bool):
    draw = torch.Generator().manual_seed(queries * keys)
    q = torch.randn(groups, queries, lanes * LANES, generator=draw) * (30 if large else 1)
    k, v = torch.randn(2, groups, keys, lanes * LANES, generator=draw)
    out, total = run_loops.attend_run(q, k, v, 0.5)
    scores = q.double() @ k.double().transpose(1, 2) * 0.5
    torch.testing.assert_close(
        out.double(), torch.softmax(scores, -1) @ v.double(), atol=5e-4 if large else 5e-6, rtol=0
    )
    # Of terms of some hundreds each rounding is 1e-5 and more.
    torch.testing.assert_close(total.double(), scores.logsumexp(-1), atol=1e-4 if large else 1e-5, rtol=1e-6)


def test_a_run_need_not_lie_in_one_piece():
    q, (k, v) = torch.randn(2, 9, LANES), torch.randn(2, 21, 2, LANES).transpose(1, 2)
    out, total = run_loops.attend_run(q, k, v, 1.0)
    whole, sums = run_loops.attend_run(q, k.contiguous(), v.contiguous(), 1.0)
    assert torch.equal(out, whole) and torch.equal(total, sums)


def test_the_loops_read_as_python_compute_the_same():
    q, (k, v) = torch.randn(2, 24, LANES), torch.randn(2, 2, 19, LANES)
    out, total = np.empty((2, 24, LANES), dtype=np.float32), np.empty((2, 24), dtype=np.float32)
    run_loops._attend_run(q.numpy(), k.numpy(), v.numpy(), out, total, 16)
    compiled_out, compiled_total = run_loops.attend_run(q, k, v, 1.0)
    torch.testing.assert_close(compiled_out, torch.from_numpy(out))
    torch.testing.assert_close(compiled_total, torch.from_numpy(total))


def test_few_queries_and_odd_widths_are_torchs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(row_loops, "_WORTH", 0)
    assert run_loops.run_pays(torch.zeros(1, 8, LANES), torch.zeros(1, 5, LANES))
    assert not run_loops.run_pays(torch.zeros(1, 7, LANES), torch.zeros(1, 5, LANES))
    assert not run_loops.run_pays(torch.zeros(1, 8, LANES + 1), torch.zeros(1, 5, LANES + 1))
