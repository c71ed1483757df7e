"""What a study costs, said before it is begun."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from flantune.recipe import Recipe
from flantune.studies.point import Label, Layout, Point, base_name, makes_base
from flantune.studies.work import ATTEMPTS, DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class PointCost:
    """`seconds` None where nothing like it was ever timed and the machine's speed could not be."""

    name: str
    kind: str  # "base" or "point"
    labels: dict[str, Label]
    done: bool
    steps: int
    places: int  # of the rows: tokens and padding
    flops: float
    parameters: int
    seconds: float | None
    seconds_from: str  # "measured" at a like job under this root, "extrapolated" from the machine's rate, "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyCost:
    """The whole before it begins. Jobs that are done cost nothing any more."""

    jobs: tuple[PointCost, ...]
    workers: int

    @property
    def left(self) -> tuple[PointCost, ...]:
        return tuple(job for job in self.jobs if not job.done)

    @property
    def flops(self) -> float:
        return sum(job.flops for job in self.left)

    @property
    def hours(self) -> float | None:
        """Of all workers together at work, evaluation included where it was timed."""
        seconds = [job.seconds for job in self.left]
        if any(s is None for s in seconds):
            return None
        return sum(s for s in seconds if s is not None) / max(1, self.workers) / 3600

    def to_json(self) -> dict[str, Any]:
        points = [job for job in self.jobs if job.kind == "point"]
        return {
            "points": len(points),
            "bases": len(self.jobs) - len(points),
            "done": len(self.jobs) - len(self.left),
            "steps": sum(job.steps for job in self.left),
            "places": sum(job.places for job in self.left),
            "flops": self.flops,
            "hours": self.hours,
            "hours_from": sorted({job.seconds_from for job in self.left}),
            "workers": self.workers,
            "jobs": [{name: getattr(job, name) for name in PointCost.__slots__} for job in self.jobs],
        }

    def to_text(self) -> str:
        return cost_text(self)


def cost_of(points: Sequence[Point], root: Path, *, workers: int = 1, timed: bool = True) -> StudyCost:
    """Of every point and of the bases that have to be made, each once.

    Operations are counted from the models' shapes; hours are those of like jobs under this root, else extrapolated
    from the rate of this machine's matrix products (`timed` False: not at all).
    """
    layout = Layout(Path(root).resolve())
    speeds = _Speeds(layout.root, timed)
    jobs: dict[str, PointCost] = {}
    plans: dict[str, Any] = {}
    for point in points:
        base = base_name(point.start)
        if makes_base(point.start) and base not in jobs:
            folder = layout.base(point)
            jobs[base] = _cost(base, "base", point, point.start, (folder.base / "config.json").exists(), plans, speeds)
        name = f"{point.name}/{layout.point(point).asked}"
        if name not in jobs:
            done = (layout.point(point).evals / "tuned" / DONE).exists()
            jobs[name] = _cost(point.name, "point", point, point.recipe, done, plans, speeds)
    return StudyCost(jobs=tuple(jobs.values()), workers=workers)


def _cost(
    name: str, kind: str, point: Point, recipe: Recipe, done: bool, plans: dict[str, Any], speeds: _Speeds
) -> PointCost:
    key = _plan_key(point, recipe, kind)
    if key not in plans:
        plans[key] = _planned(point, recipe)
    plan = plans[key]
    flops, spec = (plan.pretrain_flops, point.start.pretrain) if kind == "base" else (plan.flops, recipe.train)
    steps = 0 if spec is None else spec.steps
    places = _text_places(point.start) if kind == "base" else plan.slots
    seconds, source = (0.0, "done") if done else speeds.seconds(flops, plan.shape.total, plan.shape.two_sided)
    return PointCost(
        name=name,
        kind=kind,
        labels=dict(point.labels) if kind == "point" else {},
        done=done,
        steps=steps,
        places=places,
        flops=flops,
        parameters=plan.shape.total,
        seconds=seconds,
        seconds_from=source,
    )


