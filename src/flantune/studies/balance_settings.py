"""What a balance study is told: which abilities to raise, which to hold and how closely, and what it may spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from flantune.errors import RecipeError
from flantune.mixtures.presets import PAPER_MIXTURES
from flantune.recipe import Recipe, Section, parse_recipe, set_dotted
from flantune.studies.balance_search import Goal
from flantune.studies.point import makes_base
from flantune.studies.settings import Study, told_errors

BaselineName = Literal["proportional", "uniform", "flan2022-paper-a", "flan2022-paper-b"]
Weights = dict[str, Annotated[float, Field(gt=0)]]


class BalanceSpec(Section):
    targets: dict[str, Annotated[float, Field(gt=0)]] = Field(
        min_length=1, description="abilities to raise, each with its weight in the mean that is made as high as it goes"
    )
    guards: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=dict,
        description="abilities to hold, each with how far it may fall below the base (0.05: 5 points)",
    )
    abilities: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="globs on 'benchmark' or 'benchmark/task' that tell of it; the benchmark of its name if none",
    )
    proxy: dict[str, Any] = Field(
        default_factory=lambda: {"train.steps": 0.25},
        description="what differs in small runs, by dotted key of the recipe; train.steps below 1: a share of them",
    )
    phases: int = Field(1, ge=1, le=3, description="equal stretches of the run whose weights are searched apart")
    design: int = Field(12, ge=4, description="small runs of mixtures spread evenly, the baselines' among them")
    search: int = Field(8, ge=0, description="small runs of mixtures that the constrained search proposes")
    at_once: int = Field(1, ge=1, description="proposals before their results are known; as many can run side by side")
    trials: int = Field(2, ge=0, description="full runs of the best mixture so far, each correcting the surfaces")
    room_seeds: int | None = Field(
        None,
        ge=1,
        description="so many seeds' interval is kept clear of the tolerances; of as many as study.seeds if not given",
    )
    search_seed: int = Field(1000, description="of all runs before confirmation; study.seeds confirm")
    baselines: dict[str, BaselineName | Weights] = Field(
        {"proportional": "proportional", "uniform": "uniform"},
        description="mixtures to compare with at full budget and equal seeds: a rule, or weights by source",
    )
    repeats: float = Field(4.0, gt=0, description="how often a run may see a source's examples, in the mean")
    least: float = Field(0.01, ge=0, lt=1, description="share that no source falls below")
    most_full_runs: float = Field(12.0, gt=0, description="all runs of the search and its confirmation, by operations")
    caution: float = Field(1.0, ge=0, description="standard deviations of the surface that a guard has to spare")

    @model_validator(mode="after")
    def _either_target_or_guard(self) -> BalanceSpec:
        if both := sorted(set(self.targets) & set(self.guards)):
            raise ValueError(f"'{both[0]}' is a target and a guard: raise it, or hold it")
        if unknown := sorted(set(self.abilities) - set(self.targets) - set(self.guards)):
            raise ValueError(f"abilities: '{unknown[0]}' is neither among targets nor guards")
        return self

    @property
    def goal(self) -> Goal:
        return Goal(targets=self.targets, guards=self.guards)

    @property
    def patterns(self) -> dict[str, tuple[str, ...]]:
        return {name: self.abilities.get(name, (name,)) for name in self.goal.abilities}


@dataclass(frozen=True, slots=True)
class Balance:
    """A study read as a balance study. Sources are the top parts of the recipe's mixture."""

    study: Study
    spec: BalanceSpec

    @property
    def recipe(self) -> Recipe:
        return self.study.recipe

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.recipe.mixture.parts)

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.study.spec.seeds

    def small(self) -> Recipe:
        """The recipe of small runs."""
        raw = self.recipe.model_dump(mode="json")
        for key, value in self.spec.proxy.items():
            if key == "train.steps" and isinstance(value, float) and value < 1:
                value = max(1, round(value * self.recipe.train.steps))
            set_dotted(raw, key, value)
        return parse_recipe(raw, "study.balance.proxy")


def balance_of(study: Study) -> Balance:
    """Raises RecipeError where the mixture has no parts to weigh, or the section does not say what to raise."""
    try:
        spec = BalanceSpec.model_validate(study.spec.balance)
    except ValidationError as e:
        raise RecipeError(told_errors(e, "study.balance", BalanceSpec)) from None
    if len(study.recipe.mixture.parts) < 2:
        raise RecipeError(
            "study balance weighs the top parts of the recipe's mixture: state at least two under mixture.parts, each "
            "with its 'tasks' or 'mixture'."
        )
    if study.recipe.mixture.phases:
        raise RecipeError(
            "study balance sets the phases of the mixture itself: leave out mixture.phases and state "
            "study.balance.phases, how many there are."
        )
    if makes_base(study.recipe):
        raise RecipeError(
            "study balance holds abilities of a base model that is there: set model.init to a folder, a hub id, 'demo' "
            "or 'demo-small', and leave out 'pretrain'."
        )
    found = Balance(study, spec)
    if set(found.seeds) & {spec.search_seed}:
        raise RecipeError(f"study.balance.search_seed: {spec.search_seed} is among study.seeds, which confirm afresh.")
    for name, weights in spec.baselines.items():
        if isinstance(weights, dict) and set(weights) != set(found.sources):
            raise RecipeError(
                f"study.balance.baselines.{name}: expected a weight for each of {', '.join(found.sources)}, got "
                f"{', '.join(weights)}."
            )
        if (
            isinstance(weights, str)
            and weights.startswith("flan2022")
            and not set(found.sources) <= set(PAPER_MIXTURES)
        ):
            raise RecipeError(
                f"study.balance.baselines.{name}: '{weights}' has proportions for {', '.join(PAPER_MIXTURES)}; the "
                f"mixture's parts are {', '.join(found.sources)}. State weights by source."
            )
    return found


def baseline_weights(rule: str | Mapping[str, float], sources: Mapping[str, int]) -> list[float]:
    """Weights in the order of `sources`, name -> examples. The paper's proportions over the mixtures there are."""
    if not isinstance(rule, str):
        return [rule[name] for name in sources]
    if rule == "proportional":
        return [float(rows) for rows in sources.values()]
    if rule == "uniform":
        return [1.0 for _ in sources]
    return [PAPER_MIXTURES[name][1 if rule.endswith("-a") else 2] for name in sources]
