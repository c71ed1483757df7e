"""Shares of the tokens held even from block to block: what a mixture has too much of waits for the next block.

A stream drawn at the right rates has the asked shares of the tokens over a long stretch. Over 10,000 examples it need
not: some twenty-seven of 4,096 are summaries of 300 to 500 tokens, and three more or fewer of them are two points of
the target tokens. How many there are is known only when their prompts are made, since some fit no row and are dropped.

    block 7 arrives      cot  1,280   t0  17,400   niv2 13,600   muffin 25,900     t0 has more than its 27.9 %
    block 7 delivered    cot  1,280   t0  16,250   niv2 13,600   muffin 25,900
    held for block 8                  t0   1,150   (four examples)

Oldest first, so an example is late by a block or two and comes once. Which example stands at which place of the stream
is unchanged; only which row it comes in depends on the blocks before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flantune.tokens.encode import EncodedBatch
from flantune.types import Encoded

VERSION = 1  # raised when equal blocks would be delivered otherwise

TokenCount = Literal["input_tokens", "target_tokens"]

# Rates come from a sample and are off by some tenths of a point. The share aimed at therefore moves from the asked one
# to that of all that has arrived, with the weight of so many blocks at first: else what is held would grow for ever.
PRIOR_BLOCKS = 32
# A mixture may fall short by this share of a block's tokens. Those smaller than that delay nobody.
SLACK = 0.001


@dataclass(frozen=True, slots=True)
class _Waiting:
    block: int
    place: int  # among the block's examples
    example: Encoded
    format: str | None


class EvenShares:
    """Asked blocks in their order, delivers each with `shares` of the tokens that `count` names, as near as whole
    examples allow. Mixtures that `shares` does not name (plain text) pass as they come.

    At most about a block's worth of examples is held; where rates are so wrong that more would be, the oldest go.
    `later`: where the shares change, the first block of each further phase and its shares; nothing is held across.
    """

    _arrived: Counter[str]
    _held: dict[str, list[_Waiting]]

    def __init__(
        self, count: TokenCount, shares: Mapping[str, float], later: Sequence[tuple[int, Mapping[str, float]]] = ()
    ) -> None:
        self._count = count
        self._phases = [(0, dict(shares)), *((block, dict(own)) for block, own in later)]
        self._begin(self._phases[0][1])

    @property
    def fingerprint(self) -> str:
        """Equal for those that deliver equal blocks alike, from the first on."""
        told = " then ".join(f"{block} {sorted(shares.items())}" for block, shares in self._phases)
        return f"even {VERSION} {self._count} {told.removeprefix('0 ')}"

    def deliver(self, block: int, encoded: EncodedBatch) -> EncodedBatch:
        """What of this block and of those held goes to rows now, in the stream's order."""
        self._enter(block)
        out = self._arrive(block, encoded)
        aims = self._aims()
        total = self._deliverable(aims)
        delivered: dict[str, int] = {}
        for name in aims:
            taken = self._take(name, aims[name] * total - self._ahead[name])
            delivered[name] = sum(self._tokens(w.example) for w in taken)
            out += taken
        whole = sum(delivered.values())
        for name, aim in aims.items():
            self._ahead[name] += delivered[name] - aim * whole
        out += self._overflow() if self._phase_of(block + 1) == self._phase_of(block) else self._rest()
        out.sort(key=lambda w: (w.block, w.place))
        formats = tuple(w.format for w in out if w.format is not None)
        return EncodedBatch(examples=tuple(w.example for w in out), dropped=encoded.dropped, formats=formats)

    # What is kept of it between two calls of a build ------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """For JSON. Held examples by block and place: they are made again from their blocks."""
        held: dict[str, list[int]] = {}
        for waiting in sorted((w for own in self._held.values() for w in own), key=lambda w: (w.block, w.place)):
            held.setdefault(str(waiting.block), []).append(waiting.place)
        return {
            "blocks": self._blocks,
            "examples": self._examples,
            "arrived": dict(self._arrived),
            "ahead": dict(self._ahead),
            "held": held,
        }

    def restore(self, state: Mapping[str, Any], before: int, blocks: Callable[[int], EncodedBatch]) -> None:
        """Go on where `state` was taken, with block `before` to come next. `blocks` is asked in order for all from the
        first that something is held of."""
        self._begin(self._phases[self._phase_of(max(0, before - 1))][1])
        self._blocks, self._examples = int(state["blocks"]), int(state["examples"])
        self._arrived = Counter({name: int(tokens) for name, tokens in state["arrived"].items()})
        self._ahead = {name: float(state["ahead"][name]) for name in self._shares}
        places = {int(block): own for block, own in state["held"].items()}
        for block in range(min(places, default=before), before):
            waiting = list(_waiting(block, blocks(block)))
            for place in places.get(block, ()):
                self._held[waiting[place].example.mixture].append(waiting[place])

    # Phases -----------------------------------------------------------------------------------------------------------

    def _begin(self, shares: Mapping[str, float]) -> None:
        self._shares = dict(shares)
        self._blocks = self._examples = 0  # that arrived
        self._arrived = Counter()  # tokens by mixture
        self._ahead = dict.fromkeys(shares, 0.0)  # tokens delivered more than the share aimed at
        self._held = {name: [] for name in shares}

    def _phase_of(self, block: int) -> int:
        return bisect_right([first for first, _ in self._phases], block) - 1

    def _enter(self, block: int) -> None:
        """Where a phase begins, so do the counts."""
        if block in [first for first, _ in self._phases[1:]]:
            self._begin(self._phases[self._phase_of(block)][1])

    def _rest(self) -> list[_Waiting]:
        """All that is held: the phase ends with this block."""
        rest = [waiting for own in self._held.values() for waiting in own]
        self._held = {name: [] for name in self._shares}
        return rest

    # One block --------------------------------------------------------------------------------------------------------

    def _tokens(self, example: Encoded) -> int:
        return len(example.targets) if self._count == "target_tokens" else len(example.inputs)

    def _arrive(self, block: int, encoded: EncodedBatch) -> list[_Waiting]:
        """Hold what there are shares for; returns the rest."""
        passing = []
        self._blocks += 1
        for waiting in _waiting(block, encoded):
            name = waiting.example.mixture
            if name not in self._shares:
                passing.append(waiting)
                continue
            self._examples += 1
            self._arrived[name] += self._tokens(waiting.example)
            self._held[name].append(waiting)
        return passing

    def _aims(self) -> dict[str, float]:
        """The share to deliver, of mixtures of which there is one."""
        arrived = self._arrived.total()
        prior = PRIOR_BLOCKS * arrived / self._blocks
        if not arrived:
            return {}
        aims = {n: (share * prior + self._arrived[n]) / (prior + arrived) for n, share in self._shares.items()}
        return {name: aim for name, aim in aims.items() if aim > 0}

    def _deliverable(self, aims: Mapping[str, float]) -> float:
        """As many tokens as can be delivered in these shares: the scarcest mixture says."""
        here = {name: sum(self._tokens(w.example) for w in self._held[name]) for name in aims}
        slack = SLACK * self._arrived.total() / self._blocks
        most = [(here[name] + slack + self._ahead[name]) / aim for name, aim in aims.items()]
        return max(0.0, min([*most, float(sum(here.values()))]))

    def _take(self, name: str, wanted: float) -> list[_Waiting]:
        """The oldest, as many as come nearest to the tokens wanted."""
        held, tokens, count = self._held[name], 0, 0
        for waiting in held:
            own = self._tokens(waiting.example)
            if tokens + own - wanted > wanted - tokens:
                break
            tokens, count = tokens + own, count + 1
        self._held[name] = held[count:]
        return held[:count]

    def _overflow(self) -> list[_Waiting]:
        """The oldest of what is more than a block's worth; then the shares begin anew from what there is."""
        held = sorted((w for own in self._held.values() for w in own), key=lambda w: (w.block, w.place))
        count = len(held) - max(1, self._examples // self._blocks)
        if count <= 0:
            return []
        going = held[:count]
        for name, number in Counter(w.example.mixture for w in going).items():
            self._held[name] = self._held[name][number:]
        self._ahead = dict.fromkeys(self._shares, 0.0)
        return going


def _waiting(block: int, encoded: EncodedBatch) -> Iterable[_Waiting]:
    formats: tuple[str | None, ...] = encoded.formats or (None,) * len(encoded.examples)
    for place, (example, format) in enumerate(zip(encoded.examples, formats, strict=True)):
        yield _Waiting(block, place, example, format)
