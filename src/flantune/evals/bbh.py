"""BIG-Bench Hard (spec 6.3): one JSON file per task, and cot-prompts/TASK.txt with three exemplars each.

Direct prompts are the chain-of-thought ones without the rationale. The published scoring (text after the last "answer
is ", trimmed, one final full stop removed, case-sensitive) is met wherever it says right; the readers here also bear
a missing full stop, bold type and a sentence after the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flantune.errors import DataError, RecipeError
from flantune.evals.benchmark import (
    Extraction,
    Fits,
    Posed,
    check_mode,
    check_shots,
    chosen,
    everything_fits,
    existing,
    keep_fitting,
    read_json,
    read_text,
    score_equal,
)
from flantune.evals.extract import UNREAD, after_phrase, first_sentence, free_text, letter, number, word
from flantune.types import Item

THINK = "A: Let's think step by step."
CLOSING = "So the answer is "

# Answers of the tasks that list no choices in their questions.
WORDS = {
    "boolean_expressions": ("True", "False"),
    "web_of_lies": ("Yes", "No"),
    "sports_understanding": ("yes", "no"),
}
NUMBERS = ("object_counting", "multistep_arithmetic_two")


@dataclass(frozen=True, slots=True)
class Bbh:
    name: str = "bbh"
    modes: tuple[str, ...] = ("direct", "cot")
    folder: str = "bbh"
    default_split: str = "test"  # the only one there is
    sampled_tasks: bool = False
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"direct": 3, "cot": 3})

    def items(
        self,
        path: Path,
        mode: str,
        *,
        shots: int | None = None,
        split: str | None = None,
        limit: int | None = None,
        seed: int = 0,
        fits: Fits = everything_fits,
    ) -> Iterator[Posed]:
        check_mode(self, mode)
        asked = check_shots(self, shots, mode, most=3)
        if split not in (None, self.default_split):
            raise RecipeError(f"bbh: no split '{split}'; it has one, '{self.default_split}'.")
        files = sorted(existing(path, "BIG-Bench Hard").glob("*.json"))
        if not files:
            raise RecipeError(f"{path}: no TASK.json in it.")
        for file in files:
            task = file.stem
            description, cot_blocks = read_prompt(existing(path / "cot-prompts" / f"{task}.txt", "exemplars"))
            blocks = (cot_blocks if mode == "cot" else [without_rationale(b) for b in cot_blocks])[:asked]
            for row, (question, target) in chosen(read_examples(file), limit, seed, "bbh", task):
                query = f"Q: {question}\n{THINK if mode == 'cot' else 'A:'}"

                def say(kept: int, d: str = description, b: list[str] = blocks, q: str = query) -> str:
                    return "\n\n".join([d, *b[:kept], q])

                prompt, kept = keep_fitting(say, len(blocks), fits)
                item = Item(
                    benchmark=self.name,
                    mode=mode,
                    task=task,
                    id=f"{task}/{row}",
                    prompt=prompt,
                    references=(target,),
                    max_new_tokens=320 if mode == "cot" else 32,
                    stop=("\n\n", "Q:"),
                    shots=kept,
                )
                yield Posed(item, len(blocks) - kept)

    def extract(self, item: Item, output: str) -> Extraction:
        question = item.prompt.rsplit("\n\nQ: ", 1)[-1]
        letters = re.findall(r"^\(([A-Z])\)", question, flags=re.MULTILINE)
        if letters:
            found = letter(output, letters)
            if found.answer is not None:
                return Extraction(f"({found.answer})", found.rule)
            return option_words(output, re.findall(r"^\([A-Z]\) (.+)$", question, flags=re.MULTILINE))
        words = WORDS.get(item.task) or re.findall(r"^- (\S+)\s*$", question, flags=re.MULTILINE)
        if words:
            return word(output, words)
        return number(output) if item.task in NUMBERS else free_text(output)

    def score(self, item: Item, extraction: Extraction) -> float | None:
        return score_equal(item, extraction)


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


def without_rationale(block: str) -> str:
    """`Q: ...\\nA: answer` of a chain-of-thought block."""
    question = block.split(f"\n{THINK}")[0]
    return f"{question}\nA: {block.rsplit(CLOSING, 1)[1].strip().removesuffix('.')}"


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
