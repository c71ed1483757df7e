"""How a prompt is put together: the settings by name, and what a recipe changes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from flantune.recipe.section import Section
from flantune.types import Format

SettingName = Literal["zs_opt", "zs_noopt", "fs_opt", "fs_noopt", "fs_opt_single", "niv2_inline", "niv2_x_shot"]


class WeightedFormat(Section):
    weight: float = Field(1.0, gt=0)
    setting: SettingName | None = Field(None, description="one of `SETTINGS`; the fields below then change it")
    inversion: Literal["templates"] | Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="for tasks with inverted wording, the format's inverted twin: its rate against 1 for the format "
        "itself (spec 2.2: 0.3), or 'templates' for as many as the task has inverted among its templates (spec 3.1)",
    )
    shots: int | None = Field(None, ge=0, le=64)
    rationale: Literal["auto", "with", "without"] | None = None
    instruction: bool | None = None
    options: Literal["none", "list", "random"] | None = None
    exemplar_templates: Literal["single", "mixed"] | None = None
    demonstrations: bool | None = None
    inverted: bool | None = None
    chat: bool | None = None
    delimiters: Literal["template", "random"] | None = Field(
        None, description="few-shot: the template's own strings around exemplars, or drawn for every prompt"
    )

    def overrides(self) -> dict[str, Any]:
        return {k: v for k, v in self.model_dump(exclude={"weight", "setting", "inversion"}).items() if v is not None}

    @model_validator(mode="after")
    def _one_inversion(self) -> WeightedFormat:
        if self.inversion is not None and self.inverted:
            raise ValueError("give 'inverted' or 'inversion', not both")
        return self


# The paper's four settings. Only zs_opt draws the options' wording at random; fs_opt always uses the dash form with
# text targets (spec 2.5).
FORMATS: Mapping[str, Format] = {
    "zs_opt": Format(shots=0, options="random"),
    "zs_noopt": Format(shots=0, options="none"),
    "fs_opt": Format(shots=5, options="list", exemplar_templates="mixed"),
    "fs_noopt": Format(shots=3, options="none", exemplar_templates="single"),
}


# The other few-shot variants of spec 3.4 and 3.5. The public code's fs_opt is `fs_opt` and `fs_opt_single`, half and
# half; for Natural Instructions it is the two that follow.
VARIANTS: Mapping[str, Format] = {
    "fs_opt_single": Format(shots=3, options="list", exemplar_templates="single"),  # 2 or 3 are kept
    "niv2_inline": Format(shots=1, options="list", demonstrations=True),  # a stored example and its explanation
    "niv2_x_shot": Format(shots=2, options="list", exemplar_templates="single"),  # two pairs drawn at random
}


SETTINGS: Mapping[str, Format] = {**FORMATS, **VARIANTS}


def make_format(spec: WeightedFormat) -> Format:
    """The Format a recipe's entry names: its setting's fields (spec 2.4), changed by what the entry states."""
    base = SETTINGS[spec.setting] if spec.setting else Format()
    return replace(base, **spec.overrides())
