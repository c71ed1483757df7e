"""Where the phases of a curriculum end, in examples: measured once on the blocks that the build will write.

A phase is stated as a share of the packed rows, since steps are rows; the stream knows examples. How many examples fill
its rows is found by packing its first blocks. A phase of no more than MOST_BLOCKS blocks ends where its rows are full,
give or take two or three; of a longer one the rest is taken to pack alike. Where shares of tokens are kept even from
block to block, blocks pack a little otherwise. The card says what came.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import orjson

from flantune.errors import DataError, RecipeError, StateError
from flantune.recipe import MixtureSpec, Recipe
from flantune.tokens.block import pack_block
from flantune.tokens.encode import EncodedBatch
from flantune.whole import write_json

FILE = "phases.json"  # in the run's data folder
VERSION = 1  # raised when equal phases would end elsewhere
MOST_BLOCKS = 8  # packed to see how many examples a phase needs

Places = Callable[[int, int], EncodedBatch]  # the stream from one place to another, encoded
OnProgress = Callable[[int, int], None]


def rows_of_phases(spec: MixtureSpec, rows: int) -> list[int]:
    """Packed rows of each phase in a run of `rows`. Raises RecipeError for a phase that would have none."""
    counts = [b - a for a, b in pairwise([0, *(round(phase.until * rows) for phase in spec.phases)])]
    if min(counts) < 1:
        number = counts.index(min(counts)) + 1
        raise RecipeError(
            f"mixture.phases: phase {number} would have none of the run's {rows} packed rows. Give it a larger share, "
            "or raise train.steps or train.batch_rows."
        )
    return counts


def measured_ends(
    recipe: Recipe, one_sided: bool, open_phase: Callable[[int, Sequence[int]], Places], on_progress: OnProgress
) -> tuple[int, ...]:
    """The place at which each phase ends; the last one's is where the run is expected to.

    `open_phase(p, ends)`: the stream whose phase p goes on for ever, those before it ending at `ends`.
    """
    spec, ends = recipe.tokens, [0]
    wanted = rows_of_phases(recipe.mixture, recipe.train.steps * recipe.train.batch_rows)
    for number, rows in enumerate(wanted):
        places = open_phase(number, ends[1:])
        packed = read = 0
        for _ in range(MOST_BLOCKS):
            start = ends[-1] + read
            made = len(pack_block(places(start, start + spec.block), spec, one_sided=one_sided))
            on_progress(min(packed + made, rows), rows)
            if packed + made >= rows:
                read += max(1, round(spec.block * (rows - packed) / made))
                packed = rows
                break
            packed, read = packed + made, read + spec.block
        if not packed:
            raise DataError(
                f"phase {number + 1} of the mixture, places {ends[-1]} to {ends[-1] + read} of the stream",
                field="examples",
                expected="at least one that can be packed",
                got=0,
                mend="Is tokens.inputs_len too small for its parts' formats?",
            )
        ends.append(ends[-1] + round(read * rows / packed))
    return tuple(ends[1:])


def kept_ends(path: Path, made_from: Sequence[str], find: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
    """What `find` gives, kept in `path` for those who open the run after; found anew where it was made from something
    else. `made_from` names all that decides it."""
    stamp = hashlib.blake2b(json.dumps([VERSION, MOST_BLOCKS, *made_from]).encode(), digest_size=16).hexdigest()
    if path.exists():
        try:
            told = orjson.loads(path.read_bytes())
            if told["made_from"] == stamp:
                return tuple(int(end) for end in told["ends"])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise StateError(f"{path}: cannot be read: {e!r}. Delete it: it is made again.") from None
    ends = find()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"made_from": stamp, "ends": list(ends)})
    return ends
