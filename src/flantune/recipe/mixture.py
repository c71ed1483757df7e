"""Which tasks, in which shares, formats and languages."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from flantune.recipe.formats import WeightedFormat
from flantune.recipe.objectives import TextSpec
from flantune.recipe.section import Section

Count = Literal["draws", "examples", "input_tokens", "target_tokens"]
LanguageWeights = dict[str, Annotated[float, Field(gt=0)]]


class MixturePart(Section):
    """A weighted part of the mixture: tasks by pattern, or further parts. Weights are relative to the siblings'."""

    name: str
    weight: float = Field(1.0, gt=0)
    tasks: tuple[str, ...] = Field((), description="globs on task names")
    mixture: str | None = Field(None, description="all tasks that were read under this mixture name")
    cap: int | None = Field(None, gt=0, description="examples a task counts for at most; clips the rate, not the data")
    formats: tuple[WeightedFormat, ...] = ()
    parts: tuple[MixturePart, ...] = ()
    language: str | None = Field(None, description="only tasks whose inputs are in this language")
    languages: LanguageWeights = Field(
        default_factory=dict, description="of the wording; the mixture's where not given"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> MixturePart:
        kinds = bool(self.tasks) + (self.mixture is not None) + bool(self.parts)
        if kinds != 1:
            raise ValueError(f"part '{self.name}' needs exactly one of 'tasks', 'mixture' or 'parts'")
        return self


class PhaseSpec(Section):
    """A stretch of the run that weighs the mixture's top parts in its own way; all else holds for the whole run.

    A phase ends where the run has written `until` of its packed rows, so at that share of its steps. The stream counts
    examples: how many fill so many rows is measured on the stream's own blocks, once (flantune.pipeline.phases).
    """

    until: float = Field(
        1.0, gt=0, le=1, description="share of the run's packed rows at which it ends; the last one's is 1"
    )
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="of the mixture's top parts, all of them; 0 leaves one out. The parts' own when not given",
    )


PRESET_SYNONYMS = {"paper-a": "flan2022-paper-a", "paper-b": "flan2022-paper-b"}
PresetName = Literal["flan2022-paper-a", "flan2022-paper-b", "flan2022-public", "proportional", "uniform"]


class MixtureSpec(Section):
    preset: PresetName | None = Field(
        None,
        description="flan2022-paper-a and -b: spec 2.1; flan2022-public: spec 2.2; all over the mixtures that are "
        "present. 'paper-a' and 'paper-b' are accepted too",
    )
    parts: tuple[MixturePart, ...] = ()
    cap: int | None = Field(None, gt=0, description="for proportional: examples a task counts for at most")
    count: Count = Field(
        "draws",
        description="what the weights are shares of: draws (few-shot prompts that no exemplar fits are dropped after), "
        "examples that are packed, or their tokens; all but draws sample the data with the tokenizer first",
    )
    formats: tuple[WeightedFormat, ...] = Field(
        (
            WeightedFormat(setting="zs_opt"),
            WeightedFormat(setting="fs_opt"),
            WeightedFormat(setting="zs_noopt"),
            WeightedFormat(setting="fs_noopt"),
        ),
        description="used by every part that states none; the public code's four settings, spec 2.2",
    )
    language: Literal["en", "zh", "any"] = Field("any", description="language of the templates' wording")
    languages: LanguageWeights = Field(
        default_factory=dict,
        description="languages of the wording, weighted, e.g. {en: 0.7, zh: 0.3}; within each task",
    )
    task_languages: LanguageWeights = Field(
        default_factory=dict,
        description="languages of the tasks' inputs, weighted, over the whole mixture; '*' is every other one",
    )
    text: TextSpec | None = Field(None, description="a share of plain text beside the tasks; none when not given")
    only: tuple[str, ...] = Field((), description="names and globs of the tasks that may be drawn; all when not given")
    wordings: int | None = Field(None, gt=0, description="of each kind that a task is drawn in, the first ones; or all")
    phases: tuple[PhaseSpec, ...] = Field(
        (),
        description="a curriculum: weights of the top parts from one share of the run to the next; the parts' own hold "
        "where none are given, and for plain text",
    )

    @field_validator("preset", mode="before")
    @classmethod
    def _synonym(cls, value: Any) -> Any:
        return PRESET_SYNONYMS.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _preset_or_parts(self) -> MixtureSpec:
        if self.preset is not None and self.parts:
            raise ValueError("give 'preset' or 'parts', not both")
        if self.language != "any" and self.languages:
            raise ValueError("give 'language' or 'languages', not both")
        return self

    @model_validator(mode="after")
    def _phases_of_parts(self) -> MixtureSpec:
        if not self.phases:
            return self
        if not self.parts:
            raise ValueError(
                "'phases' weigh the mixture's top parts: state 'parts', each with its tasks or its mixture"
            )
        ends = [phase.until for phase in self.phases]
        if ends[-1] != 1 or any(a >= b for a, b in pairwise(ends)):
            raise ValueError(
                f"phases: expected ascending 'until' of which the last is 1, got {', '.join(map(str, ends))}"
            )
        names = {part.name for part in self.parts}
        for number, phase in enumerate(self.phases, 1):
            if phase.weights and set(phase.weights) != names:
                wrong = ", ".join(sorted(names.symmetric_difference(phase.weights)))
                raise ValueError(
                    f"phase {number}: expected a weight for each part ({', '.join(sorted(names))}); missing or unknown "
                    f"{wrong}. 0 leaves a part out"
                )
            if phase.weights and not any(phase.weights.values()):
                raise ValueError(f"phase {number}: all weights are 0: nothing is left to draw from")
        for name in sorted(names):
            if not any(phase.weights.get(name, 1.0) for phase in self.phases):
                raise ValueError(f"part '{name}' has weight 0 in every phase: leave it out")
        return self

    @model_serializer(mode="wrap")
    def _told(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without phases there is no word of them: recipes that have none keep the names and bytes they had."""
        told: dict[str, Any] = handler(self)
        if not self.phases:
            told.pop("phases", None)
        return told

    def in_phase(self, number: int) -> MixtureSpec:
        """The mixture of phase `number`, from 0, as if it were the whole run's."""
        weights = self.phases[number].weights
        kept = [part for part in self.parts if weights.get(part.name, part.weight) > 0]
        parts = tuple(part.model_copy(update={"weight": weights.get(part.name, part.weight)}) for part in kept)
        return self.model_copy(update={"parts": parts, "phases": ()})

    @property
    def wording(self) -> str | tuple[str, ...]:
        """What `templates_for` is asked: one language, "any", or all those that are weighted somewhere."""
        named = set(self.languages)
        parts = list(self.parts)
        while parts:
            part = parts.pop()
            named |= set(part.languages)
            parts += part.parts
        return tuple(sorted(named)) if named else self.language
