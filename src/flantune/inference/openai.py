"""Any server that speaks OpenAI's completions or chat completions: hosted models, vLLM, llama.cpp, Ollama, TGI.

Plain prompts go to /completions as they are; chats go to /chat/completions as messages, unless a tokenizer was given
whose template words them here. Options are scored by `echo` with `logprobs`, which some servers do and many do not.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from flantune.errors import RecipeError, StateError, shorten
from flantune.inference.backends import Capabilities, ChatTemplate, Local, Prices, Refused
from flantune.inference.requests import Generated, GenerateRequest, Scored, ScoreRequest

if TYPE_CHECKING:
    import httpx

KEY_NAMES = ("FLANTUNE_API_KEY", "OPENAI_API_KEY")  # environment variables, the first that is set
PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # states of a server that may be over soon
LONGEST_WAIT = 60.0  # seconds between two tries, unless the server asks for more
LONGEST_ASKED = 600.0  # seconds that a server may ask for; of more it is told, and the run ends
MOST_STOPS = 4  # stop strings that the protocol allows; all of them are cut at here
A = TypeVar("A", bound=Generated | Scored | Refused)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    base_url: str  # up to and with its version: "http://localhost:8000/v1"
    model: str
    concurrency: int = 8  # requests under way at once
    per_minute: int | None = None  # requests that may begin in a minute
    retries: int = 6  # after the first try of a request
    first_wait: float = 1.0  # seconds before the first retry; each next one waits twice as long
    timeout: float = 300.0  # seconds for one request
    prices: Prices | None = None


class OpenAIServer:
    """`local`: the model's tokenizer, where it is at hand; then prompts are measured and chats worded here."""

    capabilities = Capabilities()

    def __init__(self, server: Server, local: Local | None = None) -> None:
        self._server, self._local = server, local
        self.prices = server.prices
        self.retried = 0
        self._client = _client(server)
        self._pace = _Pace(server.per_minute)
        self._length_field = "max_tokens"
        self.identity: Mapping[str, Any] = {
            "backend": "openai",
            "model": server.model,
            "server": server.base_url.rstrip("/"),
            "max_inputs": local.max_inputs if local else None,
            "chat": "worded here" if local and local.chat_template else "messages",
        }

    @property
    def chat_template(self) -> ChatTemplate | None:
        return (self._local and self._local.chat_template) or _as_json

    def num_tokens(self, text: str) -> int | None:
        return self._local.num_tokens(text) if self._local else None

    def fits(self, prompt: str, *, special: bool = False) -> bool:
        return self._local is None or self._local.fits(prompt, special=special)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Generated | Refused]:
        yield from self._all(self._generate, requests)

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scored | Refused]:
        yield from self._all(self._score, requests)

    def close(self) -> None:
        self._client.close()

    def _all(self, one: Callable[[int, Any], A], requests: Sequence[Any]) -> Iterator[A]:
        """Answers as they come, at most `concurrency` requests under way.

        After an error nothing new is asked; what was under way and still comes is given first, then the error raised.
        """
        waiting = iter(enumerate(requests))
        pool = ThreadPoolExecutor(self._server.concurrency)
        under_way: set[Future[A]] = set()
        error: BaseException | None = None
        self._pace.start()
        try:
            while True:
                while error is None and len(under_way) < self._server.concurrency:
                    if (following := next(waiting, None)) is None:
                        break
                    under_way.add(pool.submit(one, *following))
                if not under_way:
                    break
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    if (raised := future.exception()) is None:
                        yield future.result()
                    else:
                        error = error or raised
                        self._pace.stop()
            if error is not None:
                raise error
        finally:
            self._pace.stop()
            pool.shutdown(wait=False, cancel_futures=True)

    def _generate(self, index: int, request: GenerateRequest) -> Generated | Refused:
        texts: list[str] = []
        prompt_tokens = new_tokens = 0
        while len(texts) < request.samples:  # some servers give one choice whatever `n` says
            path, body = self._ask_for(request, request.samples - len(texts), len(texts))
            answer = self._post(path, body)
            if isinstance(answer, str):
                return Refused(index, answer)
            choices = _choices(answer, self._url(path))
            texts += [_text(choice, self._url(path)) for choice in choices][: request.samples - len(texts)]
            prompt_tokens += _used(answer, "prompt_tokens")
            new_tokens += _used(answer, "completion_tokens")
        cut = tuple(_before(text, request.stop) for text in texts)
        return Generated(index, cut, False, prompt_tokens, new_tokens)

    def _ask_for(self, request: GenerateRequest, number: int, drawn: int) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"model": self._server.model, "temperature": request.sampling.temperature}
        body[self._length_field] = request.max_new_tokens
        if request.stop:
            body["stop"] = list(request.stop[:MOST_STOPS])
        if request.sampling.temperature > 0:
            body["seed"] = request.sampling.seed + request.first + drawn
            body |= {"top_p": request.sampling.top_p} if request.sampling.top_p is not None else {}
            body |= {"top_k": request.sampling.top_k} if request.sampling.top_k is not None else {}
        if number > 1:
            body["n"] = number
        if request.special and not (self._local and self._local.chat_template):
            return "/chat/completions", body | {"messages": orjson.loads(request.prompt)}
        return "/completions", body | {"prompt": request.prompt}

    def _score(self, index: int, request: ScoreRequest) -> Scored | Refused:
        if request.special and not (self._local and self._local.chat_template):
            raise RecipeError(f"{self._server.base_url}: options cannot be scored inside a chat. {_WRITE}")
        # All options in one request: it is answered whole or not at all. Some servers give no text back without a new
        # token; what is new is left out of the sum.
        texts = [request.prompt + option for option in request.options]
        body: dict[str, Any] = {"model": self._server.model, "prompt": texts}
        body |= {"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}
        answer = self._post("/completions", body)
        if isinstance(answer, str):
            return Refused(index, answer)
        choices = sorted(_choices(answer, self._url("/completions")), key=lambda c: c.get("index", 0))
        if len(choices) != len(request.options):
            raise RecipeError(f"{self._server.base_url}: took {len(request.options)} prompts for one. {_WRITE}")
        scores = tuple(
            _sum_of(choice.get("logprobs"), request.prompt, option, self._server.base_url)
            for choice, option in zip(choices, request.options, strict=True)
        )
        return Scored(index, scores, False, _used(answer, "prompt_tokens"))

    def _url(self, path: str) -> str:
        return self._server.base_url.rstrip("/") + path

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | str:
        """The server's answer, or why it will never take this prompt. Tries again what may pass."""
        import httpx

        url, trouble = self._url(path), ""
        for attempt in range(self._server.retries + 1):
            self._pace.turn()
            asked_wait = 0.0
            try:
                response = self._asked(url, body)
                if response.status_code < 300:
                    answer = _json(response)
                    if answer is None:
                        trouble = f"answered with what is no JSON object: {shorten(response.text)}"
                    elif "error" in answer and not answer.get("choices"):  # as a router says that nobody behind it did
                        trouble = f"answered {response.status_code} with an error: {_message(response)}"
                    else:
                        return answer
                elif response.status_code in PASSING:
                    asked_wait = _retry_after(response.headers.get("retry-after"))
                    trouble = f"answered {response.status_code}: {_message(response)}"
                else:
                    refused = self._refusal(response, body)
                    if refused is not None:
                        return refused
                    continue  # asked again in the server's own terms
            except (httpx.TransportError, httpx.DecodingError) as e:
                trouble = f"{type(e).__name__}: {e}"
            if asked_wait > LONGEST_ASKED:
                raise StateError(
                    f"{url}: {trouble.rstrip('.')}, and asks to be left alone for {asked_wait / 3600:,.1f} hours. The "
                    "answers so far are kept, and the same command goes on from them."
                )
            if attempt < self._server.retries:
                self.retried += 1
                self._pace.sleep(max(asked_wait, min(LONGEST_WAIT, self._server.first_wait * 2**attempt)))
        raise StateError(
            f"{url}: {trouble.rstrip('.')}. Tried {self._server.retries + 1} times; the answers so far are kept, and "
            "the same command goes on from them."
        )

    def _asked(self, url: str, body: dict[str, Any]) -> httpx.Response:
        """The whole answer, within the server's timeout: httpx's own is for each piece, however small."""
        import httpx

        begun = time.monotonic()
        with self._client.stream("POST", url, content=orjson.dumps(body)) as response:
            pieces = []
            for piece in response.iter_bytes():
                pieces.append(piece)
                if time.monotonic() - begun > self._server.timeout:
                    raise httpx.ReadTimeout(f"not whole after {self._server.timeout:g} s")
            headers = {k: v for k, v in response.headers.items() if k != "content-encoding"}  # they are decoded
            return httpx.Response(
                response.status_code, headers=headers, content=b"".join(pieces), request=response.request
            )

    def _refusal(self, response: httpx.Response, body: dict[str, Any]) -> str | None:
        """Why the prompt is too long; None where `body` was mended for another try. Raises what cannot be mended."""
        status, message = response.status_code, _message(response)
        url = str(response.url)
        if status in (401, 403):
            named = " or ".join(KEY_NAMES)
            raise RecipeError(f"{url}: {status}: {message} Is the key in the environment variable {named} right?")
        if status == 404:
            raise RecipeError(f"{url}: 404: {message} Is the URL right (up to and with /v1), and the model's name?")
        if status in (400, 413, 422):
            if any(words in message.lower() for words in ("context length", "context_length", "too long", "max_model")):
                return f"{status}: {message}"
            if "max_completion_tokens" in message and "max_tokens" in body:
                self._length_field = "max_completion_tokens"
                body["max_completion_tokens"] = body.pop("max_tokens")
                return None
            if "echo" in body:
                raise RecipeError(f"{url}: gives no log-probabilities of a stated text: {message} {_WRITE}")
        mend = " Give --top-k 0 where it takes no top_k." if "top_k" in message else ""
        raise StateError(f"{url}: answered {status}: {message}{mend}")


_WRITE = "Have the answers written and read instead: --generate, or --mode cot."


class _Pace:
    """Who may begin when: at most so many beginnings in a minute, over all threads. `stop` ends every waiting."""

    def __init__(self, per_minute: int | None) -> None:
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._lock, self._next, self._stopped = threading.Lock(), 0.0, threading.Event()

    def start(self) -> None:
        self._stopped.clear()

    def stop(self) -> None:
        self._stopped.set()

    def turn(self) -> None:
        """Returns when a request may begin."""
        with self._lock:
            begin = max(time.monotonic(), self._next)
            self._next = begin + self._gap
        self.sleep(begin - time.monotonic())

    def sleep(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)):
            raise StateError("another request failed")


