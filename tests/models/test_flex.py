"""FlexAttention, not compiled, forward, against the buckets; the compiled kernel and its gradients need a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from flantune.models.attention import attention_kernel, prepare
from flantune.models.family import families
from flantune.models.flex import BLOCK, block_mask
from flantune.models.layout import Attending
from models.packs import packed_row
from models.test_check import tiny_stock

ROWS = [packed_row([(97, 5), (140, 9), (3, 2), (60, 30)], seed=1), packed_row([(5, 3), (130, 70)], seed=2)]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("name", "model_type"),
    [("encdec", "t5"), ("causal", "llama"), ("prefix", "llama"), ("causal", "gemma2"), ("prefix", "gemma3_text")],
)
def test_hidden_states_are_those_of_the_buckets(name: str, model_type: str):
    family: Any = next(f for f in families() if f.name == name)
    more = {} if name == "encdec" else {"sliding_window": 50}
    model = tiny_stock(model_type, "flantune_packed", **({} if model_type == "llama" else more)).eval()
    prepare(model)
    batch = family.collate(model, ROWS, 320, 128)
    with torch.no_grad():
        buckets = family.hidden(model, batch)
        with attention_kernel("flex"):
            flex = family.hidden(model, batch)
        assert torch.equal(family.hidden(model, batch), buckets)
    torch.testing.assert_close(flex, buckets, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("prefix", [False, True])
def test_every_pair_that_may_look_is_in_a_block(cross: bool, prefix: bool):
    rng = np.random.default_rng(0)
    queries, keys = rng.integers(1, 300, 12), rng.integers(1, 300, 12)
    attending = Attending(queries, keys if cross else None, causal=not cross, prefix=queries // 2 if prefix else None)
    mask = block_mask(attending, None)
    own = np.repeat(np.arange(12), queries)
    other = np.repeat(np.arange(12), keys if cross else queries)
    wanted = own[:, None] == other[None]
    counts, indices = mask.kv_num_blocks[0, 0], mask.kv_indices[0, 0]
    for block, count in enumerate(counts.tolist()):
        found = {int(i) for i in indices[block, :count]}
        rows = wanted[block * BLOCK : (block + 1) * BLOCK].any(0)
        assert {int(k) // BLOCK for k in np.flatnonzero(rows)} <= found
    assert counts.sum() < 0.6 * counts.numel() * indices.shape[1]
