"""Options of `flantune eval`: how questions are put and answers drawn, who answers, what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from flantune.cli.options import chosen_workers
from flantune.cli.scores import checked_reading
from flantune.errors import RecipeError

if TYPE_CHECKING:
    from flantune.cli.backends import Answering

CONCURRENCY, TIMEOUT = 8, 300.0  # requests under way at a server, and seconds for one

ChatOpt = Annotated[
    str, typer.Option("--chat", help="Through the model's chat template: single message, or dialogue turns.")
]
TriggerOpt = Annotated[
    str | None,
    typer.Option("--trigger", help="Begins a chain of thought with --shots 0: kojima, flan, zh, or the words."),
]
NormaliseOpt = Annotated[
    str, typer.Option("--normalise", help="Of options' log-probabilities: none, length or unconditional.")
]
GenerateOpt = Annotated[
    bool, typer.Option("--generate", help="Have answers written and read where their options would be scored.")
]
SamplesOpt = Annotated[
    int | None, typer.Option("--samples", min=1, help="Answers drawn per question; 40 where --select needs several.")
]
TemperatureOpt = Annotated[
    float | None, typer.Option("--temperature", min=0, help="0.7 with several samples, else 0: the likeliest token.")
]
TopKOpt = Annotated[
    int | None, typer.Option("--top-k", min=0, help="Draw from the likeliest tokens; 0: all. [40 when drawing]")
]
TopPOpt = Annotated[
    float | None, typer.Option("--top-p", help="Draw from the likeliest tokens that reach this probability.")
]
SelectOpt = Annotated[
    str | None,
    typer.Option("--select", help="Which sample stands: majority, complexity best-of; or hints: ask again."),
]
ScorerOpt = Annotated[
    str | None,
    typer.Option("--scorer", help="Of best-of: logprob, length, or a .py file with score(prompt, output). [logprob]"),
]
KeepOpt = Annotated[
    int | None, typer.Option("--keep", min=1, help="Longest samples that vote under complexity; half when not given.")
]
BackendOpt = Annotated[
    str, typer.Option("--backend", help="ours, vllm, openai (any server that speaks its API), or mock (a dry run).")
]
BaseUrlOpt = Annotated[
    str | None,
    typer.Option(
        "--base-url", help="Of the server, up to and with /v1. Its key: environment FLANTUNE_API_KEY or OPENAI_API_KEY."
    ),
]
TokenizerOpt = Annotated[
    str | None,
    typer.Option("--tokenizer", help="Of the server's model: prompts are measured and chats worded here."),
]
ConcurrencyOpt = Annotated[
    int | None, typer.Option("--concurrency", min=1, help=f"Requests under way at the server. [{CONCURRENCY}]")
]
PerMinuteOpt = Annotated[
    int | None,
    typer.Option("--per-minute", min=1, help="Requests that may begin in a minute."),
]
TimeoutOpt = Annotated[
    float | None, typer.Option("--timeout", min=0.1, help=f"Seconds for one request. [{TIMEOUT:.0f}]")
]
PriceOpt = Annotated[
    str | None, typer.Option("--price", help="READ,WRITTEN per million tokens: what it cost is told. E.g. 0.15,0.60")
]
WorkersOpt = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes that share the work; with GPUs, one each."),
]
RayOpt = Annotated[
    bool, typer.Option("--ray", help="Share the work on a Ray cluster: the one there is, or a new one here.")
]
RayAddressOpt = Annotated[
    str | None, typer.Option("--ray-address", help="HOST:PORT of the cluster's head, or 'local'; implies --ray.")
]
NoReuseOpt = Annotated[
    bool, typer.Option("--no-reuse", help="Ask also what other runs were answered; keep nothing for later ones.")
]
ReuseFromOpt = Annotated[
    Path | None,
    typer.Option("--reuse-from", help="The store of answers to use. [answers.sqlite in FLANTUNE_CACHE or ~/.cache]"),
]


def how_asked(**stated: Any) -> dict[str, Any]:
    """Keys of BenchmarkSpec for what was not left as it is. Raises RecipeError for words that are none of the known."""
    checked_reading(stated["reading"])
    known = {
        "chat": ("plain", "single", "dialogue"),
        "normalise": ("none", "length", "unconditional"),
        "select": ("majority", "complexity", "best-of", "hints"),
    }
    for name, words in known.items():
        if stated[name] is not None:
            one_of(f"--{name}", stated[name], words)
    if stated["top_p"] is not None and not 0 < stated["top_p"] <= 1:
        raise RecipeError(f"--top-p {stated['top_p']}: expected a probability above 0.")
    usual = {"chat": "plain", "normalise": "none", "reading": "default", "generate": False}
    return {name: value for name, value in stated.items() if value is not None and value != usual.get(name)}


def answering(
    model: str | None,
    backend: str,
    server: dict[str, Any],
    tokenizer: str | None,
    max_inputs: int | None,
    workers: tuple[int | None, bool, str | None],
) -> Answering | None:
    """Who answers, as the options say; None where no model is named."""
    from flantune.cli.backends import Answering
    from flantune.inference.backends import BackendName

    one_of("--backend", backend, get_args(BackendName))
    stated = [f"--{name.replace('_', '-')}" for name, value in server.items() if value is not None]
    if backend != "openai" and stated:
        raise RecipeError(f"{', '.join(stated)}: for --backend openai alone.")
    if backend == "openai" and server["base_url"] is None:
        raise RecipeError("--backend openai: which server? Give --base-url, such as http://localhost:8000/v1.")
    if backend != "ours" and any(workers):
        raise RecipeError(f"--workers and --ray divide our own engine's work, not that of --backend {backend}.")
    if model is None:
        return None
    return Answering(
        model=model,
        backend=backend,  # type: ignore[arg-type]  # one of them, as checked
        max_inputs=max_inputs,
        tokenizer=tokenizer,
        server=_server(model, **server) if backend == "openai" else None,
        workers=chosen_workers(*workers),
    )


def _server(
    model: str,
    *,
    base_url: str,
    concurrency: int | None,
    per_minute: int | None,
    timeout: float | None,
    price: str | None,
) -> Any:
    from flantune.inference.openai import Server

    return Server(
        base_url=base_url,
        model=model,
        concurrency=concurrency or CONCURRENCY,
        per_minute=per_minute,
        timeout=timeout or TIMEOUT,
        prices=_prices(price),
    )


def _prices(text: str | None) -> Any:
    from flantune.inference.backends import Prices

    if text is None:
        return None
    try:
        prompt, new = (float(part) for part in text.split(","))
    except ValueError:
        raise RecipeError(f"--price {text}: expected two numbers, READ,WRITTEN per million tokens.") from None
    return Prices(prompt, new)


def reuse_path(no_reuse: bool, reuse_from: Path | None) -> Path | None:
    """The store of answers; None for none. Raises RecipeError for a named one that is not there."""
    from flantune.inference.answers import FILE, default_path

    if no_reuse and reuse_from is not None:
        raise RecipeError("--no-reuse and --reuse-from: give one of them.")
    if no_reuse:
        return None
    if reuse_from is None:
        return default_path()
    path = reuse_from / FILE if reuse_from.is_dir() else reuse_from
    if not path.exists():
        raise RecipeError(f"--reuse-from {reuse_from}: no such store of answers.")
    return path


def one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise RecipeError(f"{option} {value}: expected {', '.join(known)}.")
    return value
