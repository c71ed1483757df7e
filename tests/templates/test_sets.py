from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from flantune.errors import TemplateError
from flantune.formats.selection import is_wordless
from flantune.templates import (
    check_templates,
    has_words,
    labelled_templates,
    language_code,
    set_names,
    slots,
    template_set,
    templates_for,
    without_words,
)
from flantune.templates.sets import is_chinese
from flantune.types import FewShotLayout, Task, Template

COT = ("aqua", "creak", "ecqa", "esnli", "gsm8k", "qasc", "qed", "sensemaking", "strategyqa")
CLOSING = re.compile(r"\{rationale\}[ \n](.* answer is|.*answer is|The answer is) \{answer\}\.$")


def task(**changes: object) -> Task:
    base = Task(name="x/y", mixture="x", dataset="y", category="c", templates="generic", fields=("question",))
    return replace(base, **changes)  # type: ignore[arg-type]


def own(name: str, kind: str) -> list[Template]:
    return [t for t in template_set(name).templates if t.name.startswith(f"{name}/{kind}/")]


def all_sets() -> list[tuple[str, str]]:
    return [(name, language) for name in set_names() for language in ("en", "zh")]


@pytest.mark.parametrize(("name", "language"), all_sets())
def test_every_set_parses_its_slots_fit_and_no_two_templates_are_alike(name: str, language: str):
    found = template_set(name, language)
    assert len(found.templates) >= 4
    check_templates(found.templates, task(fields=found.fields))
    assert len({t.name for t in found.templates}) == len(found.templates)
    shown = [(t.kind, t.inputs, t.targets, t.few_shot) for t in found.templates]
    assert len(set(map(repr, shown))) == len(shown)
    assert {t.language for t in found.templates} == {language}


@pytest.mark.parametrize(("name", "language"), all_sets())
def test_every_template_asks_from_what_it_has_and_targets_the_rest(name: str, language: str):
    for t in template_set(name, language).templates:
        for inputs, targets in ((t.inputs, t.targets), (t.few_shot.inputs, t.few_shot.targets)):
            asked, told = set(slots(inputs)), set(slots(targets))
            if t.kind == "inverted":
                assert told - {"answer"}, f"{t.name} targets no field"
                assert not asked & told - {"options_"}, f"{t.name} gives away what it asks for"
            else:
                assert "answer" in told and not asked & {"answer", "rationale"}, t.name
                assert ("rationale" in told) == (t.kind == "rationale"), t.name


def test_wordings_without_options_speak_of_none():
    for name in set_names():
        for t in template_set(name).templates:
            if "options_" in slots(t.inputs):
                assert not re.search(r"(?i)choose|choice|option|select|pick one", t.inputs.replace("{options_}", "")), t
        for t in template_set(name, "zh").templates:
            if "options_" in slots(t.inputs):
                assert "选" not in t.inputs.replace("{options_}", ""), t


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("dataset", COT)
def test_a_rationale_set_has_ten_forward_five_direct_and_the_shared_inverted_ones(dataset: str, language: str):
    found = template_set(f"cot_{dataset}", language)
    assert Counter(t.kind for t in found.templates) == {"rationale": 10, "direct": 10, "inverted": 18}
    prefix = f"cot_{dataset}" if language == "en" else f"cot_{dataset}.zh"
    assert sum(t.name.startswith(f"{prefix}/rationale/") for t in found.templates) == 10
    assert sum(t.name.startswith(f"{prefix}/direct/") for t in found.templates) == 5


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_muffin_set_has_ten_with_as_many_inverted_among_them_as_the_recipe_has(spec_dir: Path, language: str):
    with (spec_dir / "template_inventory.csv").open(newline="", encoding="utf-8") as file:
        inventory = {row["pattern_key"]: row for row in csv.DictReader(file)}
    keys = {
        "arc_challenge": "arc", "arc_easy": "arc", "boolq": "bool_q", "boolq_icl": "bool_q", "copa_icl": "copa",
        "nq_open": "natural_questions", "openbook_qa": "openbookqa",
        # Shared by sets of one shape, which the recipe has as many of each kind for.
        "nli": "anli", "paraphrase": "paws_wiki", "summary": "xsum", "translation": "wmt16_translate",
    }  # fmt: skip
    ours = [name.removeprefix("muffin_") for name in set_names() if name.startswith("muffin_")]
    assert len(ours) == 50
    for name in ours:
        row = inventory[keys.get(name, name)]
        templates = template_set(f"muffin_{name}", language).templates
        assert len({t.inputs for t in templates}) == len({t.few_shot for t in templates}) == len(templates), name
        assert len(templates) == int(row["zero_shot_templates"]) == 10, name
        assert sum(t.kind == "inverted" for t in templates) == int(row["zs_target_differs_from_main"]), name
        with_slot = sum("options_" in slots(t.inputs) for t in templates)
        assert with_slot == int(row["zs_with_options_slot"]), name


