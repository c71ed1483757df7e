"""Options of `flantune eval`: what is asked and how, who answers, what is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from flantune.cli.options import RayAddressOpt, chosen_workers
from flantune.cli.scores import ReadingOpt, checked_modes, checked_reading
from flantune.errors import RecipeError

if TYPE_CHECKING:
    from flantune.cli.backends import Answering
    from flantune.inference.backends import Prices
    from flantune.inference.openai import Server

CONCURRENCY, TIMEOUT = 8, 300.0  # requests under way at a server, and seconds for one


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatAsked:
    """Which questions."""

    benchmark: Annotated[
        str | None,
        typer.Option("--benchmark", "-b", help="Names with commas, or a .yaml or .py file of your own. [mmlu]"),
    ] = None
    suite: Annotated[str | None, typer.Option("--suite", help="flan, core or quick: benchmarks asked together.")] = None
    mode: Annotated[
        str | None, typer.Option("--mode", help="direct, cot, or both with a comma; all when not given.")
    ] = None
    data: Annotated[Path | None, typer.Option("--data", help="Folder with the benchmarks' folders.")] = None
    path: Annotated[Path | None, typer.Option("--path", help="One benchmark's own file or folder.")] = None
    shots: Annotated[int | None, typer.Option("--shots", min=0)] = None
    split: Annotated[str | None, typer.Option("--split")] = None

    def spec_keys(self) -> dict[str, Any]:
        """Keys of BenchmarkSpec that a suite settles itself. Raises RecipeError for an unknown mode."""
        path = str(self.path) if self.path else None
        return {"path": path, "modes": checked_modes(self.mode), "shots": self.shots, "split": self.split}


@dataclass(frozen=True, slots=True, kw_only=True)
class HowAsked:
    """How questions are put and answers drawn and read."""

    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Items per task.")] = None
    chat: Annotated[
        str, typer.Option("--chat", help="Through the model's chat template: single message, or dialogue turns.")
    ] = "plain"
    trigger: Annotated[
        str | None,
        typer.Option("--trigger", help="Begins a chain of thought with --shots 0: kojima, flan, zh, or the words."),
    ] = None
    normalise: Annotated[
        str, typer.Option("--normalise", help="Of options' log-probabilities: none, length or unconditional.")
    ] = "none"
    generate: Annotated[
        bool, typer.Option("--generate", help="Have answers written and read where their options would be scored.")
    ] = False
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="Answers drawn per question; 40 where --select needs several."),
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", min=0, help="0.7 with several samples, else 0: the likeliest token."),
    ] = None
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=0, help="Draw from the likeliest tokens; 0: all. [40 when drawing]")
    ] = None
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Draw from the likeliest tokens that reach this probability.")
    ] = None
    select: Annotated[
        str | None,
        typer.Option("--select", help="Which sample stands: majority, complexity best-of; or hints: ask again."),
    ] = None
    scorer: Annotated[
        str | None,
        typer.Option(
            "--scorer", help="Of best-of: logprob, length, or a .py file with score(prompt, output). [logprob]"
        ),
    ] = None
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, help="Longest samples that vote under complexity; half when not given."),
    ] = None
    reading: ReadingOpt = "default"

    def spec_keys(self) -> dict[str, Any]:
        """Keys of BenchmarkSpec for what was not left as it is. Raises RecipeError for a word that is not known."""
        checked_reading(self.reading)
        stated = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}
        known = {
            "chat": ("plain", "single", "dialogue"),
            "normalise": ("none", "length", "unconditional"),
            "select": ("majority", "complexity", "best-of", "hints"),
        }
        for name, words in known.items():
            if name in stated:
                one_of(f"--{name}", stated[name], words)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise RecipeError(f"--top-p {self.top_p}: expected a probability above 0.")
        return stated


@dataclass(frozen=True, slots=True, kw_only=True)
class WhoAnswers:
    """The backend, its server where it has one, and how many share the work."""

    backend: Annotated[
        str,
        typer.Option("--backend", help="ours, vllm, openai (any server that speaks its API), or mock (a dry run)."),
    ] = "ours"
    base_url: Annotated[
        str | None,
        typer.Option(
            "--base-url",
            help="Of the server, up to and with /v1. Its key: environment FLANTUNE_API_KEY or OPENAI_API_KEY.",
        ),
    ] = None
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="Of the server's model: prompts are measured and chats worded here."),
    ] = None
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help=f"Requests under way at the server. [{CONCURRENCY}]")
    ] = None
    per_minute: Annotated[
        int | None, typer.Option("--per-minute", min=1, help="Requests that may begin in a minute.")
    ] = None
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.1, help=f"Seconds for one request. [{TIMEOUT:.0f}]")
    ] = None
    price: Annotated[
        str | None,
        typer.Option("--price", help="READ,WRITTEN per million tokens: what it cost is told. E.g. 0.15,0.60"),
    ] = None
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that share the work; with GPUs, one each.")
    ] = None
    ray: Annotated[
        bool, typer.Option("--ray", help="Share the work on a Ray cluster: the one there is, or a new one here.")
    ] = False
    ray_address: RayAddressOpt = None

    def answering(self, model: str | None, max_inputs: int | None) -> Answering | None:
        """Who answers, as the options say; None where no model is named. Raises RecipeError where they do not agree."""
        from flantune.cli.backends import Answering
        from flantune.inference.backends import BackendName

        one_of("--backend", self.backend, get_args(BackendName))
        of_server = ("base_url", "concurrency", "per_minute", "timeout", "price")
        stated = [f"--{name.replace('_', '-')}" for name in of_server if getattr(self, name) is not None]
        if self.backend != "openai" and stated:
            raise RecipeError(f"{', '.join(stated)}: for --backend openai alone.")
        if self.backend == "openai" and self.base_url is None:
            raise RecipeError("--backend openai: which server? Give --base-url, such as http://localhost:8000/v1.")
        workers = (self.workers, self.ray, self.ray_address)
        if self.backend != "ours" and any(workers):
            raise RecipeError(
                f"--workers and --ray divide our own engine's work, not that of --backend {self.backend}."
            )
        if model is None:
            return None
        return Answering(
            model=model,
            backend=self.backend,  # type: ignore[arg-type]  # one of them, as checked
            max_inputs=max_inputs,
            tokenizer=self.tokenizer,
            server=self._server(model, self.base_url) if self.base_url is not None else None,
            workers=chosen_workers(*workers),
        )

    def _server(self, model: str, base_url: str) -> Server:
        from flantune.inference.openai import Server

        return Server(
            base_url=base_url,
            model=model,
            concurrency=self.concurrency or CONCURRENCY,
            per_minute=self.per_minute,
            timeout=self.timeout or TIMEOUT,
            prices=_prices(self.price),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """What was answered before."""

    no_reuse: Annotated[
        bool, typer.Option("--no-reuse", help="Ask also what other runs were answered; keep nothing for later ones.")
    ] = False
    reuse_from: Annotated[
        Path | None,
        typer.Option(
            "--reuse-from", help="The store of answers to use. [answers.sqlite in FLANTUNE_CACHE or ~/.cache]"
        ),
    ] = None

    def path(self) -> Path | None:
        """The store of answers; None for none. Raises RecipeError for a named one that is not there."""
        from flantune.inference.answers import FILE, default_path

        if self.no_reuse and self.reuse_from is not None:
            raise RecipeError("--no-reuse and --reuse-from: give one of them.")
        if self.no_reuse:
            return None
        if self.reuse_from is None:
            return default_path()
        path = self.reuse_from / FILE if self.reuse_from.is_dir() else self.reuse_from
        if not path.exists():
            raise RecipeError(f"--reuse-from {self.reuse_from}: no such store of answers.")
        return path


def _prices(text: str | None) -> Prices | None:
    from flantune.inference.backends import Prices

    if text is None:
        return None
    try:
        prompt, new = (float(part) for part in text.split(","))
    except ValueError:
        raise RecipeError(f"--price {text}: expected two numbers, READ,WRITTEN per million tokens.") from None
    return Prices(prompt, new)


def one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise RecipeError(f"{option} {value}: expected {', '.join(known)}.")
    return value
