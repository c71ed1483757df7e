"""How full rows of given capacities get, and which capacities fill best: measured by packing, not by a formula."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from flantune.errors import DataError
from flantune.tokens.packing import Lengths, Packing, assign_rows

MULTIPLE = 8  # of every capacity suggested: what matrix hardware wants at least
LONGER_ROWS = 4  # how many times the longest inputs a suggested row may hold, where no limit is given
_BLOCKS_TRIED = 2  # of the sample, for each pair of capacities looked at
_GAPS = (1, 2, 4, 8, 16)  # multiples of room left beside the longest targets
_PROPORTIONS = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75)  # of the targets side to what the inputs side would need
_ROW_FACTORS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)


@dataclass(frozen=True, slots=True)
class Capacity:
    """Row capacities, in tokens, and how full packed rows of them are, as shares from 0 to 1.

    One-sided rows have a `targets_len` of 0: `inputs_len` is the whole row's, `targets_fill` None.
    """

    inputs_len: int
    targets_len: int
    inputs_fill: float
    targets_fill: float | None
    slots_fill: float  # both sides together: the share of what a row computes that is no padding
    examples_per_row: float

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs_len": self.inputs_len,
            "targets_len": self.targets_len,
            "inputs_fill": round(self.inputs_fill, 4),
            "targets_fill": None if self.targets_fill is None else round(self.targets_fill, 4),
            "slots_fill": round(self.slots_fill, 4),
            "examples_per_row": round(self.examples_per_row, 2),
        }


def measure_capacity(
    inputs: Lengths, targets: Lengths, inputs_len: int, targets_len: int, algorithm: Packing = "best_fit", *, block: int
) -> Capacity:
    """Pack examples of these lengths, (n,) each, block by block as a build does. Raises DataError where one is longer
    than a row, or where there is none."""
    inputs, targets = np.asarray(inputs, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    if len(inputs) == 0:
        raise DataError("the lengths to pack", field="examples", expected="at least one", got=0)
    num_rows = 0
    for start in range(0, len(inputs), block):
        part = slice(start, start + block)
        num_rows += int(assign_rows(inputs[part], targets[part], inputs_len, targets_len, algorithm).max()) + 1
    used_inputs, used_targets = int(inputs.sum()), int(targets.sum())
    return Capacity(
        inputs_len=inputs_len,
        targets_len=targets_len,
        inputs_fill=used_inputs / (num_rows * inputs_len),
        targets_fill=used_targets / (num_rows * targets_len) if targets_len else None,
        slots_fill=(used_inputs + used_targets) / (num_rows * (inputs_len + targets_len)),
        examples_per_row=len(inputs) / num_rows,
    )


def suggest_capacities(
    inputs: Lengths,
    targets: Lengths,
    *,
    block: int,
    inputs_len: int | None = None,
    max_inputs_len: int | None = None,
    holds: tuple[int, int] = (0, 0),
    multiple: int = MULTIPLE,
) -> list[Capacity]:
    """Row capacities that hold every example of these lengths, those with the least padding first.

    Each is a multiple of `multiple`, and no less than `holds` (inputs, targets) where longer examples are to come.
    With `inputs_len` that side is kept and the other sought; without, rows of up to `max_inputs_len` inputs
    (`LONGER_ROWS` times the longest when not given) are tried, each with its best targets side: rows longer than their
    examples are what balances the sides where a few long targets must fit beside many short ones. One example that
    fills a row's targets to the brim leaves its inputs empty, so a few tokens more than the longest are tried as well.
    Targets that are all 0, and a `holds` of 0 for them, give one-sided rows.

    Raises DataError where an example is longer than the rows allowed.
    """
    inputs, targets = np.asarray(inputs, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    if len(inputs) == 0:
        raise DataError("the lengths to pack", field="examples", expected="at least one", got=0)
    longest = max(int(inputs.max()), holds[0])
    limit = inputs_len or max_inputs_len or LONGER_ROWS * longest
    if longest > limit:
        raise DataError(
            "the examples to pack",
            field="inputs",
            expected=f"at most {limit} tokens, the row's limit",
            got=longest,
            mend="Trim the examples to less, or allow longer rows.",
        )
    if inputs_len is not None:
        rows = [inputs_len]
    else:
        shortest = _round_up(longest, multiple)
        rows = sorted({_round_up(shortest * f, multiple) for f in _ROW_FACTORS if shortest * f <= limit} or {longest})
    tried = slice(0, _BLOCKS_TRIED * block)
    best: list[Capacity] = []
    for row in rows:
        found = [
            measure_capacity(inputs[tried], targets[tried], row, side, block=block)
            for side in _targets_sides(inputs, targets, row, max(int(targets.max()), holds[1]), multiple)
        ]
        ranked = sorted(found, key=_padding)
        best += ranked if inputs_len is not None else ranked[:1]
    return sorted(best, key=_padding)


def _targets_sides(inputs: Lengths, targets: Lengths, row: int, longest: int, multiple: int) -> Iterable[int]:
    """Targets sides worth trying beside `row` inputs: about in proportion, and just above the `longest` targets."""
    if longest == 0:
        return [0]
    proportional = row * int(targets.sum()) / int(inputs.sum())
    least = _round_up(longest, multiple)
    sides = {least, *(least + gap * multiple for gap in _GAPS)}
    sides |= {_round_up(proportional * p, multiple) for p in _PROPORTIONS}
    return sorted(side for side in sides if side >= least)


def _padding(capacity: Capacity) -> tuple[float, int, int]:
    # To a tenth of a percent: what is as full is better short, as attention grows with a row's length.
    return (-round(capacity.slots_fill, 3), capacity.inputs_len, capacity.targets_len)


def _round_up(length: float, multiple: int) -> int:
    return ceil(length / multiple) * multiple
