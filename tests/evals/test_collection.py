from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from flantune.errors import RecipeError
from flantune.evals.collection import Tasks
from flantune.evals.results import Setting
from flantune.formats import render
from flantune.types import Example, FewShotLayout, Format, Item, Task, Template

NOWHERE = Path("nowhere")


@dataclass
class Memory:
    tasks: Mapping[str, Task]
    rows: Mapping[str, list[Example]]

    def size(self, task: str) -> int:
        return len(self.rows[task])

    def example(self, task: str, row: int) -> Example:
        return self.rows[task][row]


def layout(targets: str) -> FewShotLayout:
    return FewShotLayout(inputs="{noun}", targets=targets, inputs_prefix="In: ", targets_prefix="Out: ")


DIRECT = tuple(
    Template(
        name=f"plural/direct/{i}",
        kind="direct",
        inputs=f"{words} {{noun}}{{options_}}",
        targets="{answer}",
        few_shot=layout("{answer}"),
    )
    for i, words in enumerate(["Plural of", "Many:"])
)
REASONED = (
    Template(
        name="plural/rationale/0",
        kind="rationale",
        inputs="Think, then give the plural of {noun}.",
        targets="{rationale} The answer is {answer}.",
        few_shot=layout("{rationale} The answer is {answer}."),
    ),
    Template(
        name="plural/rationale/1",
        kind="rationale",
        inputs="Give the plural of {noun} and say why.",
        targets="{answer}, for {rationale}",
        few_shot=layout("{answer}, for {rationale}"),
    ),
)


def example(task: str, row: int, noun: str, *targets: str, **more: object) -> Example:
    return Example(task=task, row=row, id=str(row), fields={"noun": noun}, targets=targets, **more)  # type: ignore[arg-type]


