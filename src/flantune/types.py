"""The nouns that cross room boundaries: small, frozen, carrying where they came from.

Task, Example, Template, Format -> Prompt -> Encoded -> Packed        Item -> Result
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

Role = Literal["instruction", "exemplar", "query", "rationale", "target"]
Metric = Literal["exact_match", "rouge_l"]
LookAhead = Literal["causal", "prefix"]  # of a decoder: nothing ahead, or inputs see each other both ways
Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One record of a task, in words.

    `fields` holds what a template may name; `targets` one or more accepted answers (never empty, none blank);
    `options` the closed answer set in its order, where the source states one; `where` is "file:line" or "file:row".
    """

    task: str
    row: int  # position among the task's kept examples, from 0
    id: str
    fields: Mapping[str, str]
    targets: tuple[str, ...]
    rationale: str | None = None
    options: tuple[str, ...] | None = None
    where: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A (dataset, category) pair and what the source says of it. Examples live in the store, not here."""

    name: str  # unique over all collections: "niv2/task1146_country_capital"
    mixture: str  # "muffin", "t0_sf", "niv2", "cot", or the user's own
    dataset: str
    category: str
    templates: str  # name of the template set that words it
    fields: tuple[str, ...]  # names every example carries
    language: str = "en"  # of the inputs
    definition: str | None = None
    demonstrations: tuple[Example, ...] = ()  # exemplars the source ships; an explanation is their rationale
    has_rationale: bool = False
    has_options: bool = False
    own_templates: tuple[Template, ...] = ()  # wording the task brings along; used instead of the set `templates`
    metric: Metric = "exact_match"
    licence: str | None = None
    source: str = ""  # the reader's name
    path: str = ""  # the file or hub id it was read from


@dataclass(frozen=True, slots=True, kw_only=True)
class FewShotLayout:
    """How exemplars and query are laid out when there are exemplars. Patterns use {slot}; `{{` is a brace.

    {instruction} + separator + (inputs_prefix + inputs + delimiter + targets_prefix + targets + separator) per
    exemplar + inputs_prefix + query inputs + delimiter + targets_prefix          (spec 3.3, 3.8)
    """

    inputs: str
    targets: str
    instruction: str = ""
    inputs_prefix: str = ""
    delimiter: str = "\n"
    targets_prefix: str = ""
    separator: str = "\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """One wording: patterns over an example's fields plus `answer`, `rationale`, `definition` and `options_`.

    `options_` is the rendered choices; in a format without options the slot goes and so do the line breaks before it.
    """

    name: str  # "cot_gsm8k/rationale/3"
    kind: Literal["direct", "rationale", "inverted"]
    inputs: str
    targets: str
    few_shot: FewShotLayout
    language: str = "en"


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """What surrounds the wording. The paper's four settings are `FORMATS` in flantune.formats."""

    shots: int = 0  # exemplars asked for; length pruning may leave fewer
    rationale: Literal["auto", "with", "without"] = "auto"  # auto: with, where the example has one
    instruction: bool = True  # False: exemplars only, every word of instruction left out
    options: Literal["none", "list", "random"] = "list"
    exemplar_templates: Literal["single", "mixed"] = "single"
    demonstrations: bool = False  # take exemplars from the task's own stored ones, explanations included
    inverted: bool = False
    chat: bool = False
    language: str = "any"  # of the wording; "any": every language the task is worded in
    delimiters: Literal["template", "random"] = "template"  # few-shot: each template's own, or drawn per prompt


@dataclass(frozen=True, slots=True)
class Segment:
    role: Role
    text: str
    exemplar: int | None = None  # which exemplar (from 0) the text belongs to


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A rendered example: ordered segments of text, each with its role, and what it was made from."""

    segments: tuple[Segment, ...]
    task: str
    row: int
    template: str
    format: Format
    exemplars: tuple[int, ...] = ()  # rows of the exemplars, in order; demonstrations count from -1 down
    options: tuple[str, ...] | None = None
    references: tuple[str, ...] = ()  # every accepted target, worded as the target is
    mixture: str = ""
    index: int = -1  # place in the mixture's stream
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> str:
        text = "".join(s.text for s in self.segments if s.role not in ("rationale", "target"))
        return text.rstrip(" ")  # spaces only: line breaks at the end belong to the wording (spec 3.3)

    @property
    def target(self) -> str:
        return "".join(s.text for s in self.segments if s.role in ("rationale", "target"))

    def keep_exemplars(self, count: int) -> Prompt:
        """The same prompt with only its first `count` exemplars."""
        kept = tuple(s for s in self.segments if s.exemplar is None or s.exemplar < count)
        return replace(self, segments=kept, exemplars=self.exemplars[:count])


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Token ids of one training example, EOS at both ends, trimmed to the lengths asked. int32, (n,) and (m,)."""

    inputs: Tokens
    targets: Tokens
    index: int
    task: str
    template: str = ""
    mixture: str = ""
    inputs_cut: int = 0  # tokens lost to the length limit
    targets_cut: int = 0
    exemplars_cut: int = 0  # exemplars lost to the few-shot budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """One packed row before padding: whole examples end to end, in order.

    inputs 7 8 1 9 1   inputs_lengths 3 2      targets 3 1 4 1   targets_lengths 2 2
    """

    inputs: Tokens
    targets: Tokens
    inputs_lengths: Tokens  # (k,) one entry per example
    targets_lengths: Tokens  # (k,)
    indices: npt.NDArray[np.int64]  # (k,) places in the stream
    tasks: tuple[str, ...]  # (k,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One evaluation question, worded. Either generated (`options` None) or scored over `options`."""

    benchmark: str
    mode: str  # "direct", "cot"
    task: str  # subject, sub-task or language within the benchmark
    id: str
    prompt: str
    references: tuple[str, ...]
    options: tuple[str, ...] | None = None  # continuations to score, in order
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    metric: Metric = "exact_match"
    shots: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the model said to an item. `score` is None, never 0, where nothing could be read; `reason` says why."""

    item: Item
    output: str
    extracted: str | None
    score: float | None
    rule: str = ""  # the extraction rule that fired
    reason: str = ""
    option_scores: tuple[float, ...] | None = None  # log-probabilities, nats
    truncated: bool = False  # the prompt did not fit and was cut by the stated rule
