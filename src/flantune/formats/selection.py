"""Which of a task's wordings serve one example in one format."""

from __future__ import annotations

from collections.abc import Sequence

from flantune.errors import TemplateError
from flantune.formats.dialog import TURNS_FIELD
from flantune.templates import has_words, labelled_templates, needed_slots, without_words
from flantune.templates.patterns import DIALOG_SLOT, slots
from flantune.types import Example, Format, Task, Template


def applies(template: Template, example: Example, task: Task) -> bool:
    """Whether the example fills every slot of the template's inputs and targets with something.

    A blank `input` must not leave a dangling "Input:" (Alpaca), nor a missing rationale half a sentence.
    """
    for name in needed_slots(template):
        if name == "answer":
            continue
        if name == "rationale":
            text = example.rationale
        elif name == "definition":
            text = example.fields.get(name) or task.definition
        elif name == DIALOG_SLOT:
            text = example.fields.get(TURNS_FIELD)
        else:
            text = example.fields.get(name)
        if not text or not text.strip():
            return False
    return True


def select_templates(
    templates: Sequence[Template], task: Task, example: Example, format: Format
) -> tuple[Template, ...]:
    """The templates to draw from, in their order; never empty.

    0. Language: those of the format's, where it names one.
    1. Kind: `inverted` ones for an inverted format; else `rationale` ones where the format's rationale is "with", or
       "auto" and the example has one and the task such templates; else `direct` ones.
    2. Those that apply to the example (`applies`), and of them those that tell the most of it: a wording of
       {instruction} gives way to one of {instruction} and {input} where the input is filled. Where none applies because
       a field is blank, wordings made of the fields that are filled stand in.
    3. Few-shot: without instruction, layouts that have no words, where there are any (the renderer takes the words out
       of others); with mixed exemplar templates, layouts whose instruction is no sentence about its own wording.

    Raises TemplateError where the format asks for a kind the task has no wording of, or for a rationale it lacks.
    """
    kinds = _kinds(example, format)
    of_kind: tuple[Template, ...] = ()
    if format.language != "any":
        templates = _in_language(templates, task, format.language)
    for kind in kinds:
        of_kind = tuple(t for t in templates if t.kind == kind)
        if of_kind:
            break
    if not of_kind:
        raise TemplateError(
            f"task '{task.name}': format asks for {' or '.join(kinds)} templates, and it has "
            f"{', '.join(sorted({t.kind for t in templates})) or 'none'}. Give it such templates, or another format."
        )
    fitting = _telling_most([t for t in of_kind if applies(t, example, task)])
    if not fitting:
        fitting = _stand_ins(task, example, format, of_kind[0].language)
    if format.shots == 0:
        return fitting
    if not format.instruction:
        return tuple(t for t in fitting if is_wordless(t)) or fitting
    if format.exemplar_templates == "mixed":
        return tuple(t for t in fitting if _mixable(t)) or fitting
    return fitting


def _telling_most(templates: Sequence[Template]) -> tuple[Template, ...]:
    told = [frozenset(needed_slots(t)) - {"answer", "rationale", "definition"} for t in templates]
    distinct = set(told)
    return tuple(t for t, names in zip(templates, told, strict=True) if not any(names < other for other in distinct))


def _kinds(example: Example, format: Format) -> tuple[str, ...]:
    if format.inverted:
        return ("inverted",)
    if format.rationale == "with":
        return ("rationale",)
    if format.rationale == "without":
        return ("direct",)
    return ("rationale", "direct") if example.rationale else ("direct",)


def _in_language(templates: Sequence[Template], task: Task, language: str) -> tuple[Template, ...]:
    found = tuple(t for t in templates if t.language == language)
    if not found:
        known = ", ".join(sorted({t.language for t in templates})) or "none"
        raise TemplateError(f"task '{task.name}': format asks for wording in '{language}'; it has: {known}.")
    return found


def _stand_ins(task: Task, example: Example, format: Format, language: str) -> tuple[Template, ...]:
    filled = tuple(f for f in task.fields if example.fields.get(f, "").strip())
    asks_rationale = format.rationale == "with" or format.inverted
    if asks_rationale or not filled:
        problem = "has no rationale or a blank field" if asks_rationale else "has only blank fields"
        raise TemplateError(
            f"task '{task.name}' row {example.row} ({example.where or 'no place known'}): no template applies: "
            f"the example {problem}. Fields filled: {', '.join(filled) or 'none'}."
        )
    return labelled_templates(filled, example.options is not None, language)


def is_wordless(template: Template) -> bool:
    """Whether the few-shot layout says nothing but slots and its prefixes: exemplars only, no instruction."""
    layout = template.few_shot
    return not layout.instruction and without_words(layout.inputs) == layout.inputs


def _mixable(template: Template) -> bool:
    # "Each problem is solved before its answer" would be false of the exemplars worded by other templates. The task's
    # definition holds for all of them. The recipe marks 842 of 1,190 patterns as mixable (spec 3.1).
    layout = template.few_shot
    return not has_words(layout.instruction) or "definition" in slots(layout.instruction)
