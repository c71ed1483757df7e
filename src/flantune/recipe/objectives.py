"""What is asked of plain text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flantune.recipe.section import Section


class DenoiserSpec(Section):
    """One way of corrupting text, by UL2's kinds: R regular, X extreme, S sequential (a split at a random place)."""

    kind: Literal["R", "X", "S"]
    share: float = Field(gt=0, description="relative to the others'")
    mean_span: float = Field(3.0, ge=1, description="tokens; R and X")
    noise_density: float = Field(0.15, gt=0, lt=1, description="R and X")


class TextFiles(Section):
    """A named group of text files, and its share of the documents relative to the other groups'."""

    name: str
    files: tuple[str, ...] = Field(min_length=1)
    weight: float = Field(1.0, gt=0)


class ObjectiveSpec(Section):
    """What is asked of plain text, and where that text comes from: flantune.tokens.objectives."""

    objective: Literal["auto", "span_corruption", "prefix", "lm", "ul2", "ul2r"] = Field(
        "auto", description="auto: span corruption of an encoder-decoder, plain language modelling of a decoder"
    )
    window: int = Field(512, gt=8, description="tokens of text per example before corruption")
    noise_density: float = Field(0.15, gt=0, lt=1, description="T5")
    mean_span: float = Field(3.0, ge=1, description="T5")
    prefix_share: float = Field(0.0, ge=0, le=1, description="examples split at a random place instead (S-denoiser)")
    denoisers: tuple[DenoiserSpec, ...] = Field((), description="a mixture of one's own instead of ul2's or ul2r's")
    mode_tokens: dict[Literal["R", "X", "S"], str] = Field(
        {"R": "[NLU]", "X": "[NLG]", "S": "[S2S]"},
        description="ul2, ul2r: the token before each kind's inputs (spec 7.5), one of the tokenizer's; {} for none",
    )
    sentinels: str = Field("<extra_id_{}>", description="the tokenizer's tokens that stand for spans, {} a number")
    text: Literal["collections", "files"] = Field("collections", description="where the plain text comes from")
    files: tuple[str, ...] | tuple[TextFiles, ...] = Field(
        (),
        description="UTF-8 text files, documents separated by a blank line; or groups of such files, each with its "
        "name and weight",
    )

    @model_validator(mode="after")
    def _denoisers_of_a_mixture(self) -> ObjectiveSpec:
        if self.denoisers and self.objective not in ("ul2", "ul2r"):
            raise ValueError("'denoisers' needs 'objective: ul2' or 'ul2r'")
        if "{}" not in self.sentinels:
            raise ValueError("'sentinels' needs {} where the number stands, as in <extra_id_{}>")
        return self

    @model_validator(mode="after")
    def _groups_by_name(self) -> ObjectiveSpec:
        names = [group.name for group in self.groups]
        if len(set(names)) < len(names):
            raise ValueError(f"'files': two groups have one name, of {', '.join(names)}")
        return self

    @property
    def groups(self) -> tuple[TextFiles, ...]:
        """None where the files are stated without."""
        return tuple(entry for entry in self.files if isinstance(entry, TextFiles))

    @property
    def paths(self) -> tuple[str, ...]:
        """All files, of whichever group."""
        return tuple(p for entry in self.files for p in ((entry,) if isinstance(entry, str) else entry.files))


class TextSpec(ObjectiveSpec):
    """Plain text among the instructions, to hold what the base can do."""

    share: float = Field(gt=0, lt=1, description="of the stream's examples")
    window: int = Field(256, gt=8, description="tokens; a longer document gives a piece of it")
