"""One engine that asks a model: generate and score. Other backends stand beside it: flantune.inference.backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flantune.inference.requests import GREEDY, Generated, GenerateRequest, Sampling, Scored, ScoreRequest

if TYPE_CHECKING:
    from flantune.inference.engine import Engine

__all__ = ["GREEDY", "Engine", "GenerateRequest", "Generated", "Sampling", "ScoreRequest", "Scored"]


def __getattr__(name: str) -> Any:  # the engine loads torch, which scoring files or asking a server does without
    if name == "Engine":
        from flantune.inference.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
