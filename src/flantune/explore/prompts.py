"""A prompt with where everything in it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from flantune.explore.views import ExemplarView, PromptView, SegmentView
from flantune.tasks import ExampleStore
from flantune.tokens.encode import format_name
from flantune.types import Prompt, Task


def describe_prompt(
    prompt: Prompt,
    store: ExampleStore,
    *,
    templates: Sequence[str],
    kept: int | None = None,
    index: int | None = None,
    part: str | None = None,
    epoch: int | None = None,
) -> PromptView:
    """A prompt with where its rows stand. `templates` are its exemplars'; those from number `kept` on were cut."""
    task = store.tasks[prompt.task]
    example = store.example(prompt.task, prompt.row)
    kept = len(prompt.exemplars) if kept is None else kept
    return PromptView(
        index=index,
        mixture=prompt.mixture,
        part=part,
        task=prompt.task,
        dataset=task.dataset,
        category=task.category,
        language=task.language,
        row=prompt.row,
        id=example.id,
        where=example.where,
        epoch=epoch,
        template=prompt.template,
        format=format_name(prompt.format),
        settings=asdict(prompt.format),
        exemplars=tuple(
            ExemplarView(row=row, where=_where(task, row, store), template=name, cut=j >= kept)
            for j, (row, name) in enumerate(zip(prompt.exemplars, templates, strict=True))
        ),
        options=prompt.options,
        references=prompt.references,
        segments=tuple(
            SegmentView(
                role=s.role, text=s.text, exemplar=s.exemplar, cut=s.exemplar is not None and s.exemplar >= kept
            )
            for s in prompt.segments
        ),
    )


def _where(task: Task, row: int, store: ExampleStore) -> str:
    return store.example(task.name, row).where if row >= 0 else task.demonstrations[-1 - row].where
