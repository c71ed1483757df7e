"""Shared fixtures. The real data is found through FLANTUNE_DATA alone; tests that want it are skipped without it."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers of one test run share the cores: threads of several that wait for each other cost more than they bring.
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, here and in every process a test begins


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real collections and benchmarks (laid out as docs/data.md says)."""
    value = os.environ.get("FLANTUNE_DATA")
    if not value or not Path(value).is_dir():
        pytest.skip("FLANTUNE_DATA names no folder")
    return Path(value).resolve()


@pytest.fixture(scope="session")
def spec_dir(data_dir: Path) -> Path:
    """The recipe's tables and test vectors, which lie beside the data."""
    folder = data_dir.parent / "spec" / "data"
    if not folder.is_dir():
        pytest.skip("no spec/data beside FLANTUNE_DATA")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers kept between runs must not pass from test to test, nor from the user's own cache."""
    monkeypatch.setenv("FLANTUNE_CACHE", str(tmp_path_factory.getbasetemp() / "cache" / uuid.uuid4().hex))
