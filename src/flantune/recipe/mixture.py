"""Which tasks, in which shares, formats and languages."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

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
