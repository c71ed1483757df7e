"""The embedded world keeps its promises: enough tasks, a clean split, prose without instructions."""

from __future__ import annotations

from pathlib import Path

import yaml

from flantune.demo import __main__ as command
from flantune.demo.files import write_world
from flantune.demo.prose import documents
from flantune.demo.world import FRAMES, Skill, world

HELD_OUT = {"animals", "towns", "numbers", "chinese_facts"}


def split() -> tuple[list[Skill], list[Skill]]:
    skills = world()
    return [s for s in skills if not s.held_out], [s for s in skills if s.held_out]


def test_there_are_at_least_sixty_tasks_in_ten_categories_with_four_wordings_each():
    skills = world()
    assert len(skills) >= 60
    assert len({s.category for s in skills}) >= 10
    assert all(len(set(s.wordings)) >= 4 for s in skills)
    assert any(s.rationale_wordings for s in skills)
    assert any(s.rows[0].options for s in skills)
    assert any(s.language == "zh" for s in skills)


def test_at_least_twelve_tasks_in_three_whole_categories_are_held_out():
    trained, held_out = split()
    assert len(held_out) >= 12
    assert len({s.category for s in held_out}) >= 3
    assert {s.category for s in held_out} == HELD_OUT
    assert not {s.category for s in held_out} & {s.category for s in trained}


def test_no_wording_is_shared_by_trained_and_held_out_tasks():
    trained, held_out = split()
    assert not {w for s in trained for w in s.wordings} & {w for s in held_out for w in s.wordings}
    for language in ("en", "zh"):
        assert not set(FRAMES[language, True]) & set(FRAMES[language, False])


def test_no_row_of_a_held_out_task_is_a_row_of_a_trained_one():
    trained, held_out = split()

    def rows(skills: list[Skill]) -> set[tuple[str, str]]:
        return {(repr(sorted(r.fields.items())), r.answer) for s in skills for r in s.rows}

    assert not rows(trained) & rows(held_out)


def test_rows_of_a_task_are_distinct():
    for skill in world():
        questions = [repr(sorted(r.fields.items())) for r in skill.rows]
        assert len(set(questions)) == len(questions), skill.name


def test_a_closed_answer_set_holds_the_answer():
    for skill in world():
        for row in skill.rows:
            assert row.options is None or row.answer in row.options, (skill.name, row)


def test_prose_never_holds_a_wording_or_a_question():
    frames = {w.split("{")[0].strip() for s in world() for w in s.wordings if len(w.split("{")[0].strip()) > 12}
    for document in documents(3000):
        assert "?" not in document and "?" not in document
        assert not any(frame in document for frame in frames if frame.endswith(":")), document


def test_document_number_i_depends_on_seed_and_i_alone():
    assert list(documents(50))[:20] == list(documents(20))
    assert list(documents(20, seed=1)) != list(documents(20))


def test_the_recipe_holds_out_exactly_the_worlds_held_out_categories():
    recipe = yaml.safe_load((Path(__file__).parents[2] / "src/flantune/demo/demo.yaml").read_text())
    assert set(recipe["held_out"]["categories"]) == HELD_OUT


def test_the_world_is_written_whole_and_left_alone_when_equal(tmp_path):
    folder = write_world(tmp_path / "world")
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert sum(n.endswith(".task.yaml") for n in before) == len(world())
    write_world(folder)
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    (folder / ".world").write_text("other")
    write_world(folder)
    assert (folder / ".world").read_text() != "other"


def test_the_command_writes_what_the_studies_recipes_name(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["flantune.demo", str(tmp_path / "study")])
    monkeypatch.setattr(command, "PROSE", 20)
    command.main()
    named = set()
    for path in (Path(__file__).parents[2] / "recipes").glob("study-demo-*.yaml"):
        variables = yaml.safe_load(path.read_text())["vars"].values()
        named |= {tmp_path / "study" / v.removeprefix("runs/study/") for v in variables if v.startswith("runs/study/")}
    assert named == {tmp_path / "study" / name for name in ("world", "abilities", "prose.txt")}
    assert all(path.exists() for path in named)
    assert (tmp_path / "study" / "prose.txt").read_text().split("\n\n")[:20] == list(documents(20))
