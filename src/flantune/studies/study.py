"""A study from recipe to findings: read the collections, lay out the grid, say what it costs, run it, read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import yaml

from flantune.errors import RecipeError, StateError
from flantune.pipeline.data import Progress, quiet
from flantune.pipeline.folder import write_text
from flantune.studies.choices import World
from flantune.studies.findings import FILE, Findings, write_findings
from flantune.studies.grids import GRIDS, Grid
from flantune.studies.point import Point, PointResult, asked_name, base_name, store_name
from flantune.studies.points import result_at, run_points
from flantune.studies.settings import Study
from flantune.studies.told import counted, tables_about
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
BALANCE = "Balance: the search so far"
POINTS = "points.json"
STATE = "state.json"  # which study it is, what is to be said of its grid, and whether it ran to its end


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
    """Every point of the grid, then study.json. What failed is said in it."""
    folder = folder_of(name, study, root)
    write_plan(folder, name, study, grid.points, grid.notes)
    results = run_points(grid.points, root, workers=workers, ray=ray, progress=progress, on_result=on_result)
    findings = TOLD[name](study.recipe.name, results, grid.notes)
    _end(folder, name, grid.notes, findings)
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
    planned: dict[str, Point] = {}
    ran: dict[str, PointResult] = {}

    def run(points: Sequence[Point]) -> list[PointResult]:
        planned.update((p.name, p) for p in points)
        write_plan(folder, "balance", study, list(planned.values()))
        results = run_points(points, root, workers=workers, ray=ray, progress=progress, on_result=on_result)
        ran.update((p.name, r) for p, r in zip(points, results, strict=True))
        return results

    findings = write_balance(run_balance(balance, root, run, progress), folder)
    _end(folder, "balance", (), findings)
    return Done(folder, tuple(ran.values()), findings)


def write_plan(folder: Path, name: str, study: Study, points: Sequence[Point], notes: Sequence[str] = ()) -> None:
    """Which points the study is made of, and the resolved recipe and section that they come from."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {**study.recipe.model_dump(mode="json"), "study": study.spec.model_dump(mode="json")}
        write_text(folder / "study.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    except OSError as e:
        raise StateError(f"{folder}: cannot be written: {e.strerror or e}. Give another folder with --root.") from e
    told = [
        {"labels": dict(p.labels), "point": p.name, "base": base_name(p.start), "asked": asked_name(p)} for p in points
    ]
    write_json(folder / STATE, {"study": name, "notes": list(notes), "finished": False})
    write_json(folder / POINTS, told)


def _end(folder: Path, name: str, notes: Sequence[str], findings: Findings) -> None:
    write_findings(findings, folder)
    write_json(folder / STATE, {"study": name, "notes": list(notes), "finished": True})


def stopped(folder: Path) -> bool:
    """Whether a study was begun there and has not come to its end."""
    state = _read(folder / STATE)
    return bool((folder / POINTS).exists() and not (state.get("finished") if state else is_told(folder)))


def findings_so_far(folder: Path) -> Findings:
    """What the points of a stopped study say that are done, and which are missing. Raises StateError where the folder
    does not say which study it is."""
    state, root = _read(folder / STATE), folder.resolve().parent
    try:
        points = orjson.loads((folder / POINTS).read_bytes())
        recipe = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))["name"]
        results = [result_at(root, p["labels"], p["point"], p["base"], p["asked"]) for p in points]
        name, notes = state["study"], state["notes"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        raise StateError(
            f"{folder}: a study that was stopped, and too little is left to tell of it. Give the same 'flantune study' "
            "command again: points that are done are not done again."
        ) from None
    if name == "balance":
        notes = [*notes, "A search is told of when it is through; its runs so far are below."]
        found = Findings(
            study=name, title=BALANCE, recipe=recipe, notes=(*notes, *counted(results)), tables=tables_about(results)
        )
    else:
        found = TOLD[name](recipe, results, notes)
    undone = sum(not r.done for r in results)
    more = "and further ones may follow" if name == "balance" else "they are listed below"
    verdict = (
        f"Not finished: the study was stopped, and {undone} of its {len(results)} points are missing or failed; {more}."
        f" 'flantune study {name}' with the same recipe goes on."
    )
    return replace(found, verdict=verdict)


def is_told(folder: Path) -> bool:
    return (folder / FILE).exists()


def _read(path: Path) -> dict[str, Any]:
    """Of a file of ours; empty where there is none."""
    try:
        return dict(orjson.loads(path.read_bytes())) if path.exists() else {}
    except (OSError, ValueError) as e:
        raise StateError(f"{path}: cannot be read: {e}. Give 'flantune study' again.") from None
