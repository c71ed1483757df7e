"""Score outputs that some model wrote elsewhere.

JSON lines with "output" and either the item's "id" or its "input" (the question, the query as it stands in the prompt,
or a whole prompt that ends in it; with "task" where the benchmark has several). Or GSM8K's
example_model_solutions.jsonl as it is: four models' solutions, labelled right or wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flantune.errors import DataError
from flantune.evals.benchmark import Posed, Reading, everything_fits
from flantune.evals.files import existing, read_json_lines
from flantune.evals.gsm8k import Gsm8k, solved
from flantune.evals.results import Answered, Setting, judge, unanswered, write_items, write_unread
from flantune.evals.summary import summarise
from flantune.types import Item
from flantune.whole import write_json

END = 100  # characters


def score_outputs(setting: Setting, outputs: Path) -> list[Answered]:
    """Every item of the setting, scored where the file answers it; the others are missing, not wrong.

    An input that several items share, asked in the same words: one line answers them all, as many lines as items answer
    them in order. Raises DataError on a line that answers no item, one of several that are asked otherwise, or one that
    an earlier line answered.
    """
    posed = setting.pose(everything_fits)
    index = _Index(posed, setting)
    told: dict[str, str] = {}
    by_input: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)  # ids an input may mean: lines' outputs
    for number, row in enumerate(read_json_lines(existing(outputs, "outputs to score"), ("output",)), start=1):
        where = f"{outputs}:row {number}"
        ids = tuple(p.item.id for p in index.find(row, where))
        if row.get("id") is not None:
            _tell(told, ids[0], row["output"], where)
        else:
            by_input[ids].append((row["output"], where))
    for ids, lines in by_input.items():
        if len(lines) > len(ids):
            output, where = lines[len(ids)]
            raise DataError(where, field="input", expected=f"{len(ids)} outputs for this input", got=output)
        pairs = zip(ids, lines * len(ids) if len(lines) == 1 else lines, strict=False)
        for item, (output, where) in pairs:
            _tell(told, item, output, where)
    return [judge(setting, p, told[p.item.id]) if p.item.id in told else unanswered(setting, p) for p in posed]


def _tell(told: dict[str, str], item: str, output: str, where: str) -> None:
    if item in told:
        raise DataError(where, field="id", expected="one output per item", got=item)
    told[item] = output


class _Index:
    """Items by id, and by everything that their input may be given as."""

    def __init__(self, posed: Sequence[Posed], setting: Setting) -> None:
        self._posed, self._setting = posed, setting
        self._by_id = {p.item.id: p for p in posed}
        self._tasks = {p.item.task for p in posed}
        self._by_text: dict[tuple[str | None, str], list[Posed]] = defaultdict(list)
        for p in posed:
            for text in {p.item.prompt.strip(), p.question.strip(), p.asked.strip()} - {""}:
                for task in (None, p.item.task):
                    self._by_text[task, text].append(p)
        self._by_end: dict[str, list[Posed]] = defaultdict(list)  # by the last characters of the worded query
        for p in posed:
            if asked := p.asked.strip():
                self._by_end[asked[-END:]].append(p)
        self._lengths = sorted({len(end) for end in self._by_end})

    def find(self, row: Mapping[str, Any], where: str) -> list[Posed]:
        task, text = row.get("task"), row.get("input")
        if task is not None and (not isinstance(task, str) or task not in self._tasks):
            known = f"a task of {self._setting.key} such as {min(self._tasks)!r}"
            raise DataError(where, field="task", expected=known, got=task)
        found = self._of_input(task, text.strip()) if isinstance(text, str) else []
        if row.get("id") is not None:
            own = self._of_id(row["id"], where)
            if task not in (None, own.item.task):
                raise DataError(where, field="task", expected=f"{own.item.task!r}, the task of {own.item.id}", got=task)
            if found and all(p is not own for p in found):
                expected = f"the question of {own.item.id}, or no input"
                raise DataError(where, field="input", expected=expected, got=text, mend=f"It is {found[0].item.id}'s.")
            return [own]
        if len({p.asked for p in found}) > 1:
            named = ", ".join(p.item.id for p in found[:3])
            expected = f"an input that one item has; {named} share it and are asked differently"
            mend = "Give the 'id', or as 'input' the whole query with its options."
            raise DataError(where, field="input", expected=expected, got=text, mend=mend)
        if found:
            return found
        raise DataError(
            where,
            field="input",
            expected=f"'id', or 'input' with a question or prompt of {self._setting.key}",
            got=text,
            mend="Questions and prompts must be worded as this benchmark's files word them; ids are safer.",
        )

    def _of_input(self, task: str | None, text: str) -> list[Posed]:
        return self._by_text.get((task, text)) or self._of_end(task, text)

    def _of_id(self, item: Any, where: str) -> Posed:
        if not isinstance(item, str) or item not in self._by_id:
            example = next(iter(self._by_id))
            expected = f"an item of {self._setting.key} such as {example!r}"
            raise DataError(where, field="id", expected=expected, got=item)
        return self._by_id[item]

    def _of_end(self, task: str | None, text: str) -> list[Posed]:
        """Items whose worded query a whole prompt ends in, behind other exemplars than ours; the longest query."""
        near = [p for n in self._lengths for p in self._by_end.get(text[-n:], ())]
        found = [p for p in near if task in (None, p.item.task) and text.endswith(p.asked.strip())]
        longest = max((len(p.asked.strip()) for p in found), default=0)
        return [p for p in found if len(p.asked.strip()) == longest]


def score_file(setting: Setting, outputs: Path, folder: Path) -> dict[str, Any]:
    """`score_outputs`, written to folder/items.parquet and folder/summary.json; returns the summary."""
    return _write([setting], score_outputs(setting, outputs), outputs, folder, {})


def _write(
    settings: Sequence[Setting], rows: Sequence[Answered], outputs: Path, folder: Path, more: Mapping[str, Any]
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    write_items(folder / "items.parquet", rows)
    write_unread(folder / "unread.jsonl", rows)
    summary = {"format": 1, "outputs": str(outputs), "results": summarise(settings, rows), **more}
    write_json(folder / "summary.json", summary)
    return summary


# ---- GSM8K's labelled solutions ------------------------------------------------------------------------------------

SOLUTION_FIELDS = ("question", "ground_truth")


def holds_solutions(outputs: Path) -> bool:
    """Is it GSM8K's file of model solutions?"""
    first = read_json_lines(existing(outputs, "outputs to score"))[0]
    return all(isinstance(first.get(f), str) for f in SOLUTION_FIELDS) and any(map(_is_solution, first.values()))


