"""The Flan 2022 mixtures as nested parts: the paper's two (spec 2.1) and the public code's (spec 2.2 to 2.4).

flan2021 .40  t0 .32          zs_opt | fs_opt | zs_noopt | fs_noopt     tasks, min(cap, size)
cot .05  dialog .03           zs_opt | fs_opt     forward 1 | inverted 0.3     tasks, min(cap, size)
niv2 .20                      zs_opt | fs_opt     tasks, size
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from flantune.errors import RecipeError
from flantune.recipe import MixturePart, MixtureSpec, WeightedFormat, make_format
from flantune.tasks.flan import PUBLIC_CAPS, PUBLIC_INVERTED_RATE, PUBLIC_WEIGHTS
from flantune.types import Task

# Spec 2.1: cap per task, proportion A, proportion B. B sums to 99.9; only the ratios count.
PAPER_MIXTURES: Mapping[str, tuple[int, float, float]] = {
    "muffin": (30_000, 52.0, 46.0),
    "t0_sf": (20_000, 15.0, 27.9),
    "cot": (100_000, 3.0, 1.8),
    "niv2": (5_000, 30.0, 24.2),
}
# Spec 2.2 and 2.4: these two exist only with their options, so the presets' default formats leave out "noopt".
ONLY_WITH_OPTIONS = ("cot", "niv2")


class SubMixture(NamedTuple):
    """One of the public code's five."""

    settings: tuple[str, ...]
    inverted_component: bool


FOUR, TWO = ("zs_opt", "fs_opt", "zs_noopt", "fs_noopt"), ("zs_opt", "fs_opt")
PUBLIC_MIXTURE: Mapping[str, SubMixture] = {
    "flan2021": SubMixture(FOUR, False),
    "t0": SubMixture(FOUR, False),
    "niv2": SubMixture(TWO, False),
    "cot": SubMixture(TWO, True),
    "dialog": SubMixture(TWO, True),
}
# Natural Instructions is one task there, so that its cap of 5,000 touches nothing: tasks follow their raw sizes.
UNCAPPED = ("niv2",)
# Each few-shot variant is a task of its own there, with the task's rate (spec 2.2, 3.4, 3.5).
FEW_SHOT_VARIANTS = {"niv2": ("niv2_inline", "niv2_x_shot")}
NO_SUB_MIXTURE = "the public mixture has no sub-mixture for it"  # program synthesis and the user's own, spec 2.2


def public_sub_mixture(task: Task) -> str | None:
    """Which of the public code's five a task belongs to; None for program synthesis and for mixtures of the user's."""
    if task.mixture == "muffin":
        return {"dialog": "dialog", "code": None}.get(task.source, "flan2021")
    return {"t0_sf": "t0", "niv2": "niv2", "cot": "cot", "dialog": "dialog"}.get(task.mixture)


FormatSuits = Callable[[str, Sequence[WeightedFormat]], bool]  # (task, formats) -> whether any of them can be drawn


def paper_parts(
    spec: MixtureSpec, tasks: Mapping[str, Task], drawable: Callable[[str], bool]
) -> tuple[MixturePart, ...]:
    """The paper's four parts, those that have a task to draw from."""
    default = spec.formats == MixtureSpec.model_fields["formats"].default
    with_options = tuple(f for f in spec.formats if make_format(f).options != "none")
    parts = []
    for name, (cap, a, b) in PAPER_MIXTURES.items():
        if not any(drawable(t.name) for t in tasks.values() if t.mixture == name):
            continue
        formats = with_options if default and name in ONLY_WITH_OPTIONS else spec.formats
        weight = a if spec.preset == "flan2022-paper-a" else b
        parts.append(MixturePart(name=name, tasks=(), mixture=name, cap=cap, weight=weight, formats=formats))
    if not parts:
        known = ", ".join(sorted({t.mixture for t in tasks.values()})) or "none"
        raise RecipeError(
            f"preset '{spec.preset}': no task of {', '.join(PAPER_MIXTURES)} to draw from. Mixtures read: {known}."
        )
    return tuple(parts)


def public_parts(spec: MixtureSpec, tasks: Mapping[str, Task], suits: FormatSuits) -> tuple[MixturePart, ...]:
    """The public code's nesting over the tasks that are present; a part without any is left out at its level."""
    members: dict[str, list[str]] = defaultdict(list)
    for name in sorted(tasks):
        sub_mixture = public_sub_mixture(tasks[name])
        if sub_mixture is not None:
            members[sub_mixture].append(name)
    parts = []
    for name, sub in PUBLIC_MIXTURE.items():
        settings = [p for s in sub.settings if (p := _setting_part(name, s, sub, members[name], suits)) is not None]
        if settings:
            cap = None if name in UNCAPPED else PUBLIC_CAPS[name]
            weight = float(PUBLIC_WEIGHTS[name])
            parts.append(MixturePart(name=name, weight=weight, cap=cap, parts=tuple(settings)))
    if not parts:
        known = ", ".join(sorted({t.mixture for t in tasks.values()})) or "none"
        raise RecipeError(
            f"preset '{spec.preset}': no task of muffin, t0_sf, niv2 or cot to draw from. Mixtures read: {known}."
        )
    return tuple(parts)


def _setting_part(
    sub_mixture: str, setting: str, sub: SubMixture, names: Sequence[str], suits: FormatSuits
) -> MixturePart | None:
    variants: tuple[str, ...] = (setting,)
    if setting == "fs_opt":
        variants = FEW_SHOT_VARIANTS.get(sub_mixture, ("fs_opt", "fs_opt_single"))
    # In the FLAN sets the inverted templates are some of the ten, drawn like the others (spec 3.1).
    inversion = "templates" if sub_mixture == "flan2021" else None
    found = {
        variant: _with_tasks(variant, [{"setting": variant, "inversion": inversion}], names, suits)
        for variant in variants
    }
    forward = [p for p in found.values() if p is not None]
    if not sub.inverted_component:
        return _joined(setting, forward, 1.0)
    backward = [
        p
        for variant in variants
        if (p := _with_tasks(variant, [{"setting": variant, "inverted": True}], names, suits)) is not None
    ]
    components = [_joined("forward", forward, 1.0), _joined("inverted", backward, float(PUBLIC_INVERTED_RATE))]
    return _joined(setting, [c for c in components if c is not None], 1.0)


def _with_tasks(
    name: str, formats: list[dict[str, object]], names: Sequence[str], suits: FormatSuits
) -> MixturePart | None:
    entries = tuple(WeightedFormat.model_validate(f) for f in formats)
    suited = tuple(n for n in names if suits(n, entries))
    return MixturePart(name=name, tasks=suited, formats=entries) if suited else None


def _joined(name: str, parts: Sequence[MixturePart], weight: float) -> MixturePart | None:
    """The parts as one. Equal weights: the variants of a setting have the same tasks at the same rates."""
    if len(parts) == 1:
        return parts[0].model_copy(update={"name": name, "weight": weight})
    return MixturePart(name=name, weight=weight, parts=tuple(parts)) if parts else None
