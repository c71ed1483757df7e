"""The studies as grids: a recipe and what is varied -> points. Pure: what a collection holds is told by a World.

A point's labels are its model (where several are named), its seed, and one axis: {"model": "small", "tasks": 8,
"seed": 0}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from flantune.errors import RecipeError
from flantune.recipe import MixtureSpec, ModelSpec, PretrainSpec, TextSpec
from flantune.studies import choices
from flantune.studies.choices import World, only, shared_out, with_formats, with_text_share
from flantune.studies.point import Label, Point, makes_base
from flantune.studies.settings import ALL, Study
from flantune.tasks import matching_names

StudyName = Literal["scaling", "cot", "formats", "objectives", "sources"]
NOT_AXES = ("model", "seed", "mixtures")
AS_STATED = "as stated"


@dataclass(frozen=True, slots=True)
class Grid:
    """The points, and what is to be said of the grid: what could not be varied, and why."""

    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()


def axis_of(labels: Mapping[str, Label]) -> tuple[str, Label]:
    """The axis that a point lies on, and where."""
    return next((name, value) for name, value in labels.items() if name not in NOT_AXES)


def scaling(study: Study, world: World) -> Grid:
    """More and more tasks, every set within the next one, at equal steps."""
    spec = study.spec.scaling
    if spec.order == "mixtures":
        if spec.counts:
            raise RecipeError(
                "study.scaling: 'counts' needs 'order: random'; with 'mixtures' the mixtures are counted."
            )
        steps, notes = _mixture_steps(spec.mixtures, world)
    else:
        steps, notes = _count_steps(spec.counts, world), []
    points = []
    for model in study.models:
        for seed in study.spec.seeds:
            drawn = choices.random_order(world.tasks, seed if spec.vary_tasks else study.spec.seeds[0])
            for step in steps:
                chosen = drawn[:step] if isinstance(step, int) else step
                labels: dict[str, Label] = {"tasks": len(chosen)}
                if not isinstance(step, int):
                    labels["mixtures"] = " + ".join(sorted({world.tasks[t].mixture for t in chosen}))
                points.append(_point(study, labels, model, seed, mixture=only(study.recipe, chosen, world)))
    return Grid(tuple(points), tuple(notes))


def _mixture_steps(stated: Sequence[Sequence[str]], world: World) -> tuple[list[list[str] | int], list[str]]:
    steps: list[list[str] | int] = []
    chosen: list[str] = []
    known, missing = world.mixtures, []
    for added in stated:
        own = [task for name in added for task in known.get(name, ())]
        missing += [name for name in added if name not in known]
        if own:
            chosen = [*chosen, *own]
            steps.append(chosen)
    if not steps:
        raise RecipeError(
            f"study.scaling.mixtures: none of them was read. Mixtures: {', '.join(known)}. State them in the order in "
            "which they are added, or 'order: random'."
        )
    left = [name for name in known if not set(known[name]) <= set(chosen)]
    notes = [f"not read, and passed over: {', '.join(missing)}"] if missing else []
    return steps, notes + ([f"read, and in no step: {', '.join(left)}"] if left else [])


def _count_steps(stated: Sequence[int | str], world: World) -> list[list[str] | int]:
    total = len(world.tasks)
    counts = [total if count == ALL else int(count) for count in stated] or choices.doubling(total)
    if max(counts) > total:
        raise RecipeError(f"study.scaling.counts: {max(counts)} of {total} tasks that may be trained on.")
    return list(dict.fromkeys(sorted(counts)))


def cot(study: Study, world: World) -> Grid:
    """Tasks that reason, the others, both; the reasons left out; and a few reasoning tasks added to the others."""
    spec = study.spec.cot
    reasoning = (
        matching_names(world.tasks, spec.tasks, "study.cot.tasks")
        if spec.tasks
        else tuple(name for name, task in world.tasks.items() if task.has_rationale)
    )
    direct = tuple(name for name in world.tasks if name not in set(reasoning))
    if not reasoning or not direct:
        lacking = "reasoning tasks" if not reasoning else "other tasks beside the reasoning ones"
        raise RecipeError(f"study.cot: there are no {lacking} among the {len(world.tasks)} tasks. State 'tasks'.")
    if spec.few and max(spec.few) > len(reasoning):
        raise RecipeError(f"study.cot.few: {max(spec.few)} of {len(reasoning)} reasoning tasks.")

    def mixed(chosen: Sequence[str]) -> MixtureSpec:
        if spec.share is None:
            return only(study.recipe, [*chosen, *direct], world)
        return shared_out(study.recipe, {"cot": (spec.share, chosen), "direct": (1 - spec.share, direct)})

    def arms(seed: int) -> dict[str, MixtureSpec]:
        found: dict[str, MixtureSpec] = {}
        for arm in spec.arms:
            if arm == "cot":
                found["CoT only"] = only(study.recipe, reasoning, world)
            elif arm == "direct":
                found["non-CoT only"] = only(study.recipe, direct, world)
            elif arm == "both":
                found["both"] = mixed(reasoning)
            else:
                both = study.recipe.model_copy(update={"mixture": mixed(reasoning)})
                found["both, no rationales"] = with_formats(both, choices.without_rationales)
        for count in spec.few:
            found[f"non-CoT + {count}"] = mixed(choices.random_order(reasoning, seed)[:count])
        return found

    return Grid(
        tuple(
            _point(study, {"arm": name}, model, seed, mixture=mixture)
            for model in study.models
            for seed in study.spec.seeds
            for name, mixture in arms(seed).items()
        ),
        (f"reasoning tasks: {len(reasoning)}; others: {len(direct)}",),
    )


def formats(study: Study, world: World) -> Grid:
    """One property of the prompts at a time; the rest as the recipe states it."""
    spec, recipe = study.spec.formats, study.recipe
    axes: dict[str, dict[Label, MixtureSpec]] = {"formats": {AS_STATED: recipe.mixture}}

    def vary(axis: str, values: Sequence[float], change: Callable[..., choices.Formats]) -> None:
        axes[axis] = {value: with_formats(recipe, partial(change, share=value)) for value in values}

    vary("few_shot", spec.few_shot, partial(choices.few_shot, shots=spec.shots))
    vary("inverted", spec.inverted, choices.inverted)
    vary("options", spec.options, choices.options)
    vary("exemplars_only", spec.exemplars_only, choices.exemplars_only)
    axes["templates"] = {
        n: recipe.mixture.model_copy(update={"wordings": None if n == ALL else n}) for n in spec.templates
    }
    return Grid(_on_axes(study, axes))


def objectives(study: Study, world: World) -> Grid:
    """How a decoder's inputs see each other, a training on text before, and plain text among the instructions."""
    spec, recipe = study.spec.objectives, study.recipe
    notes: list[str] = []
    points: list[Point] = []
    stated = recipe.mixture.text
    for model, own in study.models.items():
        for seed in study.spec.seeds:
            if spec.attention and world.one_sided:
                for attention in ("causal", "prefix"):
                    changed = own.model_copy(update={"attention": attention})
                    points.append(_point(study, {"attention": attention}, model, seed, model_section=changed))
            if spec.ul2r is not None:
                points.append(_point(study, {"before": "nothing"}, model, seed))
                points.append(_point(study, {"before": "UL2R"}, model, seed, before=spec.ul2r))
            for share in spec.text_shares:
                text = None if share == 0 else (stated or TextSpec(share=share)).model_copy(update={"share": share})
                mixture = recipe.mixture.model_copy(update={"text": text})
                points.append(_point(study, {"text": share}, model, seed, mixture=mixture))
    if spec.attention and not world.one_sided:
        notes.append("causal against prefix-LM: not asked, the model is no decoder")
    if spec.ul2r is None:
        notes.append("UL2R: not asked; state study.objectives.ul2r")
    return Grid(tuple(points), tuple(notes))


