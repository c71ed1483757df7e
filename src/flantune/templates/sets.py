"""Template sets: read from wording/NAME.yaml (English) and wording/NAME.zh.yaml (Chinese), joined, checked.

A file states `fields`, optionally `include` (other sets whose templates join these), and `templates`: per entry `kind`
(direct), `inputs`, `targets` ("{answer}") and `few_shot`, whose `delimiters` names a row of wording/delimiters.yaml and
whose `inputs` and `targets` are the zero-shot ones unless given. `few_shot_cycle` gives layouts in turn to templates of
a kind that state none. Unknown keys are errors.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import yaml

from flantune.errors import TemplateError
from flantune.templates.patterns import OPTIONS_SLOT, SPECIAL_SLOTS, slots
from flantune.types import FewShotLayout, Task, Template

Language = Literal["en", "zh", "any"]

BY_FIELDS = ("", "auto", "generic", "table")  # names of no set: the wording follows from the task's fields

_SET_KEYS = {"fields", "include", "templates", "few_shot_cycle"}
_TEMPLATE_KEYS = {"kind", "inputs", "targets", "few_shot"}
_FEW_SHOT_KEYS = {"delimiters", "inputs", "targets", "instruction"}
_DELIMITER_KEYS = {"inputs_prefix", "delimiter", "targets_prefix", "separator"}


@dataclass(frozen=True, slots=True)
class TemplateSet:
    name: str
    language: str
    fields: tuple[str, ...]  # what its patterns may name beside answer, rationale, definition and options_
    templates: tuple[Template, ...]


@lru_cache(maxsize=1)
def set_names() -> tuple[str, ...]:
    """Names of all sets of the package, sorted."""
    files = (f.name for f in resources.files("flantune.templates").joinpath("wording").iterdir())
    names = {f.removesuffix(".yaml").removesuffix(".zh") for f in files if f.endswith(".yaml")}
    return tuple(sorted(names - {"delimiters"}))


@lru_cache(maxsize=256)
def template_set(name: str, language: str = "en") -> TemplateSet:
    """The set of that name in that language. Raises TemplateError, with the nearest names, where there is none."""
    raw = _read_yaml(f"{name}.yaml" if language == "en" else f"{name}.{language}.yaml")
    if raw is None:
        if name in set_names():
            raise TemplateError(f"template set '{name}' has no wording in language '{language}'.")
        close = difflib.get_close_matches(name, set_names(), n=3) or set_names()
        raise TemplateError(f"no template set '{name}'. Known sets: {', '.join(close)}.")
    where = f"template set '{name}' ({language})"
    _check_keys(raw, _SET_KEYS, where)
    fields = tuple(raw.get("fields", ()))
    prefix = name if language == "en" else f"{name}.{language}"
    templates = _templates(raw, prefix, language, where)
    for other in raw.get("include", ()):
        templates += template_set(other, language).templates
    check_fields(templates, fields, where)
    return TemplateSet(name, language, fields, templates)


def templates_for(task: Task, language: str | Collection[str] = "any") -> tuple[Template, ...]:
    """Every wording of the task, of all kinds: its own, else those of its set, else one made from its fields.

    `language` is the wording's, or several languages: "any" takes English and, for a Chinese task, Chinese. A set
    without wording in the language asked for serves what it has: one language asked of a whole mixture must not lose
    the tasks that lack it.
    """
    wanted = tuple(language) if not isinstance(language, str) else (language,)
    if wanted == ("any",):
        wanted = ("en", "zh") if is_chinese(task.language) else ("en",)
    if task.own_templates:
        check_templates(task.own_templates, task)
        fitting = tuple(t for t in task.own_templates if language == "any" or t.language in wanted)
        return fitting or task.own_templates
    name = task.templates
    if name in BY_FIELDS:
        found_set = _set_by_fields(task.fields)
        if found_set is None:
            return tuple(t for code in wanted for t in labelled_templates(task.fields, task.has_options, code))
        name = found_set
    found = tuple(t for code in wanted if _exists(name, code) for t in template_set(name, code).templates)
    found = found or template_set(name).templates
    check_templates(found, task)
    return found


def first_of_each_kind(templates: Sequence[Template], most: int) -> tuple[Template, ...]:
    """At most so many of each kind and language, in their order."""
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for template in templates:
        seen[template.kind, template.language] += 1
        if seen[template.kind, template.language] <= most:
            kept.append(template)
    return tuple(kept)


def _set_by_fields(fields: tuple[str, ...]) -> str | None:
    named = set(fields)
    if named == {"instruction", "input"}:
        return "alpaca"
    if len(named) != 1:
        return None
    alone = {"prompt": "prompts", "instruction": "alpaca_no_input"}
    (field,) = named
    return alone.get(field, f"generic_{field}" if _exists(f"generic_{field}", "en") else None)


def is_chinese(language: str) -> bool:
    return language.lower() in ("chinese", "mandarin") or language.lower().split("-")[0].split("_")[0] == "zh"


def language_code(language: str) -> str:
    """One code for a language's names: "Chinese", "zh-CN" -> "zh"; "English", "en_GB" -> "en"; others in lower case."""
    if is_chinese(language):
        return "zh"
    short = language.strip().lower()
    return "en" if short == "english" else short.replace("_", "-").split("-")[0]


