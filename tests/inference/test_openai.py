"""A real server on loopback that misbehaves as real ones do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO

import pytest

from flantune.errors import RecipeError, StateError
from flantune.inference.backends import Prices, Refused
from flantune.inference.openai import OpenAIServer, Server, _retry_after, _sum_of
from flantune.inference.requests import GenerateRequest, Sampling, ScoreRequest

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]] | str  # status, body, headers; or a way to break


class Fake:
    """Answers by `reply(path, body, times)`, where `times` counts how often this body came before."""

    def __init__(self, reply: Callable[[str, dict[str, Any], int], Reply]) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with fake._lock:
                    times = sum(b == body for _, b in fake.seen)
                    fake.seen.append((self.path, body))
                    fake.times.append(time.monotonic())
                    fake.keys.append(self.headers["authorization"])
                    fake._at_once += 1
                    fake.most_at_once = max(fake.most_at_once, fake._at_once)
                try:
                    self._answer(reply(self.path, body, times))
                finally:
                    with fake._lock:
                        fake._at_once -= 1

            def _answer(self, told: Reply) -> None:
                if told in ("torn", "drips"):  # promises more than it sends
                    self.send_response(200)
                    self.send_header("content-length", "1000")
                    self.end_headers()
                    send_a_part(self.wfile, slowly=told == "drips")
                    self.close_connection = True
                    return
                if told == "hang up":
                    self.close_connection = True
                    self.connection.close()
                    return
                status, content, *more = told  # type: ignore[misc]
                data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)  # type: ignore[arg-type]
                for name, value in (more[0] if more else {}).items():  # type: ignore[union-attr]
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def backend(self, **how: Any) -> OpenAIServer:
        return OpenAIServer(Server(base_url=self.url, model="m", **{"first_wait": 0.01, "timeout": 5.0} | how))


def send_a_part(to: BinaryIO, *, slowly: bool) -> None:
    to.write(b'{"choices": [')
    with suppress(OSError):  # whoever asked has gone
        for _ in range(40 if slowly else 0):
            to.write(b" ")
            to.flush()
            time.sleep(0.1)


@pytest.fixture
def fake() -> Iterator[Callable[..., Fake]]:
    made: list[Fake] = []

    def make(reply: Callable[[str, dict[str, Any], int], Reply]) -> Fake:
        made.append(Fake(reply))
        return made[-1]

    yield make
    for server in made:
        server.server.shutdown()
        server.server.server_close()


def completion(body: dict[str, Any], text: str | None = None) -> dict[str, Any]:
    said = f"to {body['prompt']}" if text is None else text
    choices = [{"text": said} for _ in range(body.get("n", 1))]
    return {"choices": choices, "usage": {"prompt_tokens": 10, "completion_tokens": 3 * len(choices)}}


def questions(number: int) -> list[GenerateRequest]:
    return [GenerateRequest(prompt=f"question {n}", max_new_tokens=5, stop=("\n",)) for n in range(number)]


def told(backend: OpenAIServer, requests: list[GenerateRequest]) -> dict[int, Any]:
    return {g.index: g for g in backend.generate(requests)}


def test_prompts_go_as_they_are_and_texts_come_back_by_request(fake: Callable[..., Fake]):
    server = fake(lambda path, body, times: (200, completion(body)))
    prompt = "Q: 渡轮?  \n\tA:"
    answers = told(server.backend(), [GenerateRequest(prompt=prompt, max_new_tokens=5, stop=("\n",)), *questions(20)])
    assert answers[0].texts == ("to Q: 渡轮?  ",)  # cut here too, where a server forgets
    assert [answers[n + 1].text for n in range(20)] == [f"to question {n}" for n in range(20)]
    assert (answers[3].prompt_tokens, answers[3].new_tokens) == (10, 3)
    body = next(b for _, b in server.seen if b["prompt"] == prompt)
    assert body == {"model": "m", "temperature": 0.0, "max_tokens": 5, "stop": ["\n"], "prompt": prompt}
    assert {path for path, _ in server.seen} == {"/v1/completions"}


@pytest.mark.parametrize("trouble", [
    (429, {"error": {"message": "slow down"}}),
    (500, "<html>oops</html>"),
    (503, ""),
    (200, "this is no JSON"),
    (200, "[1, 2]"),
    "torn",
    "hang up",
])  # fmt: skip
def test_what_passes_is_tried_again_and_the_answer_counts_once(fake: Callable[..., Fake], trouble: Reply):
    server = fake(lambda path, body, times: trouble if times < 2 else (200, completion(body)))
    backend = server.backend()
    answers = told(backend, questions(5))
    assert [answers[n].text for n in range(5)] == [f"to question {n}" for n in range(5)]
    assert backend.retried == 10 and len(server.seen) == 15


def test_a_timeout_is_tried_again(fake: Callable[..., Fake]):
    def slow(path: str, body: dict[str, Any], times: int) -> Reply:
        if times == 0:
            time.sleep(0.6)
        return 200, completion(body)

    assert told(fake(slow).backend(timeout=0.3), questions(1))[0].text == "to question 0"


def test_retry_after_is_waited_for_and_waits_double(fake: Callable[..., Fake]):
    server = fake(lambda p, body, n: (429, {}, {"retry-after": "0.5"}) if n == 0 else (200, completion(body)))
    told(server.backend(), questions(1))
    assert server.times[1] - server.times[0] >= 0.5
    server = fake(lambda p, body, n: (503, {}) if n < 4 else (200, completion(body)))
    told(server.backend(first_wait=0.05), questions(1))
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert all(gap >= 0.05 * 2**n for n, gap in enumerate(gaps)) and len(gaps) == 4
    assert _retry_after("Thu, 01 Jan 1970 00:00:10 GMT") == 0.0 and _retry_after("soon") == 0.0
    assert 3000 < _retry_after(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600))) <= 3600


def test_who_never_answers_is_given_up_with_what_came_before_kept(fake: Callable[..., Fake]):
    server = fake(lambda p, body, n: (503, {"error": "busy"}) if "3" in body["prompt"] else (200, completion(body)))
    got = []
    with pytest.raises(StateError, match=r"answered 503: busy\. Tried 3 times; the answers so far are kept"):
        for answer in server.backend(retries=2, concurrency=2).generate(questions(8)):
            got.append(answer.index)
    assert {0, 1, 2} <= set(got) and 3 not in got
    assert all(sum(b["prompt"] == f"question {n}" for _, b in server.seen) <= 1 for n in range(8) if n != 3)


@pytest.mark.parametrize(("status", "body", "error", "words"), [
    (401, {"error": {"message": "bad key"}}, RecipeError, "401: bad key. Is the key in the environment variable"),
    (404, {"detail": "Not Found"}, RecipeError, "Is the URL right"),
    (400, {"error": {"message": "unknown field top_k"}}, StateError, "--top-k 0"),
    (418, "", StateError, "answered 418"),
    (200, {"object": "list"}, StateError, "expected 'choices'"),
    (200, {"choices": [{"text": 7}]}, StateError, "expected a text"),
])  # fmt: skip
def test_what_does_not_pass_is_said_at_once(fake: Callable[..., Fake], status, body, error, words):
    server = fake(lambda p, b, n: (status, body))
    with pytest.raises(error) as raised:
        told(server.backend(), questions(1))
    assert words in str(raised.value) and len(server.seen) == 1


def test_a_prompt_the_server_finds_too_long_is_refused_and_the_others_are_answered(fake: Callable[..., Fake]):
    message = {"error": {"message": "This model's maximum context length is 8 tokens."}}
    server = fake(lambda p, body, n: (400, message) if "1" in body["prompt"] else (200, completion(body)))
    answers = told(server.backend(), questions(3))
    assert isinstance(answers[1], Refused) and "maximum context length is 8" in answers[1].reason
    assert answers[0].text == "to question 0" and answers[2].text == "to question 2"


def test_the_key_goes_into_the_header_alone(fake: Callable[..., Fake], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server = fake(lambda p, body, n: (200, completion(body)))
    backend = server.backend()
    told(backend, questions(1))
    assert server.keys == ["Bearer sk-secret"]
    assert "sk-secret" not in repr(backend.identity) + repr(server.seen) + repr(vars(backend)["_server"])


def test_samples_come_in_one_request_or_in_as_many_as_the_server_needs(fake: Callable[..., Fake]):
    request = GenerateRequest(prompt="p", samples=5, sampling=Sampling(temperature=0.7, top_k=40, top_p=0.9, seed=3))
    server = fake(lambda p, body, n: (200, completion(body)))
    assert told(server.backend(), [request])[0].new_tokens == 15
    (body,) = (b for _, b in server.seen)
    assert (body["n"], body["temperature"], body["top_k"], body["top_p"], body["seed"]) == (5, 0.7, 40, 0.9, 3)
    single = fake(lambda p, body, n: (200, {"choices": [{"text": f"seed {body['seed']}"}]}))
    answer = told(single.backend(), [request])[0]
    assert answer.texts == tuple(f"seed {3 + n}" for n in range(5)) and len(single.seen) == 5
    many = fake(lambda p, body, n: (200, {"choices": [{"text": "x"}] * 9}))
    assert len(told(many.backend(), [request])[0].texts) == 5


def test_a_chat_goes_as_messages_and_in_the_servers_own_terms(fake: Callable[..., Fake]):
    def reply(path: str, body: dict[str, Any], times: int) -> Reply:
        if "max_tokens" in body:
            return 400, {"error": {"message": "Unsupported parameter: use max_completion_tokens instead."}}
        said = None if body["messages"][-1]["content"] == "empty" else body["messages"][-1]["content"].upper()
        return 200, {"choices": [{"message": {"role": "assistant", "content": said}}]}

    server = fake(reply)
    backend = server.backend(concurrency=1)
    assert backend.chat_template is not None
    prompts = [backend.chat_template([{"role": "user", "content": text}]) for text in ('say "hé"\n', "empty")]
    answers = told(backend, [GenerateRequest(prompt=p, special=True) for p in prompts])
    assert answers[0].text == 'SAY "HÉ"\n' and answers[1].text == ""
    assert [p for p, _ in server.seen] == ["/v1/chat/completions"] * 3  # asked otherwise once, then known
    with pytest.raises(RecipeError, match=r"cannot be scored inside a chat.*--generate"):
        list(backend.score([ScoreRequest(prompt=prompts[0], options=("a",), special=True)]))


def echo(body: dict[str, Any], width: int = 3) -> dict[str, Any]:
    """As servers echo: tokens of `width` characters, each with a log-probability of minus its place, and a new one."""
    choices, tokens = [], 0
    for index, text in enumerate(body["prompt"]):
        starts = list(range(0, len(text), width))
        tokens += len(starts)
        told = {
            "tokens": [text[s : s + width] for s in starts] + [" new"],
            "token_logprobs": [None, *(-float(s) for s in starts[1:]), -1000.0],
            "text_offset": [*starts, len(text)],
        }
        choices.append({"index": index, "text": text + " new", "logprobs": told})
    return {"choices": choices[::-1], "usage": {"prompt_tokens": tokens}}


def test_options_are_scored_by_echo_without_the_new_token(fake: Callable[..., Fake]):
    server = fake(lambda p, body, n: (200, echo(body)))
    (scored,) = server.backend().score([ScoreRequest(prompt="Q: A:", options=(" (A)", " (Bcd)"))])
    # "Q: A:" has 5 characters: the tokens at 3 (which both share), 6, 9 end behind it.
    assert scored.scores == (-3.0 - 6.0, -3.0 - 6.0 - 9.0) and scored.prompt_tokens == 3 + 4
    assert all(b["echo"] and b["max_tokens"] == 1 for _, b in server.seen)


@pytest.mark.parametrize("reply", [
    (400, {"error": {"message": "echo is not supported"}}),
    (200, {"choices": [{"text": "x", "logprobs": None}]}),
    (200, {"choices": [{"text": "x", "logprobs": {"token_logprobs": [-1.0], "text_offset": [0]}}]}),
    (200, {"choices": [{"text": "x"}, {"text": "y"}]}),
])  # fmt: skip
def test_who_cannot_score_is_refused_with_what_to_do(fake: Callable[..., Fake], reply: Reply):
    with pytest.raises(RecipeError, match="--generate, or --mode cot"):
        list(fake(lambda p, body, n: reply).backend().score([ScoreRequest(prompt="some prompt", options=("x",))]))


def test_a_sum_that_lacks_a_tokens_value_is_no_sum():
    with pytest.raises(RecipeError, match="only a part"):
        _sum_of({"token_logprobs": [None, -1.0], "text_offset": [0, 2]}, "", "abc", "here")


def test_no_more_are_under_way_than_allowed_and_no_more_begin_in_a_minute(fake: Callable[..., Fake]):
    def slow(path: str, body: dict[str, Any], times: int) -> Reply:
        time.sleep(0.02)
        return 200, completion(body)

    server = fake(slow)
    told(server.backend(concurrency=3), questions(12))
    assert server.most_at_once == 3
    server = fake(lambda p, body, n: (200, completion(body)))
    told(server.backend(per_minute=600), questions(5))
    assert server.times[-1] - server.times[0] >= 0.4 * 0.9  # a tenth of a second apart, less the clock's grain


def test_cost_is_counted_from_what_the_server_says():
    assert Prices(prompt=2.0, new=8.0).cost(1_000_000, 500_000) == 6.0


def test_a_url_that_is_none_is_refused():
    with pytest.raises(RecipeError, match="expected http"):
        OpenAIServer(Server(base_url="localhost:8000", model="m"))


def test_a_wait_of_hours_is_said_and_the_run_ends(fake: Callable[..., Fake]):
    server = fake(lambda path, body, times: (429, {"error": "quota"}, {"retry-after": "86400"}))
    begun = time.monotonic()
    with pytest.raises(StateError, match=r"asks to be left alone for 24\.0 hours"):
        told(server.backend(), questions(1))
    assert time.monotonic() - begun < 5
    assert _retry_after("inf") == _retry_after("nan") == 0.0


def test_an_answer_in_drips_times_out_and_is_tried_again(fake: Callable[..., Fake]):
    server = fake(lambda path, body, times: "drips" if times == 0 else (200, completion(body)))
    backend = server.backend(timeout=0.5)
    assert told(backend, questions(1))[0].text == "to question 0" and backend.retried == 1


@pytest.mark.parametrize(
    "trouble",
    [
        (200, "not compressed at all", {"content-encoding": "gzip"}),
        (200, {"error": {"message": "overloaded", "code": 502}}),
        (200, {"error": "overloaded", "choices": []}),
    ],
)
def test_an_answer_that_is_none_is_tried_again(fake: Callable[..., Fake], trouble: Reply):
    server = fake(lambda path, body, times: trouble if times == 0 else (200, completion(body)))
    backend = server.backend()
    assert told(backend, questions(1))[0].text == "to question 0" and backend.retried == 1


@pytest.mark.parametrize("usage", [[1], {"prompt_tokens": "many"}, None, "none"])
def test_odd_bookkeeping_costs_no_answer(fake: Callable[..., Fake], usage: Any):
    server = fake(lambda path, body, times: (200, completion(body) | {"usage": usage}))
    answer = told(server.backend(), questions(1))[0]
    assert (answer.text, answer.prompt_tokens) == ("to question 0", 0)


@pytest.mark.parametrize("choice", [{}, {"index": 0, "delta": {"content": "hi"}}, {"message": {"role": "assistant"}}])
def test_a_choice_without_a_text_is_no_empty_answer(fake: Callable[..., Fake], choice: dict[str, Any]):
    server = fake(lambda path, body, times: (200, {"choices": [choice]}))
    with pytest.raises(StateError, match="expected a text in the answer"):
        told(server.backend(), questions(1))
