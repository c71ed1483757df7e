"""Packed rows to padded tensors. Segment ids count from 1 in each row, 0 is padding; positions restart per example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from flantune.types import Packed, Tokens

IGNORE = -100  # a label that no loss looks at, transformers' value
PadTo = Literal["longest", "full"]
_MULTIPLE = 8  # "longest" rounds up to it: shapes repeat and matrix units like it


class _Movable:
    """`.to(device)` for a frozen dataclass of tensors."""

    __slots__ = ()

    def to(self, device: torch.device | str) -> Self:
        moved = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            moved[field.name] = value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        return type(self)(**moved)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncDecBatch(_Movable):
    """Rows of an encoder-decoder, seqio's arrays (spec 4.1). B rows; ids, segments and positions are int64.

    inputs 7 8 1 | 9 1, targets 3 1 | 4 1:
        input_ids         7 8 1 9 1 0     target_ids         3 1 4 1 0
        input_segments    1 1 1 2 2 0     target_segments    1 1 2 2 0
        input_positions   0 1 2 0 1 0     target_positions   0 1 0 1 0
                                          decoder_input_ids  0 3 0 4 0     start id at every segment's start
                                          loss_weights       1 1 1 1 0
    """

    input_ids: torch.Tensor  # (B, inputs_len)
    input_segments: torch.Tensor
    input_positions: torch.Tensor
    decoder_input_ids: torch.Tensor  # (B, targets_len)
    target_ids: torch.Tensor
    target_segments: torch.Tensor
    target_positions: torch.Tensor
    loss_weights: torch.Tensor  # (B, targets_len) float32
    input_lengths: tuple[Tokens, ...]  # of each row's examples; on the host, whatever the device
    target_lengths: tuple[Tokens, ...]
    indices: tuple[tuple[int, ...], ...]  # stream indices of each row's examples
    tasks: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalBatch(_Movable):
    """Rows of a decoder-only model as transformers wants them: position t sees token t and predicts token t + 1.

    inputs 7 1 | 9 1, targets 3 1 | 4 1:
        input_ids      7 1 3 1 9 1 4 1 0
        segments       1 1 1 1 2 2 2 2 0
        positions      0 1 2 3 0 1 2 3 0
        labels         1 3 1 - 1 4 1 - -      shifted inside the segment; - is IGNORE
        loss_weights   0 1 1 0 0 1 1 0 0      target tokens and their EOS (spec 4.2)
        in_inputs      1 1 0 0 1 1 0 0 0      what a prefix-LM sees both ways

    The first token of a segment is predicted by nothing. For an example with inputs that costs no target; one without
    (plain language modelling) starts its loss at its second token.
    """

    input_ids: torch.Tensor  # (B, L) with L up to inputs_len + targets_len
    segments: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    loss_weights: torch.Tensor  # (B, L) float32
    in_inputs: torch.Tensor  # (B, L) bool
    lengths: tuple[Tokens, ...]  # of each row's examples, inputs and targets; on the host, whatever the device
    input_lengths: tuple[Tokens, ...]
    indices: tuple[tuple[int, ...], ...]
    tasks: tuple[tuple[str, ...], ...]


PackedBatch = EncDecBatch | CausalBatch


def collate_encdec(
    rows: Sequence[Packed],
    inputs_len: int,
    targets_len: int,
    *,
    pad_id: int = 0,
    start_id: int = 0,
    pad_to: PadTo = "longest",
) -> EncDecBatch:
    """Pad to the lengths asked ("full") or to the longest row here, rounded up to 8 and never above them ("longest").

    `start_id` is the model's decoder_start_token_id. Never let a model shift packed labels: it would carry the last
    token of one segment into the next.
    """
    inputs_width = padded_length([len(r.inputs) for r in rows], inputs_len, pad_to)
    targets_width = padded_length([len(r.targets) for r in rows], targets_len, pad_to)
    inputs = [(r.inputs, r.inputs_lengths) for r in rows]
    targets = [(r.targets, r.targets_lengths) for r in rows]
    target_segments = _stack([segment_ids(n) for _, n in targets], targets_width, 0)
    return EncDecBatch(
        input_ids=_stack([ids for ids, _ in inputs], inputs_width, pad_id),
        input_segments=_stack([segment_ids(n) for _, n in inputs], inputs_width, 0),
        input_positions=_stack([segment_positions(n) for _, n in inputs], inputs_width, 0),
        decoder_input_ids=_stack([shift_right(ids, n, start_id) for ids, n in targets], targets_width, pad_id),
        target_ids=_stack([ids for ids, _ in targets], targets_width, pad_id),
        target_segments=target_segments,
        target_positions=_stack([segment_positions(n) for _, n in targets], targets_width, 0),
        loss_weights=(target_segments > 0).to(torch.float32),
        input_lengths=tuple(r.inputs_lengths for r in rows),
        target_lengths=tuple(r.targets_lengths for r in rows),
        indices=tuple(tuple(r.indices.tolist()) for r in rows),
        tasks=tuple(r.tasks for r in rows),
    )


def collate_causal(
    rows: Sequence[Packed], inputs_len: int, targets_len: int, *, pad_id: int = 0, pad_to: PadTo = "longest"
) -> CausalBatch:
    """As `collate_encdec`, on inputs and targets joined; a full row is `inputs_len + targets_len` tokens."""
    joined = [concatenate(r) for r in rows]
    width = padded_length([len(tokens) for tokens, _, _ in joined], inputs_len + targets_len, pad_to)
    labels, weights = [], []
    for tokens, is_target, lengths in joined:
        last = np.cumsum(lengths) - 1  # of each segment: what follows it belongs to another example
        following, weight = np.roll(tokens, -1), np.roll(is_target, -1)
        following[last], weight[last] = IGNORE, False
        labels.append(following)
        weights.append(weight)
    return CausalBatch(
        input_ids=_stack([tokens for tokens, _, _ in joined], width, pad_id),
        segments=_stack([segment_ids(n) for _, _, n in joined], width, 0),
        positions=_stack([segment_positions(n) for _, _, n in joined], width, 0),
        labels=_stack(labels, width, IGNORE),
        loss_weights=_stack(weights, width, 0).to(torch.float32),
        in_inputs=_stack([~is_target for _, is_target, _ in joined], width, 0).to(torch.bool),
        lengths=tuple(n for _, _, n in joined),
        input_lengths=tuple(r.inputs_lengths for r in rows),
        indices=tuple(tuple(r.indices.tolist()) for r in rows),
        tasks=tuple(r.tasks for r in rows),
    )


def shifted_decoder_arrays(row: Packed, length: int, *, start_id: int = 0, pad_id: int = 0) -> dict[str, Tokens]:
    """One decoder-only row in seqio's convention, (length,) each: position t sees token t - 1 and predicts token t.

    `bidirectional` is one longer than the input: the position that sees the input's EOS predicts the first target, so
    a prefix-LM may look both ways from it too (spec 4.3). transformers' convention (`CausalBatch`) has no leading
    start token, so the same region there is the input alone.
    """
    tokens, is_target, lengths = concatenate(row)
    one_longer = np.minimum(row.inputs_lengths + 1, lengths)
    arrays = {
        "decoder_target_tokens": tokens,
        "decoder_input_tokens": shift_right(tokens, lengths, start_id),
        "decoder_positions": segment_positions(lengths),
        "decoder_segment_ids": segment_ids(lengths),
        "decoder_loss_weights": is_target,
        "bidirectional_flag": segment_positions(lengths) < np.repeat(one_longer, lengths),
    }
    fills = {"decoder_target_tokens": pad_id, "decoder_input_tokens": pad_id}
    return {k: _pad(v, length, fills.get(k, 0)).astype(np.int32) for k, v in arrays.items()}


def concatenate(row: Packed) -> tuple[Tokens, npt.NDArray[np.bool_], Tokens]:
    """A two-sided row as one sequence, each example's inputs and then its targets: tokens, is_target, lengths (k,)."""
    lengths = row.inputs_lengths + row.targets_lengths
    is_target = segment_positions(lengths) >= np.repeat(row.inputs_lengths, lengths)
    tokens = np.empty(int(lengths.sum()), dtype=np.int32)
    tokens[~is_target] = row.inputs
    tokens[is_target] = row.targets
    return tokens, is_target, lengths


