"""What a user names (a benchmark, a file of their own, a suite) into settings that can be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flantune.errors import RecipeError
from flantune.evals.benchmark import Benchmark
from flantune.evals.catalog import BENCHMARKS
from flantune.evals.results import Setting, settings_of
from flantune.evals.suites import SUITES
from flantune.recipe import BenchmarkSpec

OWN_FILES = (".yaml", ".yml", ".py")


def benchmark_named(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise RecipeError(
            f"no benchmark '{name}'; there are {', '.join(BENCHMARKS)}, held_out for held-out tasks, and files of your "
            f"own ({', '.join(OWN_FILES)})."
        )
    return BENCHMARKS[name]


def open_benchmark(name: str) -> tuple[Benchmark, Path | None]:
    """A benchmark by its name, or by the YAML or Python file that describes it; then with the folder of its items."""
    if Path(name).suffix in OWN_FILES:
        from flantune.evals.own import load_benchmark

        return load_benchmark(Path(name))
    return benchmark_named(name), None


def file_settings(spec: BenchmarkSpec, data: str | None, seed: int) -> list[Setting]:
    benchmark, own_folder = open_benchmark(spec.name)
    if spec.path is None and data is None and own_folder is None:
        raise RecipeError(f"benchmark {spec.name}: no files named. Give its 'path', or --data DIR.")
    path = Path(spec.path) if spec.path else own_folder or Path(str(data)) / benchmark.folder
    if not path.exists():
        raise RecipeError(f"benchmark {spec.name}: {path}: no such file or folder.")
    return settings_of(spec, benchmark, path, seed)


def suite_settings(
    suite: str, data: str | None, seed: int, limit: int | None = None
) -> tuple[list[Setting], list[str]]:
    """The suite's settings whose files are there, and the names of the benchmarks that lack theirs."""
    if suite not in SUITES:
        raise RecipeError(f"no suite '{suite}'; there are {', '.join(SUITES)}.")
    if data is None:
        raise RecipeError(f"suite {suite}: no files named. Give --data DIR.")
    settings, missing = list[Setting](), list[str]()
    for spec in SUITES[suite]:
        benchmark, _ = open_benchmark(spec.name)
        if not (Path(data) / benchmark.folder).exists():
            missing.append(spec.name)
            continue
        chosen = spec.model_copy(update={"limit": limit}) if limit else spec
        settings += file_settings(chosen, data, seed)
    if not settings:
        raise RecipeError(f"suite {suite}: none of {', '.join(missing)} is in {data}.")
    return settings, missing


def as_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A summary's entries without their per-task tables, for a terminal or --json."""
    kept = ("setting", "benchmark", "mode", "shots", "score", "interval", "items", "extraction_rate", "truncated")
    doubts = ("shots_dropped", "missing", "averages", "readings", "warnings", "unread", "clean")
    return [{k: entry[k] for k in (*kept, *doubts) if k in entry} for entry in summary.get("results", [])]
