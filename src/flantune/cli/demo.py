"""The embedded default as an ordinary recipe over generated files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import yaml

from flantune.cli.options import parse_change
from flantune.demo.files import write_world
from flantune.recipe import Recipe, parse_recipe, set_dotted


def demo_recipe(runs: Path | None, changes: Sequence[str]) -> Recipe:
    """The demo's recipe; the world's task files are written beside the run, where they are not there already."""
    raw = yaml.safe_load(files("flantune.demo").joinpath("demo.yaml").read_text(encoding="utf-8"))
    raw["runs"] = str(runs) if runs is not None else "runs"
    world = Path(raw["runs"]) / "demo-world"
    raw["vars"] = {"world": str(world)}
    for change in changes:
        set_dotted(raw, *parse_change(change))
    recipe = parse_recipe(raw, where="the demo's recipe")
    write_world(world)
    return recipe
