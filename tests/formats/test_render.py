from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import TemplateError
from flantune.formats import FORMATS, OptionStyle, render
from flantune.types import Example, FewShotLayout, Format, Prompt, Task, Template

from .nouns import BOATS, CLAIMS, CRATE, CRATES, FERRY, FOLLOWS, KILN, Loaded
from .test_options import LETTERS, PLUS

ZERO = Format(shots=0, options="none")


def rng() -> random.Random:
    return random.Random("render")


def words(prompt: Prompt) -> tuple[str, str]:
    return prompt.inputs, prompt.target


# --- the worked examples of the recipe (spec 3.8) ---


def test_zs_opt_with_labels():
    prompt = render(CLAIMS, FERRY, FOLLOWS, FORMATS["zs_opt"], rng=Loaded(OptionStyle("Choose from:", LETTERS, ";")))
    assert words(prompt) == (
        "The ferry left at nine.\n\nDoes this follow: The ferry left before noon.\n\nChoose from:\n(A). yes;\n(B). no;",
        "(A).",
    )
    assert prompt.references == ("(A).",) and prompt.options == ("(A).", "(B).")


def test_zs_opt_with_inline_bullets():
    prompt = render(CLAIMS, FERRY, FOLLOWS, FORMATS["zs_opt"], rng=Loaded(OptionStyle("", PLUS, "")))
    assert prompt.inputs.endswith("noon.\n\n + yes + no") and prompt.target == "yes"


def test_zs_noopt():
    prompt = render(CLAIMS, FERRY, FOLLOWS, FORMATS["zs_noopt"], rng=rng())
    assert words(prompt) == ("The ferry left at nine.\n\nDoes this follow: The ferry left before noon.", "yes")
    assert prompt.options == ("yes", "no")


def test_fs_opt_with_one_template():
    format = Format(shots=2, options="list")
    prompt = render(CLAIMS, FERRY, FOLLOWS, format, [(KILN, FOLLOWS), (BOATS, FOLLOWS)], rng=rng())
    assert words(prompt) == (
        "Q: The kiln was cold.\nClaim: The kiln was lit.\nOPTIONS:\n- yes\n- no\nA: no\n\n"
        "Q: Ada owns two boats.\nClaim: Ada owns a boat.\nOPTIONS:\n- yes\n- no\nA: yes\n\n"
        "Q: The ferry left at nine.\nClaim: The ferry left before noon.\nOPTIONS:\n- yes\n- no\nA:",
        "yes",
    )
    assert prompt.exemplars == (1, 2)


def test_a_rationale_comes_before_the_answer():
    template = Template(name="t/rationale/0", kind="rationale", inputs="{question} Reason it out first:",
                        targets="{rationale} The answer is {answer}.",
                        few_shot=FewShotLayout(inputs="{question}", targets="{answer}"))  # fmt: skip
    prompt = render(CRATES, CRATE, template, ZERO, rng=rng())
    assert words(prompt) == (
        "A crate holds 6 jars. How many jars are in 4 crates? Reason it out first:",
        "Each crate has 6 jars, and 4 * 6 = 24. The answer is 24.",
    )
    assert [(s.role, s.text) for s in prompt.segments[-2:]] == [
        ("rationale", "Each crate has 6 jars, and 4 * 6 = 24."),
        ("target", " The answer is 24."),
    ]


def test_an_inverted_wording_asks_for_the_question():
    template = Template(name="t/inverted/0", kind="inverted",
                        inputs="Rationale: {rationale} Give the question and its answer.",
                        targets="{question}\nThe answer is {answer}",
                        few_shot=FewShotLayout(inputs="{rationale}", targets="{question}"))  # fmt: skip
    prompt = render(CRATES, CRATE, template, replace(ZERO, inverted=True), rng=rng())
    assert words(prompt) == (
        "Rationale: Each crate has 6 jars, and 4 * 6 = 24. Give the question and its answer.",
        "A crate holds 6 jars. How many jars are in 4 crates?\nThe answer is 24",
    )