def needed_slots(template: Template) -> tuple[str, ...]:
    """Slots an example must fill for the template to make sense: those of its inputs and targets in both layouts."""
    layout = template.few_shot
    names = (n for p in (template.inputs, template.targets, layout.inputs, layout.targets) for n in slots(p))
    return tuple(n for n in dict.fromkeys(names) if n != OPTIONS_SLOT)


def check_templates(templates: Sequence[Template], task: Task) -> None:
    """Raises TemplateError for a slot no field of the task fills, and for two templates of one name."""
    check_fields(templates, task.fields, f"task '{task.name}'")


def check_fields(templates: Sequence[Template], fields: Sequence[str], where: str) -> None:
    known = (*fields, *SPECIAL_SLOTS)
    seen: set[str] = set()
    for template in templates:
        if template.name in seen:
            raise TemplateError(f"{where}: two templates are named '{template.name}'; rename one.")
        seen.add(template.name)
        for pattern in (template.inputs, template.targets, *_layout_patterns(template.few_shot)):
            for name in slots(pattern):
                if name not in known:
                    close = difflib.get_close_matches(name, known, n=1)
                    hint = f" Did you mean '{close[0]}'?" if close else " Write '{{' and '}}' for braces meant as text."
                    raise TemplateError(
                        f"{where}: template '{template.name}': no field fills slot '{{{name}}}'. "
                        f"Fields: {', '.join(fields) or '(none)'}; always there: {', '.join(SPECIAL_SLOTS)}.{hint}"
                    )


def _layout_patterns(layout: FewShotLayout) -> tuple[str, ...]:
    return layout.inputs, layout.targets, layout.instruction


@lru_cache(maxsize=1024)
def labelled_templates(fields: tuple[str, ...], has_options: bool = True, language: str = "en") -> tuple[Template, ...]:
    """Wordings for fields no set knows: each field on a line under its own name, in order. One field stands alone.

    English for every language but Chinese.
    """
    fields = tuple(f for f in fields if f != "definition")
    if not fields:
        raise TemplateError("no field to word: every field of the example is blank.")
    options = "\n{options_}" if has_options else ""
    chinese = language == "zh"
    colon = "：" if chinese else ": "
    bare = "\n".join("{" + f + "}" for f in fields)
    labelled = bare
    if len(fields) > 1:
        labelled = "\n".join(f"{f.replace('_', ' ').capitalize()}{colon}{{{f}}}" for f in fields)
    cues, rows = _LABELLED_CUES["zh" if chinese else "en"]
    return tuple(
        Template(
            name=f"labelled{'.zh' if chinese else ''}/direct/{i}",
            kind="direct",
            inputs=cue.replace("{}", labelled + options),
            targets="{answer}",
            few_shot=FewShotLayout(
                inputs=(bare if i % 3 == 0 else labelled) + options, targets="{answer}", **_delimiters()[row]
            ),
            language="zh" if chinese else "en",
        )
        for i, (cue, row) in enumerate(zip(cues, rows, strict=True))
    )


