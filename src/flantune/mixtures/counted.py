"""Weights that count what is trained on: examples that were packed, their input tokens, or their target tokens.

The stream draws; what a draw yields is known of a sample of each task in each format. A part asked for a share of the
tokens is drawn at the rate share / (mean tokens a draw of it yields), so that the tokens come out as asked:

    part      share of tokens   tokens a draw   rate         a dropped few-shot prompt yields nothing, and is made
    summaries            0.5             100    0.5 / 100    up for by drawing its part more often
    yes or no            0.5               2    0.5 / 2
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction

from flantune.errors import RecipeError
from flantune.mixtures.row_order import RowOrder
from flantune.mixtures.weights import WHOLE, Leaf, cut_interval
from flantune.recipe import Count
from flantune.types import Format

# Sampled draws over all tasks and formats, shared out by their share of the stream, each rounded up to a power of two.
# Composed from tokens they take seconds; with 16,384, a mixture's share of the target tokens was off by half a point.
SAMPLE = 131_072
LEAST_SAMPLE = 8  # draws of the rarest pair
_FINE = 1 << 32  # rates are rounded to this part of a draw's share

Pair = tuple[str, Format]  # task and format


@dataclass(frozen=True, slots=True)
class Yield:
    """What `draws` sampled draws of a task in a format came to, after pruning and trimming."""

    draws: int
    examples: int
    input_tokens: int
    target_tokens: int

    def mean(self, count: Count) -> Fraction:
        """Examples or tokens a draw."""
        return Fraction(1) if count == "draws" else Fraction(int(getattr(self, count)), self.draws)


@dataclass(frozen=True)
class Measured:
    """What a mixture must know of its data to count by more than draws."""

    yields: Mapping[Pair, Yield]
    order: RowOrder

    def mean(self, pair: Pair, count: Count) -> Fraction:
        """Of what is counted, a draw. Target tokens go with the lengths of targets, by which the rows are then ordered:
        what the sampled rows lack or have too much of them is made good."""
        found = self.yields[pair]
        made_good = self.order.longer(pair[0], found.draws) if count == "target_tokens" else Fraction(1)
        return found.mean(count) * made_good

    def fingerprint(self) -> str:
        entries = sorted((json.dumps([task, asdict(format)]), asdict(y)) for (task, format), y in self.yields.items())
        text = json.dumps([entries, self.order.fingerprint()])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def sample_sizes(leaves: Sequence[Leaf], sample: int) -> dict[Pair, int]:
    """Draws to sample of each task in each format. Powers of two, so that other weights seldom ask for others."""
    shares: dict[Pair, float] = defaultdict(float)
    for leaf in leaves:
        for format, probability in leaf.formats:
            shares[leaf.task, format] += leaf.probability * probability
    return {pair: max(LEAST_SAMPLE, 1 << max(0, int(sample * share)).bit_length()) for pair, share in shares.items()}


def reweighed(
    leaves: Sequence[Leaf], measured: Measured, count: Count
) -> tuple[tuple[Leaf, ...], tuple[tuple[str, str], ...]]:
    """Leaves drawn at such rates that each part's share of what is counted is the one it had of the draws; and (task,
    why) of those that yield nothing, whose share goes to the rest of their part.

    Within a part the tasks keep their proportions in draws: sizes and caps are numbers of examples, and a task of
    one-word answers shall not be repeated a hundred times for a summary. Name a task as a part to give it a share.
    Raises RecipeError for a part of which nothing is left.
    """
    if count == "draws":
        return tuple(leaves), ()
    means = {id(leaf): leaf_mean(leaf, measured, count) for leaf in leaves}
    parts: dict[str, list[Leaf]] = defaultdict(list)
    for leaf in leaves:
        parts[leaf.path].append(leaf)
    rates: dict[int, int] = {}
    for path, own in parts.items():
        yielded = sum(((leaf.stop - leaf.start) * means[id(leaf)] for leaf in own), start=Fraction(0))
        if not yielded:
            raise RecipeError(
                f"mixture: part '{path}': no prompt of its tasks fits, so it cannot have a share of {count}. Raise "
                "tokens.inputs_len, or give the part formats with fewer shots."
            )
        factor = sum(leaf.stop - leaf.start for leaf in own) / yielded
        # Whole numbers: sums of hundreds of fractions would have denominators of thousands of digits.
        rates |= {id(leaf): int((leaf.stop - leaf.start) * factor * _FINE) for leaf in own if means[id(leaf)]}
    mixtures = list(dict.fromkeys(leaf.mixture for leaf in leaves))
    # Within a mixture by what a draw yields: neighbours on the circle make up for each other. Of sixty tasks of long
    # answers, each of which stands once in 10,000 examples, any 10,000 hold sixty, give or take one or two.
    kept = sorted(
        (leaf for leaf in leaves if id(leaf) in rates),
        key=lambda leaf: (mixtures.index(leaf.mixture), means[id(leaf)], leaf.path, leaf.task),
    )
    bounds = cut_interval(0, WHOLE, [rates[id(leaf)] for leaf in kept])
    out = [replace(leaf, start=a, stop=b) for leaf, a, b in zip(kept, bounds[:-1], bounds[1:], strict=True)]
    without = [(leaf.task, "no prompt of it fits") for leaf in leaves if id(leaf) not in rates]
    return tuple(leaf for leaf in out if leaf.start < leaf.stop), tuple(without)


def leaf_mean(leaf: Leaf, measured: Measured, count: Count) -> Fraction:
    """What a draw of the leaf yields on average over its formats."""
    return sum(
        (Fraction(p) * measured.mean((leaf.task, format), count) for format, p in leaf.formats), start=Fraction(0)
    )