def _client(server: Server) -> httpx.Client:
    try:
        import httpx
    except ImportError:
        raise RecipeError(
            "--backend openai needs httpx, which is not installed: pip install 'flantune[openai]'."
        ) from None
    if not server.base_url.startswith(("http://", "https://")):
        raise RecipeError(f"--base-url {server.base_url}: expected http://HOST/v1 or https://HOST/v1.")
    key = next((os.environ[name] for name in KEY_NAMES if os.environ.get(name)), None)
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    limits = httpx.Limits(max_connections=server.concurrency, max_keepalive_connections=server.concurrency)
    return httpx.Client(headers=headers, timeout=server.timeout, limits=limits)


def _as_json(messages: list[dict[str, str]]) -> str:
    """A chat as a request's prompt: its messages, which the server words."""
    return orjson.dumps(messages).decode()


def _json(response: httpx.Response) -> dict[str, Any] | None:
    try:
        answer = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None
    return answer if isinstance(answer, dict) else None


def _message(response: httpx.Response) -> str:
    """The server's words, on one line."""
    answer = _json(response) or {}
    error = answer.get("error", answer.get("message", answer.get("detail")))
    text = error.get("message") if isinstance(error, dict) else error
    words = " ".join(str(text if text else response.text).split())[:300]
    return f"{words.rstrip('.')}." if words else "no reason given."


