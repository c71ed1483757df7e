"""A user's own benchmark: a YAML file that says where the items are and how they are worded, or a Python file.

    name: ponds
    items: {test: ponds.csv}          # CSV with a header, TSV, JSON lines or a JSON list; paths beside this file
    exemplars: ponds_dev.csv
    options: [a, b, c]                # columns; or one column that holds a list
    answers: letter                   # what is answered and scored: the letter of an option, or its own text
    answer: key                       # column: a letter, by `answer_is` an index from 0 or the option's text
    instruction: Questions about ponds.
    prompt: {direct: "Q: {question}\\n{options_}\\nA:", cot: "Q: {question}\\n{options_}\\nA: Think first."}
    told: {direct: " {answer}", cot: " {why} The answer is {answer}."}      # of exemplars
    read: letter                      # letter, number, line, sentence, math, or {pattern: 'Result: (.+)'}
    score: equal                      # equal, number, math, exact_match or rouge_l

A Python file sets BENCHMARK to an object of a subclass of `FileBenchmark`, or of anything with the methods of
`Benchmark`. It is run: name only files that you trust.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from flantune.errors import DataError, RecipeError, shorten
from flantune.evals.benchmark import (
    Ability,
    Benchmark,
    Extraction,
    FileBenchmark,
    Part,
    Question,
    Reading,
    Shot,
    answer_key,
    score_equal,
)
from flantune.evals.competition_math import read_final
from flantune.evals.extract import PHRASE, UNREAD, free_text, letter
from flantune.evals.files import existing, read_json, read_json_lines, read_table
from flantune.evals.grade_school import score_number
from flantune.evals.math_answers import same_answer
from flantune.evals.metrics import score_text
from flantune.evals.told_numbers import number
from flantune.recipe import Section
from flantune.stated import load_stated
from flantune.templates.patterns import OPTIONS_SLOT, fill_text, slots
from flantune.types import Item

Mode = Literal["direct", "cot"]
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


class PatternReading(Section):
    pattern: str = Field(description="a regular expression; its first group is the answer, its last match counts")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as e:
            raise ValueError(f"not a regular expression: {e}") from None
        if groups < 1:
            raise ValueError("the pattern needs a group: what stands in ( ) is the answer")
        return value


class OwnSpec(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    items: str | dict[str, str] = Field(description="a file, or files by split; the first split is the default")
    exemplars: str | None = None
    shots: int | None = Field(None, ge=0, description="all the exemplars there are, when not given")
    task: str | None = Field(None, description="column that names the sub-task; scores are means over sub-tasks")
    answer: str = Field("answer", description="column")
    answer_is: Literal["letter", "index", "text"] = Field("letter", description="where there are options")
    options: str | tuple[str, ...] | None = None
    answers: Literal["letter", "text"] = Field(
        "letter", description="where there are options: what is answered, the letter of one or its own text"
    )
    choose: bool = Field(True, description="direct mode: options are scored by log-probability, not generated")
    instruction: str = ""
    separator: str = "\n\n"
    prompt: dict[Mode, str] = Field(min_length=1)
    think: str = Field(
        "", description="words that prompt.cot ends in, for those of a zero-shot trigger to take their place"
    )
    told: Mapping[Mode, str] = Field({"direct": " {answer}"}, description="an exemplar's answer, by mode")
    read: Literal["letter", "number", "line", "sentence", "math"] | PatternReading | None = None
    phrase: str = Field(PHRASE, description="pattern of the words before the answer")
    score: Literal["equal", "number", "math", "exact_match", "rouge_l"] | None = None
    max_new_tokens: Mapping[Mode, int] = Field({"direct": 32, "cot": 320}, description="by mode")
    stop: tuple[str, ...] = ("\n\n",)
    ability: Ability = "reasoning"

    @model_validator(mode="after")
    def _exemplars_can_be_told(self) -> OwnSpec:
        if self.exemplars and (lacking := set(self.prompt) - set(self.told)):
            raise ValueError(f"'told' says how an exemplar's answer reads; it lacks {', '.join(sorted(lacking))}")
        return self

    @model_validator(mode="after")
    def _parts_agree(self) -> OwnSpec:
        if self.options is None and (idle := sorted({"answers", "answer_is", "choose"} & self.model_fields_set)):
            raise ValueError(f"{', '.join(idle)}: says something of options, and there are no 'options'")
        if self.options is not None and self.answers == "text" and self.read == "letter":
            raise ValueError("answers: text, so an answer is an option's own text; 'read: letter' would never find it")
        if self.options is not None and self.answers == "letter" and self.read in ("number", "math"):
            raise ValueError(f"an answer is an option's letter, which 'read: {self.read}' would never find")
        if self.think and not self.prompt.get("cot", "").endswith(self.think):
            raise ValueError(f"think: prompt.cot does not end in {self.think!r}")
        return self


@dataclass(frozen=True)
class OwnBenchmark(FileBenchmark):
    spec: OwnSpec | None = None
    base: Path = field(default_factory=Path)  # the YAML file's folder

    def parts(self, path: Path, mode: str, split: str, *, exemplars: bool = True) -> Iterator[Part]:
        """`path`: another place for the files than the YAML file's folder."""
        spec = _given(self.spec)
        files = spec.items if isinstance(spec.items, dict) else {self.default_split: spec.items}
        if split not in files:
            raise RecipeError(f"{self.name}: no split '{split}'; it has {', '.join(files)}.")
        base = path if path.is_dir() else self.base
        shots = [self._shot(spec, r, w, mode) for r, w in read_rows(base / str(spec.exemplars))] if exemplars else []
        by_task: dict[str, list[Question]] = {}
        for row, where in read_rows(base / files[split]):
            task = _cell(row, spec.task, where) if spec.task else self.name
            by_task.setdefault(task, []).append(self._question(spec, row, where, mode))
        for task, questions in by_task.items():
            yield Part(
                task=task,
                id=f"{split}/{task}",
                head=spec.instruction,
                separator=spec.separator,
                shots=shots,
                questions=questions,
                key=(self.name, split, task),
                max_new_tokens=spec.max_new_tokens.get("cot" if mode == "cot" else "direct", 64),
                stop=spec.stop,
                metric="rouge_l" if spec.score == "rouge_l" else "exact_match",
            )

    def _question(self, spec: OwnSpec, row: Mapping[str, Any], where: str, mode: str) -> Question:
        options, answer = self._options(spec, row, where), self._answer(spec, row, where)
        own = [_cell(row, s, where) for s in slots(spec.prompt[_mode(mode)]) if s != OPTIONS_SLOT]
        choose = bool(options) and spec.choose and mode == "direct"
        return Question(
            text="\n".join(own),
            asked=self._worded(spec, row, where, mode, options),
            references=tuple(answer),
            choices=options,
            options=tuple(f" {name}" for name in _names(spec, options)) if choose else None,
        )

    def _shot(self, spec: OwnSpec, row: Mapping[str, Any], where: str, mode: str) -> Shot:
        options, answer = self._options(spec, row, where), self._answer(spec, row, where)
        pattern = spec.told[_mode(mode)]
        values = {s: _cell(row, s, where) for s in slots(pattern) if s != "answer"} | {"answer": answer[0]}
        return Shot(self._worded(spec, row, where, mode, options), fill_text(pattern, values))

    def _worded(self, spec: OwnSpec, row: Mapping[str, Any], where: str, mode: str, options: tuple[str, ...]) -> str:
        pattern = spec.prompt[_mode(mode)]
        values = {s: _cell(row, s, where) for s in slots(pattern) if s != OPTIONS_SLOT}
        listed = "\n".join(f"{name}. {text}" for name, text in zip(LETTERS, options, strict=False))
        return fill_text(pattern, values, listed or None)

    def _options(self, spec: OwnSpec, row: Mapping[str, Any], where: str) -> tuple[str, ...]:
        if spec.options is None:
            return ()
        if isinstance(spec.options, tuple):
            return tuple(_cell(row, column, where) for column in spec.options)
        listed = row.get(spec.options)
        if not isinstance(listed, list) or not 2 <= len(listed) <= len(LETTERS):
            raise DataError(where, field=spec.options, expected="a list of 2 to 26 options", got=listed)
        return tuple(map(str, listed))

    def _answer(self, spec: OwnSpec, row: Mapping[str, Any], where: str) -> list[str]:
        options = self._options(spec, row, where)
        if spec.answer not in row:
            known = f"a column of this name; there are {', '.join(map(str, row))}"
            raise DataError(where, field=spec.answer, expected=known, got=None)
        told = row.get(spec.answer)
        if not options:
            several = told if isinstance(told, list) else [told]
            if not several or any(t is None or str(t).strip() == "" for t in several):
                raise DataError(where, field=spec.answer, expected="an answer", got=told)
            return [str(t) for t in several]
        letters = LETTERS[: len(options)]
        text = str(told).strip()
        if spec.answer_is == "index":
            text = letters[int(text)] if text.isdigit() and int(text) < len(letters) else text
        elif spec.answer_is == "text":
            text = next((n for n, o in zip(letters, options, strict=True) if o.strip() == text), text)
            if text not in letters:
                listed = " or ".join(repr(o.strip()) for o in options)
                raise DataError(where, field=spec.answer, expected=f"the text of an option, {listed}", got=told)
        key = answer_key(text, letters, where)
        return [_names(spec, options)[letters.index(key)]]

    def trigger_words(self, part: Part, asked: str, trigger: str) -> str:
        own = _given(self.spec).think
        return asked.removesuffix(own) + trigger if own else super().trigger_words(part, asked, trigger)

    def extract(self, item: Item, output: str, reading: Reading = "default") -> Extraction:
        spec = _given(self.spec)
        by_letter = spec.options and spec.answers == "letter"
        how, loose = spec.read or ("letter" if by_letter else "line"), reading == "loose"
        if isinstance(how, PatternReading):
            found = re.findall(how.pattern, output)
            first = (found[-1] if isinstance(found[-1], str) else found[-1][0]).strip() if found else ""
            return Extraction(first, "pattern") if first else Extraction(None, UNREAD)
        if how == "letter":
            return letter(output, LETTERS, spec.phrase, loose=loose)
        if how == "number":
            return number(output, spec.phrase, reading=reading)
        if how == "math":
            return read_final(output, reading)
        if how == "sentence":
            return free_text(output, spec.phrase, loose=loose)
        line = next((ln.strip() for ln in output.split("\n") if ln.strip()), "")
        return Extraction(line, "first line") if line else Extraction(None, UNREAD)

    def score(self, item: Item, extraction: Extraction) -> float | None:
        if extraction.answer is None:
            return None
        spec = _given(self.spec)
        how = spec.score or {"number": "number", "math": "math"}.get(str(spec.read), "equal")
        if how == "number":
            return score_number(item, extraction)
        if how == "math":
            return float(any(same_answer(extraction.answer, r) for r in item.references))
        if how in ("exact_match", "rouge_l"):
            return score_text("rouge_l" if how == "rouge_l" else "exact_match", extraction.answer, item.references)
        return score_equal(item, extraction)


