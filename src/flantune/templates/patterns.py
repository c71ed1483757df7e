"""Patterns: literal text with {slots}. `{{` and `}}` are braces.

    "Q: {question}\\nA:" -> Literal("Q: "), Slot("question"), Literal("\\nA:")

A pattern is only ever cut and filled here, never passed to `str.format`: a field's own braces stay as they are, and a
pattern cannot reach an attribute or an index of anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from flantune.errors import TemplateError, shorten

OPTIONS_SLOT = "options_"
DIALOG_SLOT = "dialog_"  # the field `turns` as a conversation
SPECIAL_SLOTS = ("answer", "rationale", "definition", OPTIONS_SLOT, DIALOG_SLOT)  # filled by the renderer

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Literal:
    text: str


@dataclass(frozen=True, slots=True)
class Slot:
    name: str


@lru_cache(maxsize=8192)
def parse_pattern(pattern: str) -> tuple[Literal | Slot, ...]:
    """The pattern's literals and slots, in order; neighbouring literals are one.

    Raises TemplateError for a brace without its partner and for a slot without a name.
    """
    parts: list[Literal | Slot] = []
    text = ""
    end = 0
    for match in _TOKEN.finditer(pattern):
        text += pattern[end : match.start()]
        end = match.end()
        found = match[0]
        if found in ("{{", "}}"):
            text += found[0]
            continue
        name = match[1]
        if name is None:
            raise TemplateError(
                f"pattern {shorten(pattern)}: '{found}' at character {match.start() + 1} has no partner. "
                f"Write '{found * 2}' for a brace that is meant as text."
            )
        if not name or name != name.strip():
            raise TemplateError(
                f"pattern {shorten(pattern)}: '{found}' at character {match.start() + 1} is no slot: expected a "
                "field's name without blanks around it. Write '{{' and '}}' for braces that are meant as text."
            )
        if text:
            parts.append(Literal(text))
            text = ""
        parts.append(Slot(name))
    text += pattern[end:]
    if text:
        parts.append(Literal(text))
    return tuple(parts)


@lru_cache(maxsize=8192)
def slots(pattern: str) -> tuple[str, ...]:
    """Names of the pattern's slots in order of first appearance, each once."""
    return tuple(dict.fromkeys(p.name for p in parse_pattern(pattern) if isinstance(p, Slot)))


def fill(pattern: str, values: Mapping[str, str], options: str | None = None) -> list[tuple[str | None, str]]:
    """The pattern's parts as (slot name or None for a literal, text). Joined they are the filled pattern.

    `options` is the text for `{options_}`. Without it the slot goes, and with it the white space of the literal before
    it, so that no gap is left; a block that would touch the text before it starts on a line of its own. Field text is
    never changed. Raises KeyError for a slot that `values` lacks.
    """
    filled: list[tuple[str | None, str]] = []
    at_start_after_options = False
    for part in parse_pattern(pattern):
        if isinstance(part, Literal):
            filled.append((None, part.text.lstrip() if at_start_after_options else part.text))
        elif part.name != OPTIONS_SLOT:
            filled.append((part.name, values[part.name]))
        elif options is None:
            if filled and filled[-1][0] is None:
                filled[-1] = (None, filled[-1][1].rstrip())
            at_start_after_options = not any(text for _, text in filled)
            continue
        else:
            before = next((text for _, text in reversed(filled) if text), "")
            touches = bool(before) and not before[-1].isspace() and not options[:1].isspace()
            filled.append((OPTIONS_SLOT, "\n" + options if touches else options))
        at_start_after_options = False
    return [(name, text) for name, text in filled if text]


def fill_text(pattern: str, values: Mapping[str, str], options: str | None = None) -> str:
    return "".join(text for _, text in fill(pattern, values, options))


def has_words(pattern: str) -> bool:
    """Whether the pattern says anything itself: a letter, digit or ideograph outside its slots, or the definition."""
    return any(
        any(c.isalnum() for c in part.text) if isinstance(part, Literal) else part.name == "definition"
        for part in parse_pattern(pattern)
    )


@lru_cache(maxsize=8192)
def without_words(pattern: str) -> str:
    """The pattern with every word of its own gone: the slots, and of each literal between two slots its line breaks.

    "Read this.\\n\\n{passage}\\n\\nNow answer: {question}" -> "{passage}\\n\\n{question}". A pattern that has no
    words stays as it is; `{definition}` is an instruction and goes; where a literal had no line break, one stands in.
    """
    if not has_words(pattern):
        return pattern
    kept = ""
    between = ""
    for part in parse_pattern(pattern):
        if isinstance(part, Literal):
            between += part.text
        elif part.name != "definition":
            kept += (_breaks(between) if kept else "") + "{" + part.name + "}"
            between = ""
    return kept


def _breaks(literal: str) -> str:
    if literal.strip() == "":
        return literal
    head = literal[: len(literal) - len(literal.lstrip())]
    tail = literal[len(literal.rstrip()) :]
    return next((run for run in (head, tail) if "\n" in run), "\n")
