"""Example + Template + Format (+ exemplars) -> Prompt. Training and evaluation both render here. Spec 3.3 to 3.8.

    zero-shot   inputs pattern                                                        -> targets pattern
    few-shot    {instruction} separator (prefix inputs delimiter prefix target separator)* prefix query delimiter prefix

Roles: words of the wording are "instruction" (the task's definition too), field text and the layout's short prefixes
"query", all of an exemplar "exemplar"; in the target `{rationale}` is "rationale" and everything else "target".
An exemplar is always three segments: what is asked, what is answered, the separator.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flantune.errors import TemplateError
from flantune.formats.dialog import (
    TURNS_FIELD,
    DialogStyle,
    dash_style,
    draw_dialog_style,
    print_dialog,
)
from flantune.formats.few_shot import draw_separator
from flantune.formats.options import LIST_STYLE, OptionStyle, draw_style, in_language, print_options, worded_answer
from flantune.formats.selection import applies
from flantune.templates import delimiter_rows
from flantune.templates.patterns import DIALOG_SLOT, OPTIONS_SLOT, fill, fill_text, slots, without_words
from flantune.types import Example, FewShotLayout, Format, Prompt, Role, Segment, Task, Template

EXPLANATION_PREFIXES = {
    "en": ("Explanation: ", "Reason: ", "Why: ", "Explanation:\n"),
    "zh": ("解释：", "理由：", "原因："),
}

Exemplars = Sequence[tuple[Example, Template]]


def render(
    task: Task,
    example: Example,
    template: Template,
    format: Format,
    exemplars: Exemplars = (),
    *,
    rng: random.Random,
    target_index: int = 0,
) -> Prompt:
    """The example as the format asks for it. `rng` draws the options' style, random delimiters, the mixed separator
    and the word before an explanation, in this order and each only where the format has it.

    `exemplars` are (example, its template) in the order they are shown; with `format.demonstrations` and none given,
    the task's own stored ones are taken (`demonstration_exemplars`). With shots and no exemplar the layout is the
    few-shot one without exemplars.

    `format.instruction` False: the layout's `instruction` is dropped, and of its `inputs` every literal that stands
    before, between or after the slots, save the line breaks between two slots (`templates.without_words`), and so is
    `{definition}`. Prefixes such as "Q: " and "A: " stay: they mark whose turn it is and say nothing of the task. With
    no shots the same wordless layout is used. A layout that has no words already is taken as it is.

    `format.delimiters` "random": what stands before and after inputs and targets is drawn for the prompt, one row of
    wording/delimiters.yaml for all of it, and not the template's.

    `format.chat`: exemplars and query are worded in full by the zero-shot patterns, for `chat.to_messages` marks turns.

    Raises ValueError if the query is among its exemplars or `target_index` names no target, and TemplateError if a
    template names a slot that its example leaves empty.
    """
    if not 0 <= target_index < len(example.targets):
        raise ValueError(f"task '{task.name}' row {example.row}: no target {target_index} of {len(example.targets)}")
    style = None if format.options == "none" else draw_style(rng) if format.options == "random" else LIST_STYLE
    if format.demonstrations and not exemplars:
        exemplars = demonstration_exemplars(task, example, template, format)
    _refuse_query(task, example, format, exemplars)
    few_shot = format.shots > 0 or bool(exemplars) or not format.instruction
    strings = rng.choice(delimiter_rows(template.language)) if few_shot and format.delimiters == "random" else None
    layout = layout_of(template, format, strings) if few_shot else None
    dialog = None
    if TURNS_FIELD in task.fields:
        dialog = dash_style(template.language) if few_shot else draw_dialog_style(rng, template.language)
    segments: list[Segment] = []
    if layout is not None:
        segments += _before_query(task, example, exemplars, layout, format, strings, style, dialog, rng)
    query = _word(task, example, template, layout, style, dialog, target_index)
    segments += query.inputs + query.target
    return Prompt(
        segments=tuple(segments),
        task=task.name,
        row=example.row,
        template=template.name,
        format=format,
        exemplars=tuple(_exemplar_row(task, format, e) for e, _ in exemplars),
        options=query.options,
        references=query.references,
        mixture=task.mixture,
        metadata={"messages": example.fields["messages"]} if format.chat and _is_dialogue(example, exemplars) else {},
    )


def demonstration_exemplars(
    task: Task, example: Example, template: Template, format: Format
) -> tuple[tuple[Example, Template], ...]:
    """The first `format.shots` of the task's stored demonstrations that are not the query itself.

    One shot shows it with its explanation after the output (the recipe's "inline" Natural Instructions form), several
    show pairs alone, as Tk-Instruct does. Spec 3.5.
    """
    kept = [
        d for d in task.demonstrations if dict(d.fields) != dict(example.fields) and _fills(d, template, task, format)
    ]
    return tuple((d, template) for d in kept[: format.shots])


def _fills(demonstration: Example, template: Template, task: Task, format: Format) -> bool:
    pattern = layout_of(template, format)
    needed = {*slots(pattern.inputs), *slots(pattern.targets)} - {"answer", "definition", OPTIONS_SLOT}
    values = {**demonstration.fields, "rationale": demonstration.rationale or ""}
    return all(values.get(name, "").strip() for name in needed)


def layout_of(template: Template, format: Format, strings: Mapping[str, str] | None = None) -> FewShotLayout:
    """The few-shot layout as the format changes it. `strings` take the place of those around exemplars and query."""
    layout = template.few_shot
    if strings is not None and not format.chat:
        layout = replace(layout, **strings)
    if format.chat:
        layout = FewShotLayout(inputs=template.inputs, targets=template.targets, delimiter="\n", separator="\n\n")
    if not format.instruction:
        layout = replace(layout, instruction="", inputs=without_words(layout.inputs))
    return layout


def _refuse_query(task: Task, example: Example, format: Format, exemplars: Exemplars) -> None:
    for shown, its_template in exemplars:
        # A demonstration's row counts within the demonstrations, so there only its words can be the query's.
        same_row = not format.demonstrations and (shown.task, shown.row) == (example.task, example.row)
        if same_row or dict(shown.fields) == dict(example.fields):
            raise ValueError(f"task '{task.name}' row {example.row}: the query is among its own exemplars")
        if not format.demonstrations and not applies(its_template, shown, task):
            raise TemplateError(
                f"task '{task.name}' row {shown.row}: template '{its_template.name}' names a field this exemplar "
                "leaves blank. Draw exemplars to which their template applies (formats.applies)."
            )


def _exemplar_row(task: Task, format: Format, exemplar: Example) -> int:
    if not format.demonstrations:
        return exemplar.row
    if exemplar not in task.demonstrations:
        raise ValueError(f"task '{task.name}': a demonstrations format shows the task's own stored exemplars alone")
    return -1 - task.demonstrations.index(exemplar)


def _is_dialogue(example: Example, exemplars: Exemplars) -> bool:
    return bool(example.fields.get("messages")) and not exemplars


def _before_query(
    task: Task,
    example: Example,
    exemplars: Exemplars,
    layout: FewShotLayout,
    format: Format,
    strings: Mapping[str, str] | None,
    style: OptionStyle | None,
    dialog: DialogStyle | None,
    rng: random.Random,
) -> list[Segment]:
    """Few-shot: the instruction, then every exemplar in its three segments."""
    separator = None
    if format.exemplar_templates == "mixed" and exemplars and not format.chat:
        separator = draw_separator(rng)
    segments = _instruction(task, example, layout, separator)
    explain = format.demonstrations and format.shots == 1
    for number, (shown, its_template) in enumerate(exemplars):
        its_layout = layout_of(its_template, format, strings)
        explanation = _explanation(shown, its_template, rng) if explain else ""
        piece = _exemplar(task, shown, its_template, its_layout, style, dialog, explanation)
        segments += [Segment("exemplar", text, number) for text in (*piece, separator or its_layout.separator)]
    return segments


def _instruction(task: Task, example: Example, layout: FewShotLayout, separator: str | None) -> list[Segment]:
    text = fill_text(layout.instruction, _values(task, example, "")) if layout.instruction else ""
    if not text.strip():
        return []
    # An instruction that ends its own line (a row of dashes, say) needs no separator after it.
    return [Segment("instruction", text if text.endswith("\n") else text + (separator or layout.separator))]


def _explanation(shown: Example, template: Template, rng: random.Random) -> str:
    if not (shown.rationale or "").strip():
        return ""
    return (
        rng.choice(EXPLANATION_PREFIXES.get(template.language, EXPLANATION_PREFIXES["en"]))
        + str(shown.rationale).strip()
    )


def _exemplar(
    task: Task,
    shown: Example,
    template: Template,
    layout: FewShotLayout,
    style: OptionStyle | None,
    dialog: DialogStyle | None,
    explanation: str,
) -> tuple[str, str]:
    """(what is asked, what is answered) of one exemplar."""
    worded = _word(task, shown, template, layout, style, dialog, 0)
    asked = "".join(s.text for s in worded.inputs)
    answered = "".join(s.text for s in worded.target)
    return asked, f"{answered}\n{explanation}" if explanation else answered


@dataclass(frozen=True, slots=True)
class _Worded:
    inputs: list[Segment]
    target: list[Segment]
    references: tuple[str, ...]
    options: tuple[str, ...] | None


def _word(
    task: Task,
    example: Example,
    template: Template,
    layout: FewShotLayout | None,
    style: OptionStyle | None,
    dialog: DialogStyle | None,
    target_index: int,
) -> _Worded:
    """One example in words: the zero-shot patterns, or the layout's with its prefixes."""
    inputs, targets = (template.inputs, template.targets) if layout is None else (layout.inputs, layout.targets)
    block = None
    choices = example.options
    style = in_language(style, template.language) if style is not None else None
    if style is not None and choices and OPTIONS_SLOT in (*slots(inputs), *slots(targets)):
        block = print_options(choices, style)

    def worded(answer: str) -> str:
        # Labels stand for choices the reader sees; where none are printed, the answer is its text.
        return worded_answer(answer, choices, style) if block is not None and choices and style else answer

    def target_text(answer: str) -> str:
        return fill_text(targets, {**_values(task, example, worded(answer)), **conversation(False)}, block).strip()

    def conversation(closing: bool) -> dict[str, str]:
        if dialog is None:
            return {}
        return {DIALOG_SLOT: print_dialog(example.fields[TURNS_FIELD].split("\n"), dialog, closing)}

    answer = worded(example.targets[target_index])
    values = {**_values(task, example, answer), **conversation(False)}
    speaks_next = layout is None and inputs.endswith("{" + DIALOG_SLOT + "}")
    try:
        asked = _input_segments(fill(inputs, {**values, **conversation(speaks_next)}, block))
        target = _target_segments(fill(targets, values, block))
    except KeyError as e:
        raise TemplateError(
            f"task '{task.name}' row {example.row}: template '{template.name}': no field fills slot '{{{e.args[0]}}}'. "
            f"Fields: {', '.join(example.fields)}."
        ) from None
    if layout is not None:
        tail = Segment("query", layout.delimiter + layout.targets_prefix)
        asked = [Segment("query", layout.inputs_prefix), *asked, tail]
    references = [example.targets[target_index], *example.targets]
    per_option = choices if choices and "answer" in slots(targets) and "rationale" not in slots(targets) else None
    return _Worded(
        inputs=_merged(asked),
        target=target,
        references=tuple(dict.fromkeys(target_text(t) for t in references)),
        options=tuple(target_text(o) for o in per_option) if per_option else None,
    )


def _values(task: Task, example: Example, answer: str) -> dict[str, str]:
    values = {"definition": task.definition or "", "rationale": example.rationale or "", **example.fields}
    values["answer"] = answer
    if example.rationale is not None:
        values["rationale"] = example.rationale
    return values


def _input_segments(parts: list[tuple[str | None, str]]) -> list[Segment]:
    segments = []
    for slot, text in parts:
        is_wording = slot == "definition" or (slot is None and text.strip() != "")
        role: Role = "instruction" if is_wording else "query"
        segments.append(Segment(role, text))
    return segments


def _target_segments(parts: list[tuple[str | None, str]]) -> list[Segment]:
    """Target segments with white space at both ends of the whole taken off."""
    segments = _merged([Segment("rationale" if slot == "rationale" else "target", text) for slot, text in parts])
    while segments and not segments[0].text.strip():
        segments = segments[1:]
    while segments and not segments[-1].text.strip():
        segments = segments[:-1]
    if segments:
        segments[0] = replace(segments[0], text=segments[0].text.lstrip())
        segments[-1] = replace(segments[-1], text=segments[-1].text.rstrip())
    return segments


def _merged(segments: list[Segment]) -> list[Segment]:
    """Neighbours of one role as one segment, empty ones gone."""
    merged: list[Segment] = []
    for segment in segments:
        if not segment.text:
            continue
        if merged and merged[-1].role == segment.role:
            merged[-1] = replace(merged[-1], text=merged[-1].text + segment.text)
        else:
            merged.append(segment)
    return merged
