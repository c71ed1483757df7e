"""Output prediction and choosing a reply: prompts character for character, answers read and never run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.errors import DataError, RecipeError
from flantune.evals import BENCHMARKS
from flantune.evals.benchmark import READINGS
from flantune.evals.cruxeval import EXEMPLARS, TRACE, first_literal, literal
from flantune.evals.mutual import turns
from flantune.types import Item

CRUX, MUTUAL = BENCHMARKS["cruxeval"], BENCHMARKS["mutual"]
Ask = Callable[..., list[Item]]


def item(output: str, mode: str = "direct") -> Item:
    return Item(benchmark="cruxeval", mode=mode, task="output_prediction", id="x", prompt="", references=(output,))


def scored(output: str, told: str, mode: str = "direct", reading: Any = "default") -> float | None:
    asked = item(output, mode)
    return CRUX.score(asked, CRUX.extract(asked, told, reading))


def test_output_prediction_direct(ask: Ask):
    items = ask(CRUX, "direct", shots=1)
    assert items[0].prompt == (
        "Complete each assertion with the value that the function returns, written as a Python literal.\n\n"
        "def f(words):\n    return [w[0] for w in words if w]\nassert f(['oak', '', 'elm']) == ['o', 'e']\n\n"
        "def f(reeds, newts):\n    return reeds * 2 + newts\nassert f(3, 4) =="
    )
    assert [i.id for i in items] == [f"test/{k}" for k in range(5)]
    assert (items[0].references, items[0].options, items[0].stop) == (("10",), None, ("\n\ndef ", "\n\nassert"))


def test_output_prediction_with_a_chain_of_thought(ask: Ask):
    (first, *_) = ask(CRUX, "cot", shots=1)
    assert first.prompt == (
        "Complete each assertion with the value that the function returns, written as a Python literal.\n\n"
        "def f(words):\n    return [w[0] for w in words if w]\nassert f(['oak', '', 'elm']) == ??\n"
        "Let's run it step by step. 'oak' is not empty and its first letter is 'o'. '' is empty and left out. "
        "'elm' gives 'e'. So the answer is ['o', 'e'].\n\n"
        "def f(reeds, newts):\n    return reeds * 2 + newts\nassert f(3, 4) == ??\nLet's run it step by step."
    )
    (other, *_) = ask(CRUX, "cot", shots=0, trigger="Think.")
    assert other.prompt.endswith("assert f(3, 4) == ??\nThink.") and TRACE not in other.prompt


def test_the_exemplars_outputs_are_what_their_functions_return():
    for code, given_, _, output in EXEMPLARS:
        scope: dict[str, Any] = {}
        exec(code, scope)  # our own, a few lines above
        assert repr(scope["f"](eval(given_))) == output


def test_a_prompt_beside_the_rows_is_used_word_for_word(benchmarks: Path, tmp_path: Path):
    (tmp_path / "test.jsonl").write_bytes((benchmarks / "cruxeval/test.jsonl").read_bytes())
    (tmp_path / "prompts").mkdir()
    prompt = tmp_path / "prompts" / "direct.txt"
    prompt.write_text(
        "Say what comes out.\n\n[IN]\nf\n[/IN]\n\n[PYTHON]\n{code}\nassert f({input}) == ??\n[/PYTHON]\n[ANSWER]\n"
    )
    items = [p.item for p in CRUX.items(tmp_path, "direct")]
    assert items[1].prompt == (
        "Say what comes out.\n\n[IN]\nf\n[/IN]\n\n"
        "[PYTHON]\ndef f(pond):\n    return {k: len(v) for k, v in pond.items()}\n"
        "assert f({'a': [1, 2], 'b': []}) == ??\n[/PYTHON]\n[ANSWER]\n"
    )
    assert items[1].stop == ("[/ANSWER]",) and items[1].shots == 0
    assert next(iter(CRUX.items(tmp_path, "cot"))).item.shots == 2  # that mode has no such file
    prompt.write_text("no place for the code")
    with pytest.raises(DataError, match=r"prompts/direct\.txt.*\{code\} and \{input\}"):
        list(CRUX.items(tmp_path, "direct"))


@pytest.mark.parametrize(
    ("output", "told", "rule"),
    [
        ("10", " 10", "beginning"),
        ("10", " 10\n\nThe function doubles.", "beginning"),
        ("{'a': 2}", " {'a': 2}  # a has two", "beginning"),
        ("'a**b_c'", " **'a**b_c'**", "beginning"),
        ("'a or b'", " 'a or b'.", "beginning"),
        ("[1, 2]", "```python\n[1,\n 2]\n```", "beginning"),
        ("'x'", 'assert f(1) == "x"', "after assertion"),
        ("-2.5", "f(1) gives -2.5, so the answer is -2.5. Done.", "after phrase"),
        ("None", "So the answer is `None`.", "after phrase"),
        ("(1, 2)", "[ANSWER]\nassert f(0) == (1, 2)\n[/ANSWER]", "between marks"),
        ("1e3", "The answer: 1000", "after phrase"),
        ("set()", " set()", "beginning"),
        ("17", "17 is the result", "beginning"),
    ],
)
def test_an_answer_is_read_and_compared_as_a_value(output: str, told: str, rule: str):
    for mode in CRUX.modes:
        if mode == "cot" and rule == "beginning":
            told = f"First.\nThe answer is{told if told.startswith(' ') else ' ' + told}"
        found = CRUX.extract(item(output, mode), told)
        assert CRUX.score(item(output, mode), found) == 1.0, (mode, found)
        assert mode == "cot" or found.rule == rule


@pytest.mark.parametrize(
    "told",
    ["", " 1 + 2", " f(2)", " 2 ** 3", " 2**3", " [1, 2", " len('abc')", " 3 or 4", " x", "no idea", " 'it",
     " 3 if x else 4", " (lambda: 3)()"],
)  # fmt: skip
def test_what_states_no_value_is_unread_and_not_wrong(told: str):
    found = CRUX.extract(item("3"), told)
    assert found.answer is None and CRUX.score(item("3"), found) is None


def test_the_three_readings():
    published = "\nassert f('x') == 'xa'\n"
    assert [scored("'xa'", published, reading=r) for r in READINGS] == [1.0, 1.0, 1.0]
    talk = " 'xa', as x is followed by a."
    assert [scored("'xa'", talk, reading=r) for r in READINGS] == [None, 1.0, 1.0]
    hint = "It starts with [1]\nand then gives back\n{'k': [1, 2]}\nat the end"
    assert [scored("{'k': [1, 2]}", hint, "cot", r) for r in READINGS] == [None, None, 1.0]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=6,
)


@given(values, values)
def test_any_literal_is_found_whole_wherever_it_stands(value: Any, other: Any):
    for told in (f" {value!r}", f" {value!r}. That is all.", f"**{value!r}**", f"So the answer is {value!r}."):
        assert scored(repr(value), told) == 1.0, told
        assert scored(repr(other), told) == float(value == other)
    assert first_literal(f"{value!r}\nmore")[0].value == value  # type: ignore[index]
    assert literal(repr(value)).value == value  # type: ignore[union-attr]


@given(st.text(alphabet="[](){}'\"\\-1.,:# \nTruefalsN*`$", max_size=200))
def test_no_text_stops_the_reader(text: str):
    for reading in READINGS:
        found = CRUX.extract(item("1"), text, reading)
        assert found.answer is None or literal(found.answer) is not None


@pytest.mark.parametrize("text", ["[" * 20000, "'" * 20001, "1 " * 20000, "[1, " * 9000, "('a" * 9000, "-" * 20000])
def test_long_nonsense_is_read_to_its_end(text: str):
    for reading in READINGS:
        CRUX.extract(item("1"), text, reading)


def test_bad_rows_are_errors_with_their_place(tmp_path: Path):
    row = {"code": "def f(x):\n    return x", "input": "1", "output": "1"}
    file = tmp_path / "cruxeval.jsonl"
    for change, words in (
        ({"output": "g(1)"}, r"row 2: field 'output': expected a Python literal, got 'g\(1\)'"),
        ({"input": None}, r"cruxeval\.jsonl:2: field 'input': expected text"),
    ):
        file.write_text("\n".join(json.dumps(r) for r in (row, {**row, **change})))
        with pytest.raises(DataError, match=words):
            list(CRUX.items(tmp_path, "direct"))
    file.unlink()
    with pytest.raises(RecipeError, match="CRUXEval's rows"):
        list(CRUX.items(tmp_path, "direct"))


def test_the_hubs_parquet_is_asked_as_the_publishers_lines(benchmarks: Path, tmp_path: Path):
    lines = (benchmarks / "cruxeval/test.jsonl").read_text().splitlines()
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(list(map(json.loads, lines))), tmp_path / "data/test-00000-of-00001.parquet")
    one, other = ([p.item for p in CRUX.items(path, "direct")] for path in (benchmarks / "cruxeval", tmp_path))
    assert one == other


# ---- a reply among four ---------------------------------------------------------------------------------------------


def test_a_reply_is_chosen_by_letter(ask: Ask):
    items = ask(MUTUAL, "direct", shots=1)
    assert items[0].prompt == (
        "A conversation breaks off. Which reply goes on from it?\n\n"
        "m : is the pond far ?\nf : no , it is behind the mill .\n\n"
        "A. m : then we can walk .\nB. m : then we need a boat .\nC. m : i never saw a mill .\n"
        "D. m : so it is in the next town .\nAnswer: A\n\n"
        "m : hi , ann . how was the frog race ?\nf : my frog came second .\nm : out of how many ?\nf : out of two .\n\n"
        "A. m : so you won !\nB. m : so it came last .\nC. m : so there were ten frogs .\n"
        "D. m : i did not know that you have a horse .\nAnswer:"
    )
    assert items[0].options == (" A", " B", " C", " D")
    assert [(i.id, i.references) for i in items] == [("dev/0", ("B",)), ("dev/1", ("C",)), ("dev/2", ("A",))]
    assert ask(MUTUAL, "direct")[0].shots == 0  # its own default


def test_lines_are_asked_as_files_are(benchmarks: Path, tmp_path: Path):
    files = sorted((benchmarks / "mutual/dev").glob("*.txt"), key=lambda f: int(f.stem.partition("_")[2]))
    (tmp_path / "dev.jsonl").write_text("".join(f.read_text() + "\n" for f in files))
    one, other = ([p.item for p in MUTUAL.items(path, "direct")] for path in (benchmarks / "mutual", tmp_path))
    assert one == other
    shutil.copytree(benchmarks / "mutual", tmp_path / "clone/data/mutual")
    assert [p.item for p in MUTUAL.items(tmp_path / "clone", "direct")] == one
    with pytest.raises(RecipeError, match="train split"):
        list(MUTUAL.items(tmp_path, "direct", shots=1))


def test_turns_are_cut_at_speakers_alone():
    assert turns("m : it is 5 : 30 , form : a . f : oh ") == "m : it is 5 : 30 , form : a .\nf : oh"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answers": "E"}, r"dev_1\.txt: field 'answers?': expected A, B, C or D, got 'E'"),
        ({"options": ["a", "b", "c"]}, r"dev_1\.txt: field 'options': expected four texts"),
        ({"article": " "}, r"dev_1\.txt: field 'article': expected text"),
    ],
)
def test_bad_dialogues_are_errors_with_their_place(tmp_path: Path, change: dict[str, Any], words: str):
    row = {"article": "m : hi", "options": list("abcd"), "answers": "A", "id": "dev_1", **change}
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/dev_1.txt").write_text(json.dumps(row))
    with pytest.raises(DataError, match=words):
        list(MUTUAL.items(tmp_path, "direct"))


def test_both_stand_under_abilities_of_their_own():
    assert (CRUX.ability, MUTUAL.ability) == ("code", "dialogue")
    assert {b.ability for b in BENCHMARKS.values()} == {
        "knowledge", "reasoning", "multilingual", "code", "dialogue", "in-context learning",
    }  # fmt: skip
