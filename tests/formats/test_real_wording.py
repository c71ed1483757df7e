"""The package's wordings over rows of the real collections: everything renders, and nothing is left of a slot."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from flantune.formats import FORMATS, SETTINGS, applies, render, select_templates
from flantune.recipe import CollectionSpec
from flantune.sources import read_collection
from flantune.sources.rejects import Rejects
from flantune.templates import templates_for
from flantune.types import Example, Format, Task

ROWS = 6
FORMATS_TRIED = (
    *SETTINGS.values(),
    Format(shots=3, options="random", delimiters="random"),
    Format(shots=2, instruction=False),
    Format(shots=1, demonstrations=True),
    Format(rationale="without"),
    Format(shots=2, rationale="without", options="random"),
    Format(shots=1, chat=True),
    Format(inverted=True),
    Format(shots=2, inverted=True),
)
COLLECTIONS = {
    "muffin": ("*",),
    "cot": ("*",),
    "cot_raw/qed": ("*",),
    "niv2": ("task1[01]*",),
    "niv2_early": ("*scan*", "*task14*"),
    "t0": ("r*", "wiki_qa*"),
}


def first_rows(data_dir: Path, collection: str) -> Iterator[tuple[Task, list[Example]]]:
    spec = CollectionSpec(path=str(data_dir / collection), include=COLLECTIONS[collection])
    for rows in read_collection(spec, Rejects(), max_rejected=1.0):
        yield rows.task, list(islice(rows.examples, ROWS))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_wording_renders_real_rows_in_every_format_that_suits_the_task(
    data_dir: Path, collection: str, language: str
):
    rendered = 0
    for task, examples in first_rows(data_dir, collection):
        if not examples:
            continue
        templates = templates_for(task, language)
        assert {t.language for t in templates} == {language}, task.name
        kinds = {t.kind for t in templates}
        for format in (replace(f, language=language) for f in FORMATS_TRIED):
            if (format.inverted and "inverted" not in kinds) or (format.demonstrations and not task.demonstrations):
                continue
            for example in examples if language == "en" else examples[:2]:
                for template in select_templates(templates, task, example, format):
                    rendered += check(task, example, examples, template, format)
    assert rendered > (500 if language == "en" else 200)


def check(task, example, examples, template, format) -> int:  # type: ignore[no-untyped-def]
    others = [e for e in examples if dict(e.fields) != dict(example.fields) and applies(template, e, task)]
    exemplars = [] if format.demonstrations else [(e, template) for e in others[: format.shots]]
    rng = random.Random(f"{task.name}:{example.row}:{template.name}")
    prompt = render(task, example, template, format, exemplars, rng=rng)
    assert prompt.inputs.strip() and prompt.target.strip() and prompt.target == prompt.target.strip()
    assert prompt.references[0] == prompt.target
    for name in ("{answer}", "{options_}", "{rationale}", "{definition}", *(f"{{{f}}}" for f in task.fields)):
        told = "".join(example.fields.values()) + (task.definition or "")
        assert name in told or name not in prompt.inputs + prompt.target
    if template.kind == "rationale":
        assert example.rationale and example.rationale.strip() in prompt.target
    if template.kind != "inverted" and format.options == "none" and example.options:
        assert prompt.options and prompt.target in prompt.options
    return 1


def test_boolean_questions_print_their_two_choices_only_where_asked(data_dir: Path):
    task, examples = next((t, e) for t, e in first_rows(data_dir, "muffin") if t.name == "muffin/boolq")
    for template in select_templates(templates_for(task), task, examples[0], FORMATS["fs_opt"]):
        with_options = render(task, examples[0], template, FORMATS["fs_opt"], rng=random.Random(0)).inputs
        without = render(task, examples[0], template, replace(FORMATS["fs_opt"], options="none"), rng=random.Random(0))
        assert with_options.count("OPTIONS:\n- ") == 1 and "OPTIONS" not in without.inputs
