"""`flantune preview`: example N of the training stream in full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from flantune.cli.console import ProgressLine, emit, guarded, out
from flantune.cli.options import DataOpt, JsonOpt, RecipeArg, RunsOpt, SetOpt, open_recipe

if TYPE_CHECKING:
    from rich.text import Text

    from flantune.explore.views import PackView, PromptView, SegmentView, SideView, StreamView

TARGET_ROLES = ("rationale", "target")
PIECE_WIDTH = 18  # columns of a piece beside its id; longer ones end in "…"
PLAIN_WIDTH = 120  # columns where the output is no terminal


def preview(
    recipe: RecipeArg,
    at: Annotated[int, typer.Option("--at", min=0, help="Place in the training stream.")] = 0,
    count: Annotated[int, typer.Option("--count", min=1, help="How many from there.")] = 1,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Every token id with the piece of text it stands for.")
    ] = False,
    text_only: Annotated[
        bool, typer.Option("--text-only", help="No token ids and no pack; needs no tokenizer.")
    ] = False,
    data: DataOpt = None,
    runs: RunsOpt = None,
    change: SetOpt = None,
    json: JsonOpt = False,
) -> None:
    """Example N of the training stream in full: text by role, what it is made from, token ids, its packed row."""
    with guarded():
        from flantune.explore.stream import ExampleStream
        from flantune.pipeline.folder import open_run

        chosen = open_recipe(recipe, data, change, runs)
        progress = ProgressLine()
        stream = ExampleStream(chosen, open_run(chosen), progress)
        shown = []
        for index in range(at, at + count):
            example = stream.example(index, tokens=not text_only, pack=not text_only)
            progress.close()
            if json:
                shown.append(example.model_dump(mode="json"))
            else:
                show(example, pieces=tokens)
        emit(json, {"examples": shown})


def show(example: StreamView, *, pieces: bool) -> None:
    """Print one example: coloured on a terminal, each role named where there are no colours."""
    out.print("\n".join(heading(example)), markup=False)
    out.print(worded(example.prompt, marked=not out.is_terminal), markup=False)
    out.print("\n".join([*token_lines(example, pieces), *pack_lines(example), ""]), markup=False)


def heading(example: StreamView) -> Iterator[str]:
    prompt = example.prompt
    yield f"EXAMPLE {prompt.index}"
    part = f" (part {prompt.part})" if prompt.part and prompt.part != prompt.mixture else ""
    yield f"  mixture    {prompt.mixture}{part}"
    if example.phase is not None:
        yield f"  phase      {example.phase}"
    yield f"  task       {prompt.task} ({prompt.category}; {prompt.language})"
    yield f"  row        {prompt.row}, {prompt.where}" + (f", epoch {prompt.epoch}" if prompt.epoch else "")
    yield f"  template   {prompt.template}"
    yield f"  format     {prompt.format}"
    for number, exemplar in enumerate(prompt.exemplars, 1):
        cut = ", cut: it did not fit" if exemplar.cut else ""
        yield f"  exemplar {number} row {exemplar.row}, {exemplar.where}, template {exemplar.template}{cut}"
    if prompt.options:
        yield f"  options    {' | '.join(map(_one_line, prompt.options))}"
    for reference in prompt.references[1:]:  # the first is the target below
        yield f"  or also    {_one_line(reference)}"


def worded(prompt: PromptView, *, marked: bool) -> Text:
    """The text itself under INPUT and TARGET. `marked` puts each role's name before its text."""
    from rich.text import Text

    from flantune.formats.preview import ROLE_STYLES, masked

    text = Text()
    for title, segments in (
        ("INPUT", [s for s in prompt.segments if s.role not in TARGET_ROLES]),
        ("TARGET", [s for s in prompt.segments if s.role in TARGET_ROLES]),
    ):
        text.append(f"{title}\n", style="reverse")
        before: SegmentView | None = None
        for segment in segments:
            if marked and (before is None or (before.role, before.exemplar) != (segment.role, segment.exemplar)):
                text.append(f"<{_marker(segment)}>")
            style = ROLE_STYLES[segment.role] + (" strike" if segment.cut else "")
            text.append(masked(segment.text), style=style)
            before = segment
        text.append("\n")
    return text


