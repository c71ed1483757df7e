"""A draw in parts: literals of the wording and texts of rows, in the order `formats.render` puts them in.

    "{context}\n\nDoes this follow: {claim}"  ->  text 0 of the row, literal "\n\nDoes this follow: ", text 1 of the row

What is left out, stripped or put on a line of its own follows the renderer, which stays the reference: every rule here
is one of `formats.render`, `formats.options` or `templates.patterns.fill`, said of parts instead of text.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from flantune.errors import TemplateError
from flantune.formats.delimiters import DASH, MAX_ITEMS, Marks
from flantune.formats.few_shot import draw_separator
from flantune.formats.options import LIST_STYLE, OptionStyle, draw_style, in_language, usable_style
from flantune.formats.render import layout_of
from flantune.mixtures import Draw, Mixture
from flantune.mixtures.rows import RowShape
from flantune.tasks import ExampleStore
from flantune.templates.patterns import OPTIONS_SLOT, parse_pattern, slots
from flantune.templates.patterns import Literal as PatternLiteral
from flantune.tokens.token_store import Part, Texts, TokenStore
from flantune.types import FewShotLayout, Format, Template

Items = tuple["Part | int", ...]
# What stands in a plan beside literals and the numbers of a row's texts.
_ANSWER, _OPTIONS, _OPTIONS_ON_OWN_LINE = -1, -2, -3


def composes(format: Format) -> bool:
    """Whether prompts of the format can be composed; the others are rendered."""
    return not (format.chat or format.demonstrations or format.delimiters != "template")


@dataclass(frozen=True, slots=True)
class Wording:
    """A template as a format lays it out."""

    inputs: str
    targets: str
    layout: FewShotLayout | None
    names_options: bool
    language: str

    @classmethod
    def of(cls, template: Template, format: Format) -> Wording:
        layout = layout_of(template, format) if format.shots > 0 or not format.instruction else None
        source = template if layout is None else layout
        named = OPTIONS_SLOT in (*slots(source.inputs), *slots(source.targets))
        return cls(source.inputs, source.targets, layout, named, template.language)


@dataclass(slots=True)
class Worded:
    """One prompt's texts in parts."""

    draw: Draw
    template: str
    instruction: list[Part]
    exemplars: list[tuple[list[Part], list[Part], Part]]  # asked, answered, separator
    query: list[Part]
    target: list[Part]
    kept: int  # exemplars that stay

    def inputs(self) -> list[Part]:
        parts = list(self.instruction)
        for asked, answered, separator in self.exemplars[: self.kept]:
            parts += asked
            parts += answered
            parts.append(separator)
        parts += self.query
        return parts


