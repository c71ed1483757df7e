from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

from flantune.evals import Benchmark
from flantune.types import Item

# First calls load models and libraries: a limit on one example's time would fail by the machine's mood.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

FOLDER = Path(__file__).parents[1] / "data" / "benchmarks"


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """Invented questions in the layouts of the real benchmarks."""
    return FOLDER


@pytest.fixture(scope="session")
def ask() -> Callable[..., list[Item]]:
    """Items of a benchmark over the invented questions."""

    def items(benchmark: Benchmark, mode: str, **how: object) -> list[Item]:
        return [p.item for p in benchmark.items(FOLDER / benchmark.folder, mode, **how)]  # type: ignore[arg-type]

    return items