def _marker(segment: SegmentView) -> str:
    number = "" if segment.exemplar is None else f" {segment.exemplar + 1}"
    return segment.role + number + (", cut" if segment.cut else "")


def token_lines(example: StreamView, pieces: bool) -> Iterator[str]:
    tokens = example.tokens
    if tokens is None:
        return
    if tokens.inputs is None or tokens.targets is None:
        yield f"TOKENS none: left out of training; {tokens.dropped}"
        return
    yield "TOKENS"
    for name, side in (("inputs", tokens.inputs), ("targets", tokens.targets)):
        lost = f"; {side.cut:,} cut off the end" if side.cut else ""
        yield f"  {name}: {len(side.ids):,} of at most {side.limit:,}{lost}"
        yield from _pieces(side) if pieces else _ids(side)
    if tokens.exemplars_cut:
        yield f"  {tokens.exemplars_cut} of {len(example.prompt.exemplars)} exemplars cut: they did not fit"


def _ids(side: SideView) -> Iterator[str]:
    import textwrap

    yield from textwrap.wrap(" ".join(map(str, side.ids)), _width(), initial_indent="    ", subsequent_indent="    ")


def _pieces(side: SideView) -> Iterator[str]:
    """Cells of id and piece, in lines that are read like text."""
    from rich.cells import cell_len, set_cell_size

    from flantune.explore.pieces import visible
    from flantune.formats.preview import masked

    digits = max(len(str(i)) for i in side.ids)
    cells = []
    for number, piece in zip(side.ids, side.pieces, strict=True):
        seen = masked(visible(piece))
        seen = seen if cell_len(seen) <= PIECE_WIDTH else set_cell_size(seen, PIECE_WIDTH - 1) + "…"
        cells.append(f"{number:>{digits}} {seen}")
    wide = max(map(cell_len, cells)) + 2
    per_line = max(1, (_width() - 4) // wide)
    for start in range(0, len(cells), per_line):
        yield "    " + "".join(set_cell_size(cell, wide) for cell in cells[start : start + per_line]).rstrip()


def pack_lines(example: StreamView) -> Iterator[str]:
    pack = example.pack
    if pack is None:
        return
    fill = ", ".join(f"{side} {f.used:,} of {f.limit:,} ({f.used / f.limit:.1%})" for side, f in pack.fill.items())
    yield f"PACK row {pack.row} of {pack.rows} of block {pack.block} (examples {pack.first:,} to {pack.stop - 1:,})"
    yield f"  fill: {fill}"
    yield from _members(pack)


def _members(pack: PackView) -> Iterator[str]:
    lines = [("", "example", "inputs", "targets", "task")]
    for place, member in enumerate(pack.members):
        mark = ">" if place == pack.place else ""
        lines.append((mark, str(member.index), _span(member.inputs), _span(member.targets), member.task))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    for mark, index, inputs, targets, task in lines:
        yield (f"  {mark:<1} {index:>{widths[1]}}  {inputs:>{widths[2]}}  {targets:>{widths[3]}}  {task}")


def _span(place: tuple[int, int]) -> str:
    """Tokens from first to last, as they are numbered in the row."""
    start, stop = place
    return f"{start}-{stop - 1}" if stop > start else "none"


def _one_line(text: str) -> str:
    from flantune.formats.preview import masked

    return masked(text).replace("\n", "⏎")


def _width() -> int:
    return out.width if out.is_terminal else PLAIN_WIDTH


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: flantune preview recipes/flan-small-real.yaml --data DIR --at 17")(preview)