def _names(spec: OwnSpec, options: tuple[str, ...]) -> tuple[str, ...]:
    """What an answer calls each option."""
    return LETTERS[: len(options)] if spec.answers == "letter" else tuple(o.strip() for o in options)


def files_of(file: Path) -> list[Path]:
    """Files of items and exemplars that a benchmark's YAML names; none of a Python file's, which may read anything.
    Raises RecipeError as `load_benchmark` does."""
    if file.suffix == ".py" or not file.is_file():
        return []
    spec = _read_spec(file)
    items = list(spec.items.values()) if isinstance(spec.items, dict) else [spec.items]
    return [file.parent / name for name in (*items, *([spec.exemplars] if spec.exemplars else []))]


def load_benchmark(file: Path) -> tuple[Benchmark, Path]:
    """The benchmark a YAML or Python file describes, and where its files are: the file's own folder."""
    existing(file, "a benchmark of your own")
    if file.suffix == ".py":
        return _own_name(_from_python(file), file), file.parent
    spec = _read_spec(file)
    modes = tuple(mode for mode in ("direct", "cot") if mode in spec.prompt)
    most = len(list(read_rows(file.parent / spec.exemplars))) if spec.exemplars else 0
    split = next(iter(spec.items)) if isinstance(spec.items, dict) else "test"
    shown = most if spec.shots is None else spec.shots
    benchmark = OwnBenchmark(
        name=spec.name,
        modes=modes,
        default_split=split,
        default_shots=dict.fromkeys(modes, shown),
        most_shots=most,
        ability=spec.ability,
        datasets=(spec.name,),
        spec=spec,
        base=file.parent,
    )
    return _own_name(benchmark, file), file.parent