PLURALS = Task(name="niv2/plural", mixture="niv2", dataset="plural", category="c", templates="niv2", fields=("input",),
               definition="Turn the noun into its plural.")  # fmt: skip
DEFINITION_FIRST = Template(name="n/direct/0", kind="direct", inputs="{definition}\n{input}", targets="{answer}",
                            few_shot=FewShotLayout(inputs="{input}", targets="{answer}", instruction="{definition}",
                                                   inputs_prefix="Input: ", targets_prefix="Output: "))  # fmt: skip


def noun(row: int, one: str, many: str, why: str | None = None) -> Example:
    return Example(task="niv2/plural", row=row, id=str(row), fields={"input": one}, targets=(many,), rationale=why)


FOX, LEAF, TOOTH = noun(0, "fox", "foxes"), noun(1, "leaf", "leaves"), noun(2, "tooth", "teeth")


def test_natural_instructions_show_the_definition_once_then_pairs():
    prompt = render(
        PLURALS,
        TOOTH,
        DEFINITION_FIRST,
        Format(shots=2),
        [(FOX, DEFINITION_FIRST), (LEAF, DEFINITION_FIRST)],
        rng=rng(),
    )
    assert words(prompt) == (
        "Turn the noun into its plural.\n\n"
        "Input: fox\nOutput: foxes\n\nInput: leaf\nOutput: leaves\n\nInput: tooth\nOutput:",
        "teeth",
    )


# --- stored demonstrations (spec 3.5) ---

SHOWN = replace(
    PLURALS, demonstrations=(noun(0, "ox", "oxen", "An old ending."), noun(1, "fox", "foxes", "x takes es."))
)


def test_one_demonstration_is_shown_with_its_explanation_after_the_output():
    format = Format(shots=1, demonstrations=True)
    prompt = render(SHOWN, TOOTH, DEFINITION_FIRST, format, rng=random.Random(3))
    before, _, after = prompt.inputs.partition("Output: oxen\n")
    assert before == "Turn the noun into its plural.\n\nInput: ox\n"
    assert after.endswith("An old ending.\n\nInput: tooth\nOutput:") and not after.startswith("An old")
    assert prompt.exemplars == (-1,)


def test_two_demonstrations_are_shown_as_pairs_alone():
    prompt = render(SHOWN, TOOTH, DEFINITION_FIRST, Format(shots=2, demonstrations=True), rng=rng())
    assert prompt.inputs == (
        "Turn the noun into its plural.\n\n"
        "Input: ox\nOutput: oxen\n\nInput: fox\nOutput: foxes\n\nInput: tooth\nOutput:"
    )
    assert prompt.exemplars == (-1, -2)


def test_a_demonstration_that_is_the_query_is_passed_over():
    prompt = render(SHOWN, noun(9, "ox", "oxen"), DEFINITION_FIRST, Format(shots=1, demonstrations=True), rng=rng())
    assert prompt.exemplars == (-2,) and prompt.inputs.count("Input: ox\n") == 1


def test_a_demonstrations_row_number_is_not_the_querys():
    # Rows of demonstrations count within the demonstrations: 0 here and the query's 0 are different examples.
    prompt = render(SHOWN, noun(0, "tooth", "teeth"), DEFINITION_FIRST, Format(shots=1, demonstrations=True), rng=rng())
    assert prompt.exemplars == (-1,)


def test_a_demonstrations_format_takes_no_other_exemplars():
    with pytest.raises(ValueError, match="own stored exemplars"):
        render(
            SHOWN, TOOTH, DEFINITION_FIRST, Format(shots=1, demonstrations=True), [(LEAF, DEFINITION_FIRST)], rng=rng()
        )


# --- exemplars and layouts ---


