"""One block of the stream, encoded and packed, as flat arrays: all that the build wants of it, each token once.

A block is made where there is a processor free and written where the build runs; this is what travels in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flantune.recipe import TokensSpec
from flantune.tokens.encode import EncodedBatch
from flantune.tokens.packing import pack_examples
from flantune.types import Encoded, Packed, Tokens

_LOSSES = ("inputs_cut", "targets_cut", "exemplars_cut")  # of an Encoded, in the order of `losses`
_NAMED = ("task", "mixture", "template")  # of an Encoded, in the order of `named`; the format comes last


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedBlock:
    """n examples in r rows. Examples stand row by row, in the order of their row.

    `names` holds every task, mixture, template and format once; `named` says which, -1 for an example whose format
    was not told.
    """

    inputs: Tokens  # all input tokens end to end
    targets: Tokens
    lengths: npt.NDArray[np.int32]  # (n, 2) input and target tokens of each example
    row_sizes: npt.NDArray[np.int32]  # (r,) examples of each row
    indices: npt.NDArray[np.int64]  # (n,) places in the stream
    named: npt.NDArray[np.int32]  # (n, 4) task, mixture, template, format
    losses: npt.NDArray[np.int32]  # (n, 3) input tokens, target tokens, exemplars
    names: tuple[str, ...]
    dropped: tuple[tuple[int, str], ...]

    def __len__(self) -> int:
        """Rows."""
        return len(self.row_sizes)

    def rows(self) -> list[Packed]:
        """The rows; their arrays are views of this block's."""
        bounds = np.concatenate([[0], np.cumsum(self.row_sizes)])
        ends = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(self.lengths, axis=0, dtype=np.int64)])
        rows = []
        for first, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            (from_inputs, from_targets), (to_inputs, to_targets) = ends[first].tolist(), ends[stop].tolist()
            rows.append(
                Packed(
                    inputs=self.inputs[from_inputs:to_inputs],
                    targets=self.targets[from_targets:to_targets],
                    inputs_lengths=self.lengths[first:stop, 0],
                    targets_lengths=self.lengths[first:stop, 1],
                    indices=self.indices[first:stop],
                    tasks=tuple(self.names[i] for i in self.named[first:stop, 0].tolist()),
                )
            )
        return rows

    def examples(self) -> dict[int, Encoded]:
        """By place in the stream."""
        found = {}
        ends = np.cumsum(self.lengths, axis=0, dtype=np.int64).tolist()
        at_inputs = at_targets = 0
        columns = zip(self.indices.tolist(), ends, self.named.tolist(), self.losses.tolist(), strict=True)
        for index, (end_inputs, end_targets), named, losses in columns:
            found[index] = Encoded(
                inputs=self.inputs[at_inputs:end_inputs],
                targets=self.targets[at_targets:end_targets],
                index=index,
                **{key: self.names[i] for key, i in zip(_NAMED, named, strict=False)},
                **dict(zip(_LOSSES, losses, strict=True)),
            )
            at_inputs, at_targets = end_inputs, end_targets
        return found

    def encoded(self) -> EncodedBatch:
        """The examples as they were before they were packed, in the order of the rows."""
        formats = tuple(self.names[i] for i in self.named[:, 3].tolist() if i >= 0)
        return EncodedBatch(examples=tuple(self.examples().values()), dropped=self.dropped, formats=formats)

    def formats(self) -> dict[int, str]:
        """Names of the formats by place in the stream; without those that were not told."""
        places = zip(self.indices.tolist(), self.named[:, 3].tolist(), strict=True)
        return {index: self.names[i] for index, i in places if i >= 0}


def unpacked_block(encoded: EncodedBatch, spec: TokensSpec) -> PackedBlock:
    """A block to travel before it is packed: a row for each example, in the stream's order."""
    return pack_block(encoded, spec.model_copy(update={"packing": "none"}))


def pack_block(encoded: EncodedBatch, spec: TokensSpec, *, one_sided: bool = False) -> PackedBlock:
    """Pack a block as the recipe says. Raises DataError as `pack_examples` does."""
    rows = pack_examples(encoded.examples, spec.inputs_len, spec.targets_len, spec.packing, one_sided=one_sided)
    by_index = {e.index: e for e in encoded.examples}
    formats = dict(zip(by_index, encoded.formats, strict=False))  # no formats at all where nothing was formatted
    examples = [by_index[i] for row in rows for i in row.indices.tolist()]
    names: dict[str, int] = {}

    def number(name: str | None) -> int:
        return -1 if name is None else names.setdefault(name, len(names))

    named = [
        [*(number(getattr(e, key)) for key in _NAMED), number(formats.get(e.index))]  # a list is made in order
        for e in examples
    ]
    return PackedBlock(
        inputs=_joined([row.inputs for row in rows]),
        targets=_joined([row.targets for row in rows]),
        lengths=_table([(len(e.inputs), len(e.targets)) for e in examples], 2),
        row_sizes=np.array([len(row.indices) for row in rows], dtype=np.int32),
        indices=np.array([e.index for e in examples], dtype=np.int64),
        named=_table(named, len(_NAMED) + 1),
        losses=_table([[getattr(e, key) for key in _LOSSES] for e in examples], len(_LOSSES)),
        names=tuple(names),
        dropped=encoded.dropped,
    )


def _joined(arrays: Sequence[Tokens]) -> Tokens:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int32)


def _table(rows: Sequence[Sequence[int]], width: int) -> npt.NDArray[np.int32]:
    return np.array(rows, dtype=np.int32).reshape(len(rows), width)