def _retry_after(header: str | None) -> float:
    """Seconds that the server asks to wait; 0 where it asks for none. A number or a date."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
        return max(0.0, seconds) if math.isfinite(seconds) else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _choices(answer: Mapping[str, Any], url: str) -> list[dict[str, Any]]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(c, dict) for c in choices):
        raise StateError(f"{url}: expected 'choices' in the answer, got {shorten(answer)}. Is this an OpenAI-like API?")
    return choices


def _text(choice: Mapping[str, Any], url: str) -> str:
    message = choice.get("message")
    holder, name = (message, "content") if isinstance(message, dict) else (choice, "text")
    text = holder.get(name)
    if name not in holder or (text is not None and not isinstance(text, str)):
        raise StateError(f"{url}: expected a text in the answer, got {shorten(choice)}.")
    return text or ""  # a chat whose content is null said nothing


def _used(answer: Mapping[str, Any], name: str) -> int:
    """Tokens that the server says it read or wrote; 0 where it does not say."""
    usage = answer.get("usage")
    told = usage.get(name) if isinstance(usage, dict) else None
    return told if isinstance(told, int) else 0


def _before(text: str, stop: Sequence[str]) -> str:
    return text[: min((p for s in stop if s and (p := text.find(s)) >= 0), default=len(text))]


def _sum_of(told: Any, prompt: str, option: str, where: str) -> float:
    """Log-probability of the option's tokens: those that end after the prompt and begin before the option's end."""
    places = told.get("text_offset") if isinstance(told, dict) else None
    values = told.get("token_logprobs") if isinstance(told, dict) else None
    if not places or not values or len(places) != len(values):
        raise RecipeError(f"{where}: gives no log-probabilities of a stated text (echo with logprobs). {_WRITE}")
    begin, end = len(prompt), len(prompt) + len(option)
    ends = [*places[1:], max(end, places[-1] + 1)]
    own = [v for v, start, stop in zip(values, places, ends, strict=True) if stop > begin and start < end]
    if places[-1] < begin or not own or any(v is None for v in own):
        raise RecipeError(f"{where}: gives back only a part of a stated text's log-probabilities. {_WRITE}")
    return float(sum(own))