class Worder:
    """Puts draws of a mixture in parts."""

    def __init__(self, mixture: Mixture, store: ExampleStore, tokens: TokenStore) -> None:
        self._mixture = mixture
        self._store = store
        self._tokens = tokens
        self._plans: dict[tuple[str, int, str, str, str, bool], Items] = {}
        self._wordings: dict[tuple[int, Format], Wording] = {}

    def word(self, draw: Draw) -> Worded:
        """Raises TemplateError where no wording serves the row, or where one names what is not a text of the row."""
        made = self._mixture.choices(draw, self._tokens)
        task, format, tokens = draw.task, draw.format, self._tokens
        wording = self._wording(made.template, format)
        shape, texts = tokens.parts(task, draw.row)
        shown = [(template, *tokens.parts(task, row)) for row, template in made.exemplars]
        mixed = bool(shown) and format.exemplar_templates == "mixed"
        style = LIST_STYLE if format.options == "list" else None
        separator = None
        if mixed or (format.options == "random" and (shape.options or any(s.options for _, s, _ in shown))):
            rng = random.Random(made.style_key)  # in the renderer's order; not made where nothing is drawn
            if format.options == "random":
                style = draw_style(rng)
            if mixed:
                separator = draw_separator(rng)
        exemplars = []
        for template, its_shape, its_texts in shown:
            its = self._wording(template, format)
            asked, answered = self._word(task, its, style, its_shape, its_texts, 0)
            own = its.layout.separator if its.layout is not None else ""
            exemplars.append((asked, answered, tokens.literal(separator or own)))
        query, target = self._word(task, wording, style, shape, texts, made.target_index)
        instruction = self._instruction(task, wording.layout, shape, texts, separator)
        return Worded(draw, made.template.name, instruction, exemplars, query, target, len(exemplars))

    def _wording(self, template: Template, format: Format) -> Wording:
        known = self._wordings.get((id(template), format))
        if known is None:
            known = self._wordings[id(template), format] = Wording.of(template, format)
        return known

    def _instruction(
        self, task: str, layout: FewShotLayout | None, shape: RowShape, texts: Texts, separator: str | None
    ) -> list[Part]:
        if layout is None or not layout.instruction:
            return []
        parts = self._filled(self._plan(task, shape, layout.instruction, False), texts, None, None, shape)
        ends = [end for part in parts if (end := part[3] or part[0])]
        if not any(part[0].strip() for part in parts):
            return []
        if not ends[-1].endswith("\n"):
            parts.append(self._tokens.literal(separator or layout.separator))
        return parts

    def _word(
        self, task: str, wording: Wording, style: OptionStyle | None, shape: RowShape, texts: Texts, target: int
    ) -> tuple[list[Part], list[Part]]:
        """What is asked and what is answered of one row."""
        block = in_language(style, wording.language) if style and shape.options and wording.names_options else None
        answer, option = texts[len(shape.fields) + target]
        if block is not None and option >= 0:
            used = usable_style(block, ("",) * (shape.options or 0))
            if _are_labels(used.marks):
                answer = self._tokens.literal(used.marks.items[option].strip())
        layout = wording.layout
        before, after = ("", "") if layout is None else (layout.inputs_prefix, layout.delimiter + layout.targets_prefix)
        asked = self._plan(task, shape, wording.inputs, block is not None, before, after)
        answered = self._plan(task, shape, wording.targets, block is not None)
        return (
            self._filled(asked, texts, answer, block, shape),
            _stripped(self._filled(answered, texts, answer, block, shape)),
        )

    def _plan(self, task: str, shape: RowShape, pattern: str, block: bool, before: str = "", after: str = "") -> Items:
        """The pattern for rows of a shape: literals, numbers of their texts, and where answer and options go.

        `templates.patterns.fill` says what becomes of the options' slot and the white space around it.
        """
        key = (task, id(shape), pattern, before, after, block)  # shapes live as long as the store
        known = self._plans.get(key)
        if known is None:
            known = self._plans[key] = self._make_plan(task, shape, pattern, block, before, after)
        return known

    def _make_plan(self, task: str, shape: RowShape, pattern: str, block: bool, before: str, after: str) -> Items:
        items: list[str | int] = []
        at_start = False
        for part in parse_pattern(pattern):
            if isinstance(part, PatternLiteral):
                items.append(part.text.lstrip() if at_start else part.text)
            elif part.name != OPTIONS_SLOT:
                items.append(self._slot(task, shape, part.name))
            elif block:
                items.append(_OPTIONS_ON_OWN_LINE if any(item != "" for item in items) else _OPTIONS)
            else:
                if items and isinstance(items[-1], str):
                    items[-1] = items[-1].rstrip()
                at_start = not any(item != "" for item in items)
                continue
            at_start = False
        joined: list[str | int] = []
        for item in (before, *items, after):
            if isinstance(item, str) and joined and isinstance(joined[-1], str):
                joined[-1] += item
            elif item != "":
                joined.append(item)
        return tuple(self._tokens.literal(item) if isinstance(item, str) else item for item in joined)

    def _slot(self, task: str, shape: RowShape, name: str) -> str | int:
        """The number of the text that fills the slot, or the text where it is the task's."""
        if name == "answer":
            return _ANSWER
        if name == "rationale" and shape.rationale is not None:
            return len(shape.fields) + shape.targets
        if name in shape.fields:
            return shape.fields.index(name)
        if name == "rationale":
            return ""
        if name == "definition":
            return self._store.tasks[task].definition or ""
        raise TemplateError(f"task '{task}': slot '{{{name}}}' is not a text of the row")  # a dialogue's; rendered

    def _filled(
        self, plan: Items, texts: Texts, answer: Part | None, style: OptionStyle | None, shape: RowShape
    ) -> list[Part]:
        parts: list[Part] = []
        for item in plan:
            if not isinstance(item, int):
                parts.append(item)
            elif item >= 0:
                parts.append(texts[item][0])
            elif item == _ANSWER:
                if answer is not None:
                    parts.append(answer)
            else:
                assert style is not None
                parts += self._options(style, texts[-(shape.options or 0) :], parts if item != _OPTIONS else [])
        return parts

    def _options(self, style: OptionStyle, choices: Texts, before: list[Part]) -> list[Part]:
        """The block of `formats.options.print_options`, on a line of its own where it would touch what is before it."""
        literal = self._tokens.literal
        few = len(choices) <= MAX_ITEMS
        style = style if few else LIST_STYLE
        marks = style.marks.items if few else (DASH.items[0],) * len(choices)
        opening = style.head + marks[0]
        last = next((end for part in reversed(before) if (end := part[3] or part[0])), "")
        if last and not last[-1].isspace() and not opening[:1].isspace():
            opening = "\n" + opening
        parts = [literal(opening)]
        for number, (choice, _) in enumerate(choices):
            if number:
                parts.append(literal(style.end + marks[number]))
            parts.append(choice)
        if style.end:
            parts.append(literal(style.end))
        return parts


@cache
def _are_labels(marks: Marks) -> bool:
    return marks.are_labels


def _stripped(parts: list[Part]) -> list[Part]:
    """The text without white space at its ends."""
    while parts and not (start := parts[0][0])[:1].strip():
        head = start.lstrip()
        if head or parts[0][3] is not None:
            parts[0] = (head, *parts[0][1:4], "")
            break
        del parts[0]
    while parts:
        head, place, count, tail, first = parts[-1]
        last = head if tail is None else tail
        if last[-1:].strip():
            break
        if tail is not None:
            parts[-1] = (head, place, count, tail.rstrip(), first)
            break
        if head.rstrip():
            parts[-1] = (head.rstrip(), place, count, None, first)
            break
        del parts[-1]
    return parts
