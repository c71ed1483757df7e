"""Program synthesis sets of Muffin: problem statements with programs, and programs to be repaired. Spec 2.8.

MBPP            {"task_id", "text", "code", "test_list"}          the publisher's training split, 601-974, alone
CodeContests    {"name", "description", "solutions": {"language": [...], "solution": [...]}}      Python 3
DrRepair        {"lines": [{"code"}], "errors": [{"mod_line", "mod_code", "err_line", "err_msg"}]}    four tasks
HumanEval       {"task_id", "prompt", "canonical_solution"}       a benchmark

The files of the first and the last serve as benchmarks too: they are read only where a recipe names this reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flantune.errors import DataError
from flantune.recipe import CollectionSpec
from flantune.sources.reading import Draft, Record, TaskRows, examples_of, first_object, json_objects, stem, text_of
from flantune.sources.rejects import BadRow, Rejects
from flantune.types import Task

MBPP_TRAIN = range(601, 975)  # 1-10 are prompts, 11-510 the test, 511-600 the validation split
PYTHON3 = (3, "PYTHON3")
MAX_SOLUTIONS = 8  # of a contest problem: the first distinct ones, accepted alike
REPAIR_VARIANTS = ("error_comments", "line_numbers", "no_errors", "plain_code")


class Kind(NamedTuple):
    """One shape of file: `variants` name the tasks it gives, "" for one."""

    dataset: str
    keys: frozenset[str]
    templates: str
    fields: tuple[str, ...]
    parse: Callable[[Record, str], Iterator[Draft]]
    variants: tuple[str, ...] = ("",)
    by_sight: bool = True  # False: a benchmark, read only where the recipe names this reader


class CodeReader:
    name = "code"
    mixture = "muffin"

    def matches(self, path: Path) -> bool:
        kind = kind_of(path)
        return kind is not None and kind.by_sight

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        kind = kind_of(path)
        if kind is None:
            raise DataError(
                str(path),
                field="keys",
                expected="MBPP's, CodeContests', DrRepair's or HumanEval's",
                got=sorted(first_object(path) or {}),
                mend="Other pairs are read by reader: prompts or table.",
            )
        mixture = spec.mixture or self.mixture
        for variant in kind.variants:
            name = stem(path) + (f"_{variant}" if variant else "")
            task = Task(
                name=f"{mixture}/{name}",
                mixture=mixture,
                dataset=kind.dataset,
                category="Program Synthesis",
                templates=kind.templates,
                fields=kind.fields,
                metric="rouge_l",
                source=self.name,
                path=str(path),
            )
            parse = partial(_parsed, kind, variant)
            # A file of several tasks is read once for each; its rows are counted with the first.
            counted = rejects if variant == kind.variants[0] else Rejects()
            yield TaskRows(task, examples_of(task, path, json_objects(path), parse, counted))


def _parsed(kind: Kind, variant: str, record: Record) -> Iterator[Draft]:
    return kind.parse(record, variant)


def mbpp(record: Record, variant: str) -> Iterator[Draft]:
    number = record.get("task_id")
    if isinstance(number, bool) or not isinstance(number, int):
        raise BadRow("task_id", "a number", number)
    if number not in MBPP_TRAIN:
        expected = f"{MBPP_TRAIN.start} to {MBPP_TRAIN.stop - 1}: the others are for evaluation"
        raise BadRow("task_id", expected, number, malformed=False)
    tests = record.get("test_list")
    shown = "\n".join(t for t in tests if isinstance(t, str)) if isinstance(tests, list) else ""
    problem = text_of(record, "text").strip() + (f"\nYour code should pass these tests:\n{shown}" if shown else "")
    yield Draft({"problem": problem}, (_unix(text_of(record, "code")),), id=str(number))


def humaneval(record: Record, variant: str) -> Iterator[Draft]:
    solution = record.get("canonical_solution")
    if not isinstance(solution, str) or not solution.strip():
        raise BadRow("canonical_solution", "text that is not blank", solution)
    prompt = text_of(record, "prompt")
    # A target loses the white space at its edges, so the body alone would lose its indent: the function is the answer.
    yield Draft({"problem": prompt.strip()}, (prompt.rstrip() + "\n" + solution.rstrip(),), id=str(record["task_id"]))


def code_contests(record: Record, variant: str) -> Iterator[Draft]:
    problem = text_of(record, "description").strip()
    solutions = record.get("solutions")
    if isinstance(solutions, dict):
        languages, programs = solutions.get("language"), solutions.get("solution")
        if not isinstance(languages, list) or not isinstance(programs, list) or len(languages) != len(programs):
            raise BadRow("solutions", "equally many languages and programs", solutions)
        pairs = list(zip(languages, programs, strict=True))
    elif isinstance(solutions, list) and all(isinstance(s, dict) for s in solutions):
        pairs = [(s.get("language"), s.get("solution")) for s in solutions]
    else:
        raise BadRow("solutions", "an object of lists, or a list of objects", solutions)
    ours = [_unix(p) for language, p in pairs if language in PYTHON3 and isinstance(p, str) and p.strip()]
    if not ours:
        raise BadRow("solutions", "one in Python 3", sorted({str(k) for k, _ in pairs}), malformed=False)
    yield Draft({"problem": problem}, tuple(dict.fromkeys(ours))[:MAX_SOLUTIONS], id=str(record.get("name") or ""))


def dr_repair(record: Record, variant: str) -> Iterator[Draft]:
    """Every recorded error gives one example: the program with its broken lines, and the program as it was."""
    lines = record.get("lines")
    if not isinstance(lines, list) or not all(isinstance(x, dict) and isinstance(x.get("code"), str) for x in lines):
        raise BadRow("lines", "a list of objects with 'code'", lines)
    errors = record.get("errors")
    if not isinstance(errors, list) or not errors:
        raise BadRow("errors", "a list that is not empty", errors)
    right = [" " * 2 * _indent(x) + x["code"] for x in lines]
    for error in errors:
        broken = list(right)
        for place, code in zip(*_modified(error, len(right)), strict=True):
            broken[place] = " " * 2 * _indent(lines[place]) + code
        if broken == right:
            raise BadRow("errors", "a line that differs", error)
        yield Draft({"program": _shown(broken, error, variant)}, ("\n".join(right),))


def _modified(error: Any, count: int) -> tuple[list[int], list[str]]:
    places, codes = (error.get("mod_line"), error.get("mod_code")) if isinstance(error, dict) else (None, None)
    places = [places] if isinstance(places, int) else places
    codes = [codes] if isinstance(codes, str) else codes
    if (
        not isinstance(places, list)
        or not isinstance(codes, list)
        or not places
        or len(places) != len(codes)
        or not all(isinstance(p, int) and not isinstance(p, bool) and 0 <= p < count for p in places)
        or not all(isinstance(c, str) for c in codes)
    ):
        raise BadRow("errors", f"equally many 'mod_line' below {count} and 'mod_code'", error)
    return places, codes


def _shown(lines: list[str], error: Record, variant: str) -> str:
    """The broken program as the variant shows it."""
    place, message = error.get("err_line"), str(error.get("err_msg") or "").strip()
    at = place if isinstance(place, int) and 0 <= place < len(lines) else -1
    if variant == "error_comments":
        return "\n".join(f"{line}  // error: {message}" if i == at else line for i, line in enumerate(lines))
    if variant == "plain_code":
        return "\n".join(lines)
    numbered = "\n".join(f"{i} {line}" for i, line in enumerate(lines, 1))
    if variant == "no_errors":
        return numbered
    return f"{numbered}\nline {at + 1}: {message}" if at >= 0 else f"{numbered}\n{message}"


def _indent(line: Record) -> int:
    indent = line.get("indent")
    return int(indent) if isinstance(indent, (int, str)) and str(indent).isdigit() else 0


def _unix(code: str) -> str:
    return code.replace("\r\n", "\n").rstrip()


PROBLEM, PROGRAM = ("problem",), ("program",)
KINDS: tuple[Kind, ...] = (
    Kind("mbpp", frozenset({"task_id", "text", "code", "test_list"}), "code_problem", PROBLEM, mbpp, by_sight=False),
    Kind(
        "humaneval",
        frozenset({"task_id", "prompt", "canonical_solution"}),
        "code_problem",
        PROBLEM,
        humaneval,
        by_sight=False,
    ),
    Kind("code_contests", frozenset({"description", "solutions"}), "code_problem", PROBLEM, code_contests),
    Kind("dr_repair", frozenset({"lines", "errors"}), "code_repair", PROGRAM, dr_repair, variants=REPAIR_VARIANTS),
)


def kind_of(path: Path) -> Kind | None:
    first = first_object(path)
    return None if first is None else next((k for k in KINDS if k.keys <= set(first)), None)
