"""Sets of benchmarks that are asked together, and the Flan paper's one figure over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flantune.evals.mgsm import HIGH_RESOURCE, LOW_RESOURCE
from flantune.evals.mmlu import SUBJECTS
from flantune.evals.normalised import PUBLISHED_BOUNDS, normalised_average, normalised_mean
from flantune.evals.tydiqa import LANGUAGES
from flantune.recipe import BenchmarkSpec

SUITES: Mapping[str, tuple[BenchmarkSpec, ...]] = {
    # The paper's six components (spec 6.7).
    "flan": (
        BenchmarkSpec(name="mmlu", modes=("direct", "cot")),
        BenchmarkSpec(name="bbh", modes=("direct", "cot")),
        BenchmarkSpec(name="tydiqa", modes=("direct",)),
        BenchmarkSpec(name="mgsm", modes=("cot",)),
    ),
    # Few benchmarks that tell models apart.
    "core": (
        BenchmarkSpec(name="mmlu", modes=("direct",)),
        BenchmarkSpec(name="ceval", modes=("direct",)),
        BenchmarkSpec(name="gsm8k", modes=("cot",)),
        BenchmarkSpec(name="bbh", modes=("cot",)),
        BenchmarkSpec(name="math", modes=("cot",)),
    ),
    # Does it work at all? Some hundred items.
    "quick": (
        BenchmarkSpec(name="mmlu", modes=("direct",), limit=4),
        BenchmarkSpec(name="bbh", modes=("direct",), limit=4),
        BenchmarkSpec(name="gsm8k", modes=("cot",), limit=40),
        BenchmarkSpec(name="mgsm", modes=("cot",), limit=5),
    ),
}

NAMED = 3  # missing tasks that are named
# Benchmark, mode, and the tasks that the paper averages.
COMPONENTS: Sequence[tuple[str, str, tuple[str, ...]]] = (
    ("mmlu", "direct", SUBJECTS),
    ("mmlu", "cot", SUBJECTS),
    ("bbh", "direct", tuple(PUBLISHED_BOUNDS)),
    ("bbh", "cot", tuple(PUBLISHED_BOUNDS)),
    ("tydiqa", "direct", tuple(LANGUAGES.values())),
    ("mgsm", "cot", tuple(sorted(HIGH_RESOURCE + LOW_RESOURCE))),
)


def flan_average(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The normalised average over summary entries, percent; None as soon as one task of a component is missing.

    `over_present` is the same over the tasks and components there are: not the paper's figure, and named so.
    """
    components: dict[str, float | None] = {}
    present, missing = [], []
    for name, mode, tasks in COMPONENTS:
        entry = next((e for e in results if (e["benchmark"], e["mode"]) == (name, mode)), None)
        scores = {t: 100 * f["score"] for t, f in entry["tasks"].items() if t in tasks} if entry else {}
        limited = entry is not None and entry.get("limit") is not None
        unanswered = entry.get("missing", 0) if entry else 0
        lacking = [t for t in tasks if t not in scores]
        value = normalised_mean(name, scores) if scores else None
        whole = not (lacking or limited or unanswered)
        components[f"{name}-{mode}"] = value if whole else None
        if value is not None:
            present.append(value)
        if lacking:
            named = ", ".join(lacking[:NAMED]) + (", ..." if len(lacking) > NAMED else "")
            missing.append(f"{name}-{mode}: {len(lacking)} of {len(tasks)} tasks ({named})")
        elif entry is not None and limited:
            missing.append(f"{name}-{mode}: only {entry['limit']} items a task were asked")
        elif unanswered:
            missing.append(f"{name}-{mode}: {unanswered:,} items have no output")
    known = [value for value in components.values() if value is not None]
    return {
        "normalised_average": normalised_average(known) if len(known) == len(COMPONENTS) else None,
        "components": components,
        "missing": missing,
        "over_present": normalised_average(present) if present else None,
    }
