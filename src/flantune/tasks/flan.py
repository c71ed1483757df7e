"""The whole Flan 2022 collection as a catalog: every task of the taxonomy, present on disk or not.

Facts come from two tables beside this file (made by scripts/make_flan_catalog.py): one row per task, and the public
code's cases per task. A catalog task is no `Task`: it has no examples until a reader finds its files.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources

CATALOG_FILE, RATES_FILE = "flan_catalog.csv", "flan_public_rates.csv"
CATALOG_COLUMNS = ("name", "source", "dataset", "category", "languages", "inverted", "excluded", "examples")

# The taxonomy's Source -> the paper's mixture (spec 1.1). "FLAN/T0": in both, kept on the Flan side.
MIXTURE_OF: Mapping[str, str] = {
    "FLAN": "muffin",
    "FLAN/T0": "muffin",
    "Dialog": "muffin",
    "Program Synthesis": "muffin",
    "T0": "t0_sf",
    "NIv2": "niv2",
    "CoT": "cot",
}

# Spec 2.2: (setting, few-shot variant) -> its column, in the public code's order.
VARIANTS: Mapping[tuple[str, str], str] = {
    ("zs_opt", "zero_shot"): "zs_opt",
    ("fs_opt", "mixed_templates"): "fs_opt_mixed",
    ("fs_opt", "single_template"): "fs_opt_single",
    ("zs_noopt", "zero_shot"): "zs_noopt",
    ("fs_noopt", "single_template"): "fs_noopt",
}
RATES_COLUMNS = ("submixture", "component", "task", "options", *VARIANTS.values())

# Spec 2.5: how a task prints its choices in each variant, by the kind of its choices.
_NONE = dict.fromkeys(VARIANTS.values(), "none")
_REMOVED = {"zs_noopt": "removed", "fs_noopt": "removed"}
RENDERINGS: Mapping[str, Mapping[str, str]] = {
    "none": _NONE,
    "in_question": dict.fromkeys(VARIANTS.values(), "in_question"),
    "separable": {"zs_opt": "random", "fs_opt_mixed": "dash", "fs_opt_single": "dash", **_REMOVED},
    "own_list": {**dict.fromkeys(VARIANTS.values(), "own_list"), **_REMOVED},
    "dialog": {"zs_opt": "random_dialog", "fs_opt_mixed": "dash_dialog", "fs_opt_single": "dash_dialog", **_REMOVED},
}

# Spec 2.2, top to bottom: weights of the sub-mixtures, of an inverted component beside its forward one, and caps.
PUBLIC_WEIGHTS: Mapping[str, Fraction] = {
    "flan2021": Fraction(40, 100),
    "t0": Fraction(32, 100),
    "niv2": Fraction(20, 100),
    "cot": Fraction(5, 100),
    "dialog": Fraction(3, 100),
}
PUBLIC_INVERTED_RATE = Fraction(3, 10)
PUBLIC_CAPS: Mapping[str, int] = {"flan2021": 30_000, "t0": 20_000, "niv2": 5_000, "cot": 100_000, "dialog": 200_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogTask:
    """One task of the collection as the taxonomy lists it."""

    name: str  # as the readers name it: "niv2/task1146_country_capital", "cot/gsm8k"; inverted: "muffin/rte/inverted"
    mixture: str  # "muffin", "t0_sf", "niv2", "cot"
    source: str  # the taxonomy's Source: "FLAN", "FLAN/T0", "Dialog", "Program Synthesis", "T0", "NIv2", "CoT"
    dataset: str
    category: str  # the generic one; "" where the taxonomy leaves the task out
    languages: tuple[str, ...]
    inverted: bool  # made from a forward task's examples with parts swapped
    excluded: bool  # one of the 57 made from MMLU: must not be trained on (spec 2.6)
    examples: int | None  # NIv2: instances; else the public code's zero-shot cases; None where it has none

    @property
    def counted(self) -> bool:
        """Whether the paper's figure counts it (spec 1.1)."""
        return not self.inverted and not self.excluded

    @property
    def specific_category(self) -> str:
        """As the taxonomy has it: T0 and NIv2 name the prompt or the task there, the others repeat the generic one."""
        return self.name.partition("/")[2] if self.source in ("T0", "NIv2") else self.category

    @property
    def forward(self) -> str:
        """Name of the task whose examples it is made from: itself, unless inverted."""
        return self.name.partition("/inverted")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicRate:
    """One entry of the public code's mixture (spec 2.2): a task in one setting and few-shot variant."""

    submixture: str  # "flan2021", "t0", "niv2", "cot", "dialog"
    component: str  # "FLAN", "T0", "NIv2", "CoT", "CoT-II", "Dialog", "Dialog-II"; II: inverted
    setting: str  # "zs_opt", "fs_opt", "zs_noopt", "fs_noopt"
    variant: str  # "zero_shot", "mixed_templates", "single_template"
    task: str  # the public code's name
    cases: int
    cap: int
    options_rendering: str  # "none", "in_question", "random", "dash", "removed", "own_list", "random_dialog", ...

    @property
    def rate(self) -> int:
        return min(self.cap, self.cases)

    @property
    def inverted(self) -> bool:
        return self.component.endswith("-II")