def _own_name(benchmark: Benchmark, file: Path) -> Benchmark:
    """A name of one of ours would stand twice in a table."""
    from flantune.evals.catalog import BENCHMARKS

    if benchmark.name in BENCHMARKS:
        raise RecipeError(f"{file}: '{benchmark.name}' is the name of one of flantune's own benchmarks; take another.")
    return benchmark


def _read_spec(file: Path) -> OwnSpec:
    if file.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"{file}: expected a benchmark in a .yaml or .py file.")
    try:
        return OwnSpec.model_validate(load_stated(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise RecipeError(f"{file}: not YAML: {e}") from None
    except ValidationError as e:
        lines = [
            f"{file}: key '{'.'.join(map(str, x['loc'])) or '(top)'}': {x['msg']}, got {shorten(x['input'])}."
            for x in e.errors()
        ]
        raise RecipeError("\n".join(lines)) from None


def _from_python(file: Path) -> Benchmark:
    found = importlib.util.spec_from_file_location(f"flantune_benchmark_{file.stem}", file)
    if found is None or found.loader is None:
        raise RecipeError(f"{file}: cannot be imported.")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as e:  # whatever the user's code raises
        raise RecipeError(f"{file}: running it failed: {type(e).__name__}: {e}") from e
    benchmark = getattr(module, "BENCHMARK", None)
    wanted = ("name", "modes", "default_shots", "default_split", "items", "extract", "score")
    lacking = [name for name in wanted if not hasattr(benchmark, name)]
    if lacking:
        raise RecipeError(
            f"{file}: expected BENCHMARK, an object with {', '.join(wanted)}; it lacks {', '.join(lacking)}."
        )
    return benchmark  # type: ignore[return-value]


_LOADERS: Mapping[str, Callable[[Path], list[dict[str, Any]]]] = {
    ".csv": lambda file: [dict(r) for r in read_table(file, ())],
    ".tsv": lambda file: [dict(r) for r in read_table(file, (), delimiter="\t")],
    ".jsonl": read_json_lines,
    ".json": lambda file: _json_list(file),
}


def read_rows(file: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows of a table or of JSON, plain or .gz, each with its place."""
    suffix = Path(file.name.removesuffix(".gz")).suffix
    if suffix not in _LOADERS:
        raise RecipeError(f"{file}: expected {', '.join(_LOADERS)}, plain or .gz.")
    for row_number, row in enumerate(_LOADERS[suffix](existing(file, "items")), start=1):
        yield row, f"{file}:row {row_number}"


def _json_list(file: Path) -> list[dict[str, Any]]:
    rows = read_json(file)
    if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) for r in rows):
        raise DataError(str(file), field="(file)", expected="a list of objects", got=rows)
    return rows


def _cell(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if value is None or isinstance(value, (list, dict)):
        raise DataError(where, field=column, expected="text", got=value, mend=f"Columns there are: {', '.join(row)}.")
    return str(value)


def _mode(mode: str) -> Mode:
    return "cot" if mode == "cot" else "direct"


def _given(spec: OwnSpec | None) -> OwnSpec:
    assert spec is not None
    return spec
