"""Any task, wording, example and format: the prompt is what a slow and obvious re-rendering gives."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flantune.formats import render, select_templates
from flantune.formats.delimiters import ENDS, HEADS, MARKS
from flantune.formats.few_shot import MIXED_SEPARATORS
from flantune.recipe import FORMATS, VARIANTS
from flantune.types import Example, FewShotLayout, Format, Prompt, Task, Template

FIELDS = ("text", "claim")
letters = st.text("ab c\n{}%é中", min_size=1, max_size=8)
filled = letters.filter(lambda t: bool(t.strip()))
trimmed = filled.map(str.strip)
Part = tuple[bool, str]  # whether it is a slot; its name, or the words


def spell(parts: list[Part]) -> str:
    """The pattern that means the parts."""
    return "".join("{" + t + "}" if slot else t.replace("{", "{{").replace("}", "}}") for slot, t in parts)


def patterns(*names: str) -> st.SearchStrategy[list[Part]]:
    """Literals, and every one of the slots once."""
    words = st.text("Qu: \n{}.", max_size=6)

    def put_together(order: list[str], between: list[str]) -> list[Part]:
        parts: list[Part] = [(False, between[0])]
        for name, literal in zip(order, between[1:], strict=True):
            parts += [(True, name), (False, literal)]
        return [p for p in parts if p[1]]

    return st.builds(
        put_together, st.permutations(names), st.lists(words, min_size=len(names) + 1, max_size=len(names) + 1)
    )


@dataclass(frozen=True)
class World:
    task: Task
    examples: tuple[Example, ...]
    templates: tuple[Template, ...]
    parts: dict[str, list[Part]]  # of every pattern by its text
    format: Format
    seed: int
    target_index: int


@st.composite
def worlds(draw: st.DrawFn) -> World:
    rationale, with_options = draw(st.booleans()), draw(st.booleans())
    asked = [*FIELDS, *(["options_"] if with_options else [])]
    answered = [*(["rationale"] if rationale else []), "answer"]
    parts: dict[str, list[Part]] = {}

    def pattern(names: list[str]) -> str:
        made = draw(patterns(*names))
        parts[spell(made)] = made
        return spell(made)

    strings = st.sampled_from(["", " ", "\n", "Q: ", "A:\n", "\n\n", "--"])
    templates = tuple(
        Template(
            name=f"t{i}",
            kind="rationale" if rationale else "direct",
            inputs=pattern(asked),
            targets=pattern(answered),
            few_shot=FewShotLayout(
                inputs=pattern(asked), targets=pattern(answered), instruction=pattern(["definition"]),
                inputs_prefix=draw(strings), delimiter=draw(strings), targets_prefix=draw(strings),
                separator=draw(strings),
            ),
        )
        for i in range(draw(st.integers(1, 3)))
    )  # fmt: skip
    examples = []
    for row in range(draw(st.integers(1, 5))):
        options = tuple(draw(st.lists(trimmed, min_size=2, max_size=4, unique=True))) if with_options else None
        targets = (
            (draw(st.sampled_from(options)),)
            if options
            else tuple(draw(st.lists(trimmed, min_size=1, max_size=3, unique=True)))
        )
        fields = {"text": draw(filled), "claim": f"{row} {draw(filled)}"}
        why = draw(trimmed) if rationale else None
        examples.append(
            Example(task="x", row=row, id="", fields=fields, targets=targets, options=options, rationale=why)
        )
    task = Task(name="x", mixture="x", dataset="x", category="c", templates="own", fields=FIELDS,
                definition=draw(filled), has_rationale=rationale, has_options=with_options)  # fmt: skip
    known = [f for f in (*FORMATS.values(), *VARIANTS.values()) if not f.demonstrations]
    format = draw(st.sampled_from(known))
    return World(task, tuple(examples), templates, parts, format, draw(st.integers(0, 10_000)),
                 draw(st.integers(0, len(examples[0].targets) - 1)))  # fmt: skip


def made(world: World) -> Prompt:
    query, *others = world.examples
    shown = [(e, world.templates[e.row % len(world.templates)]) for e in others] if world.format.shots else []
    if world.format.exemplar_templates == "single":
        shown = [(e, world.templates[0]) for e, _ in shown]
    return render(world.task, query, world.templates[0], world.format, shown, rng=random.Random(world.seed),
                  target_index=world.target_index)  # fmt: skip


# The slow way --------------------------------------------------------------------------------------------------------


def slow_words(parts: list[Part], values: dict[str, str], block: str | None) -> str:
    """Parts in words. A block of choices that touches what stands before it goes on a line of its own; without a block
    the slot goes and the white space of the words before it, or after it where nothing is before."""
    said = ""
    for i, (slot, text) in enumerate(parts):
        if not slot:
            cut = i + 1 < len(parts) and parts[i + 1] == (True, "options_") and block is None
            starts = i > 0 and parts[i - 1] == (True, "options_") and block is None and not said
            text = text.lstrip() if starts else text
            said += text.rstrip() if cut else text
        elif text != "options_":
            said += values[text]
        elif block is not None:
            said += "\n" + block if said and not said[-1].isspace() and not block[0].isspace() else block
    return said


def slow_prompt(world: World) -> tuple[str, str, tuple[str, ...]]:
    """Inputs, target and references, from the recipe's own words (spec 3.3 to 3.8), piece after piece."""
    query, *others = world.examples
    format, rng = world.format, random.Random(world.seed)
    head, marks, end = "OPTIONS:", ("\n- ",) * 26, ""
    if format.options == "random":
        head, marks, end = rng.choice(HEADS), rng.choice(MARKS).items, rng.choice(ENDS)
    exemplars = others if format.shots else []
    mixed = format.exemplar_templates == "mixed"
    drawn = rng.choice(MIXED_SEPARATORS) if mixed and exemplars else None

    def block_of(example: Example) -> str | None:
        if example.options is None or format.options == "none":
            return None
        return head + "".join(mark + option + end for mark, option in zip(marks, example.options, strict=False))

    def answer_of(example: Example, answer: str) -> str:
        if block_of(example) is None or marks[0] == marks[1] or answer not in (example.options or ()):
            return answer
        return marks[(example.options or ()).index(answer)].strip()

    def worded(pattern: str, example: Example, answer: str) -> str:
        values = {**example.fields, "definition": world.task.definition or "", "rationale": example.rationale or ""}
        return slow_words(world.parts[pattern], {**values, "answer": answer_of(example, answer)}, block_of(example))

    def answers(pattern: str, example: Example) -> list[str]:
        # Choices are printed once, where they are asked for.
        return [worded(pattern, example, t).strip() for t in example.targets]

    template = world.templates[0]
    if not format.shots:
        found = answers(template.targets, query)
        return worded(template.inputs, query, ""), found[world.target_index], first_first(found, world.target_index)
    layout = template.few_shot
    text = worded(layout.instruction, query, "")
    if text.strip() and not text.endswith("\n"):
        text += drawn or layout.separator
    for other in exemplars:
        own = (world.templates[other.row % len(world.templates)] if mixed else template).few_shot
        text += own.inputs_prefix + worded(own.inputs, other, "") + own.delimiter + own.targets_prefix
        text += answers(own.targets, other)[0] + (drawn or own.separator)
    text += layout.inputs_prefix + worded(layout.inputs, query, "") + layout.delimiter + layout.targets_prefix
    found = answers(layout.targets, query)
    return text, found[world.target_index], first_first(found, world.target_index)


