"""A user's own benchmark, from a YAML or a Python file."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from flantune.errors import DataError, RecipeError
from flantune.evals import file_settings, open_benchmark
from flantune.evals.own_text import own_texts
from flantune.recipe import BenchmarkSpec

PONDS = """
name: ponds
items: {test: ponds.csv, dev: dev.csv}
exemplars: dev.csv
task: kind
options: [a, b, c]
answer: key
instruction: "Questions about ponds."
prompt:
  direct: "Q: {question}\\n{options_}\\nA:"
  cot: "Q: {question}\\n{options_}\\nA: Let's think."
told: {direct: " {answer}", cot: " {why} The answer is {answer}."}
ability: knowledge
"""


@pytest.fixture
def ponds(tmp_path: Path) -> Path:
    (tmp_path / "ponds.yaml").write_text(PONDS)
    (tmp_path / "ponds.csv").write_text(
        'kind,question,a,b,c,key\nplants,"Which, if any, floats?",Duckweed,Flint,Sand,A\n'
        "animals,Who sings?,Pike,Frog,Newt,B\nanimals,Who waits?,Heron,Reed,Mud,A\n"
    )
    (tmp_path / "dev.csv").write_text(
        "kind,question,a,b,c,key,why\nanimals,Who swims?,Reed,Pike,Mud,B,Pikes are fish.\n"
    )
    return tmp_path / "ponds.yaml"


def test_a_yaml_file_is_a_benchmark(ponds: Path):
    benchmark, folder = open_benchmark(str(ponds))
    assert (benchmark.name, benchmark.modes, benchmark.ability) == ("ponds", ("direct", "cot"), "knowledge")
    direct = [p.item for p in benchmark.items(folder, "direct")]
    assert [i.id for i in direct] == ["test/plants/0", "test/animals/0", "test/animals/1"]
    assert direct[0].prompt == (
        "Questions about ponds.\n\nQ: Who swims?\nA. Reed\nB. Pike\nC. Mud\nA: B\n\n"
        "Q: Which, if any, floats?\nA. Duckweed\nB. Flint\nC. Sand\nA:"
    )
    assert direct[0].options == (" A", " B", " C") and direct[0].references == ("A",)
    cot = next(benchmark.items(folder, "cot")).item
    assert cot.prompt.startswith(
        "Questions about ponds.\n\nQ: Who swims?\nA. Reed\nB. Pike\nC. Mud\n"
        "A: Let's think. Pikes are fish. The answer is B.\n\n"
    )
    found = benchmark.extract(cot, "It floats. The answer is **A**.")
    assert (found.answer, benchmark.score(cot, found)) == ("A", 1.0)
    assert [t.text for t in own_texts(benchmark, folder)] == ["Which, if any, floats?", "Who sings?", "Who waits?"]
    assert own_texts(benchmark, folder)[0].options == ("Duckweed", "Flint", "Sand")


def test_a_trigger_takes_the_place_of_the_words_named(ponds: Path):
    ends = {}
    for words in ("", 'think: "Let\'s think."\n'):
        ponds.write_text(PONDS + words)
        benchmark, folder = open_benchmark(str(ponds))
        ends[words] = next(benchmark.items(folder, "cot", shots=0, trigger="Step by step:")).item.prompt
    assert [e.rpartition("C. Sand\n")[2] for e in ends.values()] == [
        "A: Let's think.\nStep by step:",
        "A: Step by step:",
    ]


def test_options_may_be_answered_and_scored_by_their_own_text(ponds: Path):
    text = PONDS.replace("answer: key", "answer: key\nanswers: text").replace("\\n{options_}", "")
    ponds.write_text(text)
    benchmark, folder = open_benchmark(str(ponds))
    item = next(benchmark.items(folder, "direct")).item
    assert item.prompt == "Questions about ponds.\n\nQ: Who swims?\nA: Pike\n\nQ: Which, if any, floats?\nA:"
    assert item.options == (" Duckweed", " Flint", " Sand") and item.references == ("Duckweed",)
    for output, score in (("Duckweed", 1.0), ("Flint", 0.0), ("A", 0.0)):
        assert benchmark.score(item, benchmark.extract(item, output)) == score
    ponds.write_text(text.replace("answer: key", "answer: kind\nanswer_is: text"))
    with pytest.raises(
        DataError, match=r"row 1: field 'kind': expected the text of an option, 'Reed' or 'Pike' or 'Mud'"
    ):
        next(open_benchmark(str(ponds))[0].items(folder, "direct"))
    ponds.write_text(text + "choose: false\n")
    written = next(open_benchmark(str(ponds))[0].items(folder, "direct")).item
    assert written.options is None and written.references == ("Duckweed",)


def test_it_is_named_in_a_spec_by_its_file_and_needs_no_data_folder(ponds: Path):
    settings = file_settings(BenchmarkSpec(name=str(ponds), split="dev", shots=0), None, 0)
    assert [s.key for s in settings] == ["ponds/direct/0-shot", "ponds/cot/0-shot"]
    assert len(settings[0].pose(lambda p: True)) == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (("answer: key", "answer: kee"), DataError, "row 1: field 'kee': expected a column.*there are kind, question"),
        (("options: [a, b, c]", "options: [a, b]"), DataError, None),
        (("{question}", "{questoin}"), DataError, "field 'questoin'.*Columns there are: kind, question"),
        (("ability: knowledge", "ability: magic"), RecipeError, "key 'ability'"),
        (("name: ponds", "name: mmlu"), RecipeError, "'mmlu' is the name of one of flantune's own"),
        (("task: kind", "taks: kind"), RecipeError, "key 'taks'"),
        (("ponds.csv", "ponds.parquet"), RecipeError, r"ponds\.parquet: expected \.csv"),
        (("ponds.csv", "gone.csv"), RecipeError, "no such file"),
        (("name: ponds", "name: [ponds"), RecipeError, "not YAML"),
        (("ability: knowledge", "read: {pattern: 'x'}"), RecipeError, "needs a group"),
        (("answer: key", "answer: key\nanswers: text\nread: letter"), RecipeError, "'read: letter' would never find"),
        (("answer: key", "answer: key\nread: number"), RecipeError, "'read: number' would never find"),
        (("options: [a, b, c]", "answer_is: index"), RecipeError, "there are no 'options'"),
        (("ability: knowledge", "think: Think!"), RecipeError, "does not end in 'Think!'"),
        (('told: {direct: " {answer}", cot', 'told: {direct: "{answer}", cto'), RecipeError, "told"),
    ],
)
def test_faults_are_named(ponds: Path, change: tuple[str, str], error: type[Exception], message: str | None):
    ponds.write_text(PONDS.replace(*change))

    def read() -> None:
        benchmark, folder = open_benchmark(str(ponds))
        list(benchmark.items(folder, "direct", shots=0))

    if message is None:  # two options and a third row whose key is not among them
        (ponds.parent / "ponds.csv").write_text("kind,question,a,b,c,key\nx,q,1,2,3,C\n")
        message = "expected A or B, got 'C'"
    with pytest.raises(error, match=message):
        read()


def test_answers_may_be_numbers_texts_and_patterns(tmp_path: Path):
    (tmp_path / "n.jsonl").write_text(
        '{"q": "2+2", "gold": 4, "all": ["x", "y"]}\n{"q": "1000*2", "gold": 2000, "all": ["y"]}\n'
    )
    base = "name: n\nitems: n.jsonl\nprompt: {direct: 'Q: {q}\\nA:'}\n"
    (tmp_path / "number.yaml").write_text(base + "answer: gold\nread: number\n")
    benchmark, folder = open_benchmark(str(tmp_path / "number.yaml"))
    items = [p.item for p in benchmark.items(folder, "direct")]
    assert benchmark.score(items[1], benchmark.extract(items[1], "The answer is $2,000.")) == 1.0
    (tmp_path / "text.yaml").write_text(base + "answer: all\nread: {pattern: 'Result: (\\w)'}\nscore: exact_match\n")
    benchmark, folder = open_benchmark(str(tmp_path / "text.yaml"))
    item = next(benchmark.items(folder, "direct")).item
    assert item.references == ("x", "y")
    assert benchmark.score(item, benchmark.extract(item, "Result: z. Result: Y!")) == 1.0
    assert benchmark.extract(item, "none").answer is None


def test_a_python_file_is_a_benchmark(tmp_path: Path):
    (tmp_path / "own.py").write_text(
        textwrap.dedent("""
            from dataclasses import dataclass, field
            from flantune.evals.benchmark import Extraction, FileBenchmark, Part, Question, Shot

            @dataclass(frozen=True)
            class Doubles(FileBenchmark):
                name: str = "doubles"
                default_shots: dict = field(default_factory=lambda: {"direct": 1})
                most_shots: int = 1

                def parts(self, path, mode, split, *, exemplars=True):
                    asked = [Question(text=str(n), asked=f"{n} ->", references=(str(2 * n),)) for n in range(3)]
                    yield Part(task="doubles", id="d", questions=asked, shots=[Shot("9 ->", " 18")], separator="\\n")

                def extract(self, item, output, reading="default"):
                    return Extraction(output.strip() or None, "whole output" if output.strip() else "unread")

            BENCHMARK = Doubles()
        """)
    )
    benchmark, folder = open_benchmark(str(tmp_path / "own.py"))
    items = [p.item for p in benchmark.items(folder, "direct")]
    assert [i.prompt for i in items] == ["9 -> 18\n0 ->", "9 -> 18\n1 ->", "9 -> 18\n2 ->"]
    assert benchmark.score(items[2], benchmark.extract(items[2], " 4 ")) == 1.0
    (tmp_path / "none.py").write_text("BENCHMARK = 3\n")
    with pytest.raises(RecipeError, match="it lacks name, modes"):
        open_benchmark(str(tmp_path / "none.py"))
    (tmp_path / "fails.py").write_text("1 / 0\n")
    with pytest.raises(RecipeError, match="ZeroDivisionError"):
        open_benchmark(str(tmp_path / "fails.py"))
    with pytest.raises(RecipeError, match="no such file"):
        open_benchmark(str(tmp_path / "gone.py"))
