from __future__ import annotations

from dataclasses import replace

import pytest

from flantune.errors import TemplateError
from flantune.formats import applies, select_templates
from flantune.formats.selection import is_wordless
from flantune.templates import template_set, templates_for
from flantune.types import Example, Format, Task

from .nouns import CLAIMS, CRATE, CRATES, FERRY

ALPACA = Task(name="x/alpaca", mixture="x", dataset="alpaca", category="c", templates="alpaca",
              fields=("instruction", "input"))  # fmt: skip


def order(instruction: str, text: str) -> Example:
    return Example(task="x/alpaca", row=0, id="0", fields={"instruction": instruction, "input": text}, targets=("t",))


@pytest.mark.parametrize(
    ("format", "kind", "count"),
    [
        (Format(), "rationale", 10),
        (Format(rationale="with"), "rationale", 10),
        (Format(rationale="without"), "direct", 10),
        (Format(inverted=True), "inverted", 18),
    ],
)
def test_the_format_decides_the_kind(format: Format, kind: str, count: int):
    found = select_templates(templates_for(CRATES), CRATES, CRATE, format)
    assert {t.kind for t in found} == {kind} and len(found) == count


def test_an_example_without_rationale_gets_direct_wording_unless_one_is_demanded():
    bare = replace(CRATE, rationale=None)
    wordings = templates_for(CRATES)
    assert {t.kind for t in select_templates(wordings, CRATES, bare, Format())} == {"direct"}
    with pytest.raises(TemplateError, match=r"row 0 .* has no rationale"):
        select_templates(wordings, CRATES, bare, Format(rationale="with"))


def test_a_kind_the_task_has_no_wording_of_is_an_error():
    with pytest.raises(TemplateError, match="asks for inverted templates, and it has direct"):
        select_templates(templates_for(ALPACA), ALPACA, order("a", "b"), Format(inverted=True))


def test_a_blank_input_leaves_no_dangling_label():
    wordings = templates_for(ALPACA)
    without = select_templates(wordings, ALPACA, order("Name a colour.", "  "), Format())
    assert {t.name for t in without} == {t.name for t in template_set("alpaca_no_input").templates}


def test_a_filled_input_is_never_left_out():
    both = select_templates(templates_for(ALPACA), ALPACA, order("Translate.", "Guten Tag"), Format())
    assert len(both) == 6 and all("{input}" in t.inputs and "{input}" in t.few_shot.inputs for t in both)


def test_where_no_template_applies_wordings_of_the_filled_fields_stand_in():
    lone = replace(FERRY, fields={"context": "", "claim": "The ferry left."})
    wordings = templates_for(CLAIMS)
    found = select_templates(wordings, CLAIMS, lone, Format())
    assert found and all(applies(t, lone, CLAIMS) and "context" not in t.inputs for t in found)
    with pytest.raises(TemplateError, match="only blank fields"):
        select_templates(wordings, CLAIMS, replace(FERRY, fields={"context": "", "claim": "\n"}), Format())


def test_a_task_without_definition_is_not_worded_by_one():
    task = Task(name="n", mixture="niv2", dataset="n", category="c", templates="niv2", fields=("input",))
    example = Example(task="n", row=0, id="0", fields={"input": "x"}, targets=("y",))
    assert all("{definition}" not in t.inputs for t in select_templates(templates_for(task), task, example, Format()))
    defined = replace(task, definition="Do it.")
    assert all("{definition}" in t.inputs for t in select_templates(templates_for(defined), defined, example, Format()))


def test_exemplars_without_instruction_use_the_sets_wordless_layouts():
    wordings = templates_for(CRATES)
    found = select_templates(wordings, CRATES, CRATE, Format(shots=3, instruction=False))
    assert len(found) == 7 and all(is_wordless(t) for t in found)


def test_mixed_exemplars_use_no_instruction_that_speaks_of_one_wording():
    found = select_templates(templates_for(CRATES), CRATES, CRATE, Format(shots=5, exemplar_templates="mixed"))
    assert len(found) == 9 and not any(t.few_shot.instruction for t in found)