_LABELLED_CUES = {
    "en": (
        ("{}", "{}\n\nAnswer:", "Answer the following.\n\n{}", "{}\n\nWhat is the answer?", "Give the answer.\n\n{}"),
        ("bare", "a", "q_a", "input_output", "answer"),
    ),
    "zh": (
        ("{}", "{}\n\n答案：", "请回答下面的问题。\n\n{}", "{}\n\n答案是什么？", "请给出答案。\n\n{}"),
        ("zh_bare", "zh_question", "zh_q_a", "zh_input", "zh_solution"),
    ),
}


# --- reading the files ---


def _exists(name: str, language: str) -> bool:
    file = f"{name}.yaml" if language == "en" else f"{name}.{language}.yaml"
    return resources.files("flantune.templates").joinpath("wording", file).is_file()


def _read_yaml(file: str) -> dict[str, Any] | None:
    path = resources.files("flantune.templates").joinpath("wording", file)
    if "/" in file or not path.is_file():
        return None
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict):
        raise TemplateError(f"{file}: expected a mapping of keys.")
    return raw


@lru_cache(maxsize=4)
def delimiter_rows(language: str) -> tuple[Mapping[str, str], ...]:
    """The rows of wording/delimiters.yaml that suit a wording in that language; English ones for most.

    Natural Instructions' own rows are among them: their strings say nothing of the task.
    """
    chinese = language == "zh"
    return tuple(row for name, row in _delimiters().items() if name.startswith("zh_") == chinese)


@lru_cache(maxsize=1)
def _delimiters() -> Mapping[str, Mapping[str, str]]:
    rows = _read_yaml("delimiters.yaml") or {}
    for name, row in rows.items():
        _check_keys(row, _DELIMITER_KEYS, f"delimiters '{name}'")
    return rows


def _templates(raw: Mapping[str, Any], prefix: str, language: str, where: str) -> tuple[Template, ...]:
    counts: dict[str, int] = {}
    cycles: Mapping[str, Sequence[Mapping[str, Any]]] = raw.get("few_shot_cycle", {})
    templates = []
    for entry in raw.get("templates", ()):
        _check_keys(entry, _TEMPLATE_KEYS, where)
        kind = entry.get("kind", "direct")
        if kind not in ("direct", "rationale", "inverted"):
            raise TemplateError(f"{where}: kind: expected direct, rationale or inverted, got {kind!r}.")
        number = counts.get(kind, 0)
        counts[kind] = number + 1
        layout = entry.get("few_shot")
        if layout is None and kind in cycles:
            layout = cycles[kind][number % len(cycles[kind])]
        targets = entry.get("targets", "{answer}")
        templates.append(
            Template(
                name=f"{prefix}/{kind}/{number}",
                kind=kind,
                inputs=entry["inputs"],
                targets=targets,
                few_shot=_layout(layout or {}, entry["inputs"], targets, f"{where}, {kind} {number}"),
                language=language,
            )
        )
    return tuple(templates)


def _layout(raw: Mapping[str, Any], inputs: str, targets: str, where: str) -> FewShotLayout:
    _check_keys(raw, _FEW_SHOT_KEYS, where)
    row = raw.get("delimiters", "bare")
    if row not in _delimiters():
        raise TemplateError(f"{where}: no delimiters '{row}'. Known: {', '.join(_delimiters())}.")
    return FewShotLayout(
        inputs=raw.get("inputs", inputs),
        targets=raw.get("targets", targets),
        instruction=raw.get("instruction", ""),
        **_delimiters()[row],
    )


def _check_keys(raw: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(raw) - known)
    if unknown:
        raise TemplateError(f"{where}: unknown key '{unknown[0]}'. Known keys: {', '.join(sorted(known))}.")
