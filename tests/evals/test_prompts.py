"""Every benchmark's prompts, character for character, over invented questions in the real files' layouts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flantune.errors import DataError, RecipeError
from flantune.evals import BENCHMARKS
from flantune.types import Item

Ask = Callable[..., list[Item]]
MMLU, ORIGINAL, BBH, GSM8K, MGSM = (BENCHMARKS[n] for n in ("mmlu", "mmlu_original", "bbh", "gsm8k", "mgsm"))


def test_mmlu_direct_is_the_chain_of_thought_layout_without_the_rationale(ask: Ask):
    first = ask(MMLU, "direct", shots=2)[0]
    assert first.prompt == (
        "The following are multiple choice questions (with answers) about pond biology.\n\n"
        "Q: What do tadpoles become?\n(A) Frogs (B) Newts (C) Fish (D) None\nA: (A)\n\n"
        "Q: How many legs has a pond skater?\n(A) 4 (B) 6 (C) 8 (D) 10\nA: (B)\n\n"
        "Q: Which of these floats?\nChoose one.\n(A) Duckweed (B) Flint (C) Sand, wet (D) None\nA:"
    )
    assert first.options == (" (A)", " (B)", " (C)", " (D)")
    assert first.references == ("A",) and first.id == "val/pond_biology/0" and first.shots == 2


def test_mmlu_original_has_two_blanks_before_the_subject_and_letters_without_brackets(ask: Ask):
    second = ask(ORIGINAL, "direct", shots=1)[1]
    assert second.prompt == (
        "The following are multiple choice questions (with answers) about  pond biology.\n\n"
        "What do tadpoles become?\nA. Frogs\nB. Newts\nC. Fish\nD. None\nAnswer: A\n\n"
        'Statement 1 | Newts are amphibians.\nA. True\nB. It is "true"\nC. False\nD. none\nAnswer:'
    )
    assert second.options == (" A", " B", " C", " D") and second.references == ("C",)


def test_mmlu_chain_of_thought_is_the_published_text_and_the_query(ask: Ask):
    items = ask(MMLU, "cot", split="test")
    assert [i.prompt for i in items] == [
        "The following are multiple choice questions (with answers) about pond biology.\n\n"
        "Q: What do tadpoles become?\n(A) Frogs (B) Newts (C) Fish (D) None\n"
        "A: Let's think step by step. Tadpoles are young frogs.\nSo they grow into frogs. The answer is (A).\n\n"
        "Q: How many legs has a pond skater?\n(A) 4 (B) 6 (C) 8 (D) 10\n"
        "A: Let's think step by step. It is an insect. The answer is (B).\n\n"
        "Q: Which is a plant?\n(A) Reed (B) Heron (C) Pike (D) Frog\nA: Let's think step by step."
    ]
    assert items[0].options is None and items[0].stop == ("\n\n", "Q:")


def test_bbh_chain_of_thought_goes_without_the_canary(ask: Ask):
    by_id = {i.id: i for i in ask(BBH, "cot")}
    assert list(by_id) == ["colour_choice/0", "pebble_counting/0", "pebble_counting/1"]
    assert by_id["pebble_counting/1"].prompt == (
        "Count the pebbles.\n\n"
        "Q: Two pebbles and one more.\nA: Let's think step by step.\n2 + 1 = 3. So the answer is 3.\n\n"
        "Q: No pebbles.\nA: Let's think step by step.\nThere are none. So the answer is 0.\n\n"
        "Q: Four pebbles, one lost.\nA: Let's think step by step.\n4 - 1 = 3. So the answer is 3.\n\n"
        "Q: One pebble\nand two.\nA: Let's think step by step."
    )


def test_bbh_direct_is_the_same_with_the_answer_alone(ask: Ask):
    assert ask(BBH, "direct")[0].prompt == (
        "Choose the colour.\n\n"
        "Q: Snow is\nOptions:\n(A) white\n(B) green\nA: (A)\n\n"
        "Q: Grass is\nOptions:\n(A) blue\n(B) green\nA: (B)\n\n"
        "Q: Coal is\nOptions:\n(A) black\n(B) red\nA: (A)\n\n"
        "Q: Blood is\nOptions:\n(A) red\n(B) grey\n(C) white\nA:"
    )
    assert ask(BBH, "direct", shots=0)[0].prompt == (
        "Choose the colour.\n\nQ: Blood is\nOptions:\n(A) red\n(B) grey\n(C) white\nA:"
    )


def test_gsm8k_takes_the_users_exemplar_file(ask: Ask):
    assert ask(GSM8K, "cot")[0].prompt == (
        "Question: Two jars and one more. How many?\nLet's think step by step\nThere are 2 jars.\n2 + 1 = 3.\n"
        "The answer is 3.\n\n"
        "Question: Ten less four?\nLet's think step by step\n10 - 4 = 6.\nThe answer is 6.\n\n"
        "Question: A crate holds 500 jars. How many do 4 hold?\nLet's think step by step"
    )
    direct = ask(GSM8K, "direct", shots=1)[1]
    assert direct.prompt == (
        "Question: Two jars and one more. How many?\nThe answer is 3.\n\n"
        "Question: It was 1 degree and fell by 4. How many now?\nThe answer is"
    )
    assert direct.references == ("-3",)


def test_gsm8k_without_that_file_words_its_first_eight_training_rows_alike(benchmarks: Path, tmp_path: Path):
    shutil.copytree(benchmarks / "gsm8k", tmp_path / "gsm8k")
    with pytest.warns(UserWarning, match="first rows of its training split.*fetch gsm8k-prompts"):
        items = [p.item for p in GSM8K.items(tmp_path / "gsm8k", "cot")]
    assert items[0].shots == 8
    assert items[0].prompt.startswith(
        "Question: Ana has 1 jars and buys 2. How many has she?\nLet's think step by step\n"
        "She has 1 + 2 = 3 jars.\nThe answer is 3.\n\nQuestion: Ana has 2 jars"
    )
    assert items[0].prompt.count("The answer is") == 8


def test_mgsm_is_native_throughout(ask: Ask):
    by_id = {i.id: i for i in ask(MGSM, "cot", shots=2)}
    assert by_id["de/0"].prompt == (
        "Frage: Was ist 1 plus 2?\nSchritt-für-Schritt-Antwort: 1 + 2 = 3. Die Antwort ist 3.\n\n"
        "Frage: Was ist 2 plus 2?\nSchritt-für-Schritt-Antwort: 2 + 2 = 4. Die Antwort lautet 4.\n\n"
        'Frage: Eine Kiste fasst 3 "große" Krüge. Wie viele fassen 2?\nSchritt-für-Schritt-Antwort:'
    )
    assert by_id["zh/0"].prompt == (
        "问题：1 加 2 是几？\n逐步解答：1 + 2 = 3。答案是 3。\n\n"
        "问题：2 加 2 是几？\n逐步解答：2 + 2 = 4。答案是 4。\n\n"
        "问题：一箱有 3 罐，两箱有几罐？\n逐步解答："
    )
    assert by_id["zh/0"].stop == ("\n\n", "问题：") and by_id["de/1"].references == ("2,125",)


@pytest.mark.parametrize(("name", "mode"), [(n, m) for n, b in BENCHMARKS.items() for m in b.modes])
def test_exemplars_go_from_the_end_until_the_prompt_fits_and_are_counted(benchmarks: Path, name: str, mode: str):
    benchmark = BENCHMARKS[name]
    path = benchmarks / benchmark.folder
    most = min(2, benchmark.most_shots)
    whole = list(benchmark.items(path, mode, shots=most))
    for posed in whole:
        shorter = [list(benchmark.items(path, mode, shots=k)) for k in (0, most - 1)]
        limit = max(len(p.item.prompt) for p in shorter[1] if p.item.id == posed.item.id)
        cut = list(benchmark.items(path, mode, shots=most, fits=lambda s: len(s) <= limit))  # noqa: B023
        same = next(p for p in cut if p.item.id == posed.item.id)
        assert (same.item.shots, same.shots_dropped) == (most - 1, 1)
        assert same.item.prompt == next(p.item.prompt for p in shorter[1] if p.item.id == posed.item.id)
        nothing = next(
            p for p in benchmark.items(path, mode, shots=most, fits=lambda s: False) if p.item.id == same.item.id
        )
        assert (nothing.item.shots, nothing.shots_dropped) == (0, most)
        assert nothing.item.prompt == next(p.item.prompt for p in shorter[0] if p.item.id == posed.item.id)
        assert posed.shots_dropped == 0


@pytest.mark.parametrize("name", BENCHMARKS)
def test_ids_are_unique_and_a_smaller_limit_asks_a_part_of_a_larger_ones_items(benchmarks: Path, name: str):
    benchmark = BENCHMARKS[name]
    for mode in benchmark.modes:
        ids = [
            {p.item.id for p in benchmark.items(benchmarks / benchmark.folder, mode, shots=1, limit=n, seed=3)}
            for n in (1, 2, None)
        ]
        assert ids[0] <= ids[1] <= ids[2] and ids[0] < ids[2]
        everything = list(benchmark.items(benchmarks / benchmark.folder, mode, shots=1))
        assert len(everything) == len(ids[2])


def test_what_is_not_there_is_an_error_that_names_it(benchmarks: Path, tmp_path: Path):
    with pytest.raises(RecipeError, match="no mode 'direct'"):
        list(MGSM.items(benchmarks / "mgsm", "direct"))
    with pytest.raises(RecipeError, match="9 shots"):
        list(GSM8K.items(benchmarks / "gsm8k", "cot", shots=9))
    with pytest.raises(RecipeError, match="no such folder"):
        list(MMLU.items(tmp_path, "direct"))
    shutil.copytree(benchmarks / "mmlu", tmp_path / "mmlu")
    (tmp_path / "mmlu/val/pond_biology_val.csv").write_text("Q?,a,b,c,d,A\nQ?,a,b,c,d,E\n")
    with pytest.raises(DataError, match=r"val.csv:row 2: field 'answer': expected A, B, C or D, got 'E'"):
        list(MMLU.items(tmp_path / "mmlu", "direct"))
    (tmp_path / "mmlu/val/pond_biology_val.csv").write_text("Q?,a,b,c,A\n")
    with pytest.raises(DataError, match="6 columns"):
        list(MMLU.items(tmp_path / "mmlu", "direct"))
    (tmp_path / "mmlu/mmlu-cot.json").write_text("{")
    with pytest.raises(DataError, match=r"mmlu-cot\.json"):
        list(MMLU.items(tmp_path / "mmlu", "cot", split="test"))
