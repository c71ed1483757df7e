from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.recipe import TokensSpec
from flantune.tokens.block import pack_block
from flantune.tokens.encode import EncodedBatch
from flantune.tokens.packing import pack_examples
from flantune.types import Encoded, Packed, Tokens


def tokens(draw: st.DrawFn, most: int) -> Tokens:
    return np.array(draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=most)), dtype=np.int32)


@st.composite
def batches(draw: st.DrawFn) -> EncodedBatch:
    first = draw(st.integers(0, 2**40))
    places = draw(st.lists(st.integers(0, 99), unique=True, max_size=12))
    names = st.sampled_from(["", "a", "b", "niv2/任务"])
    examples = tuple(
        Encoded(
            inputs=tokens(draw, 12),
            targets=tokens(draw, 6),
            index=first + place,
            task=draw(names),
            mixture=draw(names),
            template=draw(names),
            inputs_cut=draw(st.integers(0, 3)),
            targets_cut=draw(st.integers(0, 3)),
            exemplars_cut=draw(st.integers(0, 3)),
        )
        for place in places
    )
    told = draw(st.booleans())
    formats = tuple(draw(st.sampled_from(["zs_opt", "a"])) for _ in examples) if told else ()
    return EncodedBatch(examples=examples, dropped=((first + 100, "too long"),), formats=formats)


def same_row(a: Packed, b: Packed) -> bool:
    arrays = ("inputs", "targets", "inputs_lengths", "targets_lengths", "indices")
    same = all(
        np.array_equal(getattr(a, k), getattr(b, k)) and getattr(a, k).dtype == getattr(b, k).dtype for k in arrays
    )
    return same and a.tasks == b.tasks


def same_example(a: Encoded, b: Encoded) -> bool:
    bare = replace(a, inputs=b.inputs, targets=b.targets) == b
    return bare and np.array_equal(a.inputs, b.inputs) and np.array_equal(a.targets, b.targets)


@settings(deadline=None, max_examples=80)
@given(batch=batches(), one_sided=st.booleans(), packing=st.sampled_from(["best_fit", "next_fit", "none"]))
def test_a_block_gives_back_what_it_was_made_from_also_after_a_journey(
    batch: EncodedBatch, one_sided: bool, packing: str
) -> None:
    spec = TokensSpec(inputs_len=16, targets_len=8, packing=packing)  # type: ignore[arg-type]
    made = pack_block(batch, spec, one_sided=one_sided)
    rows = pack_examples(batch.examples, 16, 8, spec.packing, one_sided=one_sided)
    by_index = {e.index: e for e in batch.examples}
    for block in (made, pickle.loads(pickle.dumps(made))):
        assert len(block) == len(rows)
        assert all(same_row(a, b) for a, b in zip(block.rows(), rows, strict=True))
        found = block.examples()
        assert found.keys() == by_index.keys()
        assert all(same_example(found[i], e) for i, e in by_index.items())
        assert block.formats() == (dict(zip(by_index, batch.formats, strict=True)) if batch.formats else {})
        assert block.dropped == batch.dropped


def test_a_block_travels_in_little_more_than_its_tokens() -> None:
    rng = np.random.default_rng(0)
    examples = tuple(
        Encoded(
            inputs=rng.integers(0, 99, 300).astype(np.int32),
            targets=rng.integers(0, 99, 20).astype(np.int32),
            index=i,
            task=f"task/{i % 9}",
            mixture="m",
            template=f"t/{i % 30}",
        )
        for i in range(500)
    )
    made = pack_block(EncodedBatch(examples=examples), TokensSpec())
    assert len(pickle.dumps(made)) < 1.1 * 500 * 320 * 4
