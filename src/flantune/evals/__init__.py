"""Benchmarks, answer extraction, scores with intervals, evaluation runs that survive a kill, paired comparison."""

from __future__ import annotations

from flantune.evals.benchmark import Benchmark, Extraction, Posed
from flantune.evals.catalog import BENCHMARKS
from flantune.evals.collection import Tasks
from flantune.evals.compare import (
    AbilityRow,
    PairedRow,
    by_change,
    compare,
    compare_abilities,
    compare_groups,
    write_comparison,
)
from flantune.evals.results import Setting, read_items, settings_of
from flantune.evals.run import run_evaluation
from flantune.evals.score_file import holds_solutions, score_file, score_outputs, score_solutions
from flantune.evals.settings import as_rows, asked_specs, benchmark_named, file_settings, open_benchmark, suite_settings
from flantune.evals.suites import SUITES

__all__ = [
    "BENCHMARKS",
    "SUITES",
    "AbilityRow",
    "Benchmark",
    "Extraction",
    "PairedRow",
    "Posed",
    "Setting",
    "Tasks",
    "as_rows",
    "asked_specs",
    "benchmark_named",
    "by_change",
    "compare",
    "compare_abilities",
    "compare_groups",
    "file_settings",
    "holds_solutions",
    "open_benchmark",
    "read_items",
    "run_evaluation",
    "score_file",
    "score_outputs",
    "score_solutions",
    "settings_of",
    "suite_settings",
    "write_comparison",
]