def segment_ids(lengths: Tokens) -> Tokens:
    """[3, 2] -> 1 1 1 2 2"""
    return np.repeat(np.arange(1, len(lengths) + 1, dtype=np.int32), lengths)


def segment_positions(lengths: Tokens) -> Tokens:
    """[3, 2] -> 0 1 2 0 1"""
    starts = np.cumsum(lengths) - lengths
    return (np.arange(int(lengths.sum())) - np.repeat(starts, lengths)).astype(np.int32)


def shift_right(ids: Tokens, lengths: Tokens, start_id: int) -> Tokens:
    """What a decoder sees: the ids one to the right inside each segment, `start_id` first."""
    shifted = np.roll(ids, 1)
    shifted[segment_positions(lengths) == 0] = start_id
    return shifted


def padded_length(lengths: Sequence[int], limit: int, pad_to: PadTo) -> int:
    """Raises ValueError where a row is longer than `limit`: it was packed to other lengths than these."""
    longest = max(lengths, default=0)
    if longest > limit:
        raise ValueError(f"a packed row of {longest} tokens does not fit the {limit} asked for")
    return limit if pad_to == "full" else min(limit, -(-longest // _MULTIPLE) * _MULTIPLE)


def _pad(values: npt.NDArray[np.generic], length: int, fill: int) -> npt.NDArray[np.int64]:
    padded = np.full(length, fill, dtype=np.int64)
    padded[: len(values)] = values
    return padded


def _stack(rows: Sequence[npt.NDArray[np.generic]], length: int, fill: int) -> torch.Tensor:
    """(B, length) int64."""
    return torch.from_numpy(np.stack([_pad(row, length, fill) for row in rows]))
