"""Small worlds of tasks that the tests of this room share: invented, with wording of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flantune.mixtures import Mixture
from flantune.recipe import MixtureSpec
from flantune.types import Example, FewShotLayout, Task, Template


def make_templates(task: str, count: int = 4, kind: str = "direct", inputs: str = "{input}") -> tuple[Template, ...]:
    targets = "{rationale} So: {answer}" if kind == "rationale" else "{answer}"
    return tuple(
        Template(
            name=f"{task}/{kind}/{i}",
            kind=kind,  # type: ignore[arg-type]
            inputs=f"Wording {i}: {inputs}",
            targets=targets,
            few_shot=FewShotLayout(inputs=inputs, targets=targets, inputs_prefix=f"Q{i}: ", targets_prefix=f"A{i}: "),
        )
        for i in range(count)
    )


def make_task(name: str, mixture: str | None = None, **changes: object) -> Task:
    given: dict[str, object] = {
        "name": name,
        "mixture": mixture or name.split("/")[0],
        "dataset": name,
        "category": "invented",
        "templates": "own",
        "fields": ("input",),
        "own_templates": make_templates(name),
    }
    return Task(**(given | changes))  # type: ignore[arg-type]


def make_tasks(*names: str) -> dict[str, Task]:
    return {name: make_task(name) for name in names}


def own_templates(task: Task) -> tuple[Template, ...]:
    return task.own_templates


def make_mixture(sizes: Mapping[str, int], spec: MixtureSpec | None = None, seed: int = 0) -> Mixture:
    return Mixture(spec or MixtureSpec(), seed, make_tasks(*sizes), sizes, own_templates)


@dataclass
class InventedStore:
    """Row r of a task says "TASK r", unless `fields` has another text for (task, row). Counts what is read."""

    fields: Mapping[tuple[str, int], Mapping[str, str]] = field(default_factory=dict)
    reads: int = 0

    def example(self, task: str, row: int) -> Example:
        self.reads += 1
        fields = self.fields.get((task, row), {"input": f"{task} {row}"})
        return Example(task=task, row=row, id=str(row), fields=fields, targets=(f"answer {row}", f"reply {row}"))
