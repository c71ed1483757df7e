"""FlexAttention on a flat batch, for GPUs: one kernel over all examples, blocks that no example shares left out.

The blocks are worked out from the examples' lengths, on the host: no mask of the batch's size is made. It cannot drop
attention weights; with dropout the buckets are used.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from flantune.models.bucketed import Scoring
from flantune.models.layout import Attending, Ints

BLOCK = 128


def flex_packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attending: Attending,
    scoring: Scoring,
    offsets: torch.Tensor | None,
    window: int | None,
) -> torch.Tensor:
    """As `bucketed_attention`; `offsets` is a learned bias by key - query, or None. `window` hides keys that far."""
    places = _places(attending)
    softcap, longest = scoring.softcap, attending.longest

    def score(s: torch.Tensor, b: Any, h: Any, q: Any, k: Any) -> torch.Tensor:
        if softcap is not None:
            s = softcap * torch.tanh(s / softcap)
        if offsets is not None:
            s = s + offsets[h, places[3][k] - places[1][q] + longest - 1]
        return s

    made = _kernel(query.device.type)(
        *(tensor.transpose(0, 1)[None] for tensor in (query, key, value)),
        score_mod=None if softcap is None and offsets is None else score,
        block_mask=block_mask(attending, window),
        scale=scoring.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return made[0].transpose(0, 1)


@cache
def _kernel(device: str) -> Any:
    # Compiled it is a fused kernel; on a CPU the compiled one fails to build (torch 2.13): the plain one is for tests.
    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention


def block_mask(attending: Attending, window: int | None) -> BlockMask:
    """Which 128 x 128 blocks of (queries, keys) to compute, and what is hidden inside them. Kept with `attending`."""
    kept = attending.masks
    if ("blocks", window) not in kept:
        kept["blocks", window] = _block_mask(attending, window)
    mask: BlockMask = kept["blocks", window]
    return mask


def _block_mask(attending: Attending, window: int | None) -> BlockMask:
    own, place, of_key, place_of_key, prefix = _places(attending)
    causal = attending.causal or attending.prefix is not None

    def seen(b: Any, h: Any, q: Any, k: Any) -> torch.Tensor:
        same = own[q] == of_key[k]
        if causal:
            same = same & ((place_of_key[k] <= place[q]) | (place_of_key[k] < prefix[q]))
        if window is not None:
            same = same & ((place[q] - place_of_key[k]).abs() < window)
        return same

    first, last = _key_blocks(attending)
    count = torch.from_numpy(last - first + 1).to(attending.device, torch.int32)
    blocks = -(-attending.num_keys // BLOCK)
    indices = torch.from_numpy(np.minimum(first[:, None] + np.arange(blocks), blocks - 1))
    return BlockMask.from_kv_blocks(
        count[None, None],
        indices.to(attending.device, torch.int32)[None, None].contiguous(),
        BLOCK_SIZE=BLOCK,
        mask_mod=seen,
        seq_lengths=(attending.num_queries, attending.num_keys),
    )


def _key_blocks(attending: Attending) -> tuple[Ints, Ints]:
    """First and last block of keys that a block of queries may look at: its examples stand end to end."""
    ends = np.cumsum(attending.key_lengths)
    starts = ends - attending.key_lengths
    example = np.repeat(np.arange(len(ends)), attending.query_lengths)
    of_first, of_last = example[::BLOCK], np.append(example[BLOCK - 1 :: BLOCK], example[-1:])[: len(example[::BLOCK])]
    first = starts[of_first] // BLOCK
    return first, np.maximum((ends[of_last] - 1) // BLOCK, first)


def _places(attending: Attending) -> tuple[torch.Tensor, ...]:
    """Of each query its example, place and prefix, of each key its example and place; int32 on the device."""
    if attending.places is None:

        def numbered(lengths: Ints) -> tuple[Ints, Ints]:
            example = np.repeat(np.arange(len(lengths)), lengths)
            return example, np.arange(len(example)) - np.repeat(np.cumsum(lengths) - lengths, lengths)

        own, place = numbered(attending.query_lengths)
        of_key, place_of_key = numbered(attending.key_lengths)
        prefix = np.zeros_like(own) if attending.prefix is None else attending.prefix[own]
        attending.places = tuple(
            torch.from_numpy(a).to(attending.device, torch.int32) for a in (own, place, of_key, place_of_key, prefix)
        )
    return attending.places
