"""The few-shot variants of spec 3.4 and 3.5, random delimiters, and wording in another language."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from flantune.errors import TemplateError
from flantune.formats import FORMATS, SETTINGS, VARIANTS, draw_style, in_language, layout_of, render, select_templates
from flantune.formats.delimiters import HEADS, HEADS_ZH
from flantune.formats.render import EXPLANATION_PREFIXES
from flantune.templates import delimiter_rows, template_set
from flantune.types import Example, Format, Task

from .nouns import BOATS, CLAIMS, FERRY, FOLLOWS, KILN, Loaded

PLURALS = Task(
    name="niv2/plural",
    mixture="niv2",
    dataset="plural",
    category="c",
    templates="niv2",
    fields=("input",),
    definition="Turn the noun into its plural.",
    demonstrations=tuple(
        Example(task="niv2/plural", row=-1 - i, id=one, fields={"input": one}, targets=(many,), rationale=why)
        for i, (one, many, why) in enumerate([("box", "boxes", "x takes es."), ("ox", "oxen", "It is irregular.")])
    ),
)
FOX, LEAF, TOOTH = (
    Example(task="niv2/plural", row=i, id=one, fields={"input": one}, targets=(many,))
    for i, (one, many) in enumerate([("fox", "foxes"), ("leaf", "leaves"), ("tooth", "teeth")])
)
WORDINGS = template_set("niv2").templates


def test_natural_instructions_x_shot_is_the_worked_example() -> None:
    # Spec 3.8: definition, two pairs, query; the recipe's third set of delimiters but for the word "Output:".
    like = replace(WORDINGS[0].few_shot, inputs_prefix="Input: ", targets_prefix="Output: ")
    template = replace(WORDINGS[0], few_shot=like)
    prompt = render(
        PLURALS, TOOTH, template, SETTINGS["niv2_x_shot"], [(FOX, template), (LEAF, template)], rng=random.Random(0)
    )
    assert prompt.inputs == (
        "Turn the noun into its plural.\n\n"
        "Input: fox\nOutput: foxes\n\nInput: leaf\nOutput: leaves\n\nInput: tooth\nOutput:"
    )
    assert prompt.target == "teeth"


@pytest.mark.parametrize("template", WORDINGS, ids=lambda t: t.name)
def test_x_shot_shows_the_definition_once_two_pairs_and_no_explanation(template) -> None:  # type: ignore[no-untyped-def]
    prompt = render(
        PLURALS, TOOTH, template, SETTINGS["niv2_x_shot"], [(FOX, template), (LEAF, template)], rng=random.Random(0)
    )
    assert prompt.inputs.count("Turn the noun into its plural.") == 1
    assert prompt.exemplars == (0, 1) and "Explanation" not in prompt.inputs
    assert prompt.inputs.count(template.few_shot.separator) >= 2
    assert prompt.target == "teeth"  # the pattern's trailing separator is stripped
    assert prompt.inputs.rstrip() == prompt.inputs.rstrip(" ").rstrip() and not prompt.inputs.endswith(" ")


@pytest.mark.parametrize("template", WORDINGS, ids=lambda t: t.name)
def test_inline_shows_one_stored_example_with_its_explanation(template) -> None:  # type: ignore[no-untyped-def]
    prompt = render(PLURALS, TOOTH, template, SETTINGS["niv2_inline"], rng=random.Random(0))
    assert prompt.exemplars == (-1,)
    assert any(f"boxes\n{prefix}x takes es." in prompt.inputs for prefix in EXPLANATION_PREFIXES["en"])
    assert prompt.inputs.index("boxes") < prompt.inputs.index("tooth") and "oxen" not in prompt.inputs


def test_the_variants_differ_from_the_four_settings_and_from_one_another() -> None:
    assert len(set(SETTINGS.values())) == len(SETTINGS) == 7
    assert not set(FORMATS) & set(VARIANTS)
    assert (FORMATS["fs_opt"].shots, FORMATS["fs_opt"].exemplar_templates) == (5, "mixed")
    assert VARIANTS["fs_opt_single"] == replace(FORMATS["fs_noopt"], options="list")


# --- random delimiters ---

RANDOM = Format(shots=2, delimiters="random")


def drawn(seed: int, format: Format = RANDOM) -> str:
    shown = [(KILN, FOLLOWS), (BOATS, FOLLOWS)]
    return render(CLAIMS, FERRY, FOLLOWS, format, shown, rng=random.Random(seed)).inputs


def test_random_delimiters_are_one_row_of_the_table_throughout_a_prompt() -> None:
    rows = delimiter_rows("en")
    seen = set()
    for seed in range(300):
        text = drawn(seed)
        for number, row in enumerate(rows):
            strings = replace(FOLLOWS.few_shot, **row)
            if text == render(CLAIMS, FERRY, replace(FOLLOWS, few_shot=strings), Format(shots=2),
                              [(e, replace(FOLLOWS, few_shot=strings)) for e in (KILN, BOATS)],
                              rng=random.Random(seed)).inputs:  # fmt: skip
                seen.add(number)
                break
        else:
            raise AssertionError(text)
    assert len(seen) > 0.9 * len(rows)
    assert drawn(5) == drawn(5)


def test_delimiters_of_the_template_cost_no_draw() -> None:
    class Unused(random.Random):
        def choice(self, seq):  # type: ignore[no-untyped-def]
            raise AssertionError("nothing to draw")

    prompt = render(CLAIMS, FERRY, FOLLOWS, Format(shots=2), [(KILN, FOLLOWS), (BOATS, FOLLOWS)], rng=Unused())
    assert prompt.inputs.startswith("Q: ")


def test_zero_shot_and_chat_have_no_delimiters_to_draw() -> None:
    zero = render(CLAIMS, FERRY, FOLLOWS, Format(delimiters="random"), rng=random.Random(1))
    assert zero.segments == render(CLAIMS, FERRY, FOLLOWS, Format(), rng=random.Random(1)).segments
    chat = Format(shots=1, chat=True, delimiters="random")
    assert layout_of(FOLLOWS, chat, delimiter_rows("en")[3]) == layout_of(FOLLOWS, replace(chat, delimiters="template"))


# --- languages ---

ZH = replace(FOLLOWS, name="follows.zh/direct/0", language="zh",
             inputs="{context}\n\n由此能推出：{claim}\n\n{options_}",
             few_shot=replace(FOLLOWS.few_shot, inputs="{context}\n论断：{claim}\n{options_}", inputs_prefix="问：",
                              targets_prefix="答："))  # fmt: skip


def test_a_formats_language_is_the_wordings() -> None:
    both = (FOLLOWS, ZH)
    for language in ("en", "zh"):
        found = select_templates(both, CLAIMS, FERRY, Format(language=language))
        assert [t.language for t in found] == [language]
    assert select_templates(both, CLAIMS, FERRY, Format()) == both
    with pytest.raises(TemplateError, match="wording in 'fr'; it has: en, zh"):
        select_templates(both, CLAIMS, FERRY, Format(language="fr"))
    blank = replace(FERRY, fields={"context": "x", "claim": ""})
    (first, *_) = select_templates(both, CLAIMS, blank, Format(language="zh"))
    assert first.language == "zh"  # a stand-in made of the filled fields


def test_the_options_head_is_in_the_wordings_language() -> None:
    assert set(HEADS_ZH) == set(HEADS) and len(set(HEADS_ZH.values())) == len(HEADS)
    listed = render(CLAIMS, FERRY, ZH, Format(), rng=random.Random(0))
    assert listed.inputs.endswith("\n\n选项：\n- yes\n- no")
    style = draw_style(random.Random(9))
    english = render(CLAIMS, FERRY, FOLLOWS, FORMATS["zs_opt"], rng=Loaded(style))
    chinese = render(CLAIMS, FERRY, ZH, FORMATS["zs_opt"], rng=Loaded(style))
    assert english.target == chinese.target  # marks are the same in both
    assert in_language(style, "zh").marks == style.marks and in_language(style, "en") == style


def test_random_delimiters_of_a_chinese_wording_are_chinese() -> None:
    texts = {
        render(CLAIMS, FERRY, ZH, RANDOM, [(KILN, ZH), (BOATS, ZH)], rng=random.Random(seed)).inputs
        for seed in range(60)
    }
    assert len(texts) > 8
    assert not any(word in text for text in texts for word in ("Question", "Answer", "Output", "Q:", "A:"))
