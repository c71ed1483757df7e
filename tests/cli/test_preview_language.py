"""`flantune tasks preview --language`: the wording's language, whatever the rows' own is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flantune.cli.app import app

ROW = {"question": "is the pond deep", "passage": "The pond is deep.", "label": True, "idx": 0}


@pytest.mark.parametrize(("language", "chinese"), [("zh", True), ("en", False), ("any", False)])
def test_wordings_are_of_the_language_asked_for(tmp_path: Path, language: str, chinese: bool):
    (tmp_path / "train.jsonl").write_text(json.dumps(ROW))
    call = ["tasks", "preview", "muffin/boolq", str(tmp_path), "--count", "4", "--language", language, "--json"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    prompts = json.loads(done.stdout.splitlines()[-1])["prompts"]
    assert len(prompts) == 4
    for prompt in prompts:
        words = "".join(s["text"] for s in prompt["segments"] if s["role"] == "instruction")
        assert words and any("\u4e00" <= c <= "\u9fff" for c in words) == chinese


def test_another_language_is_refused(tmp_path: Path):
    (tmp_path / "train.jsonl").write_text(json.dumps(ROW))
    done = CliRunner().invoke(app, ["tasks", "preview", "muffin/boolq", str(tmp_path), "--language", "fr"])
    assert done.exit_code == 2 and "expected one of en, zh, any" in done.stderr
