"""`flantune eval` with its ways of asking and its backends, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flantune.cli.app import app
from flantune.evals import read_items

FILES = Path(__file__).parents[1] / "data" / "benchmarks"
ASK = ("eval", "a-model", "--backend", "mock", "--data", FILES, "--shots", "1")


def run(*arguments: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == code, (done.output, done.stderr)
    return " ".join(done.output.split("\n")) if code else done.output


def last_object(text: str) -> Any:
    return json.loads(text.strip().split("\n")[-1])


def test_a_dry_run_shows_what_would_be_asked_and_its_answers_are_reused(tmp_path: Path):
    text = run(*ASK, "-b", "gsm8k", "--mode", "cot", "-o", tmp_path / "a")
    assert "gsm8k/cot/1-shot" in text and "asked 2 times" in text and "0 found from before" in text
    assert "asked 0 times" in run(*ASK, "-b", "gsm8k", "--mode", "cot", "-o", tmp_path / "b")
    assert "asked 2 times" in run(*ASK, "-b", "gsm8k", "--mode", "cot", "-o", tmp_path / "c", "--no-reuse")
    assert "asked 2 times" in run(*ASK, "-b", "gsm8k", "--mode", "cot", "-o", tmp_path / "a")  # of this folder
    store = tmp_path / "other" / "answers.sqlite"
    assert "no such store" in run(*ASK, "-b", "gsm8k", "--reuse-from", store, code=2)
    assert "give one of them" in run(*ASK, "-b", "gsm8k", "--reuse-from", tmp_path, "--no-reuse", code=2)


def test_a_store_of_another_place_is_reused_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLANTUNE_CACHE", str(tmp_path / "first"))
    run(*ASK, "-b", "gsm8k", "--mode", "cot", "-o", tmp_path / "a")
    monkeypatch.setenv("FLANTUNE_CACHE", str(tmp_path / "second"))
    asked = (*ASK, "-b", "gsm8k", "--mode", "cot", "-o", tmp_path / "b", "--reuse-from", tmp_path / "first")
    assert "2 found from before" in run(*asked)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "answers.sqlite").write_text("no store" * 100)
    message = run(*ASK, "-b", "gsm8k", "--mode", "cot", "-o", tmp_path / "d", code=1)
    assert "damaged" in message and "--no-reuse" in message


def test_samples_are_drawn_and_told_of(tmp_path: Path):
    text = run(*ASK, "-b", "gsm8k", "--mode", "cot", "--samples", "9", "--temperature", "0.5", "-o", tmp_path)
    assert "gsm8k/cot/1-shot+majority-9+t0.5" in text
    assert "by majority: 18 samples, " in text and "of them read, agreement" in text and "one sample alone" in text
    rows = read_items(tmp_path / "items.parquet")
    assert all(r.samples is not None and len(r.samples.texts) == 9 for r in rows)
    result = last_object(
        run(
            *ASK,
            "-b",
            "gsm8k",
            "--mode",
            "cot",
            "--select",
            "best-of",
            "--scorer",
            "length",
            "--samples",
            "3",
            "--json",
        )
    )
    assert result["results"][0]["samples"]["select"] == "best-of" and result["usage"]["new_tokens"] > 0


def test_wrong_ways_of_asking_leave_with_2_and_say_how_to_mend_them():
    for words, options in [
        ("expected majority, complexity, best-of, hints", ("--select", "mean")),
        ("would all be one", ("--samples", "3", "--temperature", "0")),
        ("its options are scored", ("--mode", "direct", "--samples", "3")),
        ("--top-p 1.5", ("--top-p", "1.5")),
        ("expected ours, vllm, openai, mock", ("--backend", "gpt")),
        ("--concurrency: for --backend openai alone", ("--concurrency", "3")),
        ("--workers and --ray divide our own engine's work", ("--workers", "2")),
        ("--shots, --benchmark: not taken here, a suite", ("--suite", "quick", "--shots", "0")),
    ]:
        assert words in run(*ASK[:6], "-b", "mmlu", *options, code=2), options
    assert "which server" in run("eval", "m", "--backend", "openai", "--data", FILES, code=2)
    server = ("eval", "m", "--backend", "openai", "--base-url", "http://127.0.0.1:1/v1", "--data", FILES)
    assert "two numbers" in run(*server, "--price", "cheap", code=2)
    assert "give the --tokenizer" in run(*server, "-b", "gsm8k", "--max-inputs", "100", code=2)
    assert "not taken here, a suite says it itself" in run(
        "eval", "m", "--backend", "mock", "--suite", "quick", "--mode", "cot", "--data", FILES, code=2
    )


def test_a_suite_is_asked_as_the_options_say(tmp_path: Path):
    asked = ("eval", "m", "--backend", "mock", "--suite", "quick", "--data", FILES, "--limit", "1")
    result = last_object(run(*asked, "--samples", "3", "-o", tmp_path, "--json"))
    keys = [r["setting"] for r in result["results"]]
    assert keys == [
        "mmlu/direct/5-shot", "bbh/direct/3-shot+majority-3", "gsm8k/cot/8-shot+majority-3",
        "mgsm/cot/8-shot+majority-3",
    ]  # fmt: skip
    assert all(r["items"] <= 2 for r in result["results"]) and result["suite"]["not_asked"] == []


def test_a_chat_is_shown_as_the_messages_that_a_server_gets():
    server = ("eval", "m", "--backend", "openai", "--base-url", "http://127.0.0.1:1/v1", "--data", FILES)
    text = run(*server, "-b", "gsm8k", "--mode", "cot", "--shots", "1", "--chat", "dialogue", "--show", "test/0")
    line = next(line for line in text.split("\n") if line.startswith("[{"))
    assert [m["role"] for m in json.loads(line.removesuffix("⏎"))] == ["user", "assistant", "user"]
