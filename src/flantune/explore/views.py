"""What `flantune preview --json` prints and the explorer's API answers: one typed shape for each thing shown."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from flantune.types import Role

Unit = Literal["characters", "tokens"]


class View(BaseModel):
    model_config = ConfigDict(frozen=True)


class SegmentView(View):
    role: Role
    text: str
    exemplar: int | None = None  # which one, from 0
    cut: bool = False  # of an exemplar that did not fit the few-shot budget


class ExemplarView(View):
    row: int  # of the task; stored demonstrations count from -1 down
    where: str  # file and line
    template: str
    cut: bool = False


class PromptView(View):
    """A rendered example and what it was made from."""

    index: int | None = None  # place in the stream; None outside one
    mixture: str
    part: str | None = None  # path of the part of the mixture that named the task
    task: str
    dataset: str
    category: str
    language: str
    row: int
    id: str
    where: str
    epoch: int | None = None  # how often the task's rows were all seen before
    template: str
    format: str
    settings: dict[str, Any]  # every field of the format
    exemplars: tuple[ExemplarView, ...]
    options: tuple[str, ...] | None
    references: tuple[str, ...]  # every accepted target
    segments: tuple[SegmentView, ...]


class SideView(View):
    """Token ids of one side, its end mark included."""

    ids: tuple[int, ...]
    pieces: tuple[str, ...]  # the text each id stands for
    limit: int  # tokens the side may have
    cut: int  # tokens lost to the limit


class TokensView(View):
    inputs: SideView | None  # None where the example is dropped
    targets: SideView | None
    exemplars_cut: int = 0
    dropped: str | None = None  # why it is not trained on


class PackMember(View):
    """One example of a packed row; places are [start, stop) in the row. In a one-sided row inputs and targets share
    one sequence, and the targets follow the inputs."""

    index: int
    task: str
    mixture: str
    inputs: tuple[int, int]
    targets: tuple[int, int]


class FillView(View):
    used: int
    limit: int


class PackView(View):
    """The packed row that an example is in. A row never spans two blocks of the stream; where the build keeps shares of
    tokens even, a block has some examples of those before it."""

    block: int
    first: int  # the block's examples are [first, stop) of the stream
    stop: int
    row: int  # of the block, from 0
    rows: int  # the block's
    one_sided: bool
    place: int  # of the example within the row, from 0
    members: tuple[PackMember, ...]
    fill: dict[str, FillView]  # by side: "inputs" and "targets", or "row"


class StreamView(View):
    """Example N of the stream in full."""

    prompt: PromptView
    phase: int | None = None  # of a curriculum, from 1
    tokens: TokensView | None = None
    pack: PackView | None = None


class Bin(View):
    start: int
    stop: int  # not included
    count: int


class Histogram(View):
    """Lengths of so many examples. Bins are without gaps and ascending; empty ones are kept."""

    bins: tuple[Bin, ...]
    examples: int
    smallest: int | None = None
    median: int | None = None
    p95: int | None = None
    largest: int | None = None


class Lengths(View):
    unit: Unit
    inputs: Histogram
    targets: Histogram
    of: int  # examples there are, of which `examples` were measured


class BlockView(View):
    """One block of the stream: what packing made of it."""

    block: int
    first: int
    stop: int
    examples: int
    dropped: int
    rows: int
    fill: dict[str, FillView]
    lengths: Lengths


class DrawView(View):
    """What stands at one place of the stream, before any text is read."""

    index: int
    mixture: str
    task: str
    row: int
    format: str


class DrawsView(View):
    draws: tuple[DrawView, ...]
    scanned: int  # places looked at
    next: int | None  # where to go on; None at the stream's beginning


class Share(View):
    name: str
    share: float  # of the stream's examples
    examples: int | None = None  # that there are to draw from


class MixtureView(View):
    recipe: str
    seed: int
    mixtures: tuple[Share, ...]
    formats: tuple[Share, ...]
    tasks: tuple[Share, ...]
    left_out: tuple[tuple[str, str], ...]  # (task, why)
    phases: tuple[tuple[Share, ...], ...] = ()  # of a curriculum, each one's mixtures; the shares above are the run's


class FacetValue(View):
    value: str
    tasks: int


class TaskRow(View):
    name: str
    mixture: str
    dataset: str
    category: str
    language: str
    source: str
    examples: int
    formats: tuple[str, ...]
    has: tuple[str, ...]
    use: str | None = None  # with a recipe: "trained", "held out", "excluded" or why the mixture leaves it out
    share: float | None = None


class TasksView(View):
    tasks: tuple[TaskRow, ...]
    total: int  # that match
    examples: int  # in those
    facets: dict[str, tuple[FacetValue, ...]]  # each counted under the other filters


class TemplateView(View):
    name: str
    kind: str
    language: str
    inputs: str
    targets: str
    few_shot: dict[str, str]


class TaskView(View):
    row: TaskRow
    definition: str | None
    licence: str | None
    metric: str
    fields: tuple[str, ...]
    path: str
    demonstrations: int
    templates: tuple[TemplateView, ...]


class ExamplesView(View):
    prompts: tuple[PromptView, ...]
    skipped: tuple[tuple[int, str], ...]  # (row, why the format does not serve it)
    examples: int  # the task's


class Hit(View):
    """An example that holds the text looked for."""

    task: str
    row: int
    where: str
    field: str
    before: str
    match: str
    after: str


class SearchView(View):
    hits: tuple[Hit, ...]
    scanned: int  # examples looked at by this call
    total: int  # examples that the filters leave
    next: str | None  # hand this back as `start` to go on; None when all was looked at
    stopped: str | None  # why it stopped before the end


class Overview(View):
    version: str
    tasks: int
    examples: int
    rejected: int
    recipe: str | None
    formats: tuple[str, ...]  # to render in
    tokenizer: bool  # whether lengths can be counted in tokens
    read_from: tuple[str, ...]
