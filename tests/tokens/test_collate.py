from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.tokens.collate import IGNORE, collate_causal, collate_encdec, shifted_decoder_arrays
from flantune.tokens.packing import pack_examples
from flantune.types import Encoded, Packed


@pytest.fixture(scope="module")
def vectors(spec_dir: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((spec_dir / "test_vectors.json").read_text())["packing"]
    return loaded


def packed(pairs: list[tuple[list[int], list[int]]], length: int = 100) -> list[Packed]:
    examples = [
        Encoded(inputs=np.array(a, dtype=np.int32), targets=np.array(b, dtype=np.int32), index=i, task="t")
        for i, (a, b) in enumerate(pairs)
    ]
    return pack_examples(examples, length, length, "next_fit")


def spec_rows(vectors: dict[str, Any], one_sided: bool) -> list[Packed]:
    lengths = vectors["lengths"]
    examples = [
        Encoded(inputs=np.array(e["inputs"], np.int32), targets=np.array(e["targets"], np.int32), index=i, task="t")
        for i, e in enumerate(vectors["examples"])
    ]
    if one_sided:
        return pack_examples(examples, lengths["inputs"], vectors["concat_length"] - 10, "next_fit", one_sided=True)
    return pack_examples(examples, lengths["inputs"], lengths["targets"], "next_fit")


def test_encoder_decoder_arrays_are_the_specs(vectors: dict[str, Any]) -> None:
    batch = collate_encdec(spec_rows(vectors, False), 10, 6, pad_to="full")
    names = {
        "encoder_input_tokens": batch.input_ids,
        "encoder_segment_ids": batch.input_segments,
        "encoder_positions": batch.input_positions,
        "decoder_input_tokens": batch.decoder_input_ids,
        "decoder_target_tokens": batch.target_ids,
        "decoder_segment_ids": batch.target_segments,
        "decoder_positions": batch.target_positions,
        "decoder_loss_weights": batch.loss_weights,
    }
    for name, got in names.items():
        assert got.tolist() == [row[name] for row in vectors["encoder_decoder_rows"]], name


def test_decoder_only_arrays_are_the_specs(vectors: dict[str, Any]) -> None:
    for row, expected in zip(spec_rows(vectors, True), vectors["decoder_only_rows"], strict=True):
        for name, got in shifted_decoder_arrays(row, vectors["concat_length"]).items():
            assert got.tolist() == expected[name], name


pairs = st.lists(
    st.tuples(st.lists(st.integers(2, 99), max_size=5), st.lists(st.integers(2, 99), max_size=4)).map(
        lambda p: ([*p[0], 1], [*p[1], 1])
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None)
@given(pairs=pairs)
def test_the_causal_batch_asks_the_specs_questions(pairs: list[tuple[list[int], list[int]]]) -> None:
    """transformers' place t is seqio's place t + 1: the same token to predict, the same weight, the same segment."""
    (row,) = packed(pairs)
    batch = collate_causal([row], 100, 100, pad_to="full")
    spec = {k: v.tolist() for k, v in shifted_decoder_arrays(row, 200).items()}
    assert batch.input_ids[0].tolist() == spec["decoder_target_tokens"]
    assert batch.segments[0].tolist() == spec["decoder_segment_ids"]
    assert batch.positions[0].tolist() == spec["decoder_positions"]
    for t in range(199):
        same = spec["decoder_segment_ids"][t] == spec["decoder_segment_ids"][t + 1] != 0
        assert batch.labels[0, t].item() == (spec["decoder_target_tokens"][t + 1] if same else IGNORE)
        assert batch.loss_weights[0, t].item() == (spec["decoder_loss_weights"][t + 1] if same else 0)
    assert batch.labels[0, 199].item() == IGNORE and batch.loss_weights[0, 199].item() == 0
    # Every target token and its EOS is asked exactly once.
    asked = [int(x) for x, w in zip(batch.labels[0], batch.loss_weights[0], strict=True) if w]
    assert asked == [token for _, target in pairs for token in target]
    inside = [int(x) for x, w in zip(batch.input_ids[0], batch.in_inputs[0], strict=True) if w]
    assert inside == [token for inputs, _ in pairs for token in inputs]


def test_the_docstrings_causal_row() -> None:
    batch = collate_causal(packed([([7, 1], [3, 1]), ([9, 1], [4, 1])]), 5, 4, pad_to="full")
    assert batch.input_ids.tolist() == [[7, 1, 3, 1, 9, 1, 4, 1, 0]]
    assert batch.labels.tolist() == [[1, 3, 1, IGNORE, 1, 4, 1, IGNORE, IGNORE]]
    assert batch.loss_weights.tolist() == [[0, 1, 1, 0, 0, 1, 1, 0, 0]]
    assert batch.in_inputs.tolist() == [[True, True, False, False, True, True, False, False, False]]


def test_without_inputs_the_loss_begins_at_the_second_token() -> None:
    batch = collate_causal(packed([([], [5, 6, 7]), ([], [8, 9])]), 4, 4, pad_to="full")
    assert batch.labels[0, :5].tolist() == [6, 7, IGNORE, 9, IGNORE]
    assert batch.loss_weights[0, :5].tolist() == [1, 1, 0, 1, 0]


def test_a_token_that_equals_the_padding_id_is_a_token() -> None:
    batch = collate_encdec(packed([([0, 5, 1], [0, 1])]), 8, 8, pad_to="full")
    assert batch.input_segments[0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert batch.loss_weights[0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


def test_padding_and_start_are_the_models() -> None:
    batch = collate_encdec(packed([([5, 1], [6, 1])]), 3, 3, pad_id=9, start_id=4, pad_to="full")
    assert batch.input_ids.tolist() == [[5, 1, 9]]
    assert batch.decoder_input_ids.tolist() == [[4, 6, 9]]
    assert batch.target_segments.tolist() == [[1, 1, 0]]


def test_longest_rounds_up_to_eight_and_stays_within_the_lengths() -> None:
    rows = packed([([5] * 9, [1]), ([5] * 3, [1] * 20)])
    batch = collate_encdec(rows, 100, 22)
    assert batch.input_ids.shape == (1, 16) and batch.target_ids.shape == (1, 22)
    full = collate_encdec(rows, 100, 22, pad_to="full")
    assert torch.equal(full.input_ids[:, :16], batch.input_ids) and not full.input_segments[:, 16:].any()


def test_a_row_packed_to_other_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="row of 9 tokens does not fit the 8"):
        collate_encdec(packed([([5] * 9, [1])]), 8, 8)


def test_a_batch_moves_whole_and_keeps_its_provenance() -> None:
    batch = collate_causal(packed([([5, 1], [6, 1])]), 4, 4).to("meta")
    assert batch.input_ids.device.type == batch.loss_weights.device.type == "meta"
    assert batch.indices == ((0,),) and batch.tasks == (("t",),)
