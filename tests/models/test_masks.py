from __future__ import annotations

import json
from pathlib import Path

import torch

from flantune.models.masks import causal_same_segment, open_diagonal, same_segment


def test_masks_are_the_published_vectors(spec_dir: Path):
    packing = json.loads((spec_dir / "test_vectors.json").read_text())["packing"]
    for row in packing["encoder_decoder_rows"]:
        inputs, targets = torch.tensor([row["encoder_segment_ids"]]), torch.tensor([row["decoder_segment_ids"]])
        assert same_segment(inputs, inputs)[0, 0].long().tolist() == row["encoder_self_mask"]
        assert causal_same_segment(targets)[0, 0].long().tolist() == row["decoder_self_mask"]
        assert same_segment(targets, inputs)[0, 0].long().tolist() == row["cross_mask"]
    for row in packing["decoder_only_rows"]:
        segments = torch.tensor([row["decoder_segment_ids"]])
        assert causal_same_segment(segments)[0, 0].long().tolist() == row["causal_self_mask"]


def test_masks_are_boolean_with_one_head_for_all():
    segments = torch.tensor([[1, 1, 2, 0], [1, 2, 2, 2]])
    mask = causal_same_segment(segments)
    assert mask.dtype == torch.bool and mask.shape == (2, 1, 4, 4)


def test_an_open_diagonal_changes_only_rows_of_padding():
    segments = torch.tensor([[1, 2, 2, 0, 0]])
    mask = causal_same_segment(segments)
    opened = open_diagonal(mask)
    assert torch.equal(opened[0, 0, :3], mask[0, 0, :3])
    assert opened[0, 0, 3:].sum(-1).tolist() == [1, 1]
