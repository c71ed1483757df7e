"""Golden prompts of the benchmarks beside the Flan suite's four, chat layouts, triggers; character for character."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flantune.errors import DataError, RecipeError
from flantune.evals import BENCHMARKS, Setting
from flantune.evals.benchmark import everything_fits
from flantune.evals.files import read_csv, read_json
from flantune.types import Item

Ask = Callable[..., list[Item]]
WEI = "Question: Two jars and one more. How many?\n"


def test_mgsm_in_english_keeps_native_questions_under_english_prefixes(ask: Ask):
    by_id = {i.id: i for i in ask(BENCHMARKS["mgsm_en_cot"], "cot", shots=1)}
    assert by_id["de/0"].prompt == (
        "Question: Was ist 1 plus 2?\nStep-by-Step Answer: 1 + 2 = 3. The answer is 3.\n\n"
        'Question: Eine Kiste fasst 3 "große" Krüge. Wie viele fassen 2?\nStep-by-Step Answer:'
    )
    assert by_id["zh/0"].stop == ("\n\n", "Question:")


def test_word_problems_are_asked_as_gsm8k_is(ask: Ask):
    svamp = ask(BENCHMARKS["svamp"], "cot", shots=1)
    assert svamp[0].prompt == (
        f"{WEI}Let's think step by step\nThere are 2 jars.\n2 + 1 = 3.\nThe answer is 3.\n\n"
        "Question: A pond has 12 reeds and 7 lilies. How many more reeds than lilies are there?\n"
        "Let's think step by step"
    )
    assert [i.references for i in svamp] == [("5",), ("7.5",), ("4000",)]
    mawps = ask(BENCHMARKS["mawps"], "direct", shots=1)
    assert [i.id for i in mawps] == ["addsub/0", "addsub/1", "singleop/0", "singleop/1"]
    assert mawps[0].prompt == (f"{WEI}The answer is 3.\n\nQuestion: Ten newts, 3 leave. How many stay ?\nThe answer is")
    asdiv = ask(BENCHMARKS["asdiv"], "direct", shots=0)
    assert [(i.id, i.references) for i in asdiv] == [("asdiv/0", ("9",)), ("asdiv/1", ("600",))]
    assert asdiv[1].prompt == (
        "Question: Tom & Ann have 1,200 tadpoles. How many has each, if both have as many?\nThe answer is"
    )
    assert ask(BENCHMARKS["multiarith"], "direct", shots=0)[1].references == ("4",)


def test_math_is_minervas_prompt(ask: Ask):
    items = ask(BENCHMARKS["math"], "cot")
    assert [(i.id, i.references[0]) for i in items] == [
        ("algebra/0", "2"),
        ("algebra/1", r"(-\infty,5]"),
        ("prealgebra/0", r"\frac{1}{3}"),
    ]
    assert items[0].prompt.startswith(
        "Problem:\nFind the domain of the expression  $\\frac{\\sqrt{x-2}}{\\sqrt{5-x}}$.}\n\n"
        "Solution:\nThe expressions"
    )
    assert items[0].prompt.endswith(
        "Final Answer: The final answer is $-\\frac{2}{3}$. I hope it is correct.\n\n"
        "Problem:\nSolve $x^2 = 4$ for $x > 0$.\n\nSolution:"
    )
    assert items[0].prompt.count("I hope it is correct.") == items[0].shots == 4


def test_ceval_is_the_publishers_prompt(ask: Ask):
    head = "以下是中国关于法学考试的单项选择题，请选出其中的正确答案。\n\n"
    direct = ask(BENCHMARKS["ceval"], "direct", shots=1)[1]
    assert direct.prompt == (
        f"{head}池塘属于____。\nA. 村民\nB. 青蛙\nC. 鱼\nD. 芦苇\n答案：A\n\n"
        "鱼住在哪里，\n一般来说？\nA. 树上\nB. 山上\nC. 水里\nD. 天上\n答案："
    )
    assert direct.options == ("A", "B", "C", "D") and direct.references == ("C",)
    cot = ask(BENCHMARKS["ceval"], "cot", shots=1)[0]
    assert cot.prompt == (
        f"{head}池塘属于____。\nA. 村民\nB. 青蛙\nC. 鱼\nD. 芦苇\n"
        "答案：让我们一步一步思考，\n1. 池塘在村里。\n所以答案是A。\n\n"
        "青蛙会什么？\nA. 飞\nB. 跳\nC. 写\nD. 读\n答案：让我们一步一步思考，\n1."
    )


def test_tydiqa_is_the_house_rule_and_leaves_english_out(ask: Ask):
    items = ask(BENCHMARKS["tydiqa"], "direct")
    assert [i.id for i in items] == ["fi/0", "ko/0", "ko/1"]
    assert items[0].prompt == (
        "Lammen nimi on Umpi.\nQ: Mikä on lammen nimi?\nA: Umpi\n\n"
        "Kala asuu St. Umpi -lammessa Lopella. Se on vanha.\nQ: Missä kala asuu?\nA:"
    )
    assert items[0].references == ("St. Umpi -lammessa Lopella", "St. Umpi -lammessa")


def test_natural_instructions_is_tk_instructs_encoding(ask: Ask):
    items = ask(BENCHMARKS["natural_instructions"], "direct")
    assert [i.id for i in items] == [f"task9001_pond_title_generation/{n}" for n in (0, 1)]  # the other is no test task
    assert items[0].prompt == (
        "Definition: Give the text a title.\n\n"
        " Positive Example 1 -\nInput: Frogs sing at night.\n Output: Night songs.\n\n"
        " Positive Example 2 -\nInput: A heron waits.\n Output: The patient heron!\n\n"
        "Now complete the following example -\nInput: Newts swim.\nOutput: "
    )
    assert items[0].references == ("Swimming newts", "Newts") and items[0].metric == "rouge_l"
    assert "Input: Is it a pike?\nOutput: " in items[1].prompt


def test_a_list_of_test_tasks_chooses_them(benchmarks: Path, tmp_path: Path):
    shutil.copytree(benchmarks / "niv2", tmp_path / "tasks")
    (tmp_path / "splits/default").mkdir(parents=True)
    (tmp_path / "splits/default/test_tasks.txt").write_text("task9002_pond_count\n")
    ni = BENCHMARKS["natural_instructions"]
    assert [p.item.id for p in ni.items(tmp_path, "direct")] == ["task9002_pond_count/0"]
    (tmp_path / "splits/default/test_tasks.txt").write_text("task9002_pond_count\ntask1_gone\n")
    with pytest.raises(RecipeError, match="task1_gone"):
        list(ni.items(tmp_path, "direct"))


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("mmlu", "\n(A) Duckweed (B) Flint (C) Sand, wet (D) None\nA: think"),
        ("bbh", "\n(A) red\n(B) grey\n(C) white\nA: think"),
        ("gsm8k", "How many do 4 hold?\nthink"),
        ("mgsm", "\nSchritt-für-Schritt-Antwort:\nthink"),
        ("math", "\n\nSolution:\nthink"),
        ("ceval", "\n答案：think"),
        ("svamp", "are there?\nthink"),
    ],
)
def test_a_trigger_begins_a_chain_of_thought_without_exemplars(ask: Ask, name: str, end: str):
    assert ask(BENCHMARKS[name], "cot", shots=0, trigger="think")[0].prompt.endswith(end)
    with pytest.raises(RecipeError, match="0 shots"):
        ask(BENCHMARKS[name], "cot", shots=1, trigger="think")


def template(messages: list[dict[str, str]]) -> str:
    return "".join(f"<{m['role']}>{m['content']}</>" for m in messages) + "<assistant>"


def test_chat_is_one_message_or_turns(benchmarks: Path):
    gsm8k = BENCHMARKS["gsm8k"]
    path = benchmarks / "gsm8k"
    query = "Question: A crate holds 500 jars. How many do 4 hold?\nThe answer is"
    dialogue = Setting(benchmark=gsm8k, path=path, mode="direct", shots=1, chat="dialogue")
    assert dialogue.pose(everything_fits, template)[0].item.prompt == (
        f"<user>{WEI}The answer is</><assistant>3.</><user>{query}</><assistant>"
    )
    single = Setting(benchmark=gsm8k, path=path, mode="direct", shots=1, chat="single")
    assert single.pose(everything_fits, template)[0].item.prompt == (
        f"<user>{WEI}The answer is 3.\n\n{query}</><assistant>"
    )
    assert (dialogue.key, single.key) == ("gsm8k/direct/1-shot+chat-dialogue", "gsm8k/direct/1-shot+chat-single")
    with pytest.raises(RecipeError, match="no chat template"):
        dialogue.pose(everything_fits)
    head = Setting(benchmark=BENCHMARKS["bbh"], path=benchmarks / "bbh", mode="direct", shots=1, chat="dialogue")
    posed = head.pose(everything_fits, template)[0]
    assert posed.item.prompt.startswith("<user>Choose the colour.\n\nQ: Snow is")
    extracted = BENCHMARKS["bbh"].extract(posed.item, "(C)")
    assert extracted.answer == "(C)"  # the options are found in the last turn


def test_faults_of_the_files_are_named(benchmarks: Path, tmp_path: Path):
    shutil.copytree(benchmarks, tmp_path / "b")
    files = {
        "ceval": ("ceval/val/law_val.csv", "id,question,A,B,C,answer\n0,q,a,b,c,A\n", "field 'D': expected a column"),
        "svamp": ("math/svamp/test.jsonl", '{"Body": "b", "Question": "q", "Answer": null}\n', "row 1: field 'answer'"),
        "mawps": ("math/mawps/addsub.jsonl", '{"input": "b", "target": "six"}\n', "expected one number"),
        "math": ("math/MATH/test.jsonl", '{"problem": "p", "solution": "s"}\n', "boxed"),
        "tydiqa": ("tydiqa/tydiqa-goldp-v1.1-dev.json", '{"rows": []}', "field 'data'"),
        "natural_instructions": (
            "niv2/task9001_pond_title_generation.json",
            '{"Definition": ["d"]}',
            "field 'Categories'",
        ),
        "multiarith": (
            "math/multiarith/MultiArith.json",
            '[{"sQuestion": "q", "lSolutions": []}]',
            "expected one number",
        ),
        "asdiv": ("math/asdiv/ASDiv.xml", "<Machine/>", "<Problem>"),
    }
    for name, (file, content, message) in files.items():
        (tmp_path / "b" / file).write_text(content, encoding="utf-8")
        benchmark = BENCHMARKS[name]
        with pytest.raises(DataError, match=message):
            list(benchmark.items(tmp_path / "b" / benchmark.folder, benchmark.modes[0], shots=0))
    (tmp_path / "b/ceval/val/law_val.csv").write_text("id,question,A,B,C,D,answer\n0,q,a,b,c,d,E\n", encoding="utf-8")
    with pytest.raises(DataError, match="A, B, C or D, got 'E'"):
        list(BENCHMARKS["ceval"].items(tmp_path / "b/ceval", "direct", shots=0))
    (tmp_path / "b/prompts/gsm8k/prompt_original.txt").unlink()
    with pytest.raises(RecipeError, match="ask with 0 shots"):
        list(BENCHMARKS["mawps"].items(tmp_path / "b/math/mawps", "cot"))


def test_a_conversation_ends_by_itself_and_its_options_begin_as_its_answers_do(benchmarks: Path):
    def item(name: str, mode: str, **how: Any) -> Any:
        path = benchmarks / BENCHMARKS[name].folder
        return Setting(benchmark=BENCHMARKS[name], path=path, mode=mode, **how).pose(everything_fits, template)[0].item

    plain, chat = item("gsm8k", "cot"), item("gsm8k", "cot", chat="single")
    assert plain.stop == ("\n\n", "Question:") and plain.max_new_tokens == 320
    assert chat.stop == () and chat.max_new_tokens == 1_024
    assert item("gsm8k", "cot", shots=0, trigger="think").stop == ("Question:",)
    assert item("mmlu", "direct").options == (" (A)", " (B)", " (C)", " (D)")
    assert item("mmlu", "direct", chat="dialogue").options == ("(A)", "(B)", "(C)", "(D)")
    assert item("mmlu", "direct", chat="dialogue", generate=True).stop == ()


def test_json_with_nan_and_files_with_a_byte_order_mark_are_read(tmp_path: Path):
    (tmp_path / "a.json").write_text('\ufeff{"URL": [NaN], "n": 1}', encoding="utf-8")
    assert read_json(tmp_path / "a.json")["n"] == 1
    (tmp_path / "b.csv").write_text("\ufeffWhich?,a\n", encoding="utf-8")
    assert read_csv(tmp_path / "b.csv", columns=2) == [["Which?", "a"]]
