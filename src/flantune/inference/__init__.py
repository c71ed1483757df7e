"""One engine that asks a model: generate and score."""

from flantune.inference.engine import Engine, Generated, GenerateRequest, Scored, ScoreRequest

__all__ = ["Engine", "GenerateRequest", "Generated", "ScoreRequest", "Scored"]
