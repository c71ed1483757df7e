from __future__ import annotations

import random
from typing import get_args

from flantune.formats import as_plain_text, as_rich_text, legend, render
from flantune.formats.preview import ROLE_STYLES
from flantune.types import Format, Role

from .nouns import CLAIMS, FERRY, FOLLOWS, KILN


def prompt():  # type: ignore[no-untyped-def]
    return render(CLAIMS, FERRY, FOLLOWS, Format(shots=1, options="none"), [(KILN, FOLLOWS)], rng=random.Random(0))


def test_the_legend_names_every_role_and_no_two_look_alike():
    assert all(role in legend().plain for role in get_args(Role))
    assert len(set(ROLE_STYLES.values())) == len(get_args(Role))


def test_the_coloured_preview_is_the_prompts_text_under_two_headings():
    shown = prompt()
    segments = "".join(s.text for s in shown.segments if s.role != "target")
    assert as_rich_text(shown).plain == f"INPUT\n{segments}\nTARGET\n{shown.target}\n"


def test_the_plain_preview_marks_roles():
    assert as_plain_text(prompt()) == (
        "INPUT\n<exemplar>Q: The kiln was cold.\nClaim: The kiln was lit.\nA: no\n\n"
        "<query>Q: The ferry left at nine.<instruction>\nClaim: <query>The ferry left before noon.\nA: \n"
        "TARGET\n<target>yes\n"
    )
