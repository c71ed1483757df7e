"""Benchmarks, answer extraction, scores with intervals, evaluation runs that survive a kill, paired comparison."""

from __future__ import annotations

from collections.abc import Mapping

from flantune.errors import RecipeError
from flantune.evals.bbh import Bbh
from flantune.evals.benchmark import Benchmark, Extraction, Posed
from flantune.evals.collection import Tasks
from flantune.evals.compare import PairedRow, compare, write_comparison
from flantune.evals.gsm8k import Gsm8k
from flantune.evals.mgsm import Mgsm
from flantune.evals.mmlu import Mmlu
from flantune.evals.results import Setting, read_items, settings_of
from flantune.evals.run import run_evaluation
from flantune.evals.score_file import score_file, score_outputs

# Benchmarks that are read from files. Held-out tasks of a collection are `Tasks(store, names)`.
BENCHMARKS: Mapping[str, Benchmark] = {
    b.name: b for b in (Mmlu(), Mmlu(name="mmlu_original", style="original", modes=("direct",)), Bbh(), Gsm8k(), Mgsm())
}


def benchmark_named(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise RecipeError(f"no benchmark '{name}'; there are {', '.join(BENCHMARKS)}, and held_out for held-out tasks.")
    return BENCHMARKS[name]


__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Extraction",
    "PairedRow",
    "Posed",
    "Setting",
    "Tasks",
    "benchmark_named",
    "compare",
    "read_items",
    "run_evaluation",
    "score_file",
    "score_outputs",
    "settings_of",
    "write_comparison",
]
