"""Options that several commands take, and how they change a recipe."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
import yaml

from flantune.errors import RecipeError
from flantune.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from flantune.pipeline.parallel import Workers

RecipeArg = Annotated[Path, typer.Argument(help="The recipe file, YAML.", show_default=False)]
DataOpt = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of collections and benchmark files; the recipe's ${data}.", show_default=False),
]
SetOpt = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one key of the recipe: --set train.steps=200. May be repeated."),
]
RunsOpt = Annotated[Path | None, typer.Option("--runs", help="Folder for run folders.", show_default=False)]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
FreshOpt = Annotated[bool, typer.Option("--fresh", help="Throw away what the run's folder holds and begin anew.")]
PathsArg = Annotated[
    list[Path] | None, typer.Argument(help="Files or folders of examples; with none, --data.", show_default=False)
]
ReaderOpt = Annotated[str, typer.Option("--reader", help="How to read: niv2, flan_cot, p3, … or auto.")]
LimitOpt = Annotated[float, typer.Option("--max-rejected", min=0, max=1, help="Share of bad rows allowed in a file.")]
RayAddressOpt = Annotated[
    str | None, typer.Option("--ray-address", help="HOST:PORT of the cluster's head, or 'local'; implies --ray.")
]


def open_recipe(path: Path, data: Path | None, changes: list[str] | None, runs: Path | None) -> Recipe:
    overrides: dict[str, Any] = dict(parse_change(c) for c in changes or [])
    if data is not None:
        if not data.exists():
            raise RecipeError(f"--data {data}: no such folder.")
        overrides["vars.data"] = str(data)
    if runs is not None:
        overrides["runs"] = str(runs)
    return load_recipe(path, overrides)


def chosen_workers(count: int | None, ray: bool, ray_address: str | None) -> Workers | None:
    """Who makes the rows; None where the command itself does."""
    if count is None and not ray and ray_address is None:
        return None
    from flantune.pipeline.parallel import Workers

    return Workers(count=count, ray=ray_address or ("auto" if ray else None))


def parse_change(change: str) -> tuple[str, Any]:
    key, equals, value = change.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {change}: expected KEY=VALUE, as in --set train.steps=200.")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as e:
        raise RecipeError(f"--set {change}: the value is not YAML: {e}") from None


def with_groups_spread(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer reads one: a parameter that is a dataclass stands for its fields, an option each."""
    hints = get_type_hints(command)
    groups = {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        options = get_type_hints(groups[name], include_extras=True)
        parameters += [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=options[f.name])
            for f in fields(groups[name])
        ]

    def spread(**given: Any) -> None:
        made = {name: kind(**{f.name: given.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}
        command(**given, **made)

    spread.__name__, spread.__doc__ = command.__name__, command.__doc__
    spread.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return spread
