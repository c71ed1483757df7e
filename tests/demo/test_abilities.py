"""The world of abilities: held-out items are none of what is trained on."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest
import yaml

from flantune.demo.abilities import ABILITIES, CODE, DIALOGUE, IN_CONTEXT, ITEMS, REASONING, Ability, abilities
from flantune.demo.abilities import is_held_out as held
from flantune.demo.files import write_abilities
from flantune.demo.skills import THINGS
from flantune.demo.world import relations

ALL = {ability.name: ability for ability in abilities()}
SUBJECTS = {(r.phrase, x): r.category for r in relations() for x, _ in r.pairs}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_abilities(tmp_path_factory.mktemp("world") / "abilities")


def rows(ability: Ability) -> list[dict[str, str]]:
    return [dict(row.fields) for skill in ability.skills for row in skill.rows]


def test_there_are_six_abilities_with_tasks_and_items_of_their_own():
    assert tuple(ALL) == ABILITIES
    for ability in ALL.values():
        assert len(ability.items) >= 60 and len({i.prompt for i in ability.items}) == len(ability.items)
        assert sum(len(s.rows) for s in ability.skills) >= 140
        assert all(s.category == ability.name for s in ability.skills)
    assert sum(len(a.items) for a in ALL.values()) <= 6 * ITEMS + 12


@pytest.mark.parametrize("name", ["knowledge", "multilingual"])
def test_facts_are_asked_as_prose_goes_on_and_never_so_in_training(name):
    assert all((fields["phrase"], fields["subject"]) in SUBJECTS for fields in rows(ALL[name]))
    asked = {
        (r.category, ask.format(phrase=r.phrase, x=x, kind=r.kind))
        for r in relations()
        for x, _ in r.pairs
        if held(x, r.category)
        for ask in ("The {phrase} of {x} is", "{x}的{phrase}是", "{kind}{x}的{phrase}是")
    }
    assert {(i.task, i.prompt) for i in ALL[name].items} <= asked


def test_lists_show_trained_subjects_and_ask_for_held_out_ones():
    for item in ALL[IN_CONTEXT].items:
        *shown, last = re.split(r"; ?", item.prompt)
        assert held(last.removesuffix(","), item.task)
        assert len(shown) == 4 and not any(held(pair.split(", ")[0], item.task) for pair in shown)


def test_reasoning_is_over_held_out_subjects_and_its_answers_follow_from_its_rationales():
    trained = {tuple(sorted(fields.items())) for fields in rows(ALL[REASONING])}
    questions = {skill.name.removeprefix("steps_"): set() for skill in ALL[REASONING].skills}
    for skill in ALL[REASONING].skills:
        for row in skill.rows:
            assert row.rationale.endswith(f" is {row.answer}.") and f" is {row.fields['given']}. " in row.rationale
            questions[skill.name.removeprefix("steps_")].add((row.fields["phrase"], row.fields["given"]))
    assert len(trained) == len(rows(ALL[REASONING]))
    for item in ALL[REASONING].items:
        phrase, given = re.match(r"The (.+?) of a .+? is (.+?)\. What", item.prompt).groups()
        assert (phrase, given) not in questions[item.task] and item.thinking.endswith("Think step by step.")


def test_no_person_is_asked_about_a_thing_that_training_pairs_them_with():
    def slots(text: str) -> tuple[str, str]:
        who, said = text.split(": ", 1)
        return who, next(w for w in re.findall(r"\w+", said) if w in THINGS)

    trained = {slots(fields["turn"]) for fields in rows(ALL[DIALOGUE])}
    assert not trained & {slots(item.prompt.split("\n")[0]) for item in ALL[DIALOGUE].items}


def test_no_program_that_is_asked_is_trained_on_though_its_words_are():
    trained = {fields["program"] for fields in rows(ALL[CODE])}
    asked = {item.prompt.removesuffix("\nOutput:") for item in ALL[CODE].items}
    assert not trained & asked
    words = [set(re.findall(r"\w+", " ".join(re.search(r"\((.*)\)", p)[1] for p in some))) for some in (trained, asked)]
    assert words[1] <= words[0]


def test_chinese_facts_are_a_choice_among_values_of_their_relation():
    values = {}
    for r in relations():
        for _, y in r.pairs:
            values.setdefault(y, set()).add(r.name)
    places = []
    for item in ALL["multilingual"].items:
        assert len(set(item.options)) == len(item.options) >= 2 and item.answer in item.options
        assert set.intersection(*(values[o] for o in item.options))
        places.append(item.options.index(item.answer))
    assert all(places.count(i) >= len(places) / 8 for i in range(4))  # nothing is gained by always taking one place
    assert not any(item.options for name in ALL if name != "multilingual" for item in ALL[name].items)


def test_no_item_is_a_training_row_in_any_of_its_wordings():
    for ability in ALL.values():
        for skill in ability.skills:
            wordings = (*skill.wordings, *skill.rationale_wordings)
            texts = {w.format(**row.fields) for row in skill.rows for w in wordings}
            assert not texts & {text for i in ability.items for text in (i.prompt, i.thinking)}


def test_the_files_are_a_collection_and_benchmarks_that_read(folder):
    from flantune.evals.own import load_benchmark
    from flantune.evals.results import settings_of
    from flantune.recipe import BenchmarkSpec, CollectionSpec
    from flantune.tasks import build_store

    store = build_store([CollectionSpec(path=str(folder / "tasks"), reader="native")], folder.parent / "store", 0.0)
    assert {task.mixture for task in store.tasks.values()} == set(ABILITIES)
    for name, ability in ALL.items():
        benchmark, _ = load_benchmark(folder / f"{name}.yaml")
        for mode in yaml.safe_load((folder / f"{name}.yaml").read_text())["prompt"]:
            (setting,) = settings_of(BenchmarkSpec(name=name, modes=(mode,)), benchmark, folder, 0)
            posed = setting.pose(lambda text: True)
            assert [p.item.references for p in posed] and len(posed) == len(ability.items)
            for one in posed:  # the answer, as a model would end it, reads as right
                told = (
                    f"Because. So the answer is {one.item.references[0]}." if mode == "cot" else one.item.references[0]
                )
                assert benchmark.score(one.item, benchmark.extract(one.item, f" {told}")) == 1.0


def test_equal_seeds_give_equal_files(folder, tmp_path):
    again = write_abilities(tmp_path / "again")
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == {
        p.name: p.read_bytes() for p in again.iterdir() if p.is_file()
    }
    assert orjson.loads((folder / "code.jsonl").read_bytes().split(b"\n")[0])
