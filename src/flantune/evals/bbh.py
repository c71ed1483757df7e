"""BIG-Bench Hard (spec 6.3): one JSON file per task, and cot-prompts/TASK.txt with three exemplars each.

Direct prompts are the chain-of-thought ones without the rationale. Strict reading is the published scoring: the text
after the last "answer is " (direct: the whole output), trimmed, one final full stop removed, compared case and all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flantune.errors import DataError, RecipeError
from flantune.evals.benchmark import Extraction, FileBenchmark, Part, Question, Reading, Shot, TaskScore, mean_of, micro
from flantune.evals.benchmark import only_split as check_split
from flantune.evals.extract import SEVERAL, UNREAD, after_phrase, first_sentence, free_text, letter, told_verbatim, word
from flantune.evals.files import existing, read_json, read_text
from flantune.evals.normalised import PUBLISHED_BOUNDS
from flantune.evals.told_numbers import number
from flantune.types import Item

THINK = "A: Let's think step by step."
CLOSING = "So the answer is "

# Answers of the tasks that list no choices in their questions.
WORDS = {
    "boolean_expressions": ("True", "False"),
    "web_of_lies": ("Yes", "No"),
    "sports_understanding": ("yes", "no"),
    "causal_judgement": ("Yes", "No"),
}
NUMBERS = ("object_counting", "multistep_arithmetic_two")
BRACKETS = "dyck_languages"
LOWER = ("word_sorting",)  # every word of these tasks' questions and answers is in lower case

TASKS = tuple(sorted(PUBLISHED_BOUNDS))
NLP = (
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "formal_fallacies",
    "hyperbaton",
    "movie_recommendation",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
)
ALGORITHMIC = tuple(task for task in TASKS if task not in NLP)
SIZES = ("three_objects", "five_objects", "seven_objects")
FAMILIES = ("logical_deduction", "tracking_shuffled_objects")  # each one task of three sizes in Suzgun et al.'s 23


@dataclass(frozen=True)
class Bbh(FileBenchmark):
    name: str = "bbh"
    folder: str = "bbh"
    modes: tuple[str, ...] = ("direct", "cot")
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"direct": 3, "cot": 3})
    most_shots: int = 3
    datasets: tuple[str, ...] = ("bbh", "bigbench", "big_bench", "big_bench_hard")
    tasks_are_datasets: bool = True
    groups: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {"nlp_12": NLP, "algorithmic_15": ALGORITHMIC}  # the paper's Table 4
    )

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        check_split(self, split)
        files = sorted(existing(path, "BIG-Bench Hard").glob("*.json"))
        if not files:
            raise RecipeError(f"{path}: no TASK.json in it.")
        for file in files:
            task = file.stem
            description, blocks = read_prompt(existing(path / "cot-prompts" / f"{task}.txt", "exemplars"))
            yield Part(
                task=task,
                id=task,
                head=description,
                shots=[shot_of(block, mode) for block in blocks],
                questions=[
                    Question(
                        text=question,
                        asked=f"Q: {question}\n{THINK if mode == 'cot' else 'A:'}",
                        references=(target,),
                    )
                    for question, target in read_examples(file)
                ],
                key=("bbh", task),
                max_new_tokens=320 if mode == "cot" else 32,
                stop=("\n\n", "Q:"),
            )

    def trigger_words(self, part: Part, asked: str, trigger: str) -> str:
        return f"{asked.removesuffix(THINK)}A: {trigger}"

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        if reading == "strict":
            return told_verbatim(output) if item.mode == "cot" else told_verbatim(output, "\0")
        loose = reading == "loose"
        question = re.split(r"(?:\A|[\n\s>\]])Q: ", item.prompt)[-1]
        letters = re.findall(r"^\(([A-Z])\)", question, flags=re.MULTILINE)
        if letters:
            found = letter(output, letters, loose=loose)
            if found.answer is not None or found.rule == SEVERAL:
                return Extraction(found.answer and f"({found.answer})", found.rule)
            return option_words(output, re.findall(r"^\([A-Z]\) (.+)$", question, flags=re.MULTILINE))
        words = WORDS.get(item.task) or re.findall(r"^- (\S+)\s*$", question, flags=re.MULTILINE)
        if words:
            return word(output, words, loose=loose)
        if item.task in NUMBERS:
            if item.mode == "direct":
                return number(output if loose else f"The answer is {output}", reading=reading)
            alone = re.fullmatch(r"[^\w\n]*[\d,.]+[^\w\n]*", output)
            return number(output, reading="default" if loose or alone else "strict")
        if item.task == BRACKETS and (box := re.search(r"\\boxed\{([\])}>\s]*)\}", output)):
            return Extraction(box[1].strip(), "boxed")  # whose braces do not match by themselves
        text = free_text(output, loose=loose)
        return Extraction(text.answer and text.answer.lower(), text.rule) if item.task in LOWER else text

    def averages(self, tasks: Mapping[str, TaskScore]) -> Mapping[str, float | None]:
        """The three averages in use (they differ by up to four points), and the paper's two groups of sub-tasks."""
        merged = {family: mean_of([f"{family}_{size}" for size in SIZES], tasks) for family in FAMILIES}
        single = [t for t in TASKS if not t.startswith(FAMILIES)]
        values = [*merged.values(), *(tasks[t].score if t in tasks else None for t in single)]
        known = [value for value in values if value is not None]
        whole = set(TASKS) == set(tasks)
        return {
            "macro_27": mean_of(TASKS, tasks) if whole else None,
            "micro": micro(tasks) if whole else None,
            "macro_23": sum(known) / len(known) if whole else None,
            **super().averages(tasks),
        }


