"""The benchmarks, the leaks looked for, and what a checkpoint is chosen on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flantune.recipe.section import Section


class BenchmarkSpec(Section):
    name: str = Field(
        description="a benchmark's name: flantune.evals.BENCHMARKS; a file of your own, NAME.yaml or NAME.py; or "
        "held_out for the recipe's held-out tasks"
    )
    path: str | None = Field(None, description="its files; ${data}/NAME when not given")
    modes: tuple[Literal["direct", "cot"], ...] = ()
    shots: int | tuple[int, ...] | None = Field(None, description="the benchmark's own when not given")
    limit: int | None = Field(None, gt=0, description="items per task, the first ones in a seeded order")
    split: str | None = None
    max_new_tokens: int | None = Field(None, gt=0, description="for held_out; 128 direct and 256 cot when not given")
    chat: Literal["plain", "single", "dialogue"] = Field(
        "plain", description="through the model's chat template: all in one message, or exemplars as turns"
    )
    trigger: str | None = Field(
        None, description="begins a zero-shot chain of thought: kojima, flan, zh, or the words themselves"
    )
    normalise: Literal["none", "length", "unconditional"] = Field(
        "none", description="of options' log-probabilities: per byte, or less that of the option after no question"
    )
    reading: Literal["strict", "default", "loose"] = Field(
        "default", description="of answers: the source's published rule, the robust one, or any hint of an answer"
    )
    generate: bool = Field(False, description="write and read the answers whose options would be scored")
    samples: int | None = Field(None, gt=0, description="of each written answer; 40 where several are chosen among")
    temperature: float | None = Field(None, ge=0, description="0.7 with several samples, else 0: the likeliest token")
    top_k: int | None = Field(None, ge=0, description="the likeliest tokens that are drawn from; 0: all; spec 6.8's 40")
    top_p: float | None = Field(None, gt=0, le=1, description="the likeliest tokens of this probability together")
    select: Literal["majority", "complexity", "best-of", "hints"] | None = Field(
        None, description="which sample stands; majority where there are several; hints asks again with the answers"
    )
    scorer: str = Field(
        "logprob", description="of best-of: logprob, length, or a Python file with score(prompt, output)"
    )
    keep: int | None = Field(None, gt=0, description="longest samples that vote under complexity; half when not given")


class ContaminationSpec(Section):
    """How evaluation items are looked for among the training rows: flantune.mixtures.contamination."""

    check: bool = Field(True, description="look for leaks after an evaluation, and score without them")
    ngram: int = Field(13, gt=1, le=64, description="normalised words")
    threshold: float = Field(0.7, gt=0, le=1, description="share of an item's n-grams in one row: a leak; PaLM's")
    min_words: int = Field(8, gt=0, description="items with fewer, options counted, are not checked")


class EvalSpec(Section):
    benchmarks: tuple[BenchmarkSpec, ...] = ()
    suite: Literal["flan", "core", "quick"] | None = Field(
        None, description="benchmarks asked together, besides `benchmarks`: flantune.evals.SUITES"
    )
    batch_tokens: int | None = Field(
        None, gt=0, description="tokens per forward pass; as many as pay and fit into memory when not given"
    )
    max_inputs: int | None = Field(None, gt=1, description="tokens; the training length when not given")
    precision: Literal["auto", "bf16", "fp32"] = "fp32"
    contamination: ContaminationSpec = ContaminationSpec()


class SelectionSpec(Section):
    """Which checkpoint becomes the model. What it is chosen on is neither trained on nor among what is reported."""

    by: Literal["last", "loss", "score"] = Field(
        "last", description="last: the fixed step `train.steps`, the paper's way; loss or score: the best one measured"
    )
    every: int = Field(500, gt=0, description="steps between two measurements; the last step is measured too")
    tasks: tuple[str, ...] = Field(
        (), description="globs on held-out tasks: these choose, and are left out of the 'held_out' benchmark"
    )
    benchmarks: tuple[BenchmarkSpec, ...] = Field(
        (), description="benchmarks that choose, each on a split that eval.benchmarks does not report"
    )
    limit: int = Field(64, gt=0, description="items per task, the first ones in a seeded order")
    patience: int | None = Field(
        None, gt=0, description="stop after so many measurements without a better one; never when not given"
    )

    @model_validator(mode="after")
    def _has_something_to_choose_on(self) -> SelectionSpec:
        if self.by != "last" and not (self.tasks or self.benchmarks):
            raise ValueError(f"by '{self.by}' needs 'tasks' or 'benchmarks' to choose on")
        if self.by == "last" and (self.tasks or self.benchmarks or self.patience is not None):
            raise ValueError("by 'last' chooses on nothing: set by to 'loss' or 'score', or drop the other keys")
        return self