def _text_places(start: Recipe) -> int:
    """Of the rows of plain text that a base is trained on; 0 where it is only made."""
    if start.pretrain is None:
        return 0
    from flantune.pipeline.data import is_one_sided
    from flantune.pipeline.training import pretrain_lengths

    lengths = pretrain_lengths(start.pretrain, start.tokens, is_one_sided(start))
    return start.pretrain.steps * start.pretrain.batch_rows * sum(lengths.row_lens)


def _plan_key(point: Point, recipe: Recipe, kind: str) -> str:
    parts: list[Any] = [kind, base_name(point.start)]
    parts += [s.model_dump(mode="json") for s in (recipe.model, recipe.tokens, recipe.train)]
    return json.dumps(parts, sort_keys=True)


def _planned(point: Point, recipe: Recipe) -> Any:
    """One plan of finetuning from the base's shape, and of the base's own making."""
    from flantune.pipeline.plan import Job, make_plan

    start = point.start
    model = recipe.model.model_copy(
        update={"init": start.model.init, "size": start.model.size, "tokenizer": start.model.tokenizer}
    )
    job = Job.of_recipe(recipe.model_copy(update={"model": model, "pretrain": start.pretrain}))
    return make_plan(job, ["h100"])


class _Speeds:
    """Seconds of a job: of the jobs done under this root with as many parameters, else of the machine's products."""

    def __init__(self, root: Path, timed: bool) -> None:
        self._timed = timed
        self._peak: float | None = None
        self._known: dict[int, list[float]] = {}  # parameters -> seconds of wall per operation
        for path in sorted((root / "points").glob(f"*/evals/*/tuned/{DONE}")):
            told, attempts = json.loads(path.read_text()), path.parent.parent / ATTEMPTS
            if told.get("flops") and attempts.exists():
                seconds = json.loads(attempts.read_text())["seconds"]
                self._known.setdefault(told["parameters"], []).append(seconds / told["flops"])

    def seconds(self, flops: float, parameters: int, two_sided: bool) -> tuple[float | None, str]:
        if parameters in self._known:
            return median(self._known[parameters]) * flops, "measured"
        if not self._timed:
            return None, "not timed"
        from flantune.pipeline.plan import ASSUMED_SHARE

        if self._peak is None:
            from flantune.train.hardware import this_machine

            self._peak = this_machine(0.1).fp32
        return flops / (self._peak * ASSUMED_SHARE[two_sided]), "extrapolated"


def cost_text(cost: StudyCost) -> str:
    """For a terminal: a line for each kind of job, then the whole."""
    lines = [
        f"{'jobs':>5} {'left':>5} {'parameters':>12} {'steps':>7} {'places':>9} {'FLOP':>9} {'hours':>7}  hours are"
    ]
    groups: dict[tuple[str, int, int, float], list[PointCost]] = {}
    for job in cost.jobs:
        groups.setdefault((job.kind, job.parameters, job.steps, job.flops), []).append(job)
    for (kind, parameters, steps, flops), own in groups.items():
        left = [job for job in own if not job.done]
        sources = sorted({job.seconds_from for job in left}) or ["done"]
        known = [job.seconds for job in left if job.seconds is not None]
        hours = f"{sum(known) / 3600:.3g}" if len(known) == len(left) else "?"
        lines.append(
            f"{len(own):>5} {len(left):>5} {parameters:>12,} {steps:>7,} {own[0].places:>9.3g} {flops:>9.3g} {hours:>7}"
            f"  {', '.join(sources)}; {'points' if kind == 'point' else 'base models to be made'}"
        )
    whole = "unknown" if cost.hours is None else f"{cost.hours:.2g}"
    lines.append(f"in all: {cost.flops:.3g} FLOP, {whole} hours with {cost.workers} at a time.")
    if any(job.seconds_from == "extrapolated" for job in cost.left):
        lines.append("Extrapolated hours are of training alone, from this machine's rate of products; points")
        lines.append(
            "that are done tell more: the same command with --dry-run then says measured hours, evaluation in."
        )
    return "\n".join(lines)
