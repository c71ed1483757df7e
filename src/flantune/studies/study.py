"""A study from recipe to findings: read the collections, lay out the grid, say what it costs, run it, read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flantune.errors import RecipeError, StateError
from flantune.pipeline.data import Progress, quiet
from flantune.pipeline.folder import write_text
from flantune.studies.choices import World
from flantune.studies.findings import Findings, write_findings
from flantune.studies.grids import GRIDS, Grid
from flantune.studies.point import Point, PointResult, store_name
from flantune.studies.points import run_points
from flantune.studies.settings import Study
from flantune.studies.told_arms import cot_findings, formats_findings, objectives_findings, sources_findings
from flantune.studies.told_scaling import scaling_findings
from flantune.studies.work import locked
from flantune.tasks import build_store, matching_names, split_held_out
from flantune.whole import write_json

TOLD: Mapping[str, Callable[[str, Sequence[PointResult], Sequence[str]], Findings]] = {
    "scaling": scaling_findings,
    "cot": cot_findings,
    "formats": formats_findings,
    "objectives": objectives_findings,
    "sources": sources_findings,
}
POINTS = "points.json"


@dataclass(frozen=True, slots=True)
class Done:
    """What a study left."""

    folder: Path
    results: tuple[PointResult, ...]
    findings: Findings

    @property
    def failed(self) -> int:
        return sum(not result.done for result in self.results)


def open_world(study: Study, root: Path, progress: Progress = quiet) -> World:
    """The tasks that the recipe trains on, from the store that its points will use."""
    from flantune.pipeline.data import is_one_sided

    recipe = study.recipe
    shared = Path(root).resolve() / "shared" / store_name(recipe)
    with locked(shared / "lock"):
        store = build_store(
            recipe.collections,
            shared / "examples",
            recipe.max_rejected,
            on_progress=lambda p: progress("read", p.files, p.files_total),
        )
    train = split_held_out(store.tasks, recipe.held_out).train
    if recipe.mixture.only:
        train = matching_names(train, recipe.mixture.only, "mixture.only")
    return World({n: store.tasks[n] for n in train}, {n: store.size(n) for n in train}, is_one_sided(recipe))


def grid_of(name: str, study: Study, world: World) -> Grid:
    """Raises RecipeError where nothing would be measured."""
    if not (study.recipe.eval.benchmarks or study.recipe.eval.suite):
        raise RecipeError(f"{study.recipe.name}: a study needs eval.benchmarks; 'held_out' asks the held-out tasks.")
    return GRIDS[name](study, world)


def folder_of(name: str, study: Study, root: Path) -> Path:
    return Path(root).resolve() / f"{name}-{study.recipe.name}"


def run_study(
    name: str,
    study: Study,
    root: Path,
    grid: Grid,
    *,
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress = quiet,
    on_result: Callable[[PointResult], None] | None = None,
) -> Done:
    """Every point of the grid, then study.json. What was not run, or failed, is said in it."""
    folder = folder_of(name, study, root)
    write_plan(folder, study, grid.points)
    results = run_points(grid.points, root, workers=workers, ray=ray, progress=progress, on_result=on_result)
    findings = TOLD[name](study.recipe.name, results, grid.notes)
    write_findings(findings, folder)
    return Done(folder, tuple(results), findings)


def run_balance_study(
    study: Study,
    root: Path,
    *,
    workers: int | None = None,
    ray: str | None = None,
    progress: Progress = quiet,
    on_result: Callable[[PointResult], None] | None = None,
) -> Done:
    """The search, its confirmation, and study.json. Each stage's points follow from those before."""
    from flantune.studies.balance import run_balance
    from flantune.studies.balance_findings import write_balance
    from flantune.studies.balance_settings import balance_of

    balance, folder = balance_of(study), folder_of("balance", study, root)
    ran: dict[str, tuple[Point, PointResult]] = {}

    def run(points: Sequence[Point]) -> list[PointResult]:
        results = run_points(points, root, workers=workers, ray=ray, progress=progress, on_result=on_result)
        ran.update((p.name, (p, r)) for p, r in zip(points, results, strict=True))
        write_plan(folder, study, [p for p, _ in ran.values()])
        return results

    findings = write_balance(run_balance(balance, root, run, progress), folder)
    write_findings(findings, folder)
    return Done(folder, tuple(r for _, r in ran.values()), findings)


def write_plan(folder: Path, study: Study, points: Sequence[Point]) -> None:
    """Which points the study is made of, and the resolved recipe and section that they come from."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {**study.recipe.model_dump(mode="json"), "study": study.spec.model_dump(mode="json")}
        write_text(folder / "study.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    except OSError as e:
        raise StateError(f"{folder}: cannot be written: {e.strerror or e}. Give another folder with --root.") from e
    write_json(folder / POINTS, [{"labels": dict(p.labels), "point": p.name} for p in points])
