"""The mixture: example number i of the stream, computed from (recipe, seed, i) alone.

    index -> place in its block, shuffled -> leaf (part and task) -> occurrence number -> row, format
                                                                     key -> template, exemplars, target, option style

Nothing is carried from one example to the next, so the stream is the same for any number of readers and at any place.
Every choice is keyed by names: a task that is added changes where the others stand, never the order of their rows.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Protocol

from flantune.errors import RecipeError, TemplateError
from flantune.formats import applies, render, select_templates
from flantune.mixtures.counted import Measured, reweighed
from flantune.mixtures.phases import Phase, check_ends, phase_at, pooled
from flantune.mixtures.rows import Rows, RowShape, StoredRows
from flantune.mixtures.sequence import choose, distinct_choices, keyed_word
from flantune.mixtures.stream import BLOCK, Block, Stream
from flantune.mixtures.weights import Leaf, Leaves, find_leaves
from flantune.recipe import MixtureSpec
from flantune.types import Example, Format, Prompt, Task, Template

VERSION = 1  # of the stream: raised when equal recipes would give another one
MAX_EXEMPLAR_TRIES = 64  # rows looked at for one prompt's exemplars before it makes do with fewer

# What a draw's key is used for; each use has random words of its own.
_TEMPLATE, _COUNT, _FIRST_TEMPLATE, _TARGET, _STYLE, _REPLACEMENT, _ROWS = range(7)

Exemplars = tuple[tuple[int, Template], ...]


class Store(Protocol):
    """Where the rows are; flantune.tasks.ExampleStore is one."""

    def example(self, task: str, row: int) -> Example: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What stands at one place of the stream. Made without reading a row.

    `template` and `exemplars` hold for rows that fill every field; a row with blanks, or one that repeats the query,
    gets the key's next choice when the prompt is made, and the Prompt says which.
    """

    index: int
    mixture: str
    part: str  # path of the part that named the task
    task: str
    row: int
    occurrence: int  # how often the task stood before; // its size is the epoch
    format: Format
    template: Template
    exemplars: Exemplars = ()  # (row, template) in order; stored demonstrations count from -1 down
    key: int  # 64 bits; names every random choice that is left


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a draw shows once its rows are known: blanks and repeats have had their say."""

    template: Template
    exemplars: Exemplars  # (row, template); none for stored demonstrations, which the renderer finds in the task
    target_index: int
    style_key: int  # seeds the generator of the options' style and the mixed separator


class Mixture:
    """The stream of one recipe and seed.

    `tasks` and `sizes` (examples) are what may be drawn; `held_out` names what must not be, even where `tasks` has it.
    `templates` gives a task's wording. `phase_ends`: the index at which each of the recipe's phases ends, of the last
    where the run is expected to (flantune.pipeline.phases). Raises RecipeError where nothing, or a part of nothing, is
    left to draw.
    """

    def __init__(
        self,
        spec: MixtureSpec,
        seed: int,
        tasks: Mapping[str, Task],
        sizes: Mapping[str, int],
        templates: Callable[[Task], tuple[Template, ...]],
        *,
        held_out: Collection[str] = (),
        measured: Measured | None = None,
        phase_ends: Sequence[int] = (),
    ) -> None:
        if spec.count != "draws" and measured is None:
            raise RecipeError(
                f"mixture.count: '{spec.count}' needs the lengths of prompts in tokens, so a tokenizer and a sample of "
                "the data; there is none here. 'draws' needs none."
            )
        self.seed = seed
        self._measured = measured
        self._tasks = tasks
        self._templates: dict[str, tuple[Template, ...]] = {}
        self._candidates: dict[tuple[str, Format], tuple[Template, ...]] = {}
        self._for_shapes: dict[tuple[str, Format, RowShape], tuple[Template, ...]] = {}
        self._appliance: dict[tuple[int, str, RowShape], bool] = {}

        def kinds_of(task: Task, format: Format) -> list[str]:
            if task.name not in self._templates:
                self._templates[task.name] = templates(task)
            return [t.kind for t in self._templates[task.name] if format.language in ("any", t.language)]

        def worded(task: Task, format: Format) -> bool:
            return bool(_kinds(format).intersection(kinds_of(task, format)))

        def inverted_share(task: Task, format: Format) -> float:
            kinds = kinds_of(task, format)
            forward = next(k for k in ("rationale", "direct") if k in kinds and k in _kinds(format))
            return kinds.count("inverted") / kinds.count(forward)

        def leaves_of(own: MixtureSpec) -> Leaves:
            return find_leaves(
                own, tasks, sizes, held_out=held_out, template_kinds=worded, inverted_share=inverted_share
            )

        self._lay_out(spec, measured, phase_ends, leaves_of)
        self.sizes = {leaf.task: sizes[leaf.task] for leaf in self.leaves}
        order = measured.order if measured is not None else None
        self._stream = Stream(self.leaves, self.sizes, seed, order, [(p.first, p.leaves) for p in self.phases])

    def _lay_out(
        self,
        spec: MixtureSpec,
        measured: Measured | None,
        phase_ends: Sequence[int],
        leaves_of: Callable[[MixtureSpec], Leaves],
    ) -> None:
        """What is asked, drawn and left out: of each phase, and over all of them."""
        if spec.phases:
            check_ends(phase_ends, len(spec.phases))
        found = [leaves_of(spec.in_phase(p)) for p in range(len(spec.phases))] or [leaves_of(spec)]
        drawn = [(own.leaves, ()) if measured is None else reweighed(own.leaves, measured, spec.count) for own in found]
        self.phases = tuple(
            Phase(first=first, stop=stop, asked=own.leaves, leaves=leaves)
            for first, stop, own, (leaves, _) in zip((0, *phase_ends), phase_ends, found, drawn, strict=False)
        )
        if not self.phases:
            self.leaves, self._asked, self.left_out = drawn[0][0], found[0].leaves, found[0].left_out + drawn[0][1]
            return
        examples = [phase.examples for phase in self.phases]
        self.leaves = pooled([phase.leaves for phase in self.phases], examples)
        counted = examples if measured is None else [p.examples * p.mean(measured, spec.count) for p in self.phases]
        self._asked = pooled([phase.asked for phase in self.phases], counted)
        here = {leaf.task for leaf in self.leaves}
        why = dict(w for own, (_, without) in zip(found, drawn, strict=True) for w in own.left_out + without)
        self.left_out = tuple((task, said) for task, said in sorted(why.items()) if task not in here)

    def draw(self, index: int) -> Draw:
        """Example number `index`, from 0, of a stream without end."""
        if index < 0:
            raise RecipeError(f"index {index}: the stream begins at 0.")
        block, place = divmod(index, BLOCK)
        return self._draw(self._stream.block(block), place)

    def draws(self, start: int, stop: int) -> Iterator[Draw]:
        """`draw(i)` for start <= i < stop; in order costs least."""
        if start < 0:
            raise RecipeError(f"index {start}: the stream begins at 0.")
        for number in range(start // BLOCK, -(-stop // BLOCK)):
            block = self._stream.block(number)
            first = number * BLOCK
            for place in range(max(start, first) - first, min(stop, first + BLOCK) - first):
                yield self._draw(block, place)

    def prompt(self, index: int, store: Store) -> Prompt:
        return self._prompt(self.draw(index), store)

    def prompts(self, indices: Iterable[int], store: Store) -> Iterator[Prompt]:
        """The prompts at `indices`, in that order; neighbours in order cost least."""
        for index in indices:
            yield self.prompt(index, store)

    def draw_for(self, leaf: Leaf, format: Format, row: int, key: int, index: int = -1) -> Draw:
        """A row of a leaf's task in a format, as a draw that stands nowhere in the stream. `key`, 64 bits, names its
        other choices."""
        return self._draw_of(leaf, format, row, key, index=index, occurrence=-1)

    def prompt_of(self, draw: Draw, store: Store) -> Prompt:
        return self._prompt(draw, store)

    def phase_of(self, index: int) -> int:
        """Number of the phase that example `index` stands in, from 0; 0 where the mixture has none."""
        return phase_at(self.phases, index) if self.phases else 0

    def asked_in_phase(self, number: int) -> dict[str, float]:
        """Share by mixture of what the recipe's weights count, in one phase; sums to 1."""
        return _sums((leaf.mixture, leaf) for leaf in self.phases[number].asked)

    def shares_in_phase(self, number: int) -> dict[str, float]:
        """Share of a phase's examples, by mixture; sums to 1."""
        return _sums((leaf.mixture, leaf) for leaf in self.phases[number].leaves)

    def asked_shares(self) -> dict[str, float]:
        """Share by task of what the recipe's weights count (draws, packed examples or tokens); sums to 1."""
        return _sums((leaf.task, leaf) for leaf in self._asked)

    def asked_mixture_shares(self) -> dict[str, float]:
        """Share by mixture of what the recipe's weights count; sums to 1."""
        return _sums((leaf.mixture, leaf) for leaf in self._asked)

    def shares(self) -> dict[str, float]:
        """Share of the stream's examples, by task; sums to 1."""
        return _sums((leaf.task, leaf) for leaf in self.leaves)

    def mixture_shares(self) -> dict[str, float]:
        """Share of the stream's examples, by mixture; sums to 1."""
        return _sums((leaf.mixture, leaf) for leaf in self.leaves)

    def format_shares(self) -> dict[Format, float]:
        """Share of the stream's examples, by format; sums to 1."""
        shares: dict[Format, float] = {}
        for leaf in self.leaves:
            for format, probability in leaf.formats:
                shares[format] = shares.get(format, 0.0) + leaf.probability * probability
        return shares

    def fingerprint(self) -> str:
        """Equal for mixtures that draw the same stream: 32 hex digits over leaves, sizes, formats, wording and seed."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(["flantune mixture", VERSION, self.seed]).encode())
        for first, leaves in [(p.first, p.leaves) for p in self.phases] or [(0, self.leaves)]:
            if first:
                digest.update(f"phase {first}".encode())
            for leaf in leaves:
                digest.update(self._content_of(leaf))
        if self._measured is not None:
            digest.update(self._measured.fingerprint().encode())
        return digest.hexdigest()

    def _content_of(self, leaf: Leaf) -> bytes:
        content: dict[str, object] = {
            "leaf": asdict(leaf),
            "size": self.sizes[leaf.task],
            "templates": [asdict(t) for t in self._templates[leaf.task]],
            "demonstrations": [[dict(d.fields), d.targets] for d in self._tasks[leaf.task].demonstrations],
        }
        return json.dumps(content, sort_keys=True, default=dict).encode()

    def wording_digest(self, task: str) -> str:
        """16 hex digits over the templates and stored demonstrations of a task that can be drawn."""
        shown = [[dict(d.fields), d.targets, d.rationale] for d in self._tasks[task].demonstrations]
        content = [[asdict(t) for t in self._templates[task]], self._tasks[task].definition, shown]
        return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()

    def _draw(self, block: Block, place: int) -> Draw:
        leaf = self.leaves[block.leaf[place]]
        return self._draw_of(
            leaf,
            leaf.formats[block.format[place]][0],
            block.row[place],
            block.key[place],
            index=block.first + place,
            occurrence=block.occurrence[place],
        )

    def _draw_of(self, leaf: Leaf, format: Format, row: int, key: int, *, index: int, occurrence: int) -> Draw:
        candidates = self._candidates_for(leaf.task, format)
        template = candidates[choose(key, _TEMPLATE, len(candidates))]
        return Draw(
            index=index,
            mixture=leaf.mixture,
            part=leaf.path,
            task=leaf.task,
            row=row,
            occurrence=occurrence,
            format=format,
            template=template,
            exemplars=self._exemplars(leaf.task, row, format, template, key) if format.shots else (),
            key=key,
        )

    def _exemplars(self, task: str, row: int, format: Format, template: Template, key: int) -> Exemplars:
        if format.demonstrations:
            known = len(self._tasks[task].demonstrations)
            return tuple((-1 - j, template) for j in range(min(format.shots, known)))
        count = _exemplars_asked(format, key)
        rows = islice(self._exemplar_rows(task, row, key), count)
        return tuple((r, self._exemplar_template(task, format, template, key, j)) for j, r in enumerate(rows))

    def _exemplar_rows(self, task: str, row: int, key: int) -> Iterator[int]:
        """Rows of the task other than the query's, each once, in an order of the key's own."""
        return (r for r in distinct_choices(keyed_word(key, _ROWS), self.sizes[task]) if r != row)

    def _exemplar_template(self, task: str, format: Format, template: Template, key: int, j: int) -> Template:
        """Spec 3.4: the query's own, or consecutive ones of the list from a random start, each another."""
        if format.exemplar_templates == "single":
            return template
        candidates = self._candidates_for(task, format)
        return candidates[(choose(key, _FIRST_TEMPLATE, len(candidates)) + j) % len(candidates)]

    def _candidates_for(self, task: str, format: Format) -> tuple[Template, ...]:
        """Templates for a row of the task that fills every field."""
        known = self._candidates.get((task, format))
        if known is None:
            noun = self._tasks[task]
            example = Example(
                task=task,
                row=0,
                id="",
                fields=dict.fromkeys(noun.fields, "…"),
                targets=("…",),
                rationale="…" if noun.has_rationale else None,
            )
            known = select_templates(self._templates[task], noun, example, format)
            self._candidates[task, format] = known
        return known

    def choices(self, draw: Draw, rows: Rows) -> Choices:
        """The draw's template and exemplars, those exchanged that blanks or repeats rule out. Reads shapes, not text.

        Raises TemplateError where no wording serves the row.
        """
        task, format, key = draw.task, draw.format, draw.key
        shape = rows.shape(task, draw.row)
        template = draw.template
        candidates = self._serving(task, shape, format)
        if not any(t is template for t in candidates):
            template = candidates[choose(key, _REPLACEMENT, len(candidates))]
        shown: Exemplars = ()
        if draw.exemplars and not format.demonstrations:
            shown = self._shown(draw, template, rows)
        return Choices(
            template=template,
            exemplars=shown,
            target_index=choose(key, _TARGET, shape.targets),
            style_key=keyed_word(key, _STYLE),
        )

    def _prompt(self, draw: Draw, store: Store) -> Prompt:
        task, rows = self._tasks[draw.task], StoredRows(store)
        example = rows.example(draw.task, draw.row)
        try:
            made = self.choices(draw, rows)
        except TemplateError:
            # Said again of the row itself, with its place and its fields.
            select_templates(self._templates[draw.task], task, example, draw.format)
            raise
        prompt = render(
            task,
            example,
            made.template,
            draw.format,
            [(rows.example(draw.task, row), template) for row, template in made.exemplars],
            rng=random.Random(made.style_key),
            target_index=made.target_index,
        )
        return replace(prompt, mixture=draw.mixture, index=draw.index)

    def _serving(self, task: str, shape: RowShape, format: Format) -> tuple[Template, ...]:
        """Templates for a row of that shape."""
        known = self._for_shapes.get((task, format, shape))
        if known is None:
            known = select_templates(self._templates[task], self._tasks[task], shape.example(task), format)
            self._for_shapes[task, format, shape] = known
        return known

    def _applies(self, template: Template, task: str, shape: RowShape) -> bool:
        place = (id(template), task, shape)  # templates live as long as the mixture, so ids stay theirs
        known = self._appliance.get(place)
        if known is None:
            known = self._appliance[place] = applies(template, shape.example(task), self._tasks[task])
        return known

    def _shown(self, draw: Draw, template: Template, rows: Rows) -> Exemplars:
        """The draw's exemplars, those passed over that say what the query says or cannot be worded like it."""
        if template is draw.template and all(
            own.kind == template.kind
            and self._applies(own, draw.task, rows.shape(draw.task, row))
            and not rows.same_fields(draw.task, row, draw.row)
            for row, own in draw.exemplars
        ):
            return draw.exemplars  # as nearly all are
        shown: list[tuple[int, Template]] = []
        count = _exemplars_asked(draw.format, draw.key)
        for row in islice(self._exemplar_rows(draw.task, draw.row, draw.key), count + MAX_EXEMPLAR_TRIES):
            if rows.same_fields(draw.task, row, draw.row):
                continue
            own = self._exemplar_template(draw.task, draw.format, template, draw.key, len(shown))
            fitting = self._fitting(own, draw, rows.shape(draw.task, row), template)
            if not fitting:
                continue
            shown.append((row, fitting[choose(draw.key, _REPLACEMENT + 256 * (row + 1), len(fitting))]))
            if len(shown) == count:
                break
        return tuple(shown)

    def _fitting(self, own: Template, draw: Draw, shape: RowShape, query: Template) -> tuple[Template, ...]:
        """The exemplar's `own` template; where a field it names is blank, others of the query's kind, or none."""
        if own.kind == query.kind and self._applies(own, draw.task, shape):
            return (own,)
        if draw.format.exemplar_templates == "single":
            return ()
        try:
            others = self._serving(draw.task, shape, draw.format)
        except TemplateError:
            return ()
        return tuple(t for t in others if t.kind == query.kind)


def _kinds(format: Format) -> set[str]:
    """Kinds of template, any of which can word the format (formats.select_templates)."""
    if format.inverted:
        return {"inverted"}
    return {"with": {"rationale"}, "without": {"direct"}, "auto": {"rationale", "direct"}}[format.rationale]


def _exemplars_asked(format: Format, key: int) -> int:
    """The single-template setting keeps those of 25 drawn that share the query's template: 2 or 3 (spec 3.4)."""
    if format.exemplar_templates == "single" and format.shots == 3:
        return 2 + choose(key, _COUNT, 2)
    return format.shots


def _sums(named: Iterable[tuple[str, Leaf]]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for name, leaf in named:
        shares[name] = shares.get(name, 0.0) + leaf.probability
    return dict(sorted(shares.items()))