def task(name: str, templates: tuple[Template, ...], **more: object) -> Task:
    return Task(
        name=name,
        mixture="own",
        dataset=name,
        category="plural",
        templates="none",
        fields=("noun",),
        own_templates=templates,
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def store() -> Memory:
    nouns = [
        ("fox", "foxes"),
        ("leaf", "leaves"),
        ("tooth", "teeth"),
        ("ox", "oxen"),
        ("fox", "foxes"),
        ("pea", "peas"),
    ]
    plain = [example("plain", i, n, t) for i, (n, t) in enumerate(nouns)]
    reasons = [
        example("reasons", i, n, t, rationale=f"{n} is a noun." if i != 3 else None) for i, (n, t) in enumerate(nouns)
    ]
    return Memory(
        tasks={"plain": task("plain", DIRECT), "reasons": task("reasons", DIRECT + REASONED, has_rationale=True)},
        rows={"plain": plain, "reasons": reasons},
    )


def items(benchmark: Tasks, mode: str = "direct", **how: object) -> list[Item]:
    return [p.item for p in benchmark.items(NOWHERE, mode, **how)]  # type: ignore[arg-type]


def test_a_zero_shot_prompt_is_what_training_renders(store: Memory):
    style = Format(shots=0, rationale="without", options="list")
    for item in items(Tasks(store, ("plain",)), seed=5):
        shown = store.example("plain", int(item.id.split("/")[1]))
        rendered = [render(store.tasks["plain"], shown, t, style, rng=random.Random(0)) for t in DIRECT]
        assert item.prompt in [p.inputs for p in rendered]
        assert item.references == shown.targets and item.shots == 0 and item.metric == "exact_match"


def test_both_wordings_are_asked_and_a_seed_fixes_which(store: Memory):
    benchmark = Tasks(store, ("plain",))
    prompts = [i.prompt for i in items(benchmark, seed=5)]
    assert {p.split(" ")[0] for p in prompts} == {"Plural", "Many:"}
    assert prompts == [i.prompt for i in items(benchmark, seed=5)]
    assert any(prompts != [i.prompt for i in items(benchmark, seed=s)] for s in range(6, 12))


def test_exemplars_are_other_rows_and_never_the_query_in_other_rows_clothes(store: Memory):
    for item in items(Tasks(store, ("plain",)), shots=3):
        *exemplars, query = item.prompt.split("\n\n")
        own = store.example("plain", int(item.id.split("/")[1]))
        assert query == f"In: {own.fields['noun']}\nOut:" and item.shots == len(exemplars) == 3
        known = {f"In: {e.fields['noun']}\nOut: {e.targets[0]}" for e in store.rows["plain"]}
        assert set(exemplars) <= known and f"In: {own.fields['noun']}\nOut: {own.targets[0]}" not in exemplars


def test_fewer_shots_are_the_first_of_more_and_go_from_the_end(store: Memory):
    benchmark = Tasks(store, ("plain",))
    three = items(benchmark, shots=3)
    one = items(benchmark, shots=1)
    for many, few in zip(three, one, strict=True):
        assert few.prompt.split("\n\n")[0] == many.prompt.split("\n\n")[0]
    limit = min(len(i.prompt) for i in three) - 1
    for posed, few in zip(
        benchmark.items(NOWHERE, "direct", shots=3, fits=lambda p: len(p) <= limit), three, strict=True
    ):
        assert posed.item.shots + posed.shots_dropped == 3 and posed.shots_dropped >= 1
        assert few.prompt.startswith("\n\n".join(posed.item.prompt.split("\n\n")[:-1]))


def test_more_shots_than_rows_gives_what_there_is(store: Memory):
    assert max(i.shots for i in items(Tasks(store, ("plain",)), shots=50)) <= 5


def test_chain_of_thought_asks_rows_with_a_rationale_in_wordings_that_end_in_the_answer(store: Memory):
    benchmark = Tasks(store, ("plain", "reasons"))
    zero = items(benchmark, "cot")
    assert [i.id for i in zero] == [f"reasons/{r}" for r in (0, 1, 2, 4, 5)]
    assert {i.prompt.split(" ")[0] for i in zero} == {"Think,"}
    assert zero[0].references == ("foxes",)
    few = items(benchmark, "cot", shots=2)[1]
    assert all("is a noun. The answer is " in e for e in few.prompt.split("\n\n")[:-1]) and few.shots == 2
    found = benchmark.extract(few, "leaf ends in f. So the answer is leaves. That is all.")
    assert (found.answer, benchmark.score(few, found)) == ("leaves", 1.0)
    found = benchmark.extract(few, "leaf ends in f.")
    assert (found.answer, benchmark.score(few, found)) == (None, None)
    assert benchmark.extract(few, "所以答案是九点。").answer == "九点"


def test_a_direct_answer_is_the_whole_output_and_silence_is_none(store: Memory):
    benchmark = Tasks(store, ("plain",))
    item = items(benchmark)[0]
    assert benchmark.score(item, benchmark.extract(item, " Foxes.\n")) == 1.0
    assert benchmark.score(item, benchmark.extract(item, "foxes foxes")) == 0.0
    assert benchmark.extract(item, " \n").answer is None and benchmark.score(item, benchmark.extract(item, "")) is None


def test_every_accepted_answer_counts_and_options_are_printed(store: Memory):
    rows = [example("choice", i, n, "red", "crimson", options=("red", "blue")) for i, n in enumerate(["a", "b"])]
    memory = Memory({"choice": task("choice", DIRECT, metric="rouge_l")}, {"choice": rows})
    item = items(Tasks(memory, ("choice",)))[0]
    assert "OPTIONS:\n- red\n- blue" in item.prompt
    assert item.references == ("red", "crimson") and item.metric == "rouge_l"


def test_a_task_that_is_not_there_is_named_and_a_mode_without_items_too(store: Memory):
    with pytest.raises(RecipeError, match="no task 'plane'"):
        items(Tasks(store, ("plane",)))
    setting = Setting(benchmark=Tasks(store, ("plain",)), path=NOWHERE, mode="cot")
    with pytest.raises(RecipeError, match="held_out/cot/0-shot: no items"):
        setting.pose(lambda prompt: True)


def test_limits_are_per_task_and_leave_other_tasks_alone(store: Memory):
    both = [i.id for i in items(Tasks(store, ("plain", "reasons")), limit=2)]
    assert [i.id for i in items(Tasks(store, ("reasons",)), limit=2)] == both[2:]
    assert len(both) == 4
