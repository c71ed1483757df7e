"""The tasks of a store: found by word and by facet, measured, and rendered."""

from __future__ import annotations

import difflib
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from flantune.errors import RecipeError, TemplateError
from flantune.explore.lengths import histogram
from flantune.explore.prompts import describe_prompt
from flantune.explore.views import (
    ExamplesView,
    FacetValue,
    Lengths,
    PromptView,
    TaskRow,
    TasksView,
    TaskView,
    TemplateView,
    Unit,
)
from flantune.formats import applies, render, select_templates
from flantune.recipe import SETTINGS
from flantune.tasks import ExampleStore
from flantune.templates import templates_for
from flantune.tokens.tokenizer import Tokenizer
from flantune.types import Example, Format, Prompt, Task, Template

MEASURED = 2_000  # examples of a task that a histogram renders and measures, spread evenly over its rows
EXEMPLAR_TRIES = 64  # rows looked at for one prompt's exemplars before it makes do with fewer


class UnknownTask(RecipeError):
    """No task of that name."""


FACETS = ("mixture", "category", "language", "source", "format", "has", "use")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """None lets everything through. `words` are looked for in name, dataset, category and definition, all of them."""

    words: str | None = None
    mixture: str | None = None
    category: str | None = None
    language: str | None = None
    source: str | None = None
    format: str | None = None
    has: str | None = None
    use: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawFilter:
    """None lets everything through; `task` is part of a name."""

    mixture: str | None = None
    category: str | None = None
    format: str | None = None
    task: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a recipe makes of a task."""

    use: str  # "trained", "held out", "excluded", or "left out: why"
    share: float | None  # of the stream
    formats: tuple[str, ...]


class Collection:
    """A store's tasks. `uses` is what a recipe makes of each, where there is a recipe. Not shared by threads."""

    def __init__(
        self, store: ExampleStore, uses: Mapping[str, Use] | None = None, wording: str | tuple[str, ...] = "any"
    ) -> None:
        self.store = store
        self._wording = wording
        self._templates: dict[str, tuple[Template, ...]] = {}
        self.rows = tuple(self._row(task, uses) for _, task in sorted(store.tasks.items()))
        self._text = {
            task.name: "\n".join((task.name, task.dataset, task.category, task.definition or "")).casefold()
            for task in store.tasks.values()
        }

    # Finding tasks ----------------------------------------------------------------------------------------------------

    def tasks(self, wanted: TaskFilter, sort: str = "name", offset: int = 0, limit: int = 100) -> TasksView:
        """The tasks that pass every filter, and for each facet how many would under the others."""
        worded = [row for row in self.rows if self._has_words(row, wanted.words)]
        found = [row for row in worded if _passes(row, wanted)]
        found.sort(key=_ORDERS.get(sort, _ORDERS["name"]))
        return TasksView(
            tasks=tuple(found[offset : offset + limit]),
            total=len(found),
            examples=sum(row.examples for row in found),
            facets={facet: _counted(worded, wanted, facet) for facet in FACETS},
        )

    def names(self, wanted: TaskFilter) -> list[str]:
        return [row.name for row in self.rows if self._has_words(row, wanted.words) and _passes(row, wanted)]

    def _has_words(self, row: TaskRow, words: str | None) -> bool:
        return not words or all(word in self._text[row.name] for word in words.casefold().split())

    def _row(self, task: Task, uses: Mapping[str, Use] | None) -> TaskRow:
        use = uses.get(task.name) if uses is not None else None
        return TaskRow(
            name=task.name,
            mixture=task.mixture,
            dataset=task.dataset,
            category=task.category,
            language=task.language,
            source=task.source,
            examples=self.store.size(task.name),
            formats=use.formats if use is not None else self._possible_formats(task),
            has=tuple(self._has(task)),
            use=None if use is None else use.use,
            share=None if use is None else use.share,
        )

    def _has(self, task: Task) -> list[str]:
        kinds = {t.kind for t in self.templates(task)}
        told = {
            "options": task.has_options,
            "rationale": task.has_rationale,
            "demonstrations": bool(task.demonstrations),
            "inverted": "inverted" in kinds,
            "definition": bool(task.definition),
            "own templates": bool(task.own_templates),
        }
        return [name for name, there in told.items() if there]

    def _possible_formats(self, task: Task) -> tuple[str, ...]:
        """Settings that make sense for the task: those with options where it states some, few-shot ones where there is
        another row to show."""
        return tuple(
            name
            for name, format in SETTINGS.items()
            if (format.options == "none" or task.has_options)
            and (not format.demonstrations or task.demonstrations)
            and (not format.shots or format.demonstrations or self.store.size(task.name) > 1)
        )

    # One task ---------------------------------------------------------------------------------------------------------

    def templates(self, task: Task) -> tuple[Template, ...]:
        known = self._templates.get(task.name)
        if known is None:
            known = self._templates[task.name] = templates_for(task, self._wording)
        return known

    def find(self, name: str) -> Task:
        """Raises UnknownTask with the nearest names."""
        task = self.store.tasks.get(name)
        if task is None:
            close = difflib.get_close_matches(name, self.store.tasks, n=3)
            raise UnknownTask(f"no task '{name}'." + (f" Near names: {', '.join(close)}." if close else ""))
        return task

    def task(self, name: str) -> TaskView:
        task = self.find(name)
        return TaskView(
            row=next(row for row in self.rows if row.name == name),
            definition=task.definition,
            licence=task.licence,
            metric=task.metric,
            fields=task.fields,
            path=task.path,
            demonstrations=len(task.demonstrations),
            templates=tuple(
                TemplateView(
                    name=t.name,
                    kind=t.kind,
                    language=t.language,
                    inputs=t.inputs,
                    targets=t.targets,
                    few_shot=asdict(t.few_shot),
                )
                for t in self.templates(task)
            ),
        )

    def prompt(self, name: str, row: int, format: Format, seed: int = 0) -> tuple[Prompt, tuple[str, ...]]:
        """Row `row` rendered, its template, exemplars and style drawn by (seed, task, row); and the exemplars' template
        names. Raises TemplateError where the format does not serve it."""
        task, example = self.find(name), self.store.example(name, row)
        rng = random.Random(f"{seed}:explore:{name}:{row}")
        wordings = select_templates(self.templates(task), task, example, format)
        template = rng.choice(wordings)
        exemplars: list[tuple[Example, Template]] = []
        if format.shots and not format.demonstrations:
            exemplars = self._exemplars(task, example, template, format, rng)
        prompt = render(task, example, template, format, exemplars, rng=rng)
        names = tuple(t.name for _, t in exemplars) or (template.name,) * len(prompt.exemplars)
        return prompt, names

    def _exemplars(
        self, task: Task, query: Example, template: Template, format: Format, rng: random.Random
    ) -> list[tuple[Example, Template]]:
        size = self.store.size(task.name)
        shown: list[tuple[Example, Template]] = []
        for row in rng.sample(range(size), min(size, format.shots + EXEMPLAR_TRIES)):
            other = self.store.example(task.name, row)
            if len(shown) == format.shots:
                break
            if row == query.row or dict(other.fields) == dict(query.fields):
                continue
            own = template
            if format.exemplar_templates == "mixed":
                fitting = [
                    t for t in select_templates(self.templates(task), task, other, format) if t.kind == template.kind
                ]
                own = rng.choice(fitting) if fitting else template
            if applies(own, other, task):
                shown.append((other, own))
        return shown

    def examples(self, name: str, format: Format, *, seed: int = 0, start: int = 0, count: int = 5) -> ExamplesView:
        """Rows `start` and after, rendered; those the format does not serve are named with the reason."""
        task = self.find(name)
        prompts: list[PromptView] = []
        skipped: list[tuple[int, str]] = []
        size = self.store.size(name)
        for row in range(min(start, size), min(start + count, size)):
            try:
                prompt, names = self.prompt(name, row, format, seed)
            except TemplateError as e:
                skipped.append((row, str(e)))
                continue
            prompts.append(describe_prompt(prompt, self.store, templates=names))
        return ExamplesView(prompts=tuple(prompts), skipped=tuple(skipped), examples=self.store.size(task.name))

    def lengths(
        self, name: str, format: Format, *, unit: Unit = "characters", tokenizer: Tokenizer | None = None, seed: int = 0
    ) -> Lengths:
        """Lengths of rendered inputs and targets over at most MEASURED rows, spread evenly. Tokens count no end mark.

        Raises RecipeError where tokens are asked for without a tokenizer.
        """
        self.find(name)
        size = self.store.size(name)
        step = max(1, -(-size // MEASURED))
        inputs: list[str] = []
        targets: list[str] = []
        for row in range(0, size, step):
            try:
                prompt, _ = self.prompt(name, row, format, seed)
            except TemplateError:
                continue
            inputs.append(prompt.inputs)
            targets.append(prompt.target)
        if unit == "tokens":
            if tokenizer is None:
                raise RecipeError("lengths in tokens: there is no tokenizer. Give --recipe, or --tokenizer PATH.")
            counts = [[len(ids) for ids in tokenizer.encode_batch(texts)] for texts in (inputs, targets)]
        else:
            counts = [[len(text) for text in texts] for texts in (inputs, targets)]
        return Lengths(unit=unit, inputs=histogram(counts[0]), targets=histogram(counts[1]), of=size)


_ORDERS: Mapping[str, Callable[[TaskRow], tuple[object, ...]]] = {
    "name": lambda row: (row.name,),
    "examples": lambda row: (-row.examples, row.name),
    "share": lambda row: (-(row.share or 0.0), row.name),
    "category": lambda row: (row.category, row.name),
}


def _passes(row: TaskRow, wanted: TaskFilter, but: str = "") -> bool:
    return all(
        getattr(wanted, f.name) is None or getattr(wanted, f.name) in _values(row, f.name)
        for f in fields(wanted)
        if f.name not in ("words", but)
    )


def _values(row: TaskRow, facet: str) -> tuple[str, ...]:
    if facet == "format":
        return row.formats
    if facet == "has":
        return row.has
    value = getattr(row, facet)
    return () if value is None else (value,)


def _counted(rows: Sequence[TaskRow], wanted: TaskFilter, facet: str) -> tuple[FacetValue, ...]:
    counts = Counter(value for row in rows if _passes(row, wanted, but=facet) for value in _values(row, facet))
    chosen = getattr(wanted, facet)
    if chosen is not None and chosen not in counts:
        counts[chosen] = 0  # so that what is chosen can be seen and unchosen
    return tuple(FacetValue(value=value, tasks=counts[value]) for value in sorted(counts))
