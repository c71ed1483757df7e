"""Row capacities for a recipe: a sample of its stream is encoded, measured as it is and packed other ways."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flantune.errors import DataError, StateError
from flantune.pipeline.data import Progress, is_one_sided, open_data, open_tokenizer, quiet
from flantune.pipeline.folder import RunFolder, open_run
from flantune.recipe import Recipe
from flantune.tokens.capacity import Capacity, measure_capacity, suggest_capacities
from flantune.tokens.encode import encode_prompts
from flantune.tokens.packing import Lengths

SAMPLE = 8192  # prompts encoded: the stream's first
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)
_BATCH = 512


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What a sample of the stream measures. Lengths are tokens with EOS, before they are cut to the example's limit."""

    examples: int
    dropped: int
    limits: tuple[int, int]  # of an example: inputs, targets
    one_sided: bool
    quantiles: Mapping[str, tuple[int, ...]]  # by side, at QUANTILES
    cut: Mapping[str, float]  # by side: share of examples that lose tokens to the limit
    now: Capacity
    now_next_fit: Capacity
    same_inputs: Capacity  # the best targets side for the row's inputs side
    longer_rows: Capacity  # the best pair up to a few times the longest inputs

    @property
    def settings(self) -> dict[str, dict[str, int]]:
        """Recipe keys of either suggestion."""
        return {
            name: {
                "tokens.inputs_len": capacity.inputs_len - (self.limits[1] if self.one_sided else 0),
                "tokens.targets_len": self.limits[1] if self.one_sided else capacity.targets_len,
                "tokens.example_inputs_len": self.limits[0],
                "tokens.example_targets_len": self.limits[1],
            }
            for name, capacity in (("same_inputs", self.same_inputs), ("longer_rows", self.longer_rows))
        }

    def to_json(self) -> dict[str, Any]:
        names = ("now", "now_next_fit", "same_inputs", "longer_rows")
        return {
            "examples": self.examples,
            "dropped": self.dropped,
            "one_sided": self.one_sided,
            "example_limits": list(self.limits),
            "quantiles": {side: dict(zip(map(str, QUANTILES), q, strict=True)) for side, q in self.quantiles.items()},
            "cut": dict(self.cut),
            "capacities": {name: getattr(self, name).to_json() for name in names},
            "settings": self.settings,
        }

    def to_text(self) -> str:
        lines = [f"{self.examples:,} examples of the stream ({self.dropped:,} dropped); tokens before any cut:"]
        lines.append("           " + "".join(f"{_quantile_name(q):>9}" for q in QUANTILES) + "   longer than the limit")
        for (side, found), limit in zip(self.quantiles.items(), self.limits, strict=True):
            lines.append(f"  {side:<9}" + "".join(f"{n:>9,}" for n in found) + f"   {self.cut[side]:.1%} ({limit:,})")
        lines += [
            "",
            f"{'rows':<22}{'capacity':>14}{'inputs full':>13}{'targets full':>14}{'all slots':>11}{'examples':>10}",
        ]
        for name, capacity in (
            ("now, next fit (seqio)", self.now_next_fit),
            ("now, best fit", self.now),
            ("same inputs side", self.same_inputs),
            ("longer rows", self.longer_rows),
        ):
            lines.append(_row(name, capacity))
        lines.append("")
        for name, settings in self.settings.items():
            chosen = " ".join(f"--set {key}={value}" for key, value in settings.items())
            lines.append(f"{name.replace('_', ' ')}: {chosen}")
        lines.append(
            "Longer rows hold more examples: lower train.batch_rows in proportion. Attention costs more in them."
        )
        return "\n".join(lines)


def suggest(recipe: Recipe, progress: Progress = quiet, *, sample: int = SAMPLE) -> Suggestion:
    """Measure the recipe's first `sample` prompts and look for capacities with less padding; builds no row.

    What the run's folder holds of the same recipe is used. Else the collections are read, and a tokenizer trained, in
    a folder that goes again: a suggestion claims no run's folder, so that the recipe may still change.
    """
    if RunFolder(recipe.folder).recipe.exists():
        try:
            return measure(recipe, open_run(recipe), progress, sample=sample)
        except StateError:  # another recipe's folder
            pass
    with tempfile.TemporaryDirectory(prefix="flantune-") as temporary:
        return measure(recipe, RunFolder(Path(temporary)), progress, sample=sample)


