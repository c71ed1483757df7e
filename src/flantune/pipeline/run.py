"""The whole path: read, build, train, evaluate base and tuned, report."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flantune.errors import RecipeError
from flantune.inference.answers import default_path
from flantune.pipeline.data import Progress, build, open_data, quiet
from flantune.pipeline.evaluation import Side, as_rows, comparison_rows, evaluate_run
from flantune.pipeline.folder import open_run
from flantune.pipeline.training import base_model, finetune
from flantune.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What a run left, and its main figures."""

    report: Path
    model: Path
    summaries: dict[str, Any]  # by side
    comparison: list[dict[str, Any]]  # tuned - base, a row per benchmark, mode and shots

    def as_json(self) -> dict[str, Any]:
        return {
            "report": str(self.report),
            "model": str(self.model),
            "evals": {side: as_rows(summary) for side, summary in self.summaries.items()},
            "comparison": self.comparison,
        }

    def as_text(self) -> str:
        lines = []
        if self.comparison:
            lines.append(f"{'benchmark':<28} {'base':>6} {'tuned':>6} {'change':>7}  95 % interval      items")
        for row in self.comparison:
            name = f"{row['benchmark']} {row['mode']} {row['shots']}-shot"
            low, high = row["interval"]
            lines.append(
                f"{name:<28} {row['score_a']:>6.3f} {row['score_b']:>6.3f} {row['difference']:>+7.3f}"
                f"  [{low:+.3f}, {high:+.3f}]  {row['items']:>5,}"
            )
        return "\n".join([*lines, f"model:  {self.model}", f"report: {self.report}"])


def run(recipe: Recipe, *, fresh: bool = False, progress: Progress = quiet) -> RunResult:
    """Every stage in order; what is done is skipped, so the same command goes on after an interruption."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("flantune run is one process. Under torchrun give 'flantune train'; then eval and report.")
    folder = open_run(recipe, fresh=fresh)
    build(recipe, folder, progress)
    finetune(recipe, folder, progress)
    sides = [Side("base", base_model(recipe, folder, progress)), Side("tuned", str(folder.model))]
    data = open_data(recipe, folder, progress)
    summaries = evaluate_run(recipe, folder, data, sides, progress, store=default_path())
    from flantune.reports import write_report

    write_report(folder.root, folder.report)
    return RunResult(
        report=folder.report,
        model=folder.model,
        summaries=summaries,
        comparison=comparison_rows(folder.comparison) if summaries else [],
    )