def first_first(found: list[str], index: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys([found[index], *found]))


@settings(deadline=None, max_examples=100)
@given(worlds())
def test_a_prompt_is_what_the_slow_way_gives(world: World) -> None:
    prompt, (inputs, target, references) = made(world), slow_prompt(world)
    assert prompt.inputs == inputs.rstrip(" ")
    assert prompt.target == target
    assert prompt.references == references


@settings(deadline=None, max_examples=40)
@given(worlds())
def test_roles_part_the_text_and_the_target_stands_last_and_whole(world: World) -> None:
    prompt, query = made(world), world.examples[0]
    roles = [s.role for s in prompt.segments]
    answer_starts = next((i for i, r in enumerate(roles) if r in ("rationale", "target")), len(roles))
    assert all((r in ("rationale", "target")) == (i >= answer_starts) for i, r in enumerate(roles))
    assert all((s.exemplar is not None) == (s.role == "exemplar") for s in prompt.segments)
    assert all(s.text for s in prompt.segments if s.role != "exemplar")  # exemplars are three pieces, blank ones too
    text = "".join(s.text for s in prompt.segments[:answer_starts])
    assert text.rstrip(" ") == prompt.inputs and prompt.target == prompt.target.strip()
    assert prompt.target in prompt.references and prompt.references[0] == prompt.target
    if prompt.options is not None and query.options is not None:
        assert prompt.target in prompt.options and len(prompt.options) == len(query.options)
    elif query.options is None and query.rationale is None:
        assert query.targets[world.target_index] in prompt.target


@settings(deadline=None, max_examples=40)
@given(worlds())
def test_exemplars_are_the_others_each_once_in_three_pieces_and_pruning_takes_the_last(world: World) -> None:
    prompt = made(world)
    assert world.examples[0].row not in prompt.exemplars
    assert len(set(prompt.exemplars)) == len(prompt.exemplars)
    for j in range(len(prompt.exemplars)):
        assert [s.role for s in prompt.segments if s.exemplar == j] == ["exemplar"] * 3
    bare = made(replace(world, examples=world.examples[:1]))
    if world.format.exemplar_templates == "single" or not prompt.exemplars:  # else the separator is drawn or is not
        assert prompt.keep_exemplars(0).segments == bare.segments
    for count in range(len(prompt.exemplars) + 1):
        fewer = prompt.keep_exemplars(count)
        assert fewer.exemplars == prompt.exemplars[:count] and fewer.target == prompt.target
        assert {s.exemplar for s in fewer.segments} - {None} == set(range(count))


@settings(deadline=None, max_examples=40)
@given(worlds())
def test_templates_that_are_offered_can_word_the_example(world: World) -> None:
    for example in world.examples:
        offered = select_templates(world.templates, world.task, example, world.format)
        assert offered
        for template in offered:
            render(world.task, example, template, world.format, rng=random.Random(world.seed))


@settings(deadline=None, max_examples=20)
@given(worlds(), st.integers(0, 3))
def test_the_query_among_its_exemplars_is_refused(world: World, place: int) -> None:
    assume(world.format.shots)
    shown = [(e, world.templates[0]) for e in world.examples[1:]]
    shown.insert(min(place, len(shown)), (replace(world.examples[0], row=99), world.templates[0]))
    with pytest.raises(ValueError, match="among its own exemplars"):
        render(world.task, world.examples[0], world.templates[0], world.format, shown, rng=random.Random(0))
