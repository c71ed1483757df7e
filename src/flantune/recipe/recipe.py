"""The whole recipe, and reading one: a file, its variables, its overrides, and errors that name the key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError

from flantune import presets
from flantune.errors import RecipeError, shorten
from flantune.recipe.data import CollectionSpec, DuplicatesSpec, HeldOut, TokensSpec
from flantune.recipe.evaluation import EvalSpec, SelectionSpec
from flantune.recipe.mixture import MixtureSpec
from flantune.recipe.model import ModelSpec
from flantune.recipe.section import Section
from flantune.recipe.training import PretrainSpec, TrainSpec
from flantune.stated import load_stated


class Recipe(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    preset: str | tuple[str, ...] | None = Field(
        None, description="fill in what is not stated: flantune.presets; of several, the first is uppermost"
    )
    seed: int = 0
    vars: dict[str, str] = Field(default_factory=dict)
    runs: str = Field("runs", description="folder that holds the run's own folder")
    collections: tuple[CollectionSpec, ...] = Field(min_length=1)
    max_rejected: float = Field(0.01, ge=0, le=1, description="share of bad rows in a file above which reading stops")
    held_out: HeldOut = HeldOut()
    duplicates: DuplicatesSpec = DuplicatesSpec()
    mixture: MixtureSpec = MixtureSpec(preset="proportional")
    tokens: TokensSpec = TokensSpec()
    model: ModelSpec = ModelSpec()
    pretrain: PretrainSpec | None = None
    train: TrainSpec = TrainSpec()
    selection: SelectionSpec = SelectionSpec()
    eval: EvalSpec = EvalSpec()

    @property
    def folder(self) -> Path:
        return Path(self.runs) / self.name


def load_recipe(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe. `overrides` are dotted keys ("train.steps") set after reading.

    Raises RecipeError naming the file, the key, what was expected and what came.
    """
    return parse_recipe(read_recipe(path, overrides), where=str(path))


def read_recipe(path: Path | str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a recipe's file says, with the overrides, unchecked. Raises RecipeError where it is no mapping in YAML."""
    path = Path(path)
    try:
        raw = load_stated(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe. Ready ones are in recipes/.") from None
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path}: cannot be read: {e}") from None
    except yaml.YAMLError as e:
        raise RecipeError(f"{path}: not YAML: {e}") from None
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: expected a mapping of keys, got {shorten(raw)}.")
    for key, value in (overrides or {}).items():
        set_dotted(raw, key, value)
    return raw


def parse_recipe(raw: Mapping[str, Any], where: str = "recipe") -> Recipe:
    variables = raw.get("vars") or {}
    if not isinstance(variables, dict):
        raise RecipeError(f"{where}: key 'vars': expected a mapping, got {shorten(variables)}.")
    values = {str(k): str(v) for k, v in variables.items()}
    stated = {k: v for k, v in raw.items() if k != "study"}  # what studies vary: flantune.studies.settings reads it
    filled = {k: (v if k == "vars" else fill_variables(v, values, where)) for k, v in stated.items()}
    try:
        return Recipe.model_validate(presets.filled(filled, where))
    except ValidationError as e:
        lines = []
        for err in e.errors():
            key = ".".join(str(p) for p in err["loc"]) or "(top)"
            if err["type"] == "extra_forbidden":
                hint = near_names(str(err["loc"][-1]), err["loc"][:-1])
                lines.append(f"{where}: unknown key '{key}'. {hint}")
            else:
                lines.append(f"{where}: key '{key}': {err['msg']}, got {shorten(err['input'])}.")
        raise RecipeError("\n".join(lines)) from None


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def fill_variables(value: Any, variables: Mapping[str, str], where: str) -> Any:
    """`${name}` replaced in every string of a nested value."""

    def one(match: re.Match[str]) -> str:
        if match[1] not in variables:
            hint = "Give --data DIR." if match[1] == "data" else f"Add it under 'vars', or give --set vars.{match[1]}=…"
            raise RecipeError(f"{where}: variable '{match[0]}' has no value. {hint}")
        return variables[match[1]]

    if isinstance(value, str):
        return _VARIABLE.sub(one, value)
    if isinstance(value, dict):
        return {k: fill_variables(v, variables, where) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [fill_variables(v, variables, where) for v in value]
    return value


def set_dotted(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for part in parents:
        node = raw.setdefault(part, {})
        if not isinstance(node, dict):
            raise RecipeError(f"--set {key}: '{part}' is not a section of the recipe.")
        raw = node
    raw[last] = value


def near_names(key: str, parents: tuple[int | str, ...], top: type[BaseModel] | None = None) -> str:
    """What a key below `parents` may have meant; `top` is the section they begin in, the recipe when not given."""
    section: type[BaseModel] | None = top or Recipe
    for part in parents:
        if isinstance(part, int) or section is None:
            continue
        field = section.model_fields.get(part)
        section = _section_of(field.annotation) if field else None
    known = list(section.model_fields) if section else []
    close = difflib.get_close_matches(key, known, n=1)
    return f"Did you mean '{close[0]}'?" if close else f"Known keys: {', '.join(known)}."


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((s for a in get_args(annotation) if (s := _section_of(a)) is not None), None)
