"""What a recipe would cost: its model, its work and its memory on named hardware, before anything is read or trained.

Each figure says what it is: exact (counted from the model's own shapes), measured (here, or from the run's data), or
extrapolated (from a stated share of the hardware's peak).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flantune import presets
from flantune.errors import RecipeError
from flantune.recipe import ModelSpec, PretrainSpec, Recipe, TokensSpec, TrainSpec
from flantune.tokens.card import DataCard
from flantune.train.cost import (
    Memory,
    Shape,
    Tokens,
    adapter_parameters,
    memory_of,
    optimizer_bytes,
    paper_flops,
    row_flops,
    shape_of,
)
from flantune.train.hardware import HERE, USABLE, Asked, Hardware, parse_hardware

# Share of the dense peak that a training reaches, where it was not measured. Published: decoders in bf16 on A100 and
# H100 28 to 46 % (torchtitan, LLM-Foundry, OLMo), T5 on A100 24 to 31 % (T5X, nanoT5).
ASSUMED_SHARE = {False: 0.40, True: 0.28}  # of a decoder, of an encoder-decoder
# Tokens of an example as its tokens meet it, where no data card says: long examples hold more of the tokens.
ASSUMED_EXAMPLE = (512, 64)
DEFAULT_HARDWARE = ("h100", "a100", "l4", "tpu-v4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is planned: three sections of a recipe, whichever way they came."""

    title: str
    model: ModelSpec
    tokens: TokensSpec
    train: TrainSpec
    pretrain: PretrainSpec | None = None
    counted: float | None = None  # N of the paper's account
    note: str = ""

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> Job:
        named = [recipe.preset] if isinstance(recipe.preset, str) else recipe.preset or ()
        found = [p for p in map(presets.preset, named) if p.init == recipe.model.init]
        known = found[0] if found else presets.of_base(recipe.model.init)
        counted = known.counted if known else None
        note = known.note if known else ""
        return cls(
            title=recipe.name,
            model=recipe.model,
            tokens=recipe.tokens,
            train=recipe.train,
            pretrain=recipe.pretrain,
            counted=counted,
            note=note,
        )

    @classmethod
    def of_preset(cls, name: str) -> Job:
        found = presets.preset(name)
        if found.init is None:
            raise RecipeError(f"--preset {name}: states no model. Name it beside one, in a recipe's 'preset'.")
        return cls(
            title=found.title,
            model=ModelSpec.model_validate(found.values["model"]),
            tokens=TokensSpec.model_validate(found.values["tokens"]),
            train=TrainSpec.model_validate(found.values["train"]),
            counted=found.counted,
            note=found.note,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Steps that were really done here: operations by our account, over the time they took."""

    rate: float  # FLOP/s
    slots_per_second: float
    rows: int
    steps: int
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnHardware:
    """The job on so many devices of a kind."""

    device: Hardware
    count: int
    micro_rows: int
    checkpointed: bool
    memory: Memory
    flaw: str  # why it cannot be run so; empty where it can
    share: float  # of the peak
    share_from: str  # "assumed", "given" or "measured"
    hours: float  # arithmetic: what the operations take on so many devices, whether or not it can be run so
    places_per_second: float  # of finetuning, over all devices
    filled: float | None  # share of the places that hold a token; None before the data is built

    @property
    def tokens_per_second(self) -> float | None:
        """Useful ones: padding is none."""
        return None if self.filled is None else self.filled * self.places_per_second

    def to_json(self) -> dict[str, Any]:
        return {
            "hardware": self.device.name,
            "devices": self.count,
            "fits": not self.flaw,
            "flaw": self.flaw,
            "micro_rows": self.micro_rows,
            "activation_checkpointing": self.checkpointed,
            "memory_bytes": self.memory.to_json(),
            "device_memory_bytes": self.device.memory,
            "peak_share": self.share,
            "peak_share_from": self.share_from,
            "hours": self.hours,
            "device_hours": self.hours * self.count,
            "places_per_second": self.places_per_second,
            "tokens_per_second": self.tokens_per_second,
            "source": self.device.source,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    job: Job
    shape: Shape
    trained: int
    row: Tokens
    row_from: str  # "assumed" or "measured": the examples' lengths
    flops: float
    pretrain_flops: float  # of the stage on plain text before, 0 where there is none
    paper: float
    optimizer: int
    places: tuple[OnHardware, ...]
    measured: Measured | None = None

    @property
    def slots(self) -> int:
        return self.job.train.steps * self.job.train.batch_rows * self.row.slots

    def to_json(self) -> dict[str, Any]:
        shape, train = self.shape, self.job.train
        return {
            "name": self.job.title,
            "architecture": shape.model_type,
            "parameters": {
                "total": shape.total,
                "trained": self.trained,
                "encoder_products": shape.encoder,
                "decoder_products": shape.decoder,
                "cross_attention_keys_values": shape.cross_kv,
                "output_matrix": shape.head,
                "from": "exact",
            },
            "work": {
                "steps": train.steps,
                "batch_rows": train.batch_rows,
                "row_places": self.row.slots,
                "places": self.slots,
                "flops": self.flops,
                "pretrain_flops": self.pretrain_flops,
                "flops_paper_account": self.paper,
                "example_inputs": self.row.example_inputs,
                "example_targets": self.row.example_targets,
                "from": f"exact; lengths of examples {self.row_from}",
            },
            "optimizer_bytes": self.optimizer,
            "hardware": [place.to_json() for place in self.places],
            "measured": None
            if self.measured is None
            else {
                "flops_per_second": self.measured.rate,
                "places_per_second": self.measured.slots_per_second,
                "steps": self.measured.steps,
                "rows": self.measured.rows,
                "precision": self.measured.precision,
            },
            "note": self.job.note,
        }

    def to_text(self) -> str:
        return plan_text(self)


def make_plan(
    job: Job,
    hardware: Sequence[str] = (),
    *,
    share: float | None = None,
    card: DataCard | None = None,
    measure: bool = False,
) -> Plan:
    """`share`: of the hardware's peak, instead of what is assumed. `card`: the run's own data, where it is built.
    `measure`: do a few steps here, with random weights and rows."""
    from flantune.models.skeleton import skeleton

    shape = shape_of(skeleton(job.model))
    row, row_from = row_tokens(job.tokens, card)
    adapter = job.model.adapter
    trained_shapes = shape.parameters if adapter is None else adapter_parameters(shape, adapter)
    trained = shape.total if adapter is None else sum(a * b for _, (a, b) in adapter_parameters(shape, adapter))
    rows = job.train.steps * job.train.batch_rows
    flops = row_flops(shape, row, None if adapter is None else trained) * rows
    before = pretrain_flops(job, shape)
    measured = None
    if measure:
        from flantune.pipeline.measured_steps import measure_steps

        measured = measure_steps(job, shape, row)
    asked = [parse_hardware(text) for text in hardware or DEFAULT_HARDWARE]
    if measure and all(a.device.name != HERE for a in asked):
        asked.append(parse_hardware(HERE))
    places = tuple(_place(job, shape, row, flops, before, a, share, measured, filled_of(card)) for a in asked)
    return Plan(
        job=job,
        shape=shape,
        trained=trained,
        row=row,
        row_from=row_from,
        flops=flops,
        pretrain_flops=before,
        paper=paper_flops(job.counted or shape.total, rows * row.slots, shape.two_sided),
        optimizer=optimizer_bytes(trained_shapes, job.train.optimizer),
        places=places,
        measured=measured,
    )


def pretrain_flops(job: Job, shape: Shape) -> float:
    """Of the stage on plain text: a window is an example, and rows are full of them."""
    spec = job.pretrain
    if spec is None:
        return 0.0
    from flantune.pipeline.training import pretrain_lengths

    lengths = pretrain_lengths(spec, job.tokens, not shape.two_sided)
    share = spec.window / sum(lengths.row_lens)
    row = Tokens(
        inputs_len=lengths.inputs_len,
        targets_len=lengths.targets_len,
        example_inputs=share * lengths.inputs_len,
        example_targets=share * lengths.targets_len,
    )
    return row_flops(shape, row) * spec.steps * spec.batch_rows


def row_tokens(spec: TokensSpec, card: DataCard | None) -> tuple[Tokens, str]:
    """Lengths from the data card; without one, what is assumed, within what an example may have."""
    if card is None:
        inputs, targets = (min(a, most) for a, most in zip(ASSUMED_EXAMPLE, spec.example_lens, strict=True))
        row = Tokens(
            inputs_len=spec.inputs_len, targets_len=spec.targets_len, example_inputs=inputs, example_targets=targets
        )
        return row, "assumed"
    filled = card.total().target_tokens / max(1, card.rows * card.targets_len)
    row = Tokens(
        inputs_len=card.inputs_len,
        targets_len=card.targets_len,
        example_inputs=_as_tokens_meet_it(card.input_lengths),
        example_targets=_as_tokens_meet_it(card.target_lengths),
        targets_filled=min(1.0, filled),
    )
    return row, "measured"


def _as_tokens_meet_it(bins: dict[str, int]) -> float:
    """Mean length over tokens, not over examples, from power-of-two bins: an example of n tokens counts n times."""
    middles = [(1.5 * int(low) if int(low) > 1 else float(low), count) for low, count in bins.items()]
    tokens = sum(middle * count for middle, count in middles)
    return sum(middle**2 * count for middle, count in middles) / tokens if tokens else 0.0


def _place(
    job: Job,
    shape: Shape,
    row: Tokens,
    flops: float,
    before: float,
    asked: Asked,
    share: float | None,
    done: Measured | None,
    filled: float | None,
) -> OnHardware:
    """On the count asked for, or on the fewest that hold it; with as many rows at a time as fit."""
    device = asked.device
    precision = planned_precision(job.train, device)
    most = job.train.batch_rows  # every device needs a row of its own: weights are shared out, rows are not cut
    counts = [asked.count] if asked.count else [2**k for k in range(most.bit_length()) if 2**k <= most]
    for count in counts:
        rows, checkpointed, memory = _most_rows(job, shape, row, precision, count, device)
        flaw = ""
        if count > most:
            flaw = f"{count} devices need a row each, and train.batch_rows is {most}"
        elif memory.total > USABLE * device.memory:
            flaw = f"a row needs {memory.total / 1e9:.0f} GB of a device's {device.memory / 1e9:.0f}"
        if not flaw:
            break
    reached, origin = _share_of(shape, device, precision, share, done)
    work, rows_done = flops, job.train.steps * job.train.batch_rows
    if checkpointed:
        adapter = job.model.adapter
        trained = None if adapter is None else sum(a * b for _, (a, b) in adapter_parameters(shape, adapter))
        work *= row_flops(shape, row, trained, recomputed=True) / row_flops(shape, row, trained)
    return OnHardware(
        device=device,
        count=count,
        micro_rows=rows,
        checkpointed=checkpointed,
        memory=memory,
        flaw=flaw,
        share=reached,
        share_from=origin,
        hours=(work + before) / (count * device.peak(precision) * reached) / 3600,
        places_per_second=rows_done * row.slots / (work / (count * device.peak(precision) * reached)),
        filled=filled,
    )


def filled_of(card: DataCard | None) -> float | None:
    """Share of the rows' places that hold a token, from the data card."""
    if card is None or not card.rows:
        return None
    total = card.total()
    return (total.input_tokens + total.target_tokens) / (card.rows * (card.inputs_len + card.targets_len))


def _most_rows(
    job: Job, shape: Shape, row: Tokens, precision: str, count: int, device: Hardware
) -> tuple[int, bool, Memory]:
    """Rows at a time, whether layers are computed twice, and the memory: the first that fits, else the least."""
    tried = [
        (rows, checkpointed, _memory(job, shape, row, rows, precision, count, checkpointed, device))
        for checkpointed in _checkpointing(job.train)
        for rows in _halves(min(job.train.micro_rows, max(1, job.train.batch_rows // count)))
    ]
    fitting = (t for t in tried if t[2].total <= USABLE * device.memory)
    return next(fitting, min(tried, key=lambda t: t[2].total))


def planned_precision(train: TrainSpec, device: Hardware) -> str:
    """What `train.precision` comes to there: auto is bf16 on what multiplies it faster."""
    if train.precision != "auto":
        return train.precision
    return "bf16" if device.bf16 > 1.5 * device.fp32 else "fp32"


def _checkpointing(train: TrainSpec) -> tuple[bool, ...]:
    """What is tried: as the recipe says; where it does not ask for it, with it too if nothing else fits."""
    return (True,) if train.activation_checkpointing else (False, True)


def _halves(rows: int) -> list[int]:
    """16 -> 16, 8, 4, 2, 1"""
    found = [max(1, rows)]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return found


def _memory(
    job: Job,
    shape: Shape,
    row: Tokens,
    rows: int,
    precision: str,
    ranks: int,
    checkpointed: bool,
    device: Hardware,
) -> Memory:
    from flantune.models.loss import _LOGITS_AT_ONCE

    return memory_of(
        shape,
        row,
        job.train.optimizer,
        rows=rows,
        precision=precision,
        ranks=ranks,
        adapter=job.model.adapter,
        checkpointed=checkpointed,
        logits_at_once=_LOGITS_AT_ONCE["cuda" if device.gpu else "cpu"],
    )


def _share_of(
    shape: Shape, device: Hardware, precision: str, share: float | None, done: Measured | None
) -> tuple[float, str]:
    if done is not None and device.name == HERE:
        return done.rate / device.peak(done.precision), "measured"
    if share is not None:
        return share, "given"
    return ASSUMED_SHARE[shape.two_sided], "assumed"


def card_of(recipe: Recipe) -> DataCard | None:
    """The run's data card, where the run has been built."""
    from flantune.tokens.build import CARD, read_card

    folder = Path(recipe.folder) / "data" / "shards"
    return read_card(folder) if (folder / CARD).is_file() else None


def plan_text(plan: Plan) -> str:
    """For a terminal."""
    shape, train, row = plan.shape, plan.job.train, plan.row
    lines = [f"{plan.job.title}: {shape.model_type}, {shape.total:,} parameters, {_trained(plan)} (exact)"]
    if plan.job.note:
        lines.append(f"  {plan.job.note}")
    lines.append(
        f"{train.steps:,} steps of {train.batch_rows} rows of {row.inputs_len:,} + {row.targets_len:,} places: "
        f"{plan.slots:.3g} places"
    )
    sides = 3 if shape.two_sided else 6
    counted = plan.job.counted or shape.total
    lines.append(
        f"operations: {plan.flops:.3g} (products and attention over examples of {row.example_inputs:.0f} + "
        f"{row.example_targets:.0f} tokens, {plan.row_from}); {sides} N T with N = {counted:.3g}: {plan.paper:.2g}"
    )
    if plan.pretrain_flops:
        lines.append(f"and on plain text before: {plan.pretrain_flops:.3g} operations, in the hours below")
    state = f"{plan.optimizer / 1e9:.2f} GB" if plan.optimizer > 1e8 else f"{plan.optimizer / 1e6:.2f} MB"
    lines.append(f"{train.optimizer.name}'s state: {state} (exact)")
    lines += ["", *_table(plan.places), ""]
    lines.append("GB on each device. Weights, gradients and optimizer state are exact and shared out over the devices;")
    lines.append("activations are counted from what layers keep; hours are extrapolated from the share of the peak.")
    known = any(place.filled is not None for place in plan.places)
    done = "useful tokens" if known else "places of the rows, padding included,"
    lines.append(f"Per second: {done} over all devices, extrapolated as the hours are.")
    if plan.measured is not None:
        lines.append(
            f"measured here: {plan.measured.steps} steps of {plan.measured.rows} rows in {plan.measured.precision}, "
            f"{plan.measured.slots_per_second:,.0f} places/s, {plan.measured.rate / 1e9:,.1f} GFLOP/s"
        )
    return "\n".join(lines)


def _trained(plan: Plan) -> str:
    if plan.job.model.adapter is None:
        return "all trained"
    return f"{plan.trained:,} of adapters trained ({plan.trained / plan.shape.total:.2%})"


def _table(places: Sequence[OnHardware]) -> list[str]:
    parts = ("weights", "copies", "grads", "optim.", "activ.", "logits", "total", "of")
    heads = f"{'hardware':<10} {'n':>5} {'rows':>5} {'ckpt':>5} " + "".join(f"{p:>8}" for p in parts)
    lines = [f"{heads}{'hours':>10}{'per s':>9}  share of peak"]
    for place in places:
        figures = "".join(f"{value / 1e9:>8.2f}" for value in (*place.memory.to_json().values(), place.device.memory))
        hours = f"{place.hours:.2g}" if place.hours < 1 else f"{place.hours:,.{1 if place.hours < 100 else 0}f}"
        checkpointed = "yes" if place.checkpointed else "no"
        lines.append(
            f"{place.device.name:<10} {place.count:>5} {place.micro_rows:>5} {checkpointed:>5} {figures}{hours:>10}"
            f"{place.tokens_per_second or place.places_per_second:>9,.0f}  {place.share:.0%} {place.share_from}"
        )
        if place.flaw:
            lines.append(f"{'':<10} cannot be run so: {place.flaw}")
    return lines
