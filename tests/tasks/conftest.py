"""Fixtures of the tests of fetching."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from .mirrors import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.let_go.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr("flantune.tasks.download.time.sleep", slept.append)
    return slept