def test_every_chinese_wording_that_has_words_is_chinese():
    for name in set_names():
        for t in template_set(name, "zh").templates:
            for pattern in (t.inputs, t.few_shot.instruction, t.few_shot.inputs_prefix + t.few_shot.targets_prefix):
                bare = re.sub(r"\{\w+\}|@placeholder|cause|effect|unanswerable|\b[AB]\b", "", pattern)
                assert not re.search(r"[A-Za-z]", bare), (t.name, pattern)
                assert not re.search(r"[一-鿿][,?:;]", bare), (t.name, pattern)
    assert {t.name for t in template_set("cot_gsm8k", "zh").templates if t.kind == "inverted"} == {
        f"cot_inverted.zh/inverted/{i}" for i in range(18)
    }


def test_zero_shot_targets_close_with_the_answer_in_fifteen_ways():
    closings = set()
    for dataset in COT:
        for t in own(f"cot_{dataset}", "rationale"):
            found = CLOSING.match(t.targets)
            assert found, f"{t.name}: {t.targets!r}"
            closings.add(found[1])
    assert 12 <= len(closings) <= 15


def test_answer_first_layouts_are_the_recipes_minorities():
    first = {
        d: sum(
            t.few_shot.targets.index("{answer}") < t.few_shot.targets.index("{rationale}")
            for t in own(f"cot_{d}", "rationale")
        )
        for d in COT
    }
    both = first.pop("qasc")
    assert first == {
        "creak": 5, "ecqa": 2, "aqua": 2, "qed": 1, "esnli": 1, "strategyqa": 1, "gsm8k": 0, "sensemaking": 0,
    }  # fmt: skip
    # The one QASC layout that names the answer before the rationale names it after, too.
    (odd,) = [t for t in own("cot_qasc", "rationale") if t.few_shot.targets.count("{answer}") == 2]
    assert both == 1 and odd.few_shot.targets.startswith("{answer}")


def test_about_a_quarter_of_rationale_wordings_say_step_by_step():
    inputs = [t.inputs for d in COT for t in own(f"cot_{d}", "rationale")]
    share = sum(bool(re.search(r"step by step|one step at a time|every step|one step after", i)) for i in inputs) / len(
        inputs
    )
    assert 0.15 <= share <= 0.35


@pytest.mark.parametrize("dataset", ["aqua", "qed"])
def test_rougher_rationales_are_asked_for_as_a_stream_of_thought(dataset: str):
    wordings = " ".join(t.inputs for t in own(f"cot_{dataset}", "rationale")).lower()
    assert "stream of thought" in wordings and "step by step" not in wordings


def test_inverted_wordings_are_of_four_kinds_in_the_recipes_numbers():
    def kind(asked: str, told: str) -> tuple[frozenset[str], frozenset[str]]:
        return frozenset(slots(asked)), frozenset(slots(told))

    q, a, r = "question", "answer", "rationale"
    kinds = [
        (frozenset({r}), frozenset({q, a})),
        (frozenset({q, a}), frozenset({r})),
        (frozenset({a}), frozenset({q, r})),
        (frozenset({r, a}), frozenset({q})),
    ]
    inverted = template_set("cot_inverted").templates
    zero_shot = Counter(kind(t.inputs, t.targets) for t in inverted)
    layouts = {repr(t.few_shot): kind(t.few_shot.inputs, t.few_shot.targets) for t in inverted}
    assert [zero_shot[k] for k in kinds] == [6, 5, 4, 3]
    few_shot = Counter(layouts.values())
    assert [few_shot[k] for k in kinds] == [2, 3, 2, 3]


def test_seven_of_ten_gsm8k_layouts_have_no_words():
    assert sum(is_wordless(t) for t in own("cot_gsm8k", "rationale")) == 7


def recipe_layouts() -> list[Template]:
    names = [n for n in set_names() if n.startswith(("cot_", "muffin_"))]
    return [t for n in names for t in template_set(n).templates if t.name.startswith(f"{n}/")]


def test_about_a_third_of_few_shot_layouts_have_no_words():
    layouts = recipe_layouts()
    assert 0.27 <= sum(is_wordless(t) for t in layouts) / len(layouts) <= 0.42


def test_delimiters_are_used_about_as_often_as_in_the_recipe(spec_dir: Path):
    table = orjson.loads((spec_dir / "delimiters.json").read_bytes())["few_shot"]
    layouts = [t.few_shot for t in recipe_layouts()]
    ours = {
        "inputs_prefix": Counter(f.inputs_prefix for f in layouts),
        "targets_prefix": Counter(f.targets_prefix for f in layouts),
        "x_y_delimiter": Counter(f.delimiter for f in layouts),
        "example_separator": Counter(f.separator for f in layouts),
    }
    for name, counts in ours.items():
        known = dict(table[name])
        assert not {text for text in counts if text not in known} - {"HERE: ", "response: "}, name
        for text, count in table[name][:2]:
            assert counts[text] / len(layouts) == pytest.approx(count / 1190, abs=0.15), (name, text)