def _is_solution(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("solution"), str) and "is_correct" in value


def score_solutions(outputs: Path, folder: Path, reading: Reading = "default") -> dict[str, Any]:
    """Every model of the file as a setting of its own, with how many of its labels are reproduced.

    The file brings its own questions and answers, so the benchmark's files are not needed. Written and returned as by
    `score_file`, with "labels" beside the results.
    """
    lines = read_json_lines(existing(outputs, "GSM8K's model solutions"), SOLUTION_FIELDS)
    models = [name for name, value in lines[0].items() if _is_solution(value)]
    rows: list[Answered] = []
    settings, labels = [], []
    for model in models:
        setting = Setting(
            benchmark=_Solutions(name=f"gsm8k:{model}"), path=outputs, mode="cot", shots=0, reading=reading
        )
        own = [
            judge(setting, _posed(setting, line, n, outputs), _solution(line, model, n, outputs)["solution"])
            for n, line in enumerate(lines)
        ]
        told = [bool(_solution(line, model, n, outputs)["is_correct"]) for n, line in enumerate(lines)]
        differing = [r.result.item.id for r, label in zip(own, told, strict=True) if (r.result.score == 1.0) != label]
        labels.append(
            {
                "model": model,
                "items": len(own),
                "right": sum(told),
                "agree": len(own) - len(differing),
                "differ": differing,
            }
        )
        settings.append(setting)
        rows += own
    return _write(settings, rows, outputs, folder, {"labels": labels})


@dataclass(frozen=True)
class _Solutions(Gsm8k):
    default_shots: Mapping[str, int] = field(default_factory=lambda: {"cot": 0})


def _posed(setting: Setting, line: Mapping[str, Any], row: int, outputs: Path) -> Posed:
    problem = solved(line["question"], line["ground_truth"], f"{outputs}:row {row + 1}")
    item = Item(
        benchmark=setting.benchmark.name,
        mode="cot",
        task="gsm8k",
        id=f"test/{row}",
        prompt=problem.question,
        references=(problem.answer,),
    )
    return Posed(item, question=problem.question)


def _solution(line: Mapping[str, Any], model: str, row: int, outputs: Path) -> dict[str, Any]:
    value = line.get(model)
    if not _is_solution(value):
        expected = "{is_correct: ..., solution: text}"
        raise DataError(f"{outputs}:row {row + 1}", field=model, expected=expected, got=value)
    return dict(value)  # type: ignore[arg-type]
