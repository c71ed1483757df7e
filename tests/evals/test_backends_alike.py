"""Whoever answers, the questions are the same to the last byte, and what was answered once is not asked again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from flantune.errors import RecipeError, StateError
from flantune.evals import BENCHMARKS, Setting, read_items, run_evaluation
from flantune.inference import Engine, GenerateRequest, ScoreRequest
from flantune.inference.answers import AnswerStore
from flantune.inference.backends import Ours, Prices
from flantune.inference.mock import Mock
from flantune.inference.openai import OpenAIServer, Server
from tiny import tiny_decoder


def every_setting(benchmarks: Path) -> list[Setting]:
    return [
        Setting(benchmark=b, path=benchmarks / b.folder, mode=mode, shots=min(1, b.default_shots.get(mode, 0)))
        for b in BENCHMARKS.values()
        for mode in b.modes
    ]


class Recording:
    """A server that remembers every body and answers like the mock."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.answers_left = 10_000
        recording = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                recording.answers_left -= 1
                if recording.answers_left < 0:
                    self.send_response(503)
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                recording.bodies.append(body)
                choices: list[dict[str, Any]] = [
                    {"text": "The answer is 3.", "message": {"content": "The answer is 3."}}
                ]
                if body.get("echo"):
                    every = [list(range(0, len(text), 2)) for text in body["prompt"]]
                    logs = [{"text_offset": s, "token_logprobs": [None, *(-1.0 for _ in s[1:])]} for s in every]
                    choices = [{"index": index, "logprobs": told} for index, told in enumerate(logs)]
                data = json.dumps({"choices": choices, "usage": {"prompt_tokens": 2, "completion_tokens": 1}}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def backend(self, **how: Any) -> OpenAIServer:
        return OpenAIServer(Server(base_url=f"http://127.0.0.1:{self.server.server_port}/v1", model="m", **how))


@pytest.fixture
def recording() -> Iterator[Recording]:
    server = Recording()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    torch.manual_seed(0)
    model, tokenizer = tiny_decoder(Path(tmp_path_factory.mktemp("tokenizer")), max_position_embeddings=8192)
    return Engine(model, tokenizer, "causal", 8000, prompt_eos=False)


class Overheard(Ours):
    """Our engine, and what it was asked; texts are the mock's, whose shape the real model's nonsense has not."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, "tiny")
        self.asked: list[GenerateRequest | ScoreRequest] = []

    def generate(self, requests: Any) -> Any:
        self.asked += requests
        return Mock().generate(requests)

    def score(self, requests: Any) -> Any:
        self.asked += requests
        return super().score(requests)


def test_the_same_prompts_reach_every_backend_byte_for_byte(
    benchmarks: Path, recording: Recording, engine: Engine, tmp_path: Path
):
    settings = every_setting(benchmarks)
    assert len({s.benchmark.name for s in settings}) == len(BENCHMARKS)
    mock, ours = Mock(), Overheard(engine)
    run_evaluation(mock, settings, tmp_path / "mock")
    run_evaluation(recording.backend(), settings, tmp_path / "server")
    run_evaluation(ours, settings, tmp_path / "ours")
    written = {(r.prompt, r.max_new_tokens, r.stop) for r in mock.asked if isinstance(r, GenerateRequest)}
    scored = {(r.prompt, r.options) for r in mock.asked if isinstance(r, ScoreRequest)}
    assert len(written) > 40 and len(scored) > 6
    assert written == {(r.prompt, r.max_new_tokens, r.stop) for r in ours.asked if isinstance(r, GenerateRequest)}
    assert scored == {(r.prompt, r.options) for r in ours.asked if isinstance(r, ScoreRequest)}
    told = [b for b in recording.bodies if "echo" not in b]
    assert written == {(b["prompt"], b["max_tokens"], tuple(b.get("stop", ()))) for b in told}
    echoed = [text for b in recording.bodies if "echo" in b for text in b["prompt"]]
    assert sorted(echoed) == sorted(prompt + option for prompt, options in scored for option in options)
    files = [read_items(tmp_path / name / "items.parquet") for name in ("mock", "server", "ours")]
    assert len({tuple(row.result.item.prompt for row in rows) for rows in files}) == 1


@pytest.mark.parametrize("layout", ["single", "dialogue"])
def test_a_chat_has_the_same_turns_on_a_server_as_in_the_mock(
    benchmarks: Path, recording: Recording, tmp_path: Path, layout: Any
):
    setting = Setting(
        benchmark=BENCHMARKS["gsm8k"], path=benchmarks / "gsm8k", mode="cot", shots=2, chat=layout, generate=True
    )
    server = recording.backend()
    mock = Mock(chat_template=server.chat_template)
    run_evaluation(mock, [setting], tmp_path / "mock")
    run_evaluation(server, [setting], tmp_path / "server")
    assert sorted(json.dumps(b["messages"]) for b in recording.bodies) == sorted(
        json.dumps(json.loads(r.prompt)) for r in mock.asked
    )
    roles = [m["role"] for m in recording.bodies[0]["messages"]]
    assert roles == (["user"] if layout == "single" else ["user", "assistant", "user", "assistant", "user"])


def test_answers_pass_between_folders_and_only_what_is_new_is_asked(benchmarks: Path, tmp_path: Path):
    settings = every_setting(benchmarks)
    store = AnswerStore(tmp_path / "answers.sqlite")
    first, second, other = Mock(), Mock(), Mock("another model")
    run_evaluation(first, settings[:4], tmp_path / "a", store=store)
    told = run_evaluation(second, settings, tmp_path / "b", store=store)
    known = {(r.prompt, r.stop) for r in first.asked if isinstance(r, GenerateRequest)}
    assert known and not known & {(r.prompt, r.stop) for r in second.asked if isinstance(r, GenerateRequest)}
    assert told["usage"]["reused"] == len(first.asked) and told["usage"]["asked"] == len(second.asked)
    run_evaluation(other, settings[:4], tmp_path / "c", store=store)
    assert len(other.asked) == len(first.asked)
    alone = Mock()
    whole = run_evaluation(alone, settings, tmp_path / "d")
    assert whole["results"] == told["results"]
    assert (tmp_path / "d/items.parquet").read_bytes() == (tmp_path / "b/items.parquet").read_bytes()


def test_tokens_and_cost_are_of_what_was_asked_and_stay_so(benchmarks: Path, recording: Recording, tmp_path: Path):
    setting = Setting(benchmark=BENCHMARKS["gsm8k"], path=benchmarks / "gsm8k", mode="cot", shots=1)
    store = AnswerStore(tmp_path / "answers.sqlite")
    priced = recording.backend(prices=Prices(prompt=1000.0, new=2000.0))
    first = run_evaluation(priced, [setting], tmp_path / "a", store=store)["usage"]
    assert first == {"asked": 2, "reused": 0, "prompt_tokens": 4, "new_tokens": 2, "cost": pytest.approx(0.008)}
    assert run_evaluation(priced, [setting], tmp_path / "a", store=store)["usage"] == first
    again = run_evaluation(priced, [setting], tmp_path / "b", store=store)["usage"]
    assert (again["asked"], again["reused"], again["cost"]) == (0, 2, 0.0)


def test_a_backend_that_cannot_score_is_refused_before_anything_is_written(benchmarks: Path, tmp_path: Path):
    from flantune.inference.backends import Capabilities

    class Writer(Mock):
        capabilities = Capabilities(score=False, sampling=False)

    mmlu = Setting(benchmark=BENCHMARKS["mmlu"], path=benchmarks / "mmlu", mode="direct", shots=1)
    with pytest.raises(RecipeError, match="give --generate"):
        run_evaluation(Writer(), [mmlu], tmp_path / "a")
    written = Setting(benchmark=mmlu.benchmark, path=mmlu.path, mode="direct", shots=1, generate=True)
    entry = run_evaluation(Writer(), [written], tmp_path / "b")["results"][0]
    assert entry["setting"] == "mmlu/direct/1-shot+generate" and entry["extraction_rate"] is not None


def test_what_a_server_refuses_is_missing_and_said(benchmarks: Path, tmp_path: Path):
    from flantune.inference.backends import Refused

    class Small(Mock):
        def generate(self, requests: Any) -> Any:
            for answer in super().generate(requests):
                yield Refused(answer.index, "400: too long.") if answer.index == 1 else answer

    setting = Setting(benchmark=BENCHMARKS["gsm8k"], path=benchmarks / "gsm8k", mode="cot", shots=1)
    entry = run_evaluation(Small(), [setting], tmp_path / "a")["results"][0]
    assert (entry["items"], entry["missing"]) == (1, 1)
    assert "1 items were refused: 400: too long. They are in no figure" in entry["warnings"][-1]
    rows = read_items(tmp_path / "a/items.parquet")
    assert [r.result.reason for r in rows] == ["", "refused: 400: too long."] and rows[1].result.score is None
    assert (tmp_path / "a/unread.jsonl").read_bytes() == b""


def test_a_folder_begun_by_another_backend_is_refused(benchmarks: Path, recording: Recording, tmp_path: Path):
    setting = Setting(benchmark=BENCHMARKS["gsm8k"], path=benchmarks / "gsm8k", mode="cot", shots=1)
    run_evaluation(Mock("m"), [setting], tmp_path / "a")
    with pytest.raises(StateError, match="began with another backend, server, chat"):
        run_evaluation(recording.backend(), [setting], tmp_path / "a")


def test_a_server_that_goes_away_costs_no_answer_twice(benchmarks: Path, recording: Recording, tmp_path: Path):
    settings = every_setting(benchmarks)[1:4]
    for answers in (3, 4, 10_000):
        recording.answers_left = answers
        server = recording.backend(concurrency=2, retries=1, first_wait=0.01)
        if answers < 10_000:
            with pytest.raises(StateError, match=r"answered 503.*the same command goes on"):
                run_evaluation(server, settings, tmp_path / "cut")
        else:
            run_evaluation(server, settings, tmp_path / "cut")
    asked = [json.dumps(b) for b in recording.bodies]
    assert len(asked) == len(set(asked)) > 7
    run_evaluation(recording.backend(), settings, tmp_path / "whole")
    assert sorted(json.dumps(b) for b in recording.bodies[len(asked) :]) == sorted(asked)
    assert (tmp_path / "cut/items.parquet").read_bytes() == (tmp_path / "whole/items.parquet").read_bytes()