def sources(study: Study, world: World) -> Grid:
    """All mixtures, all but one, one alone or added; and the share of code, among the tasks and in the plain text."""
    spec, recipe = study.spec.sources, study.recipe
    known = world.mixtures
    if len(known) < 2 and (spec.leave_out or spec.add):
        raise RecipeError(f"study.sources: there is one mixture alone, {next(iter(known), 'none')}; two are needed.")
    unknown = [name for name in spec.add_to if name not in known]
    if unknown:
        raise RecipeError(f"study.sources.add_to: no mixture '{unknown[0]}'. Mixtures read: {', '.join(known)}.")
    axes: dict[str, dict[Label, MixtureSpec]] = {"sources": {"all": recipe.mixture}}
    if spec.leave_out:
        for name in known:
            chosen = [task for task in world.tasks if world.tasks[task].mixture != name]
            axes["sources"][f"all but {name}"] = only(recipe, chosen, world)
    if spec.add:
        begun = [task for name in spec.add_to for task in known[name]]
        if begun:
            axes["sources"][f"{' + '.join(spec.add_to)} alone"] = only(recipe, begun, world)
        for name in (m for m in known if m not in spec.add_to):
            label = f"{' + '.join(spec.add_to)} + {name}" if begun else f"{name} alone"
            axes["sources"][label] = only(recipe, [*begun, *known[name]], world)
    notes = []
    if spec.code:
        code = matching_names(world.tasks, spec.code, "study.sources.code")
        rest = tuple(name for name in world.tasks if name not in set(code))
        axes["code"] = {
            share: shared_out(recipe, {"code": (share, code), "rest": (1 - share, rest)}) for share in spec.code_shares
        }
    else:
        notes.append("share of code: not asked; state study.sources.code")
    if spec.text_code:
        axes["text_code"] = {share: with_text_share(recipe, spec.text_code, share) for share in spec.text_code_shares}
    else:
        notes.append("share of code in the plain text: not asked; state study.sources.text_code")
    return Grid(_on_axes(study, axes), tuple(notes))


