"""Blocks of the stream to packed shards and a data card. Killed at any moment, it continues to the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from flantune.errors import DataError, StateError
from flantune.recipe import TokensSpec
from flantune.tokens.block import PackedBlock, pack_block
from flantune.tokens.card import Asked, DataCard
from flantune.tokens.encode import EncodedBatch
from flantune.tokens.even import EvenShares
from flantune.tokens.packing import VERSION as PACKING_VERSION
from flantune.tokens.shards import INDEX, ShardRecord, ShardWriter, check_shard, read_index
from flantune.whole import write_whole

CARD = "card.json"
PROGRESS = "progress.json"
MAX_EMPTY_BLOCKS = 16  # blocks in a row that give no example before the build gives up
_MEND = "Delete the folder and build again."

Blocks = Callable[[int], EncodedBatch | PackedBlock]
OnProgress = Callable[[int, int, int], None]  # rows written, rows wanted, examples in them


def build_shards(
    blocks: Blocks,
    num_rows: int,
    spec: TokensSpec,
    folder: Path | str,
    *,
    one_sided: bool = False,
    fingerprint: str = "",
    asked: Asked | None = None,
    even: EvenShares | None = None,
    phase_of: Callable[[int], int] | None = None,
    on_progress: OnProgress | None = None,
) -> DataCard:
    """Write exactly `num_rows` packed rows to `folder`; return the card, which is also `card.json` there.

    `blocks(b)` gives block b of the stream and must be a function of b alone: after a kill the block under way is
    computed again, and the rows of it that are on disk are skipped. It is asked for one block after the other, and may
    give it packed already, as `pack_block` would. With `even`, which must not have been used before, a block is packed
    once its shares are evened; a block given packed is taken apart for that. `fingerprint` names what the rows are made
    from (mixture and tokenizer); a folder begun with another one, or with other settings, is refused with StateError.
    What was `asked` stands beside the shares got, of each phase too where `phase_of` tells a block's. A folder already
    whole returns its card at once.
    """
    folder = Path(folder)
    stamp = _stamp(fingerprint, num_rows, spec, one_sided, even)
    if (folder / INDEX).exists():
        return _finished(folder, stamp)
    card, writer, block, skip = _resume(folder, stamp, spec, one_sided, even, blocks)
    examples, empty_blocks = card.total().examples, 0
    while card.rows < num_rows:
        before = even.state() if even is not None else None
        made = blocks(block)
        if even is not None:
            made = even.deliver(block, _encoded(made))
        packed = made if isinstance(made, PackedBlock) else pack_block(made, spec, one_sided=one_sided)
        rows, by_index, formats = packed.rows(), packed.examples(), packed.formats()
        if skip > len(rows):
            raise StateError(f"{folder}: block {block} gave {skip} rows before and gives {len(rows)} now. {_MEND}")
        if skip == 0:  # else they were counted before the interruption
            card.add_dropped(packed.dropped)
        for at in range(skip, min(len(rows), skip + num_rows - card.rows)):
            card.add_row(rows[at], by_index, formats, None if phase_of is None else phase_of(block))
            examples += len(rows[at].indices)
            if writer.append(rows[at]):
                _write_progress(folder, stamp, writer, card, block, at + 1, before)
        if on_progress:
            on_progress(card.rows, num_rows, examples)
        empty_blocks = 0 if rows else empty_blocks + 1
        if empty_blocks == MAX_EMPTY_BLOCKS:
            raise _nothing_left(packed, block)
        block, skip = block + 1, 0

    if asked is not None:
        card = card.with_asked(asked)
    writer.flush()
    _write_json(folder / CARD, card.to_json())
    writer.finish(inputs_len=spec.inputs_len, targets_len=spec.targets_len, one_sided=one_sided, fingerprint=stamp)
    (folder / PROGRESS).unlink(missing_ok=True)
    return card


def read_card(folder: Path | str) -> DataCard:
    path = Path(folder) / CARD
    try:
        return DataCard.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise StateError(f"{path}: cannot be read: {e!r}. {_MEND}") from e


def _finished(folder: Path, stamp: str) -> DataCard:
    index = read_index(folder)
    if index.fingerprint != stamp:
        raise StateError(f"{folder}: holds rows of another recipe, tokenizer or length. {_MEND}")
    for shard in index.shards:
        check_shard(folder, shard, digest=False)
    (folder / PROGRESS).unlink(missing_ok=True)  # there only if the last run was killed between its last two steps
    return read_card(folder)


def _encoded(made: EncodedBatch | PackedBlock) -> EncodedBatch:
    return made.encoded() if isinstance(made, PackedBlock) else made


def _resume(
    folder: Path, stamp: str, spec: TokensSpec, one_sided: bool, even: EvenShares | None, blocks: Blocks
) -> tuple[DataCard, ShardWriter, int, int]:
    """Card, writer, the block under way and how many of its rows are written. `even` is as it was before that block."""
    path = folder / PROGRESS
    if not path.exists():
        card = DataCard(inputs_len=spec.inputs_len, targets_len=spec.targets_len, one_sided=one_sided)
        return card, ShardWriter(folder, spec.shard_rows), 0, 0
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["fingerprint"] != stamp:
            raise StateError(f"{folder}: holds the beginning of another recipe's rows. {_MEND}")
        done = [ShardRecord(**s) for s in state["shards"]]
        card = DataCard.from_json(state["card"])
        tasks, block, skip = state["tasks"], state["block"], state["skip"]
        if even is not None:
            even.restore(state["even"], block, lambda b: _encoded(blocks(b)))
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise StateError(f"{path}: cannot be read: {e!r}. {_MEND}") from e
    for shard in done:
        check_shard(folder, shard, digest=True)
    return card, ShardWriter(folder, spec.shard_rows, done=done, tasks=tasks), block, skip


def _write_progress(
    folder: Path, stamp: str, writer: ShardWriter, card: DataCard, block: int, skip: int, even: dict[str, Any] | None
) -> None:
    state = {
        "fingerprint": stamp,
        "block": block,
        "skip": skip,
        "shards": [asdict(s) for s in writer.shards],
        "tasks": list(writer.tasks),
        "card": card.to_json(),
        "even": even,
    }
    _write_json(folder / PROGRESS, state)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """The bytes that `write_json` writes, a piece at a time: in one, a card of thousands of tasks takes tens of MB."""
    pieces = json.JSONEncoder(indent=1, ensure_ascii=False).iterencode(value)
    write_whole(path, lambda file: file.writelines(piece.encode() for piece in chain(pieces, "\n")))


def _stamp(fingerprint: str, num_rows: int, spec: TokensSpec, one_sided: bool, even: EvenShares | None) -> str:
    """What the rows are made from and how, in 16 hex digits."""
    asked = spec.model_dump(mode="json", exclude={"reuse"})  # which changes how rows are made, not what they are
    parts = [fingerprint, num_rows, one_sided, asked, PACKING_VERSION]
    key = json.dumps(parts if even is None else [*parts, even.fingerprint], sort_keys=True)
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


def _nothing_left(packed: PackedBlock, block: int) -> DataError:
    reasons = Counter(reason for _, reason in packed.dropped)
    told = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3)) or "the block was empty"
    return DataError(
        f"blocks {block - MAX_EMPTY_BLOCKS + 1} to {block} of the stream",
        field="examples",
        expected="at least one that can be packed",
        got=told,
        mend="Is tokens.inputs_len too small for this mixture's few-shot formats?",
    )
