"""The section `study` of a recipe: what its studies vary. A recipe with it is an ordinary recipe besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from flantune.errors import RecipeError, shorten
from flantune.recipe import (
    ModelSpec,
    PretrainSpec,
    Recipe,
    Section,
    fill_variables,
    near_names,
    parse_recipe,
    read_recipe,
)

Share = Annotated[float, Field(ge=0, le=1)]
ALL: Literal["all"] = "all"


class ScalingSpec(Section):
    order: Literal["mixtures", "random"] = Field(
        "mixtures", description="mixtures: one after another as `mixtures` states; random: `counts` of tasks"
    )
    mixtures: tuple[tuple[str, ...], ...] = Field(
        (("cot",), ("muffin",), ("t0_sf",), ("niv2",)),
        description="added one after another, spec 3's order; those that are not read are passed over",
    )
    counts: tuple[Annotated[int, Field(gt=0)] | Literal["all"], ...] = Field(
        (), description="of tasks; doubling up to all when not given"
    )
    vary_tasks: bool = Field(True, description="each seed draws its own tasks; else the study's first seed for all")


class CotSpec(Section):
    tasks: tuple[str, ...] = Field((), description="globs on the tasks that reason; those with rationales if not given")
    arms: tuple[Literal["cot", "direct", "both", "no_rationales"], ...] = Field(
        ("cot", "direct", "both", "no_rationales"),
        description="beside no finetuning; no_rationales: both, the reasons of the reasoning tasks left out",
    )
    few: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        (), description="further arms: the direct tasks and so many reasoning ones"
    )
    share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="of the reasoning tasks wherever both kinds are; by the recipe's mixture when not given"
    )


class FormatsSpec(Section):
    few_shot: tuple[Share, ...] = Field((0.0, 0.25, 0.5, 0.75, 1.0), description="share of prompts with exemplars")
    inverted: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        (0.0, 0.25), description="share of inverted prompts, of tasks that have such wording"
    )
    options: tuple[Share, ...] = Field((0.0, 0.5, 1.0), description="share of prompts that list the options there are")
    exemplars_only: tuple[Share, ...] = Field(
        (0.0, 0.5, 1.0), description="share of the prompts with exemplars that have no instruction"
    )
    templates: tuple[Annotated[int, Field(gt=0)] | Literal["all"], ...] = Field(
        (1, 2, ALL), description="wordings of a task that are trained on"
    )
    shots: int = Field(2, gt=0, description="of few-shot prompts where the recipe's formats have none")


class ObjectivesSpec(Section):
    attention: bool = Field(True, description="of a decoder: causal against prefix-LM")
    ul2r: PretrainSpec | None = Field(
        None,
        description="training on text before finetuning, spec 7.5: with it against without; not asked if not given",
    )
    text_shares: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        (0.0, 0.1, 0.25), description="of plain text among the instructions"
    )


class SourcesSpec(Section):
    leave_out: bool = Field(True, description="all mixtures but one, for each")
    add: bool = Field(True, description="one mixture alone or added to `add_to`, for each")
    add_to: tuple[str, ...] = Field((), description="mixtures to which one is added; none: each alone")
    code: tuple[str, ...] = Field((), description="globs on the tasks whose share `code_shares` sets")
    code_shares: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = (0.0, 0.1, 0.3)
    text_code: str = Field("", description="group of mixture.text.files whose share `text_code_shares` sets")
    text_code_shares: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(
        (0.0, 0.25, 0.5), description="of the plain text's documents"
    )


class StudySpec(Section):
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="of the mixture's draws and of dropout")
    asked_with: int = Field(0, description="seed of the evaluation's items: equal for all points")
    models: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="by name, what differs from the recipe's model section; the recipe's if none"
    )
    scaling: ScalingSpec = ScalingSpec()
    cot: CotSpec = CotSpec()
    formats: FormatsSpec = FormatsSpec()
    objectives: ObjectivesSpec = ObjectivesSpec()
    sources: SourcesSpec = SourcesSpec()
    balance: dict[str, Any] = Field(default_factory=dict, description="flantune.studies.balance reads it")


@dataclass(frozen=True, slots=True)
class Study:
    """A recipe and what its studies vary."""

    recipe: Recipe
    spec: StudySpec

    @property
    def models(self) -> dict[str, ModelSpec]:
        """By name; one without a name where the study states none."""
        if not self.spec.models:
            return {"": self.recipe.model}
        stated = self.recipe.model.model_dump(mode="json")
        return {name: _model(name, {**stated, **changes}) for name, changes in self.spec.models.items()}


def _model(name: str, raw: dict[str, Any]) -> ModelSpec:
    try:
        return ModelSpec.model_validate(raw)
    except ValidationError as e:
        raise RecipeError(told_errors(e, f"study.models.{name}", ModelSpec)) from None


def load_study(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Study:
    """Read a recipe with or without a section `study`. Raises RecipeError as `load_recipe` does."""
    return parse_study(read_recipe(path, overrides), str(path))


def parse_study(raw: Mapping[str, Any], where: str = "recipe") -> Study:
    stated = dict(raw)
    own = stated.pop("study", None) or {}
    recipe = parse_recipe(stated, where)
    variables = {k: str(v) for k, v in recipe.vars.items()}
    try:
        return Study(recipe, StudySpec.model_validate(fill_variables(own, variables, where)))
    except ValidationError as e:
        raise RecipeError(told_errors(e, f"{where}: study", StudySpec)) from None


def told_errors(error: ValidationError, where: str, top: type[Section]) -> str:
    lines = []
    for err in error.errors():
        key = ".".join(str(p) for p in err["loc"])
        if err["type"] == "extra_forbidden":
            hint = near_names(str(err["loc"][-1]), err["loc"][:-1], top)
            lines.append(f"{where}.{key}: unknown key. {hint}")
        else:
            lines.append(f"{where}.{key}: {err['msg']}, got {shorten(err['input'])}.")
    return "\n".join(lines)
