"""Tasks of a collection as a benchmark: worded by the templates and the renderer that training uses.

Mode "direct" asks for the answer alone, "cot" for a rationale before it (tasks and rows that have one). Zero-shot and
few-shot are numbers of shots; exemplars are other rows of the same task, drawn per item.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from flantune.errors import RecipeError
from flantune.evals.benchmark import (
    Ability,
    Extraction,
    Fits,
    Posed,
    Present,
    Reading,
    TaskScore,
    check_mode,
    chosen,
    everything_fits,
    keep_fitting,
)
from flantune.evals.extract import UNREAD, after_phrase, first_sentence
from flantune.evals.metrics import score_text
from flantune.formats import applies, render, select_templates
from flantune.templates import slots, templates_for
from flantune.types import Example, Format, Item, Prompt, Task, Template

ANSWER_PHRASE = r"answer\s+is|answer\s*:|答案(?:是|为)"
TRIES_PER_SHOT = 20  # draws for one exemplar before a task of equal rows gives fewer


class Examples(Protocol):
    """What is needed of a store of examples (flantune.tasks.store.ExampleStore)."""

    @property
    def tasks(self) -> Mapping[str, Task]: ...

    def size(self, task: str) -> int: ...

    def example(self, task: str, row: int) -> Example: ...


@dataclass(frozen=True, slots=True)
class Tasks:
    """The named tasks of a store. `limit` and everything drawn are keyed by seed, task and row, not by the list."""

    store: Examples
    tasks: tuple[str, ...]
    name: str = "held_out"
    max_new_tokens: Mapping[str, int] = field(default_factory=lambda: {"direct": 128, "cot": 256})
    templates: Callable[[Task], Sequence[Template]] = templates_for
    modes: tuple[str, ...] = ("direct", "cot")
    folder: str = ""
    default_split: str = "all"
    sampled_tasks: bool = True  # the claim is about tasks the model never saw, not about these few
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"direct": 0, "cot": 0})
    ability: Ability = "in-context learning"  # tasks told by instruction and exemplars alone

    def items(
        self,
        path: Path,
        mode: str,
        *,
        shots: int | None = None,
        split: str | None = None,
        limit: int | None = None,
        seed: int = 0,
        fits: Fits = everything_fits,
        present: Present | None = None,
        trigger: str | None = None,
    ) -> Iterator[Posed]:
        """`path` is not read: the examples come from the store."""
        check_mode(self, mode)
        if trigger is not None:
            raise RecipeError(f"{self.name}: a collection's wording has its own words; it takes no trigger.")
        if split not in (None, self.default_split):
            raise RecipeError(f"{self.name}: no split '{split}'; a collection's tasks have none.")
        asked = self.default_shots[mode] if shots is None else shots
        style = Format(shots=asked, rationale="with" if mode == "cot" else "without", options="list")
        for name in self.tasks:
            if name not in self.store.tasks:
                raise RecipeError(f"{self.name}: no task '{name}' in the store.")
            task = self.store.tasks[name]
            wordings = _wordings(self.templates(task), mode, asked)
            if not wordings or (mode == "cot" and not task.has_rationale):
                continue  # a task without rationales, or without a wording of this mode, has no items in it
            for row, _ in chosen(range(self.store.size(name)), limit, seed, self.name, name):
                example = self.store.example(name, row)
                if mode == "cot" and not example.rationale:
                    continue
                yield self._pose(task, wordings, example, style, mode, seed, fits, present or _inputs)

    def _pose(
        self,
        task: Task,
        wordings: Sequence[Template],
        example: Example,
        style: Format,
        mode: str,
        seed: int,
        fits: Fits,
        present: Present,
    ) -> Posed:
        # Drawn by row and not by shots: zero-shot and few-shot then differ in the exemplars alone.
        fitting = select_templates(wordings, task, example, style)
        template = keyed_random(seed, task.name, example.row, "template").choice(fitting)
        exemplars = self._exemplars(task, example, template, style, seed)
        rng = keyed_random(seed, task.name, example.row, "render")
        prompt = render(task, example, template, style, [(e, template) for e in exemplars], rng=rng)
        text, kept = keep_fitting(prompt, fits, present)
        item = Item(
            benchmark=self.name,
            mode=mode,
            task=task.name,
            id=f"{task.name}/{example.row}",
            prompt=text,
            references=_references(prompt, example, mode),
            max_new_tokens=self.max_new_tokens[mode],
            metric=task.metric,
            shots=kept,
        )
        return Posed(item, len(exemplars) - kept, "\n".join(example.fields.values()), prompt.keep_exemplars(0).inputs)

    def _exemplars(
        self,
        task: Task,
        example: Example,
        template: Template,
        style: Format,
        seed: int,
    ) -> list[Example]:
        """Other rows that the query's template can word; fewer shots are the first of more."""
        rng = keyed_random(seed, task.name, example.row, "exemplars")
        size, found = self.store.size(task.name), dict[int, Example]()
        for _ in range(TRIES_PER_SHOT * style.shots if size > 1 else 0):
            if len(found) == style.shots:
                break
            row = rng.randrange(size)
            if row == example.row or row in found:
                continue
            other = self.store.example(task.name, row)
            if dict(other.fields) == dict(example.fields) or not applies(template, other, task):
                continue
            found[row] = other
        return list(found.values())

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        """Direct: the whole output. Chain of thought: the sentence after the last answer phrase; loose: else all."""
        if item.mode == "direct" or (reading == "loose" and after_phrase(output, ANSWER_PHRASE) is None):
            text = output.strip()
            return Extraction(text, "whole output") if text else Extraction(None, UNREAD)
        told = after_phrase(output, ANSWER_PHRASE)
        answer = first_sentence(told).removesuffix("。") if told else ""
        return Extraction(answer, "sentence after phrase") if answer else Extraction(None, UNREAD)

    def score(self, item: Item, extraction: Extraction) -> float | None:
        if extraction.answer is None:
            return None
        return score_text(item.metric, extraction.answer, item.references)

    def averages(self, tasks: Mapping[str, TaskScore]) -> Mapping[str, float | None]:
        return {}


def _inputs(prompt: Prompt) -> str:
    return prompt.inputs


def _wordings(templates: Sequence[Template], mode: str, shots: int) -> tuple[Template, ...]:
    """The templates of the mode's kind. Chain of thought: those that end in the answer, where it can be read."""
    if mode == "direct":
        return tuple(t for t in templates if t.kind == "direct")
    reasoned = [t for t in templates if t.kind == "rationale"]
    return tuple(t for t in reasoned if list(slots(t.few_shot.targets if shots else t.targets))[-1:] == ["answer"])


def _references(prompt: Prompt, example: Example, mode: str) -> tuple[str, ...]:
    """Direct: as the template words them, every distinct one. Chain of thought: the bare answers, as extracted."""
    texts = example.targets if mode == "cot" else (prompt.references or (prompt.target,))
    return tuple(dict.fromkeys(text.strip() for text in texts))


def keyed_random(*key: object) -> random.Random:
    return random.Random(":".join(str(k) for k in key))  # seeded through SHA-512 of the text: stable over runs
