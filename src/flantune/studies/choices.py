"""What the points of a grid change of a recipe: which tasks, in which shares and formats. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from flantune.errors import RecipeError
from flantune.recipe import MixturePart, MixtureSpec, PhaseSpec, Recipe, WeightedFormat, make_format
from flantune.types import Task

Formats = tuple[WeightedFormat, ...]


@dataclass(frozen=True, slots=True)
class World:
    """The tasks that a recipe may train on, with their numbers of examples; whether its model is a decoder."""

    tasks: Mapping[str, Task]
    sizes: Mapping[str, int]
    one_sided: bool = False

    @property
    def mixtures(self) -> dict[str, tuple[str, ...]]:
        """Names of tasks by mixture, both sorted."""
        names = sorted({task.mixture for task in self.tasks.values()})
        return {m: tuple(sorted(n for n, task in self.tasks.items() if task.mixture == m)) for m in names}


def random_order(names: Iterable[str], seed: int) -> list[str]:
    """An order in which a further name moves none of the others."""
    return sorted(names, key=lambda name: hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest())


def doubling(total: int) -> list[int]:
    """1, 2, 4, ... and all: what is tried where no counts are stated."""
    counts = [2**k for k in range(total.bit_length()) if 2**k < total]
    return [*counts, total]


def only(recipe: Recipe, chosen: Collection[str], world: World) -> MixtureSpec:
    """The recipe's mixture over the chosen tasks alone, as it stands where all are chosen. Raises RecipeError where
    nothing is left of it."""
    spec = recipe.mixture
    if set(chosen) == set(world.tasks):
        return spec
    if not chosen:
        raise RecipeError(f"{recipe.name}: a point of the study would have no task to train on.")
    parts = tuple(p for part in spec.parts if (p := _pruned(part, world, set(chosen))) is not None)
    if spec.parts and not parts:
        raise RecipeError(
            f"{recipe.name}: no part of the mixture names any of the tasks {', '.join(sorted(chosen)[:5])}."
        )
    return spec.model_copy(
        update={"only": tuple(sorted(chosen)), "parts": parts, "phases": _phases_of(recipe, [p.name for p in parts])}
    )


def _phases_of(recipe: Recipe, names: Sequence[str]) -> tuple[PhaseSpec, ...]:
    """The recipe's phases over the parts of those names. Raises RecipeError for a phase that has none of them."""
    phases = []
    for number, phase in enumerate(recipe.mixture.phases, 1):
        weights = {name: weight for name, weight in phase.weights.items() if name in names}
        if phase.weights and not any(weights.values()):
            raise RecipeError(
                f"{recipe.name}: phase {number} of the mixture gives weight 0 to every part that a point of the study "
                "leaves. Give it some, or study the mixture without phases."
            )
        phases.append(phase.model_copy(update={"weights": weights}))
    return tuple(phases)


def _pruned(part: MixturePart, world: World, chosen: set[str]) -> MixturePart | None:
    if part.parts:
        inner = tuple(p for own in part.parts if (p := _pruned(own, world, chosen)) is not None)
        return part.model_copy(update={"parts": inner}) if inner else None
    if part.mixture is not None:
        return part if any(world.tasks[name].mixture == part.mixture for name in chosen) else None
    patterns = tuple(p for p in part.tasks if any(name == p or fnmatchcase(name, p) for name in chosen))
    return part.model_copy(update={"tasks": patterns}) if patterns else None


def shared_out(recipe: Recipe, groups: Mapping[str, tuple[float, Sequence[str]]]) -> MixtureSpec:
    """Groups of tasks with stated shares; within a group, tasks as the recipe's preset weighs them."""
    spec = recipe.mixture
    if spec.parts or spec.preset not in ("proportional", "uniform", None):
        raise RecipeError(
            f"{recipe.name}: the study sets shares of groups of tasks, so the mixture's preset must be 'proportional' "
            "or 'uniform', which say how tasks of a group are weighed."
        )
    cap = 1 if spec.preset == "uniform" else spec.cap
    parts = tuple(
        MixturePart(name=name, weight=share, tasks=tuple(tasks), cap=cap)
        for name, (share, tasks) in groups.items()
        if share > 0 and tasks
    )
    return spec.model_copy(update={"preset": None, "cap": None, "parts": parts, "only": ()})