def test_natural_instructions_layouts_are_the_recipes_ten_delimiter_sets(spec_dir: Path):
    table = orjson.loads((spec_dir / "delimiters.json").read_bytes())["niv2_few_shot"]
    ours = [t.few_shot for t in template_set("niv2").templates]
    assert len(ours) == 10 and all("{definition}" in f.instruction for f in ours)
    assert [(f.inputs_prefix, f.delimiter, f.targets_prefix, f.separator) for f in ours] == [
        (r["inputs_prefix"], r["x_y_delimiter"], r["targets_prefix"], r["example_separator"]) for r in table
    ]


def test_a_slot_no_field_fills_is_named_with_its_template_and_the_fields():
    wrong = Template(name="t/0", kind="direct", inputs="{qestion}", targets="{answer}", few_shot=FewShotLayout(
        inputs="{question}", targets="{answer}"))  # fmt: skip
    with pytest.raises(TemplateError, match=r"template 't/0'.*\{qestion\}.*question.*Did you mean 'question'"):
        check_templates([wrong], task())
    deep = replace(wrong, inputs="{question}", few_shot=replace(wrong.few_shot, instruction="{topic}"))
    with pytest.raises(TemplateError, match="topic"):
        check_templates([deep], task())


def test_two_templates_of_one_name_are_refused():
    one = template_set("generic_question").templates[0]
    with pytest.raises(TemplateError, match="two templates"):
        check_templates([one, one], task())


def test_an_unknown_set_names_near_ones():
    with pytest.raises(TemplateError, match="cot_gsm8k"):
        template_set("cot_gsm8")
    with pytest.raises(TemplateError, match="language 'fr'"):
        template_set("cot_gsm8k", "fr")


def test_a_tasks_own_templates_come_before_its_set_and_are_checked():
    mine = Template(name="mine/direct/0", kind="direct", inputs="{question}!", targets="{answer}",
                    few_shot=FewShotLayout(inputs="{question}", targets="{answer}"))  # fmt: skip
    assert templates_for(task(own_templates=(mine,))) == (mine,)
    with pytest.raises(TemplateError, match="nothing_here"):
        templates_for(task(own_templates=(replace(mine, inputs="{nothing_here}"),)))


@pytest.mark.parametrize(
    ("fields", "begins"),
    [
        (("question",), "generic_question/"),
        (("text",), "generic_text/"),
        (("prompt",), "prompts/"),
        (("instruction", "input"), "alpaca"),
        (("context", "question"), "labelled/"),
        (("review",), "labelled/"),
    ],
)
def test_without_a_named_set_the_fields_decide(fields: tuple[str, ...], begins: str):
    found = templates_for(task(fields=fields))
    assert all(t.name.startswith(begins) for t in found) and len(found) >= 5


def test_fields_no_set_knows_stand_under_their_own_names():
    first = labelled_templates(("context", "main_point"))[0]
    assert first.inputs == "Context: {context}\nMain point: {main_point}\n{options_}"
    assert labelled_templates(("review",))[0].inputs == "{review}\n{options_}"


def test_the_wordings_language_follows_the_task_and_the_call():
    chinese = task(language="zh")
    assert {t.language for t in templates_for(chinese)} == {"en", "zh"}
    assert {t.language for t in templates_for(task())} == {"en"}
    assert {t.language for t in templates_for(task(), "zh")} == {"zh"}
    gsm8k = task(templates="cot_gsm8k")
    assert {t.language for t in templates_for(gsm8k, "zh")} == {"zh"}
    assert {t.language for t in templates_for(gsm8k, ("en", "zh"))} == {"en", "zh"}
    assert {t.language for t in templates_for(gsm8k, "fr")} == {"en"}  # what it has
    unknown = task(fields=("context", "review"))
    assert {t.language for t in templates_for(unknown, "zh")} == {"zh"}
    assert len(templates_for(unknown, ("en", "zh"))) == 10
    assert [language_code(name) for name in ("Chinese", "zh-CN", "English", "en_GB", "fr", "Telugu")] == [
        "zh", "zh", "en", "en", "fr", "telugu",
    ]  # fmt: skip
    assert is_chinese("zh-CN") and is_chinese("Chinese") and not is_chinese("en")


def test_words_are_taken_out_of_every_layout():
    for t in recipe_layouts():
        bare = without_words(t.few_shot.inputs)
        assert not has_words(bare) and set(slots(bare)) == set(slots(t.few_shot.inputs)) - {"definition"}