def test_the_query_is_never_among_its_exemplars():
    format = Format(shots=1)
    with pytest.raises(ValueError, match="own exemplars"):
        render(CLAIMS, FERRY, FOLLOWS, format, [(FERRY, FOLLOWS)], rng=rng())
    with pytest.raises(ValueError, match="own exemplars"):
        render(CLAIMS, FERRY, FOLLOWS, format, [(replace(FERRY, row=7, targets=("no",)), FOLLOWS)], rng=rng())


def test_mixed_exemplars_keep_their_own_wording_and_share_a_drawn_separator():
    layout = FewShotLayout(
        inputs="{claim} Given: {context}", targets="{answer}!", targets_prefix="=> ", separator="\n####\n"
    )
    other = replace(FOLLOWS, name="other", few_shot=layout)
    format = Format(shots=2, options="none", exemplar_templates="mixed")
    prompt = render(CLAIMS, FERRY, FOLLOWS, format, [(KILN, other), (BOATS, FOLLOWS)], rng=Loaded(separator="\n"))
    assert prompt.inputs == (
        "The kiln was lit. Given: The kiln was cold.\n=> no!\n"
        "Q: Ada owns two boats.\nClaim: Ada owns a boat.\nA: yes\n"
        "Q: The ferry left at nine.\nClaim: The ferry left before noon.\nA:"
    )


def test_without_instruction_only_slots_line_breaks_and_prefixes_are_left():
    layout = replace(
        FOLLOWS.few_shot, instruction="Judge each claim.", inputs="Text: {context}\n\nClaim: {claim}\n{options_}"
    )
    template = replace(FOLLOWS, few_shot=layout)
    format = Format(shots=1, options="none", instruction=False)
    prompt = render(CLAIMS, FERRY, template, format, [(KILN, template)], rng=rng())
    assert prompt.inputs == (
        "Q: The kiln was cold.\n\nThe kiln was lit.\nA: no\n\n"
        "Q: The ferry left at nine.\n\nThe ferry left before noon.\nA:"
    )
    assert "instruction" not in {s.role for s in prompt.segments}
    told = render(CLAIMS, FERRY, template, replace(format, instruction=True), [(KILN, template)], rng=rng())
    assert told.inputs.startswith("Judge each claim.\n\nQ: Text: The kiln")


def test_an_instruction_that_ends_its_line_gets_no_separator():
    layout = replace(DEFINITION_FIRST.few_shot, instruction="{definition}\n--------\n")
    template = replace(DEFINITION_FIRST, few_shot=layout)
    prompt = render(PLURALS, TOOTH, template, Format(shots=1), [(FOX, template)], rng=rng())
    assert prompt.inputs.startswith("Turn the noun into its plural.\n--------\nInput: fox")


def test_an_exemplar_is_three_segments_and_pruning_takes_it_whole():
    exemplars = [(KILN, FOLLOWS), (BOATS, FOLLOWS)]
    prompt = render(CLAIMS, FERRY, FOLLOWS, Format(shots=2), exemplars, rng=rng())
    for number in (0, 1):
        pieces = [s.text for s in prompt.segments if s.exemplar == number]
        assert len(pieces) == 3 and pieces[1] in ("yes", "no") and pieces[2] == "\n\n"
    pruned = prompt.keep_exemplars(1)
    assert pruned.inputs == render(CLAIMS, FERRY, FOLLOWS, Format(shots=2), exemplars[:1], rng=rng()).inputs
    assert prompt.keep_exemplars(0).inputs.startswith("Q: The ferry")


def test_an_exemplar_its_template_cannot_word_is_refused():
    blank = replace(KILN, fields={**KILN.fields, "claim": " "})
    with pytest.raises(TemplateError, match="leaves blank"):
        render(CLAIMS, FERRY, FOLLOWS, Format(shots=1), [(blank, FOLLOWS)], rng=rng())


# --- targets and references ---


