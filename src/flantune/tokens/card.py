"""The data card: what a build holds, counted as the rows are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from flantune.recipe import Count
from flantune.types import Encoded, Packed


@dataclass(slots=True, kw_only=True)
class TaskCount:
    """One task's part. Tokens include EOS; `*_cut` count examples that lost something, `*_lost` the tokens."""

    mixture: str = ""
    asked: float | None = None  # share asked of what the mixture's weights count; of a task, where they count draws
    drawn: float | None = None  # share of the draws: what the weights come to
    examples: int = 0
    input_tokens: int = 0
    target_tokens: int = 0
    inputs_cut: int = 0
    targets_cut: int = 0
    input_tokens_lost: int = 0
    target_tokens_lost: int = 0
    exemplars_lost: int = 0
    empty_targets: int = 0

    def add(self, example: Encoded) -> None:
        self.examples += 1
        self.input_tokens += len(example.inputs)
        self.target_tokens += len(example.targets)
        self.inputs_cut += example.inputs_cut > 0
        self.targets_cut += example.targets_cut > 0
        self.input_tokens_lost += example.inputs_cut
        self.target_tokens_lost += example.targets_cut
        self.exemplars_lost += example.exemplars_cut
        self.empty_targets += len(example.targets) <= 1


_SUMMED = [f.name for f in fields(TaskCount) if f.name not in ("mixture", "asked", "drawn")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a mixture asked for, to stand beside what came.

    Weights that count packed examples or tokens hold for parts; within a part tasks keep their shares of the draws.
    """

    count: Count = "draws"
    mixtures: Mapping[str, float | None]  # share of what `count` counts; None: asked for by something else
    draws: Mapping[str, Mapping[str, float]]  # mixture -> task -> share of the draws
    phases: Sequence[Mapping[str, float | None]] = ()  # `mixtures` of each phase, where there are several


@dataclass(slots=True, kw_only=True)
class PhaseCount:
    """What the rows of one phase hold."""

    rows: int = 0
    mixtures: dict[str, TaskCount] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class DataCard:
    """Counts over the rows of one build; shares and fractions are computed from them in `to_json`.

    Length histograms: {"64": 12} is twelve examples of 64 to 127 tokens.
    """

    inputs_len: int
    targets_len: int
    one_sided: bool = False
    count: Count = "draws"  # what the mixture's weights are shares of
    rows: int = 0
    mixtures: dict[str, TaskCount] = field(default_factory=dict)
    tasks: dict[str, TaskCount] = field(default_factory=dict)
    templates: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)  # by reason
    input_lengths: dict[str, int] = field(default_factory=dict)
    target_lengths: dict[str, int] = field(default_factory=dict)
    phases: list[PhaseCount] = field(default_factory=list)  # none where the mixture has no phases

    def add_row(
        self,
        row: Packed,
        examples: Mapping[int, Encoded],
        formats: Mapping[int, str] | None = None,
        phase: int | None = None,
    ) -> None:
        """Count a written row; `examples` (and `formats`) by stream index hold at least the row's; `phase`: its own."""
        self.rows += 1
        of_phase = None if phase is None else self._phase(phase)
        if of_phase is not None:
            of_phase.rows += 1
        for index in row.indices.tolist():
            example = examples[index]
            self.tasks.setdefault(example.task, TaskCount(mixture=example.mixture)).add(example)
            self.mixtures.setdefault(example.mixture, TaskCount(mixture=example.mixture)).add(example)
            if of_phase is not None:
                of_phase.mixtures.setdefault(example.mixture, TaskCount(mixture=example.mixture)).add(example)
            if example.template:
                _count(self.templates, example.template)
            if formats is not None and index in formats:
                _count(self.formats, formats[index])
            _count(self.input_lengths, length_bin(len(example.inputs)))
            _count(self.target_lengths, length_bin(len(example.targets)))

    def _phase(self, number: int) -> PhaseCount:
        while len(self.phases) <= number:
            self.phases.append(PhaseCount())
        return self.phases[number]

    def add_dropped(self, dropped: Iterable[tuple[int, str]]) -> None:
        for _, reason in dropped:
            _count(self.dropped, reason)

    def with_asked(self, asked: Asked) -> DataCard:
        """A copy with what was asked for; a task or mixture that got no example is listed too, with none."""
        card = deepcopy(self)
        card.count = asked.count
        for mixture, shares in asked.draws.items():
            whole = card.mixtures.setdefault(mixture, TaskCount(mixture=mixture))
            whole.drawn = sum(shares.values())
            for name, share in shares.items():
                task = card.tasks.setdefault(name, TaskCount(mixture=mixture))
                task.drawn = (task.drawn or 0.0) + share  # two mixtures may name it
        for mixture, wanted in asked.mixtures.items():
            card.mixtures.setdefault(mixture, TaskCount(mixture=mixture)).asked = wanted
        for number, wanted_of in enumerate(asked.phases):
            own = card._phase(number).mixtures
            for mixture, wanted in wanted_of.items():
                own.setdefault(mixture, TaskCount(mixture=mixture)).asked = wanted
        if asked.count == "draws":
            for task in card.tasks.values():
                task.asked = task.drawn
        return card

    def total(self) -> TaskCount:
        return _sum(self.tasks.values())

    def to_json(self) -> dict[str, Any]:
        """What was counted and what follows from it: totals, shares got, fill; None where nothing is to be divided."""
        total = self.total()
        phases = [
            {
                "rows": phase.rows,
                "row_share": _ratio(phase.rows, self.rows),
                "mixtures": self._described(phase.mixtures, phase.mixtures, _sum(phase.mixtures.values())),
            }
            for phase in self.phases
        ]
        return {
            "rows": self.rows,
            "inputs_len": self.inputs_len,
            "targets_len": self.targets_len,
            "one_sided": self.one_sided,
            "count": self.count,
            "total": _shares(total, total),
            "fill": self.fill(),
            "dropped": _sorted(self.dropped),
            "mixtures": self._described(self.mixtures, self.mixtures, total),
            **({"phases": phases} if phases else {}),
            "tasks": self._described(self.tasks, self.mixtures, total),
            "formats": _sorted(self.formats),
            "templates": _sorted(self.templates),
            "input_lengths": _sorted(self.input_lengths, key=int),
            "target_lengths": _sorted(self.target_lengths, key=int),
        }

    def _described(
        self, counts: Mapping[str, TaskCount], mixtures: Mapping[str, TaskCount], total: TaskCount
    ) -> dict[str, Any]:
        """Each count with its shares of `total`, and what it got of that which the weights count."""
        counted = [name for name, c in mixtures.items() if c.asked is not None] or list(mixtures)
        key = "examples" if self.count == "draws" else self.count  # draws that were dropped are in no row
        whole = sum(getattr(mixtures[name], key) for name in counted)

        def described(count: TaskCount) -> dict[str, Any]:
            got = _ratio(getattr(count, key), whole) if count.mixture in counted else None
            return {**_shares(count, total), "got": got}

        return {name: described(counts[name]) for name in sorted(counts)}

    def fill(self) -> dict[str, float | None]:
        """Useful tokens over slots, per side; the rest is padding. A one-sided row has one side."""
        total = self.total()
        if self.one_sided:
            slots = self.rows * (self.inputs_len + self.targets_len)
            return {"row": _ratio(total.input_tokens + total.target_tokens, slots)}
        return {
            "inputs": _ratio(total.input_tokens, self.rows * self.inputs_len),
            "targets": _ratio(total.target_tokens, self.rows * self.targets_len),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> DataCard:
        kept = ("mixture", "asked", *_SUMMED)

        def counts(of: Mapping[str, Any]) -> dict[str, TaskCount]:
            # Cards of before `drawn` say the same under `asked`.
            return {
                name: TaskCount(drawn=count.get("drawn", count["asked"]), **{k: count[k] for k in kept})
                for name, count in of.items()
            }

        return cls(
            inputs_len=raw["inputs_len"],
            targets_len=raw["targets_len"],
            one_sided=raw["one_sided"],
            count=raw.get("count", "draws"),
            rows=raw["rows"],
            mixtures=counts(raw["mixtures"]),
            tasks=counts(raw["tasks"]),
            phases=[PhaseCount(rows=p["rows"], mixtures=counts(p["mixtures"])) for p in raw.get("phases", ())],
            **{k: dict(raw[k]) for k in ("templates", "formats", "dropped", "input_lengths", "target_lengths")},
        )


def length_bin(length: int) -> str:
    """Lower edge of the power-of-two bin: 100 -> "64", 1 -> "1", 0 -> "0"."""
    return str(1 << (length.bit_length() - 1)) if length else "0"


def _count(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def _sum(counts: Iterable[TaskCount]) -> TaskCount:
    total = TaskCount()
    for count in counts:
        for name in _SUMMED:
            setattr(total, name, getattr(total, name) + getattr(count, name))
    return total


def _shares(count: TaskCount, total: TaskCount) -> dict[str, Any]:
    return {
        **asdict(count),
        "example_share": _ratio(count.examples, total.examples),
        "input_token_share": _ratio(count.input_tokens, total.input_tokens),
        "target_token_share": _ratio(count.target_tokens, total.target_tokens),
    }


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _sorted(counts: Mapping[str, int], key: Any = None) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts, key=key)}
