"""What a user names (a benchmark, a file of their own, a suite) into settings that can be asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flantune.errors import RecipeError
from flantune.evals.benchmark import Benchmark
from flantune.evals.catalog import BENCHMARKS
from flantune.evals.decoding import ONE_ANSWER, decoding_of
from flantune.evals.files import FETCH
from flantune.evals.results import Setting, settings_of
from flantune.evals.suites import SUITES
from flantune.recipe import BenchmarkSpec, Recipe

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


def content_digest(name: str) -> str:
    """16 hex digits of what a benchmark of the user's own is: its file and the files of items it names, those that are
    there. "" for one of ours."""
    file = Path(name)
    if file.suffix not in OWN_FILES:
        return ""
    from flantune.evals.own import files_of

    digest = hashlib.blake2b(digest_size=8)
    for own in (file, *files_of(file)):
        digest.update(own.read_bytes() if own.is_file() else b"")
    return digest.hexdigest()


def file_settings(spec: BenchmarkSpec, data: str | None, seed: int, *, of_suite: bool = False) -> list[Setting]:
    """`of_suite`: not every entry need be one that can take what the whole suite is asked with."""
    benchmark, own_folder = open_benchmark(spec.name)
    if spec.path is None and data is None and own_folder is None:
        raise RecipeError(f"benchmark {spec.name}: no files named. Give its 'path', or --data DIR.")
    path = Path(spec.path) if spec.path else own_folder or Path(str(data)) / benchmark.folder
    if not path.exists():
        raise RecipeError(f"benchmark {spec.name}: {path}: no such file or folder. {FETCH}")
    settings = settings_of(spec, benchmark, path, seed)
    if not of_suite and decoding_of(spec, seed) != ONE_ANSWER and all(s.decoding == ONE_ANSWER for s in settings):
        raise RecipeError(
            f"benchmark {spec.name}: its options are scored, so there are no samples to choose among. Have the answers "
            "written (generate), or ask in mode cot."
        )
    return settings


def asked_specs(recipe: Recipe) -> tuple[BenchmarkSpec, ...]:
    """The benchmarks of a recipe: its own entries, then those of its suite whose files are there."""
    if recipe.eval.suite is None:
        return recipe.eval.benchmarks
    present, _ = _present(recipe.eval.suite, recipe.vars.get("data"))
    return (*recipe.eval.benchmarks, *present)


def suite_settings(
    suite: str, data: str | None, seed: int, changes: Mapping[str, Any] | None = None
) -> tuple[list[Setting], list[str]]:
    """The suite's settings whose files are there, and the names of the benchmarks that lack theirs.

    `changes`: keys of BenchmarkSpec that every entry is asked with.
    """
    present, missing = _present(suite, data)
    settings: list[Setting] = []
    for spec in present:
        # What says how a chain of thought begins, or how answers are drawn, is for the modes that can take it.
        settings += file_settings(spec.model_copy(update=dict(changes or {})), data, seed, of_suite=True)
    return settings, missing


def _present(suite: str, data: str | None) -> tuple[list[BenchmarkSpec], list[str]]:
    """Of a suite: the entries whose files are there, and the names of the others."""
    if suite not in SUITES:
        raise RecipeError(f"no suite '{suite}'; there are {', '.join(SUITES)}.")
    if data is None:
        raise RecipeError(f"suite {suite}: no files named. Give --data DIR.")
    present, missing = [], []
    for spec in SUITES[suite]:
        benchmark = open_benchmark(spec.name)[0]
        path = Path(data) / benchmark.folder
        lacking = _lacking(benchmark, path, spec) if path.exists() else ""
        if path.exists() and not lacking:
            present.append(spec)
        else:
            missing.append(spec.name + (f" ({lacking})" if lacking else ""))
    if not present:
        raise RecipeError(f"suite {suite}: none of {', '.join(missing)} is in {data}.")
    return present, missing


def _lacking(benchmark: Benchmark, path: Path, spec: BenchmarkSpec) -> str:
    """Why its questions cannot be posed where its folder is there; "" where they can."""
    try:
        for mode in spec.modes or benchmark.modes:
            next(iter(benchmark.items(path, mode, limit=1)), None)
    except RecipeError as e:
        return str(e).removesuffix(f" {FETCH}")
    return ""


def as_rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A summary's entries without their per-task tables, for a terminal or --json."""
    kept = ("setting", "benchmark", "mode", "shots", "score", "interval", "items", "extraction_rate", "truncated")
    doubts = ("shots_dropped", "missing", "averages", "readings", "warnings", "unread", "clean", "samples")
    return [{k: entry[k] for k in (*kept, *doubts) if k in entry} for entry in summary.get("results", [])]