def with_text_share(recipe: Recipe, group: str, share: float) -> MixtureSpec:
    """The recipe's mixture, one group of files with `share` of the plain text and the others with the rest of it, in
    their own proportions."""
    text = recipe.mixture.text
    groups = () if text is None else text.groups
    names = [own.name for own in groups]
    if text is None or text.text != "files" or group not in names or len(names) < 2:
        told = f"its groups are {', '.join(names)}" if names else "there are no groups"
        raise RecipeError(
            f"{recipe.name}: the study sets the share of '{group}' among the files of plain text, and {told}. State "
            "mixture.text with 'text: files' and two groups or more under 'files', each with its name and files."
        )
    others = sum(own.weight for own in groups if own.name != group)
    files = tuple(
        own.model_copy(update={"weight": share if own.name == group else (1 - share) * own.weight / others})
        for own in groups
        if own.name != group or share > 0
    )
    return recipe.mixture.model_copy(update={"text": text.model_copy(update={"files": files})})


def with_formats(recipe: Recipe, change: Callable[[Formats], Formats]) -> MixtureSpec:
    """The recipe's mixture, the formats of all its parts changed."""
    spec = recipe.mixture
    if spec.preset == "flan2022-public":
        raise RecipeError(
            f"{recipe.name}: preset 'flan2022-public' has its own formats; a study of formats needs another preset or "
            "'parts'."
        )
    return spec.model_copy(
        update={
            "formats": _changed(spec.formats, change),
            "parts": tuple(_formatted(p, change) for p in spec.parts),
        }
    )


def _changed(formats: Formats, change: Callable[[Formats], Formats]) -> Formats:
    """The formats as they were stated, where the change says the same in other words: one point, not two."""
    made = change(formats)
    return formats if _drawn(made) == _drawn(formats) else made


def _drawn(formats: Formats) -> list[tuple[object, ...]]:
    """What is drawn, with its shares."""
    total = sum(f.weight for f in formats)
    return [(make_format(f), f.inversion, round(f.weight / total, 12)) for f in formats]


def _formatted(part: MixturePart, change: Callable[[Formats], Formats]) -> MixturePart:
    own = _changed(part.formats, change) if part.formats else ()
    return part.model_copy(update={"formats": own, "parts": tuple(_formatted(p, change) for p in part.parts)})


def few_shot(formats: Formats, share: float, shots: int) -> Formats:
    """`share` of the weight to prompts with exemplars. A kind that is not there is made of the other."""
    zero = [f for f in formats if make_format(f).shots == 0]
    few = [f for f in formats if make_format(f).shots > 0]
    zero = zero or [f.model_copy(update={"shots": 0}) for f in few]
    few = few or [f.model_copy(update={"shots": shots}) for f in zero]
    return (*_weighing(zero, 1 - share), *_weighing(few, share))


def options(formats: Formats, share: float) -> Formats:
    """`share` of the weight to prompts that list the options, where there are any."""
    without = [f for f in formats if make_format(f).options == "none"]
    listed = [f for f in formats if make_format(f).options != "none"]
    without = without or [f.model_copy(update={"options": "none"}) for f in listed]
    listed = listed or [f.model_copy(update={"options": "list"}) for f in without]
    return (*_weighing(without, 1 - share), *_weighing(listed, share))


def inverted(formats: Formats, share: float) -> Formats:
    """`share` of a task's prompts inverted, where it has such wording. Weights are against 1 for the format itself."""
    rate = share / (1 - share) if share > 0 else None
    return tuple(f.model_copy(update={"inversion": rate}) for f in formats if not make_format(f).inverted)


def exemplars_only(formats: Formats, share: float) -> Formats:
    """`share` of the prompts with exemplars without any instruction; those without exemplars as they were."""
    changed: list[WeightedFormat] = []
    for entry in formats:
        if make_format(entry).shots == 0:
            changed.append(entry)
            continue
        for instruction, part in ((True, 1 - share), (False, share)):
            if part > 0:
                changed.append(entry.model_copy(update={"instruction": instruction, "weight": entry.weight * part}))
    return tuple(changed)


def without_rationales(formats: Formats) -> Formats:
    return tuple(f.model_copy(update={"rationale": "without"}) for f in formats)


def _weighing(formats: Sequence[WeightedFormat], share: float) -> list[WeightedFormat]:
    """The formats with `share` as the sum of their weights; none where it is 0."""
    total = sum(f.weight for f in formats)
    return [f.model_copy(update={"weight": f.weight * share / total}) for f in formats] if share > 0 else []
