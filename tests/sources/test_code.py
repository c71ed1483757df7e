from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flantune.errors import DataError
from flantune.recipe import CollectionSpec
from flantune.sources import read_collection, reader_for
from flantune.sources.code import MAX_SOLUTIONS, REPAIR_VARIANTS
from flantune.sources.rejects import Rejects
from flantune.templates import templates_for
from flantune.types import Example, Task


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def read(path: Path, reader: str = "auto", rejects: Rejects | None = None) -> list[tuple[Task, list[Example]]]:
    spec = CollectionSpec(path=str(path), reader=reader)
    return [(rows.task, list(rows.examples)) for rows in read_collection(spec, rejects or Rejects(), 1.0)]


def test_mbpp_gives_its_training_split_alone(data_dir: Path) -> None:
    path = data_dir / "mbpp" / "mbpp.jsonl"
    rejects = Rejects()
    assert reader_for(path, CollectionSpec(path=str(path))) is None  # its test split is a benchmark
    ((task, examples),) = read(path, "code", rejects)
    assert (task.dataset, task.mixture, task.source) == ("mbpp", "muffin", "code")
    assert [int(e.id) for e in examples] == list(range(601, 975))
    assert rejects.rows[str(path)] == 974 and rejects.rejected[str(path)] == 600 and not rejects.malformed
    rows = {r["task_id"]: r for r in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    for e in examples:
        row = rows[int(e.id)]
        assert e.targets == (row["code"].replace("\r\n", "\n").strip(),)
        assert e.fields["problem"].startswith(row["text"].strip()) and all(
            t in e.fields["problem"] for t in row["test_list"]
        )


def test_humaneval_is_read_only_where_it_is_asked_for(tmp_path: Path, data_dir: Path) -> None:
    folder = data_dir / "humaneval"
    path = next(p for p in sorted(folder.iterdir()) if "HumanEval" in p.name)
    assert reader_for(path, CollectionSpec(path=str(path))) is None
    with pytest.raises(DataError, match="a format that a reader surely knows"):
        read(path)
    ((_, examples),) = read(path, reader="code")
    assert len(examples) == 82
    for e in examples[:10]:
        compile(e.targets[0], "target", "exec")


def test_contests_give_python_3_solutions(tmp_path: Path) -> None:
    programs = [f"print({i})\r\n" for i in range(12)]
    rows = [
        {"name": "one", "description": "Print a number.\n",
         "solutions": {"language": [2, 3, 3, *[3] * 12], "solution": ["cout", "print(0)", "print(0)", *programs]}},
        {"name": "two", "description": "Print.", "solutions": [{"language": "PYTHON3", "solution": "print(1)"}]},
        {"name": "none", "description": "Print.", "solutions": {"language": [2], "solution": ["cout"]}},
        {"name": "bad", "description": "Print.", "solutions": {"language": [2, 3], "solution": ["cout"]}},
    ]  # fmt: skip
    path, rejects = tmp_path / "contests.jsonl", Rejects()
    ((task, examples),) = read(written(path, rows), rejects=rejects)
    assert [e.id for e in examples] == ["one", "two"] and task.templates == "code_problem"
    assert examples[0].targets == tuple(f"print({i})" for i in range(MAX_SOLUTIONS))
    assert rejects.rejected[str(path)] == 2 and rejects.malformed[str(path)] == 1


REPAIR = {
    "lines": [
        {"code": "int main() {", "indent": 0},
        {"code": "int x = 1;", "indent": 1},
        {"code": "return x;", "indent": "1"},
        {"code": "}", "indent": 0},
    ],
    "errors": [
        {"mod_line": [1], "mod_code": ["int x = 1"], "err_line": 2, "err_msg": "expected ';'"},
        {"mod_line": 2, "mod_code": "retrn x;", "err_line": None, "err_msg": "unknown name"},
    ],
}


def test_repair_gives_four_tasks_with_an_example_for_every_error(tmp_path: Path) -> None:
    path, rejects = tmp_path / "repair.jsonl", Rejects()
    found = read(written(path, [REPAIR]), rejects=rejects)
    assert [t.name for t, _ in found] == [f"muffin/repair_{v}" for v in REPAIR_VARIANTS]
    right = "int main() {\n  int x = 1;\n  return x;\n}"
    shown = {t.name.removeprefix("muffin/repair_"): [e.fields["program"] for e in examples] for t, examples in found}
    assert all(e.targets == (right,) for _, examples in found for e in examples)
    assert shown["plain_code"] == [right.replace("1;", "1"), right.replace("return", "retrn")]
    assert shown["error_comments"][0] == "int main() {\n  int x = 1\n  return x;  // error: expected ';'\n}"
    assert shown["no_errors"][0] == "1 int main() {\n2   int x = 1\n3   return x;\n4 }"
    assert shown["line_numbers"][0].endswith("4 }\nline 3: expected ';'")
    assert shown["line_numbers"][1].endswith("4 }\nunknown name")
    assert rejects.rows[str(path)] == 1  # a row is counted once, whatever tasks it is in


@pytest.mark.parametrize(
    "change",
    [
        {"errors": []},
        {"errors": [{"mod_line": [9], "mod_code": ["x"]}]},
        {"errors": [{"mod_line": [1], "mod_code": []}]},
        {"errors": [{"mod_line": [1], "mod_code": ["int x = 1;"]}]},
        {"lines": [{"text": "no code"}]},
    ],
)
def test_a_program_without_a_usable_error_is_set_aside(tmp_path: Path, change: dict[str, Any]) -> None:
    path, rejects = tmp_path / "repair.jsonl", Rejects()
    found = read(written(path, [REPAIR, {**REPAIR, **change}]), rejects=rejects)
    assert all(len(examples) == 2 for _, examples in found) and rejects.malformed[str(path)] == 1


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize(("templates", "field"), [("code_problem", "problem"), ("code_repair", "program")])
def test_ten_wordings_forward_and_ten_inverted(templates: str, field: str, language: str) -> None:
    task = Task(name="x", mixture="muffin", dataset="d", category="c", templates=templates, fields=(field,))
    kinds = [t.kind for t in templates_for(task, language)]
    assert kinds.count("direct") == kinds.count("inverted") == 10