def test_every_accepted_target_is_a_reference_worded_as_the_target():
    many = replace(FERRY, options=None, targets=("yes", "aye", "yes "))
    template = replace(FOLLOWS, targets="It is {answer}.")
    prompt = render(CLAIMS, many, template, ZERO, rng=rng(), target_index=1)
    assert prompt.target == "It is aye." and prompt.references == ("It is aye.", "It is yes.", "It is yes .")
    with pytest.raises(ValueError, match="no target 3 of 3"):
        render(CLAIMS, many, template, ZERO, rng=rng(), target_index=3)


def test_an_answer_stays_text_where_the_wording_prints_no_options():
    plain = replace(FOLLOWS, inputs="{context} {claim}?")
    style = OptionStyle("Choose from:", LETTERS, ";")
    prompt = render(CLAIMS, FERRY, plain, FORMATS["zs_opt"], rng=Loaded(style))
    assert prompt.target == "yes"


def test_exemplars_and_query_share_one_option_style():
    style = OptionStyle("Choose from:", LETTERS, ";")
    format = Format(shots=1, options="random")
    prompt = render(CLAIMS, FERRY, FOLLOWS, format, [(KILN, FOLLOWS)], rng=Loaded(style))
    assert prompt.inputs.count("Choose from:\n(A). yes;\n(B). no;") == 2
    assert "A: (B).\n\n" in prompt.inputs and prompt.target == "(A)."


def test_the_target_has_no_white_space_at_its_ends():
    template = replace(FOLLOWS, targets="\n {answer} \n")
    prompt = render(CLAIMS, replace(FERRY, targets=(" yes\n",), options=None), template, ZERO, rng=rng())
    assert prompt.target == "yes" and prompt.references == ("yes",)


def test_a_slot_the_example_has_no_field_for_is_named():
    with pytest.raises(TemplateError, match=r"slot '\{context\}'"):
        render(CLAIMS, replace(FERRY, fields={"claim": "x"}), FOLLOWS, ZERO, rng=rng())


def test_roles_tell_wording_from_field_text():
    prompt = render(PLURALS, TOOTH, replace(DEFINITION_FIRST, inputs="{definition}\nNoun: {input}"), ZERO, rng=rng())
    assert [(s.role, s.text) for s in prompt.segments] == [
        ("instruction", "Turn the noun into its plural.\nNoun: "),
        ("query", "tooth"),
        ("target", "teeth"),
    ]


# --- any text ---

hostile = st.text(alphabet=st.sampled_from("a{}\n\r\t %$\\é中\u2028\x85\U0001f600"), min_size=1, max_size=20)


@settings(max_examples=150)
@given(hostile, hostile, st.lists(hostile, min_size=1, max_size=4), st.sampled_from(list(FORMATS)), st.integers(0, 99))
def test_field_text_reaches_the_prompt_unchanged(context: str, claim: str, options: list[str], name: str, seed: int):
    example = replace(FERRY, fields={"context": context, "claim": claim}, options=tuple(options), targets=(options[0],))
    format = FORMATS[name]
    others = [e for e in (KILN, BOATS) if format.shots]
    prompt = render(CLAIMS, example, FOLLOWS, format, [(e, FOLLOWS) for e in others], rng=random.Random(seed))
    asked = [s for s in prompt.segments if s.role not in ("rationale", "target")]
    assert "".join(s.text for s in asked).rstrip(" ") == prompt.inputs
    assert "".join(s.text for s in prompt.segments if s.role in ("rationale", "target")) == prompt.target
    query = "".join(s.text for s in asked if s.exemplar is None)
    wording = "Claim: " if format.shots else "Does this follow: "
    assert f"{context}\n{wording}{claim}" in query or f"{context}\n\n{wording}{claim}" in query
    if format.options != "none":
        assert all(option in query for option in options)
    assert prompt.target == prompt.target.strip()


def test_equal_arguments_give_equal_prompts():
    once, again = (render(CLAIMS, FERRY, FOLLOWS, FORMATS["zs_opt"], rng=random.Random("5:claims:0")) for _ in range(2))
    assert once == again
