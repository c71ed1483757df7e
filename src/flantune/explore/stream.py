"""Example N of a recipe's stream in full: its text, what it was made from, its token ids and its packed row."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from flantune.explore.collection import DrawFilter
from flantune.explore.lengths import histogram
from flantune.explore.pieces import piece_texts
from flantune.explore.prompts import describe_prompt
from flantune.explore.views import (
    BlockView,
    DrawsView,
    DrawView,
    FillView,
    Lengths,
    MixtureView,
    PackMember,
    PackView,
    PromptView,
    Share,
    SideView,
    StreamView,
    TokensView,
)
from flantune.mixtures import Draw
from flantune.mixtures.rows import StoredRows
from flantune.pipeline.data import (
    Data,
    Progress,
    Readied,
    block_spans,
    encoded_blocks,
    even_shares,
    is_one_sided,
    open_data,
    open_tokenizer,
)
from flantune.pipeline.folder import RunFolder
from flantune.recipe import Recipe
from flantune.tokens.block import PackedBlock, pack_block
from flantune.tokens.encode import EncodedBatch, encode_prompts, format_name
from flantune.tokens.even import EvenShares
from flantune.tokens.spans import BlockSpans
from flantune.tokens.text_share import place_of
from flantune.tokens.tokenizer import Tokenizer
from flantune.types import Packed, Prompt, Tokens

KEPT_BLOCKS = 4  # packed blocks kept at hand
SCANNED_DRAWS = 50_000  # places one filtered walk looks at before it hands back


class ExampleStream:
    """A recipe's stream, opened as the build opens it: the store is read and the tokenizer made where they are not
    there yet. Not shared by threads."""

    def __init__(self, recipe: Recipe, folder: RunFolder, progress: Progress) -> None:
        self.recipe, self._folder, self._progress = recipe, folder, progress
        self.data: Data = open_data(recipe, folder, progress)
        self._blocks: OrderedDict[int, PackedBlock] = OrderedDict()
        self._even: EvenShares | None = None
        self._evened = 0  # blocks it has delivered

    @cached_property
    def tokenizer(self) -> Tokenizer:
        self._progress("tokenizer", 0, 1)
        tokenizer = open_tokenizer(self.recipe, self._folder, self.data)
        self._progress("tokenizer", 1, 1)
        return tokenizer

    @cached_property
    def _encoded_block(self) -> Callable[[int], EncodedBatch]:
        return encoded_blocks(self.recipe, self._folder, Readied(self.data, self.tokenizer))

    @cached_property
    def _spans(self) -> BlockSpans:
        return block_spans(self.recipe, self.data.mixture)

    @cached_property
    def one_sided(self) -> bool:
        return is_one_sided(self.recipe)

    # One example ------------------------------------------------------------------------------------------------------

    def example(self, index: int, *, tokens: bool = True, pack: bool = True) -> StreamView:
        """Example `index`. Its pack needs the whole block it is in; without tokens nothing is encoded."""
        prompt = self.data.mixture.prompt(index, self.data.store)
        encoded = self._encode([prompt]) if tokens else None
        kept = len(prompt.exemplars)
        if encoded is not None and encoded.examples:
            kept -= encoded.examples[0].exemplars_cut
        elif encoded is not None:
            kept = 0
        mixture = self.data.mixture
        return StreamView(
            prompt=self._described(prompt, kept),
            phase=mixture.phase_of(index) + 1 if mixture.phases else None,
            tokens=None if encoded is None else self._tokens(encoded),
            pack=self.pack(index) if pack else None,
        )

    def pack(self, index: int) -> PackView | None:
        """The row the example is packed in, as the build packs it; None where the example is dropped."""
        text = self.recipe.mixture.text
        number = self._spans.block_of(index if text is None else place_of(text.share, index))
        block = self.block(number)
        if index in {dropped for dropped, _ in block.dropped}:
            return None
        while not len(found := np.flatnonzero(block.indices == index)):  # held back to keep the shares even
            number += 1
            block = self.block(number)
        stops = np.cumsum(block.row_sizes)
        row = int(np.searchsorted(stops, found[0], side="right"))
        return self._pack_view(number, row, int(found[0] - (stops[row] - block.row_sizes[row])), block)

    def block(self, number: int) -> PackedBlock:
        """A block of the stream, encoded and packed as the build does it. Where the build keeps shares of tokens even,
        what is in a block depends on those before, which are then made first."""
        known = self._blocks.get(number)
        if known is None:
            self._progress(f"block {number}", 0, 1)
            encoded = self._delivered(number)
            known = self._blocks[number] = pack_block(encoded, self.recipe.tokens, one_sided=self.one_sided)
            self._progress(f"block {number}", 1, 1)
            while len(self._blocks) > KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return known

    def _delivered(self, number: int) -> EncodedBatch:
        if self._even is None or number < self._evened:
            self._even, self._evened = even_shares(self.recipe, self.data), 0
        if self._even is None:
            return self._encoded_block(number)
        for earlier in range(self._evened, number):
            self._progress(f"block {number}", earlier, number)
            self._even.deliver(earlier, self._encoded_block(earlier))
        self._evened = number + 1
        return self._even.deliver(number, self._encoded_block(number))

    def _encode(self, prompts: Sequence[Prompt]) -> EncodedBatch:
        spec = self.recipe.tokens
        inputs_len, targets_len = spec.example_lens
        return encode_prompts(
            prompts,
            self.tokenizer,
            inputs_len=inputs_len,
            targets_len=targets_len,
            few_shot_margin=spec.few_shot_margin,
        )

    def _described(self, prompt: Prompt, kept: int) -> PromptView:
        mixture, store = self.data.mixture, self.data.store
        draw = mixture.draw(prompt.index)
        made = mixture.choices(draw, StoredRows(store))
        templates = [t.name for _, t in made.exemplars] or [prompt.template] * len(prompt.exemplars)
        return describe_prompt(
            prompt,
            store,
            templates=templates,
            kept=kept,
            index=prompt.index,
            part=draw.part,
            epoch=draw.occurrence // mixture.sizes[prompt.task],
        )

    def _tokens(self, encoded: EncodedBatch) -> TokensView:
        if not encoded.examples:
            return TokensView(inputs=None, targets=None, dropped=encoded.dropped[0][1])
        example, (inputs_len, targets_len) = encoded.examples[0], self.recipe.tokens.example_lens
        return TokensView(
            inputs=self._side(example.inputs, inputs_len, example.inputs_cut),
            targets=self._side(example.targets, targets_len, example.targets_cut),
            exemplars_cut=example.exemplars_cut,
        )

    def _side(self, ids: Tokens, limit: int, cut: int) -> SideView:
        numbers = tuple(ids.tolist())
        return SideView(ids=numbers, pieces=piece_texts(numbers, self.tokenizer), limit=limit, cut=cut)

    def _pack_view(self, number: int, row: int, place: int, block: PackedBlock) -> PackView:
        packed, (first, stop) = block.rows()[row], self._spans.span(number)
        mixtures = {index: e.mixture for index, e in block.examples().items()}
        places = spans(packed, self.one_sided)
        return PackView(
            block=number,
            first=first,
            stop=stop,
            row=row,
            rows=len(block),
            one_sided=self.one_sided,
            place=place,
            members=tuple(
                PackMember(index=index, task=task, mixture=mixtures[index], inputs=inputs, targets=targets)
                for index, task, (inputs, targets) in zip(packed.indices.tolist(), packed.tasks, places, strict=True)
            ),
            fill=self._fill([packed]),
        )

    def _fill(self, rows: Sequence[Packed]) -> dict[str, FillView]:
        spec = self.recipe.tokens
        inputs, targets = sum(len(r.inputs) for r in rows), sum(len(r.targets) for r in rows)
        if self.one_sided:
            return {"row": FillView(used=inputs + targets, limit=len(rows) * (spec.inputs_len + spec.targets_len))}
        return {
            "inputs": FillView(used=inputs, limit=len(rows) * spec.inputs_len),
            "targets": FillView(used=targets, limit=len(rows) * spec.targets_len),
        }

    # Many examples ----------------------------------------------------------------------------------------------------

    def block_view(self, number: int) -> BlockView:
        block, (first, stop) = self.block(number), self._spans.span(number)
        return BlockView(
            block=number,
            first=first,
            stop=stop,
            examples=len(block.indices),
            dropped=len(block.dropped),
            rows=len(block),
            fill=self._fill(block.rows()),
            lengths=Lengths(
                unit="tokens",
                inputs=histogram(block.lengths[:, 0].tolist()),
                targets=histogram(block.lengths[:, 1].tolist()),
                of=len(block.indices),
            ),
        )

    def draws(self, start: int, count: int, wanted: DrawFilter, *, backwards: bool = False) -> DrawsView:
        """The next `count` places from `start` on (or down from it) that the filter lets through, looking at no more
        than SCANNED_DRAWS of them. No row is read."""
        found: list[DrawView] = []
        index, step = start, -1 if backwards else 1
        scanned = 0
        while index >= 0 and len(found) < count and scanned < SCANNED_DRAWS:
            draw = self.data.mixture.draw(index)
            scanned += 1
            index += step
            name = format_name(draw.format)
            if self._passes(draw, name, wanted):
                found.append(
                    DrawView(index=draw.index, mixture=draw.mixture, task=draw.task, row=draw.row, format=name)
                )
        return DrawsView(draws=tuple(found), scanned=scanned, next=index if index >= 0 else None)

    def _passes(self, draw: Draw, name: str, wanted: DrawFilter) -> bool:
        return (
            (wanted.mixture is None or draw.mixture == wanted.mixture)
            and (wanted.format is None or name == wanted.format)
            and (wanted.task is None or wanted.task.casefold() in draw.task.casefold())
            and (wanted.category is None or self.data.store.tasks[draw.task].category == wanted.category)
        )

    def mixture_view(self) -> MixtureView:
        mixture = self.data.mixture
        sizes: dict[str, int] = {}
        for name, task in sorted({(leaf.mixture, leaf.task) for leaf in mixture.leaves}):
            sizes[name] = sizes.get(name, 0) + mixture.sizes[task]
        formats: dict[str, float] = {}
        for format, share in mixture.format_shares().items():
            formats[format_name(format)] = formats.get(format_name(format), 0.0) + share
        return MixtureView(
            recipe=self.recipe.name,
            seed=self.recipe.seed,
            mixtures=tuple(Share(name=n, share=s, examples=sizes[n]) for n, s in mixture.mixture_shares().items()),
            formats=tuple(Share(name=n, share=s) for n, s in sorted(formats.items())),
            tasks=tuple(
                Share(name=n, share=s, examples=mixture.sizes[n])
                for n, s in sorted(mixture.shares().items(), key=lambda item: (-item[1], item[0]))
            ),
            left_out=tuple(mixture.left_out),
            phases=tuple(
                tuple(Share(name=n, share=s) for n, s in mixture.shares_in_phase(number).items())
                for number in range(len(mixture.phases))
            ),
        )


def spans(packed: Packed, one_sided: bool) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """[start, stop) of each example's inputs and targets within the row, as the collators lay it out."""
    places = []
    a = b = 0
    for n, m in zip(packed.inputs_lengths.tolist(), packed.targets_lengths.tolist(), strict=True):
        if one_sided:
            places.append(((a, a + n), (a + n, a + n + m)))
            a += n + m
        else:
            places.append(((a, a + n), (b, b + m)))
            a, b = a + n, b + m
    return places
