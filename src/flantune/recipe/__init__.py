"""The recipe: one typed file that says everything a run does. Every default of flantune stands here, once.

A recipe states only what differs from these defaults; an unknown key is an error; loading one reads nothing but the
file itself. `${name}` in any string is replaced by `vars.name`; `--data DIR` sets `vars.data`.
"""

from __future__ import annotations

from flantune.recipe.data import CollectionSpec, DuplicatesSpec, HeldOut, TokensSpec
from flantune.recipe.evaluation import BenchmarkSpec, ContaminationSpec, EvalSpec, SelectionSpec
from flantune.recipe.formats import FORMATS, SETTINGS, VARIANTS, SettingName, WeightedFormat, make_format
from flantune.recipe.mixture import (
    PRESET_SYNONYMS,
    Count,
    LanguageWeights,
    MixturePart,
    MixtureSpec,
    PhaseSpec,
    PresetName,
)
from flantune.recipe.model import DEMO, DEMO_SMALL, EMBEDDED, AdapterSpec, ModelSize, ModelSpec, TokenizerSpec
from flantune.recipe.objectives import DenoiserSpec, ObjectiveSpec, TextFiles, TextSpec
from flantune.recipe.recipe import (
    Recipe,
    fill_variables,
    load_recipe,
    near_names,
    parse_recipe,
    read_recipe,
    set_dotted,
)
from flantune.recipe.section import Section
from flantune.recipe.training import OptimizerSpec, PretrainSpec, TrainSpec

__all__ = [
    "DEMO",
    "DEMO_SMALL",
    "EMBEDDED",
    "FORMATS",
    "PRESET_SYNONYMS",
    "SETTINGS",
    "VARIANTS",
    "AdapterSpec",
    "BenchmarkSpec",
    "CollectionSpec",
    "ContaminationSpec",
    "Count",
    "DenoiserSpec",
    "DuplicatesSpec",
    "EvalSpec",
    "HeldOut",
    "LanguageWeights",
    "MixturePart",
    "MixtureSpec",
    "ModelSize",
    "ModelSpec",
    "ObjectiveSpec",
    "OptimizerSpec",
    "PhaseSpec",
    "PresetName",
    "PretrainSpec",
    "Recipe",
    "Section",
    "SelectionSpec",
    "SettingName",
    "TextFiles",
    "TextSpec",
    "TokenizerSpec",
    "TokensSpec",
    "TrainSpec",
    "WeightedFormat",
    "fill_variables",
    "load_recipe",
    "make_format",
    "near_names",
    "parse_recipe",
    "read_recipe",
    "set_dotted",
]
