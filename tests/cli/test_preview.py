"""`flantune preview` and `flantune tasks explore` as a user meets them: what is printed, and how they end."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flantune.cli.app import app
from flantune.cli.console import EXIT_USAGE
from flantune.demo.files import write_world
from flantune.models.place import located
from flantune.tokens.tokenizer import load_tokenizer

CONTROLS = r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # all but line breaks and tabs
RECIPE = """
name: seen
runs: {runs}
collections: [{{path: {world}, include: ["foods_*", "verbs_*", "arithmetic_*"]}}]
mixture: {{preset: uniform, formats: [{{setting: zs_opt}}, {{setting: fs_opt}}]}}
tokens: {{inputs_len: 128, targets_len: 32, few_shot_margin: 16, block: 32}}
model: {{init: demo}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preview")
    write_world(folder / "world")
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(runs=folder / "runs", world=folder / "world"))
    return path


def preview(recipe: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["preview", str(recipe), *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def examples(recipe: Path, *arguments: str) -> list[dict]:
    return json.loads(preview(recipe, *arguments, "--json").strip().split("\n")[-1])["examples"]


def test_json_holds_text_origins_ids_and_pack(recipe: Path) -> None:
    first, second, third = examples(recipe, "--at", "4", "--count", "3")
    assert [e["prompt"]["index"] for e in (first, second, third)] == [4, 5, 6]
    (alone,) = examples(recipe, "--at", "5")
    assert alone == second  # the same whether asked for alone or among others
    tokenizer = load_tokenizer(located("demo"))
    for example in (first, second, third):
        prompt, tokens, pack = example["prompt"], example["tokens"], example["pack"]
        target = "".join(s["text"] for s in prompt["segments"] if s["role"] in ("rationale", "target"))
        assert tokens["targets"]["ids"] == [*tokenizer.encode(target).tolist(), tokenizer.eos_id]
        assert re.fullmatch(r"\w+\.jsonl:\d+", prompt["where"])
        assert len(prompt["exemplars"]) == prompt["settings"]["shots"]
        assert pack["members"][pack["place"]]["index"] == prompt["index"]
        assert pack["first"] <= prompt["index"] < pack["stop"]


def test_the_text_says_all_of_it(recipe: Path) -> None:
    for example in examples(recipe, "--count", "4"):
        prompt, tokens, pack = example["prompt"], example["tokens"], example["pack"]
        shown = preview(recipe, "--at", str(prompt["index"]))
        assert f"EXAMPLE {prompt['index']}\n" in shown
        for value in (prompt["task"], prompt["template"], prompt["where"], prompt["format"]):
            assert value in shown
        for exemplar in prompt["exemplars"]:
            assert f"row {exemplar['row']}, {exemplar['where']}, template {exemplar['template']}" in shown
        for segment in prompt["segments"]:
            assert segment["text"] in shown and f"<{segment['role']}" in shown
        # The ids are wrapped; white space aside they stand there in order.
        assert " ".join(map(str, tokens["inputs"]["ids"])) in " ".join(shown.split())
        assert f"row {pack['row']} of {pack['rows']} of block {pack['block']}" in shown
        listed = re.findall(r"^  [> ] +(\d+)  ", shown, re.MULTILINE)
        assert [int(i) for i in listed] == [m["index"] for m in pack["members"]]


def test_tokens_stand_beside_their_pieces(recipe: Path) -> None:
    (example,) = examples(recipe)
    shown = preview(recipe, "--tokens")
    cells = re.findall(r"(\d+) (\S+)", shown[shown.index("TOKENS") : shown.index("PACK")].split("\n", 2)[2])
    assert [int(number) for number, _ in cells if number.isdigit()][:5] == example["tokens"]["inputs"]["ids"][:5]
    assert "</s>" in shown and "·" in shown


def test_text_alone_needs_no_tokenizer(recipe: Path, tmp_path: Path) -> None:
    there_is_none = ("--set", f"model.tokenizer.path={tmp_path}", "--set", "name=bare")
    shown = preview(recipe, *there_is_none, "--text-only")
    assert "TARGET" in shown and "TOKENS" not in shown and "PACK" not in shown
    done = CliRunner().invoke(app, ["preview", str(recipe), *there_is_none])
    assert done.exit_code == 1


def test_a_terminal_is_not_told_what_to_do_by_the_data(tmp_path: Path) -> None:
    rows = [{"prompt": f"\x1b[2J\x1b]0;owned\x07 row {i}\x9b1m", "completion": "\x1b[31mred"} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: rows\nruns: {tmp_path}/runs\ncollections: [{{path: {tmp_path}/rows.jsonl}}]\n"
        "mixture: {preset: uniform, formats: [{setting: zs_opt}]}\nmodel: {init: demo}\ntokens: {block: 8}\n"
    )
    shown = preview(path, "--tokens")
    assert "␛[2J" in shown and "␛[31mred" in shown
    assert not re.search(CONTROLS, shown)


@pytest.mark.parametrize("terminal", [False, True])
def test_nor_is_it_by_a_preview_of_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    rows = [{"prompt": f"\x1b[2J\x1b]0;owned\x07 row {i}\x9b1m", "completion": "\x1b[31mred"} for i in range(3)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    if terminal:
        from flantune.cli import tasks

        written = io.StringIO()
        monkeypatch.setattr(tasks, "out", Console(file=written, force_terminal=True, color_system=None))
    for command in (["preview", "prompts/rows", "--format", "fs_noopt"], ["show", "prompts/rows"], ["list"]):
        done = CliRunner().invoke(app, ["tasks", command[0], *command[1:2], str(path), *command[2:]])
        assert done.exit_code == 0, done.output
        shown = written.getvalue() if terminal and command[0] == "preview" else done.output
        if command[0] == "preview":
            assert "␛[2J" in shown and "␛[31mred" in shown
            # A terminal is told by us alone, and with these.
            shown = re.sub(r"\x1b\[(\d+(;\d+)*)?m", "", shown) if terminal else shown
        assert not re.search(CONTROLS, shown)


# tasks explore -------------------------------------------------------------------------------------------------------


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen]]:
    processes: list[subprocess.Popen] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def explore(*arguments: str, temporary: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "flantune", "tasks", "explore", "--no-open", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
        start_new_session=True,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_explore_answers_until_it_is_ended_and_leaves_nothing_behind(
    recipe: Path, tmp_path: Path, started: list[subprocess.Popen], number: signal.Signals, code: int
) -> None:
    process = explore(str(recipe.parent / "world"), temporary=tmp_path)
    started.append(process)
    assert process.stdout is not None and process.stderr is not None
    told = json.loads(process.stdout.readline())
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", told["address"]) and told["tasks"] > 50
    with urllib.request.urlopen(told["address"] + "api/overview", timeout=30) as answer:
        assert json.load(answer)["tasks"] == told["tasks"]
    assert list(tmp_path.iterdir())
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert "Traceback" not in process.stderr.read() and not list(tmp_path.iterdir())


def test_a_port_in_use_is_told_before_anything_is_read(recipe: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["tasks", "explore", str(recipe.parent / "world"), "--port", str(port)])
    assert done.exit_code == EXIT_USAGE
    assert f"--port {port}" in done.stderr and "--port 0" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "name files or folders"),
        (("world", "--recipe", "recipe.yaml"), "--recipe names its own files"),
        (("world", "--set", "seed=1"), "--recipe"),
        (("world", "--store", "."), "holds no store"),
        (("nowhere",), "no such file or folder"),
    ],
)
def test_a_wrong_call_leaves_with_2(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(recipe.parent)
    done = CliRunner().invoke(app, ["tasks", "explore", "--no-open", *arguments])
    assert done.exit_code == EXIT_USAGE and told in done.stderr
    assert (recipe.parent / "world").is_dir()


def test_without_the_web_extra_the_mend_is_named(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    done = CliRunner().invoke(app, ["tasks", "explore", str(recipe.parent / "world")])
    assert done.exit_code == EXIT_USAGE and "pip install 'flantune[web]'" in done.stderr
