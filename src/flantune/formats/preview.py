"""A Prompt to look at: coloured by role on a terminal, marked by role where there are no colours."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import get_args

from rich.text import Text

from flantune.types import Prompt, Role

# What a terminal would obey rather than show: escape sequences in a collection's text must not move the cursor. Signs
# for the control characters (␛, ␡), the replacement character for those of Latin-1, which have none.
CONTROLS = {c: 0x2400 + c for c in range(0x20) if chr(c) not in "\n\t"} | {0x7F: 0x2421}
CONTROLS |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)

# Underline and bold beside the colour, so that the roles differ in black and white too.
ROLE_STYLES: dict[Role, str] = {
    "instruction": "cyan",
    "exemplar": "dim",
    "query": "bold",
    "rationale": "italic yellow",
    "target": "underline green",
}


def masked(text: str) -> str:
    """The text with its control characters made visible; line breaks and tabs stay what they are."""
    return text.translate(CONTROLS)


def legend() -> Text:
    """One line naming each role in its own style."""
    text = Text("roles: ")
    for role in get_args(Role):
        text.append(role, style=ROLE_STYLES[role])
        text.append("  ")
    return text


def as_rich_text(prompt: Prompt) -> Text:
    """The prompt's text, each segment in its role's style, under the headings INPUT and TARGET."""
    text = Text()
    for heading, segments in _parts(prompt):
        text.append(f"{heading}\n", style="reverse")
        for role, piece in segments:
            text.append(piece, style=ROLE_STYLES[role])
        text.append("\n")
    return text


def as_plain_text(prompt: Prompt) -> str:
    """The same without colours: each role's name in angle brackets before its text."""
    lines = []
    for heading, segments in _parts(prompt):
        lines.append(heading)
        lines.append("".join(f"<{role}>{text}" for role, text in segments))
    return "\n".join(lines) + "\n"


def _parts(prompt: Prompt) -> Iterator[tuple[str, list[tuple[Role, str]]]]:
    target_roles = ("rationale", "target")
    for is_target, segments in groupby(prompt.segments, key=lambda s: s.role in target_roles):
        by_role = groupby(segments, key=lambda s: (s.role, s.exemplar))
        yield (
            ("TARGET" if is_target else "INPUT"),
            [(role, masked("".join(s.text for s in run))) for (role, _), run in by_role],
        )
