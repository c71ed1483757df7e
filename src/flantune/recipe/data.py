"""Where examples come from, what is left out of them, and how their tokens lie in rows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flantune.recipe.section import Section


class CollectionSpec(Section):
    """One file, folder or hub id of examples, and how to read it."""

    path: str = Field(description="file, folder, or hub id (with reader: hub)")
    reader: str = Field("auto", description="auto, or a reader's name: flantune.sources.READERS")
    mixture: str | None = Field(None, description="name the tasks are mixed under; the reader's own when not given")
    columns: dict[str, str] = Field(default_factory=dict, description="for tables and hub sets: role -> column")
    split: str = Field("train", description="for hub sets")
    config: str | None = Field(None, description="for hub sets: the configuration's name")
    include: tuple[str, ...] = Field(("*",), description="globs on file names")
    exclude: tuple[str, ...] = ()


class HeldOut(Section):
    """What must never be trained on. Names and globs; a pattern that matches nothing is an error."""

    tasks: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    mmlu: bool = Field(True, description="leave out NIv2 tasks 664-667 and 685-737 (spec 2.6)")


class DuplicatesSpec(Section):
    """Rows that say what another row says: flantune.mixtures.duplicates."""

    drop: Literal["none", "exact", "near"] = Field(
        "none",
        description="leave out of training what an earlier task or row has, and what a held-out or excluded task has",
    )
    similarity: float = Field(0.8, gt=0, le=1, description="Jaccard, of three-word shingles, from which rows are near")


class TokensSpec(Section):
    inputs_len: int = Field(2048, gt=1, description="tokens; spec 3.6")
    targets_len: int = Field(512, gt=1, description="tokens; spec 3.6")
    few_shot_margin: int = Field(
        128, ge=0, description="few-shot inputs are pruned to inputs_len minus this; 2048 - 128 = 1920, spec 3.6"
    )
    example_inputs_len: int | None = Field(
        None, gt=1, description="tokens one example may have, where rows are longer; inputs_len when not given"
    )
    example_targets_len: int | None = Field(None, gt=1, description="the same of targets; targets_len when not given")
    packing: Literal["best_fit", "next_fit", "none"] = Field("best_fit", description="next_fit is seqio's")
    block: int = Field(4096, gt=0, description="examples packed together; a pack never spans two blocks")
    shard_rows: int = Field(1024, gt=0, description="packed rows per shard file")
    reuse: bool = Field(True, description="tokenise each text of a source once and compose prompts from its tokens")

    @model_validator(mode="after")
    def _examples_fit_rows(self) -> TokensSpec:
        for side, example, row in zip(("inputs", "targets"), self.example_lens, self.row_lens, strict=True):
            if example > row:
                raise ValueError(f"example_{side}_len is {example}: expected at most {side}_len, {row}")
        return self

    @property
    def row_lens(self) -> tuple[int, int]:
        """Tokens of a packed row, inputs and targets."""
        return self.inputs_len, self.targets_len

    @property
    def example_lens(self) -> tuple[int, int]:
        """Tokens that one example is pruned and trimmed to, inputs and targets."""
        return self.example_inputs_len or self.inputs_len, self.example_targets_len or self.targets_len
