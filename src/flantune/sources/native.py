"""flantune's own folder format: NAME.task.yaml says what the task is, NAME.jsonl beside it holds the rows.

docs/native-tasks.md describes it; the demo's tasks are written in it too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flantune.errors import DataError, shorten
from flantune.recipe import CollectionSpec
from flantune.sources.reading import Draft, Record, TaskRows, examples_of, json_lines, text_of, texts_of
from flantune.sources.rejects import BadRow, Rejects
from flantune.stated import load_stated
from flantune.types import FewShotLayout, Task, Template

SUFFIX = ".task.yaml"
MAX_DEPTH = 100  # PyYAML takes minutes over thousands of open brackets, and libyaml dies of them
_BRACKETS = re.compile(r"[\[\]{}]")
ROW_KEYS = frozenset({"fields", "targets", "target", "rationale", "options", "id"})


class Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LayoutKeys(Keys):
    inputs: str
    targets: str
    instruction: str = ""
    inputs_prefix: str = ""
    delimiter: str = "\n"
    targets_prefix: str = ""
    separator: str = "\n\n"


class TemplateKeys(Keys):
    kind: Literal["direct", "rationale", "inverted"] = "direct"
    inputs: str
    targets: str
    few_shot: LayoutKeys | None = None


class TaskKeys(Keys):
    name: str = Field(min_length=1)
    mixture: str | None = None
    dataset: str = Field(min_length=1)
    category: str = Field(min_length=1)
    language: str = "en"
    definition: str | None = None
    metric: Literal["exact_match", "rouge_l"] = "exact_match"
    licence: str | None = None
    fields: list[str] = Field(min_length=1)
    templates: list[TemplateKeys] = []
    template_set: str = "generic"


class NativeReader:
    name = "native"
    mixture = "native"

    def matches(self, path: Path) -> bool:
        return path.name.endswith(SUFFIX)

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        keys = read_keys(path)
        rows = rows_path(path)
        if not rows.is_file():
            raise DataError(str(path), field="rows", expected=f"the file {rows.name} beside it", got="none")
        task = Task(
            name=keys.name,
            mixture=spec.mixture or keys.mixture or self.mixture,
            dataset=keys.dataset,
            category=keys.category,
            templates=keys.template_set,
            fields=tuple(keys.fields),
            language=keys.language,
            definition=keys.definition,
            has_rationale=any(isinstance(r, dict) and r.get("rationale") for _, r in json_lines(rows)),
            has_options=any(isinstance(r, dict) and r.get("options") for _, r in json_lines(rows)),
            own_templates=tuple(_template(keys, i, t) for i, t in enumerate(keys.templates)),
            metric=keys.metric,
            licence=keys.licence,
            source=self.name,
            path=str(path),
        )
        yield TaskRows(task, examples_of(task, rows, json_lines(rows), row_parser(task.fields), rejects))


def rows_path(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(SUFFIX) + ".jsonl")


def read_keys(path: Path) -> TaskKeys:
    """The yaml, checked: an unknown key is an error that names the file and the key."""
    try:
        text = path.read_text(encoding="utf-8")
        if (depth := bracket_depth(text)) > MAX_DEPTH:
            raise DataError(str(path), field="file", expected=f"at most {MAX_DEPTH} brackets open at once", got=depth)
        raw = load_stated(text)
    except yaml.MarkedYAMLError as e:
        where = f"{path}:{e.problem_mark.line + 1}" if e.problem_mark else str(path)
        raise DataError(where, field="file", expected="YAML", got=e.problem or str(e)) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as e:  # ValueError: no UTF-8, or the 99th of a month
        raise DataError(str(path), field="file", expected="YAML in UTF-8", got=str(e)) from None
    if not isinstance(raw, dict):
        raise DataError(str(path), field="file", expected="a mapping of keys", got=raw)
    try:
        return TaskKeys.model_validate(raw)
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = TaskKeys if len(first["loc"]) == 1 else LayoutKeys if "few_shot" in first["loc"] else TemplateKeys
            raise DataError(str(path), field=key, expected=f"one of the keys {', '.join(known.model_fields)}",
                            got=first["loc"][-1]) from None  # fmt: skip
        raise DataError(str(path), field=key, expected=first["msg"], got=first["input"]) from None


def bracket_depth(text: str) -> int:
    """The most brackets of flow style that are open at once, quotes not looked at."""
    depth = deepest = 0
    for sign in _BRACKETS.findall(text):
        depth = depth + 1 if sign in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def _template(keys: TaskKeys, number: int, template: TemplateKeys) -> Template:
    layout = template.few_shot or LayoutKeys(inputs=template.inputs, targets=template.targets)
    return Template(
        name=f"{keys.name}/{template.kind}/{number}",
        kind=template.kind,
        inputs=template.inputs,
        targets=template.targets,
        few_shot=FewShotLayout(**layout.model_dump()),
        language=keys.language,
    )


def row_parser(fields: tuple[str, ...]) -> Callable[[Record], Iterator[Draft]]:
    def parse(record: Record) -> Iterator[Draft]:
        unknown = set(record) - ROW_KEYS
        if unknown:
            raise BadRow("row", f"only the keys {', '.join(sorted(ROW_KEYS))}", sorted(unknown))
        if ("target" in record) == ("targets" in record):
            raise BadRow("target", "'target' or 'targets', one of them", sorted(record))
        targets = texts_of(record, "targets") if "targets" in record else (text_of(record, "target"),)
        yield Draft(
            _fields(record.get("fields"), fields),
            targets,
            rationale=text_of(record, "rationale") if record.get("rationale") is not None else None,
            options=texts_of(record, "options") if record.get("options") is not None else None,
            id=str(record.get("id") or ""),
        )

    return parse


def _fields(value: Any, names: tuple[str, ...]) -> Mapping[str, str]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise BadRow("fields", f"an object of {', '.join(names)}", sorted(value) if isinstance(value, dict) else value)
    for name, text in value.items():
        if not isinstance(text, str):
            raise BadRow(f"fields.{name}", "text", text)
    if not any(text.strip() for text in value.values()):
        raise BadRow("fields", "text in one of them", shorten(value))
    return cast("dict[str, str]", value)
