"""Memory that is freed and taken again in the same process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

LAYERS = """
import resource, sys
import torch
from flantune.inference.memory import keep_freed_memory

def faults():  # of 40 layers that each take five blocks of six megabytes and free them
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        blocks = [torch.ones(1_500_000) for _ in range(5)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
as_it_comes = faults()
keep_freed_memory()
faults()
print(as_it_comes, faults())
"""


def page_faults(**environment: str) -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-c", LAYERS], env={"OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split()
    return int(first), int(second)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's heap")
class TestKeepFreedMemory:
    def test_a_layer_finds_what_the_one_before_freed(self) -> None:
        as_it_comes, kept = page_faults()
        assert kept < as_it_comes / 10

    def test_a_users_own_setting_stands(self) -> None:
        as_it_comes, kept = page_faults(MALLOC_TRIM_THRESHOLD_="65536")
        assert kept > as_it_comes / 2