def option_words(output: str, options: Sequence[str]) -> Extraction:
    """An answer in the words of the options. Three targets are: their options were split at commas ("Monsters", "Inc").

    Words where a letter is wanted are wrong by the published rule, and so they stay; but they are an answer.
    """
    told = after_phrase(output)
    answer = first_sentence(output if told is None else told)
    if answer and {piece.strip() for piece in answer.split(",")} <= {option.strip() for option in options}:
        return Extraction(answer, "words of the options")
    return Extraction(None, UNREAD)


def read_prompt(path: Path) -> tuple[str, list[str]]:
    """The task's description and its exemplar blocks, without the canary and the line of dashes."""
    text = read_text(path)
    lines = text.split("\n")
    if len(lines) > 2 and set(lines[1].strip()) == {"-"}:
        text = "\n".join(lines[2:])
    description, *blocks = re.split(r"\n\n(?=Q: )", text.strip("\n"))
    if not blocks or any(CLOSING not in block or THINK not in block for block in blocks):
        expected = f"blocks 'Q: ...', '{THINK}', '... {CLOSING}X.' parted by blank lines"
        raise DataError(str(path), field="(file)", expected=expected, got=text)
    return description, blocks


def shot_of(block: str, mode: str) -> Shot:
    """A chain-of-thought block; direct: `Q: ...\\nA: answer` of it."""
    question, rationale = block.split(f"\n{THINK}", 1)
    if mode == "cot":
        return Shot(f"{question}\n{THINK}", rationale)
    return Shot(f"{question}\nA:", f" {block.rsplit(CLOSING, 1)[1].strip().removesuffix('.')}")


def read_examples(path: Path) -> list[tuple[str, str]]:
    content = read_json(path)
    examples = content.get("examples") if isinstance(content, dict) else None
    if not isinstance(examples, list) or not examples:
        raise DataError(str(path), field="examples", expected="a list of questions", got=examples)
    rows = []
    for number_, example in enumerate(examples, start=1):
        for key in ("input", "target"):
            if not isinstance(example, dict) or not isinstance(example.get(key), str):
                raise DataError(f"{path}:example {number_}", field=key, expected="text", got=example)
        rows.append((example["input"], example["target"]))
    return rows
