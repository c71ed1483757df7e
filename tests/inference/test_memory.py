"""Memory that is freed and taken again in the same process."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from flantune.inference.memory import keep_freed_memory

OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, int]]:
    """What a C library that listens is told."""
    found: dict[int, int] = {}
    library = SimpleNamespace(mallopt=found.__setitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in OWN:
        monkeypatch.delenv(name, raising=False)
    yield found


class TestKeepFreedMemory:
    def test_large_blocks_are_of_the_heap_and_its_free_top_stays(self, told: dict[int, int]) -> None:
        keep_freed_memory()
        assert told == {-3: 32 << 20, -1: 64 << 20}  # malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD

    @pytest.mark.parametrize("name", OWN)
    def test_a_users_own_setting_stands(self, told: dict[int, int], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "65536")
        keep_freed_memory()
        assert told == {}

    def test_another_system_or_library_is_left_alone(
        self, told: dict[int, int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
        keep_freed_memory()
        monkeypatch.setattr(sys, "platform", "darwin")
        keep_freed_memory()
        assert told == {}

    @pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
    def test_glibc_takes_both_figures(self) -> None:
        tune = ctypes.CDLL(None).mallopt
        assert tune(-3, 32 << 20) == tune(-1, 64 << 20) == 1