@functools.cache
def catalog() -> tuple[CatalogTask, ...]:
    """Every task: 1,945 of the taxonomy in its order, then the 57 excluded ones. Names are unique."""
    return tuple(
        CatalogTask(
            name=row["name"],
            mixture=MIXTURE_OF[row["source"]],
            source=row["source"],
            dataset=row["dataset"],
            category=row["category"],
            languages=tuple((row["languages"] or "English").split("|")),
            inverted=row["inverted"] == "1",
            excluded=row["excluded"] == "1",
            examples=int(row["examples"]) if row["examples"] else None,
        )
        for row in _table(CATALOG_FILE)
    )


@functools.cache
def public_rates() -> tuple[PublicRate, ...]:
    """The 1,389 entries, by sub-mixture, then zs_opt, fs_opt, zs_noopt, fs_noopt, forward before inverted."""
    rows = list(_table(RATES_FILE))
    entries = []
    for submixture in PUBLIC_WEIGHTS:
        own = [row for row in rows if row["submixture"] == submixture]
        components = list(dict.fromkeys(row["component"] for row in own))
        for setting in ("zs_opt", "fs_opt", "zs_noopt", "fs_noopt"):
            variants = [(v, column) for (s, v), column in VARIANTS.items() if s == setting]
            entries += [
                PublicRate(
                    submixture=submixture,
                    component=row["component"],
                    setting=setting,
                    variant=variant,
                    task=row["task"],
                    cases=int(row[column]),
                    cap=PUBLIC_CAPS[submixture],
                    options_rendering=RENDERINGS[row["options"]][column],
                )
                for component in components
                for row in own
                if row["component"] == component
                for variant, column in variants
                if row[column]
            ]
    return tuple(entries)


@functools.cache
def public_probabilities() -> tuple[Fraction, ...]:
    """The share of each of `public_rates()`, in its order, exactly; they sum to 1. Spec 2.2 and 2.3.

    sub-mixture's weight x an equal part per setting x the component's part (forward 1, inverted 0.3) x rate / total
    """
    rates = public_rates()
    totals: dict[tuple[str, str, str], int] = {}
    for r in rates:
        key = (r.submixture, r.setting, r.component)
        totals[key] = totals.get(key, 0) + r.rate
    settings: dict[str, set[str]] = {}
    components: dict[tuple[str, str], set[str]] = {}
    for submixture, setting, component in totals:
        settings.setdefault(submixture, set()).add(setting)
        components.setdefault((submixture, setting), set()).add(component)
    weights = sum(PUBLIC_WEIGHTS.values())

    def share(r: PublicRate) -> Fraction:
        beside = sum(_component_rate(c) for c in components[r.submixture, r.setting])
        top = PUBLIC_WEIGHTS[r.submixture] / weights / len(settings[r.submixture])
        return top * _component_rate(r.component) / beside * r.rate / totals[r.submixture, r.setting, r.component]

    return tuple(share(r) for r in rates)


def _component_rate(component: str) -> Fraction:
    return PUBLIC_INVERTED_RATE if component.endswith("-II") else Fraction(1)


def _table(name: str) -> Iterator[dict[str, str]]:
    text = resources.files("flantune.tasks").joinpath(name).read_text(encoding="utf-8")
    yield from csv.DictReader(io.StringIO(text, newline=""))