GRIDS: Mapping[str, Callable[[Study, World], Grid]] = {
    "scaling": scaling,
    "cot": cot,
    "formats": formats,
    "objectives": objectives,
    "sources": sources,
}


def check_name(name: str) -> None:
    """Raises RecipeError for a study that there is none of."""
    if name not in GRIDS and name != "balance":
        raise RecipeError(f"study: expected {', '.join((*GRIDS, 'balance'))}; got '{name}'.")


def _on_axes(study: Study, axes: Mapping[str, Mapping[Label, MixtureSpec]]) -> tuple[Point, ...]:
    return tuple(
        _point(study, {axis: value}, model, seed, mixture=mixture)
        for model in study.models
        for seed in study.spec.seeds
        for axis, values in axes.items()
        for value, mixture in values.items()
    )


def _point(
    study: Study,
    labels: Mapping[str, Label],
    model: str,
    seed: int,
    *,
    mixture: MixtureSpec | None = None,
    model_section: ModelSpec | None = None,
    before: PretrainSpec | None = None,
) -> Point:
    """Seeds vary the draws and the dropout. The base is one: made with the recipe's own seed and mixture."""
    recipe, own = study.recipe, study.models[model]
    changes: dict[str, Any] = {"seed": seed, "model": model_section or own}
    if mixture is not None:
        changes["mixture"] = mixture
    start = recipe.model_copy(update={"model": own})
    if before is not None:
        if makes_base(start):
            raise RecipeError(
                f"{recipe.name}: study.objectives.ul2r goes on from a model that is there; this recipe makes its own. "
                "Give model.init the folder of one."
            )
        start = start.model_copy(update={"pretrain": before})
    named: dict[str, Label] = {"model": model} if model else {}
    point = recipe.model_copy(update=changes)
    return Point({**named, **labels, "seed": seed}, point, start if makes_base(start) else None, study.spec.asked_with)
