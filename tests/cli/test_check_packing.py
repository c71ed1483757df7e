from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flantune.cli import main
from flantune.models import encdec
from flantune.models.layout import Attending
from flantune.tokens.shards import ShardWriter
from models.packs import packed_row

SHORT = ("--rows", "1", "--set", "tokens.inputs_len=96", "--set", "tokens.targets_len=48")


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [{"inputs": f"What is {n} and {n}?", "targets": f"It is {2 * n}."} for n in range(6)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["check", "packing", *words])
    code = left.value.code
    return code if isinstance(code, int) else 0


def test_packed_and_alone_agree_on_the_users_own_rows(examples: Path, capsys: pytest.CaptureFixture[str]):
    assert run("demo", str(examples), *SHORT, "--json", "--float64") == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert told["agrees"] and told["family"] == "encdec" and told["rows"] == 1 and told["examples"] > 1
    assert [p["attention"] for p in told["paths"]] == ["flantune_packed", "sdpa"]
    assert all(p["logits"] < 1e-12 and p["gradient"] < 1e-10 for p in told["paths"])


def test_examples_that_see_each_other_leave_with_1(
    examples: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    class Joined(Attending):
        def __init__(self, queries: Any, keys: Any = None, **more: Any) -> None:
            sums = [None if side is None else np.array([side.sum()]) for side in (queries, keys)]
            super().__init__(*sums, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(encdec, "Attending", Joined)
    assert run("demo", str(examples), *SHORT) == 1
    shown = capsys.readouterr().out.splitlines()
    assert "DIFFER; worst in" in shown[2] and shown[3].endswith("agree")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("demo", "nowhere"), "no such file or folder"),
        (("demo", "HERE", "--attention", "sideways"), "expected causal or prefix"),
        (("no-such-folder/x/y", "HERE"), "found no such folder"),
    ],
)
def test_a_wrong_call_is_named(words: tuple[str, ...], told: str, examples: Path, capsys: pytest.CaptureFixture[str]):
    assert run(*(str(examples) if word == "HERE" else word for word in words)) in (1, 2)
    assert told in capsys.readouterr().err


def test_rows_that_are_built_are_taken_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "run" / "data" / "shards"
    writer = ShardWriter(folder, rows_per_shard=4)
    for seed in range(3):
        writer.append(packed_row([(9, 4), (5, 3)], seed))
    writer.finish(inputs_len=200, targets_len=100, one_sided=False, fingerprint="x")
    assert run("demo", str(tmp_path / "run"), "--rows", "2", "--json") == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (told["rows"], told["examples"]) == (2, 4)
    assert run("demo", str(tmp_path / "run"), "--set", "tokens.inputs_len=9") == 2
    assert "would change nothing" in capsys.readouterr().err


def test_rows_of_another_vocabulary_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    writer = ShardWriter(tmp_path, rows_per_shard=4)
    writer.append(packed_row([(90, 40), (50, 30)], 0, vocab_size=1_000_000))
    writer.finish(inputs_len=200, targets_len=100, one_sided=False, fingerprint="x")
    assert run("demo", str(tmp_path)) == 1
    assert "made with another tokenizer" in capsys.readouterr().err
