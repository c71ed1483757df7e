from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import orjson
import pytest

from flantune.formats import FORMATS, SETTINGS, applies, render, select_templates
from flantune.formats.delimiters import ENDS
from flantune.formats.dialog import (
    DASH_STYLE,
    HEADS,
    HEADS_ZH,
    MARKS,
    DialogStyle,
    draw_dialog_style,
    print_dialog,
)
from flantune.templates import templates_for
from flantune.types import Example, Format, Task

TALK = Task(name="muffin/talk", mixture="muffin", dataset="talk", category="Dialogue Generation", templates="dialog",
            fields=("turns",), source="dialog")  # fmt: skip


def talk(row: int, *turns: str) -> Example:
    return Example(task=TALK.name, row=row, id=str(row), fields={"turns": "\n".join(turns[:-1])}, targets=turns[-1:])


TEA, BUS = talk(0, "Tea?", "Please.", "Milk?", "No, thanks."), talk(1, "Is this the bus?", "It left.")


def test_turns_alternate_marks_and_the_next_speakers_mark_closes() -> None:
    style = DialogStyle("Convo:", ("\nPerson A: ", "\nPerson B: "), ";")
    assert print_dialog(["Tea?", "Please."], style) == "Convo:\nPerson A: Tea?;\nPerson B: Please.;"
    assert print_dialog(["Tea?", "Please."], style, closing=True).endswith("\nPerson A: ")
    assert print_dialog(["Tea?"], style, closing=True).endswith("Tea?;\nPerson B: ")
    assert print_dialog(["Tea?", "Please."]) == "DIALOG:\n- Tea?\n- Please."


def test_the_strings_are_the_recipes(spec_dir: Path) -> None:
    table = orjson.loads((spec_dir / "delimiters.json").read_bytes())["dialog"]
    # Two of its heads are run together, where a comma is missing; here they are apart.
    assert "CONVERSATION:Conversation:" in table["random_start_strings"]
    theirs = [s for s in table["random_start_strings"] if s != "CONVERSATION:Conversation:"]
    assert [h for h in HEADS if h not in ("CONVERSATION:", "Conversation:")] == theirs
    assert len(HEADS_ZH) == len(HEADS) == len(set(HEADS_ZH))
    assert Counter(MARKS) == Counter(
        {(f["odd_turn"], f["even_turn"]): f["weight"] for f in table["random_item_formats"]}
    )
    assert len(MARKS) == 50 and len(set(MARKS)) == 49
    assert list(ENDS) == table["random_item_end_strings"]
    assert DASH_STYLE.head + DASH_STYLE.marks[0].rstrip(" ") == table["deterministic"]["head"] + "-"


def test_styles_are_drawn_uniformly() -> None:
    rng = random.Random(0)
    n = 30_000
    drawn = Counter(draw_dialog_style(rng).marks for _ in range(n))
    assert len(drawn) == 49
    assert all(count / n == pytest.approx(MARKS.count(m) / 50, abs=0.005) for m, count in drawn.items())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_zero_shot_draws_the_marks_and_few_shot_prints_dashes(language: str) -> None:
    templates = templates_for(TALK, language)
    zero = FORMATS["zs_opt"]
    seen = set()
    for template in select_templates(templates, TALK, TEA, zero):
        assert applies(template, TEA, TALK)
        for seed in range(20):
            prompt = render(TALK, TEA, template, zero, rng=random.Random(seed))
            assert prompt.target == "No, thanks." and prompt.references == ("No, thanks.",)
            assert [prompt.inputs.index(t) for t in ("Tea?", "Please.", "Milk?")] == sorted(
                prompt.inputs.index(t) for t in ("Tea?", "Please.", "Milk?")
            )
            assert "dialog_" not in prompt.inputs
            seen.add(prompt.inputs)
    assert len(seen) > 150
    for name in ("fs_opt_single", "fs_opt"):
        for template in select_templates(templates, TALK, TEA, SETTINGS[name]):
            prompt = render(TALK, TEA, template, SETTINGS[name], [(BUS, template)], rng=random.Random(1))
            head = "对话：" if language == "zh" else "DIALOG:"
            assert f"{head}\n- Is this the bus?" in prompt.inputs
            assert f"{head}\n- Tea?\n- Please.\n- Milk?" in prompt.inputs
            assert prompt.target == "No, thanks."


def test_a_pattern_that_ends_with_the_talk_ends_with_the_next_speakers_mark() -> None:
    first = templates_for(TALK)[0]
    assert first.inputs == "{dialog_}"
    for seed in range(200):
        style = draw_dialog_style(random.Random(seed))
        prompt = render(TALK, TEA, first, Format(), rng=random.Random(seed))
        assert prompt.inputs == print_dialog(["Tea?", "Please.", "Milk?"], style, closing=True).rstrip(" ")


@pytest.mark.parametrize("shots", [0, 1])
def test_inverted_wordings_ask_for_the_talk(shots: int) -> None:
    format = Format(shots=shots, inverted=True)
    templates = select_templates(templates_for(TALK), TALK, TEA, format)
    assert len(templates) == 10
    for template in templates:
        shown = [(BUS, template)] * shots
        prompt = render(TALK, TEA, template, format, shown, rng=random.Random(3))
        assert "No, thanks." in prompt.inputs and "Tea?" not in prompt.inputs
        assert [t in prompt.target for t in ("Tea?", "Please.", "Milk?", "No, thanks.")] == [True, True, True, False]
        assert prompt.references == (prompt.target,)