def measure(recipe: Recipe, folder: RunFolder, progress: Progress = quiet, *, sample: int = SAMPLE) -> Suggestion:
    """`suggest`, over a folder whose store and tokenizer are made where they are missing."""
    data = open_data(recipe, folder, progress)
    tokenizer = open_tokenizer(recipe, folder, data)
    spec, one_sided = recipe.tokens, is_one_sided(recipe)
    limits = spec.example_lens
    sizes: list[tuple[int, int, int, int]] = []
    dropped = 0
    for start in range(0, sample, _BATCH):
        encoded = encode_prompts(
            list(data.mixture.prompts(range(start, min(sample, start + _BATCH)), data.store)),
            tokenizer,
            inputs_len=limits[0],
            targets_len=limits[1],
            few_shot_margin=spec.few_shot_margin,
        )
        sizes += [(len(e.inputs), len(e.targets), e.inputs_cut, e.targets_cut) for e in encoded.examples]
        dropped += len(encoded.dropped)
        progress("sample", min(sample, start + _BATCH), sample)
    if not sizes:
        raise DataError(
            f"{recipe.name}: the stream's first {sample} prompts",
            field="examples",
            expected="at least one that can be packed",
            got=0,
            mend="Is tokens.inputs_len too small for this mixture's few-shot formats?",
        )
    columns = np.array(sizes, dtype=np.int64).T
    inputs, targets = columns[0], columns[1]
    uncut = {"inputs": inputs + columns[2], "targets": targets + columns[3]}
    row, holds = spec.row_lens, limits
    if one_sided:
        inputs, targets = inputs + targets, np.zeros_like(targets)
        row, holds = (sum(row), 0), (sum(limits), 0)
    return Suggestion(
        examples=len(inputs),
        dropped=dropped,
        limits=limits,
        one_sided=one_sided,
        quantiles={side: _quantiles(lengths) for side, lengths in uncut.items()},
        cut={"inputs": float((columns[2] > 0).mean()), "targets": float((columns[3] > 0).mean())},
        now=measure_capacity(inputs, targets, *row, spec.packing, block=spec.block),
        now_next_fit=measure_capacity(inputs, targets, *row, "next_fit", block=spec.block),
        same_inputs=_best(inputs, targets, spec.block, holds, inputs_len=row[0]),
        longer_rows=_best(inputs, targets, spec.block, holds),
    )


def _best(
    inputs: Lengths, targets: Lengths, block: int, holds: tuple[int, int], inputs_len: int | None = None
) -> Capacity:
    """The first suggestion, measured over the whole sample as the row it is compared with."""
    chosen = suggest_capacities(inputs, targets, block=block, holds=holds, inputs_len=inputs_len)[0]
    return measure_capacity(inputs, targets, chosen.inputs_len, chosen.targets_len, block=block)


def _quantiles(lengths: Lengths) -> tuple[int, ...]:
    return tuple(int(n) for n in np.quantile(lengths, QUANTILES, method="inverted_cdf"))


def _quantile_name(quantile: float) -> str:
    return "longest" if quantile == 1 else f"{quantile:.1%}".replace(".0%", "%")


def _row(name: str, capacity: Capacity) -> str:
    size = f"{capacity.inputs_len}/{capacity.targets_len}" if capacity.targets_len else str(capacity.inputs_len)
    targets = "" if capacity.targets_fill is None else f"{capacity.targets_fill:.1%}"
    return (
        f"{name:<22}{size:>14}{capacity.inputs_fill:>13.1%}{targets:>14}{capacity.slots_fill:>11.1%}"
        f"{capacity.examples_per_row:>10.1f}"
    )
