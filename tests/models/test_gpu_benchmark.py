from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_gpu.py"


@pytest.mark.slow
def test_the_gpu_benchmark_runs_at_a_tiny_size_anywhere(tmp_path: Path):
    written = tmp_path / "results" / "gpu.json"
    words = ["--models", "t5-tiny,decoder-tiny", "--examples", "400", "--output", str(written)]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result == json.loads(written.read_text())
    assert result["equal"] and set(result["figures"]) == {"t5-tiny", "decoder-tiny"}
    for figure in result["figures"].values():
        assert figure["runs"][figure["best"]]["useful_tokens_per_second"] > 0
