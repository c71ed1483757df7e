"""The world's tasks as files of the native format, so that the demo runs the path every collection runs."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import yaml

from flantune.demo.abilities import abilities
from flantune.demo.prose import documents
from flantune.demo.world import Skill, world
from flantune.whole import atomic_folder, write_whole

# Few-shot layouts, taken in turn by a task's wordings: (inputs_prefix, delimiter, targets_prefix, separator).
LAYOUTS = (
    ("", "\n", "", "\n\n"),
    ("Q: ", "\n", "A: ", "\n\n"),
    ("Question: ", "\n", "Answer: ", "\n\n"),
    ("", " ", "", "\n"),
    ("Input: ", "\n", "Output: ", "\n\n"),
    ("Problem: ", "\n", "Solution: ", "\n\n\n"),
)


def wording(pattern: str, target: str, kind: str, place: int, has_options: bool) -> dict[str, Any]:
    if has_options and "{options_}" not in pattern:
        pattern += "{options_}"
    inputs_prefix, delimiter, targets_prefix, separator = LAYOUTS[place % len(LAYOUTS)]
    layout = {
        "inputs": pattern,
        "targets": target,
        "inputs_prefix": inputs_prefix,
        "delimiter": delimiter,
        "targets_prefix": targets_prefix,
        "separator": separator,
    }
    return {"kind": kind, "inputs": pattern, "targets": target, "few_shot": layout}


def task_file(skill: Skill) -> dict[str, Any]:
    """The content of NAME.task.yaml."""
    has_options = skill.rows[0].options is not None
    templates = [wording(p, "{answer}", "direct", i, has_options) for i, p in enumerate(skill.wordings)]
    templates += [
        wording(p, skill.rationale_target, "rationale", i, has_options) for i, p in enumerate(skill.rationale_wordings)
    ]
    return {
        "name": f"demo/{skill.name}",
        "mixture": skill.category,
        "dataset": skill.name,
        "category": skill.category,
        "language": skill.language,
        "metric": "exact_match",
        "licence": "Apache-2.0",
        "fields": list(skill.rows[0].fields),
        "templates": templates,
    }


def write_world(folder: Path, seed: int = 0) -> Path:
    """Write every task of the world to `folder`, whole or not at all; an equal folder is left as it is."""
    content: dict[str, bytes] = {}
    for skill in world(seed):
        content |= _files_of(skill)
    return _write_folder(folder, content)


def write_abilities(folder: Path, seed: int = 0) -> Path:
    """The world of abilities: `tasks/` to train on, and a benchmark of each ability's held-out items, NAME.yaml."""
    content: dict[str, bytes] = {}
    for ability in abilities(seed):
        for skill in ability.skills:
            content |= {f"tasks/{name}": data for name, data in _files_of(skill).items()}
        prompts = {"direct": "{prompt}"} | ({"cot": "{thinking}"} if ability.items[0].thinking else {})
        items = [{k: v for k, v in asdict(item).items() if v is not None} for item in ability.items]
        content[f"{ability.name}.jsonl"] = b"\n".join(map(orjson.dumps, items)) + b"\n"
        benchmark = {
            "name": ability.name,
            "items": {"test": f"{ability.name}.jsonl"},
            "task": "task",
            "prompt": prompts,
            "read": {"pattern": ability.pattern},
            "score": ability.score,
            "max_new_tokens": dict.fromkeys(prompts, ability.max_new_tokens),
            "stop": ["\n"],
            "ability": ability.label,
        }
        if ability.items[0].options:
            benchmark |= {"options": "options", "answers": "text", "answer_is": "text"}
        content[f"{ability.name}.yaml"] = _yaml(benchmark)
    return _write_folder(folder, content)


def _files_of(skill: Skill) -> dict[str, bytes]:
    """A task's two files."""
    rows = []
    for i, row in enumerate(skill.rows):
        line: dict[str, Any] = {"id": f"{skill.name}-{i}", "fields": dict(row.fields), "targets": [row.answer]}
        if row.options:
            line["options"] = list(row.options)
        if row.rationale:
            line["rationale"] = row.rationale
        rows.append(orjson.dumps(line))
    return {
        f"{skill.name}.task.yaml": _yaml(task_file(skill)),
        f"{skill.name}.jsonl": b"\n".join(rows) + b"\n",
    }


def _yaml(content: dict[str, Any]) -> bytes:
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False, width=120).encode()


def write_prose(path: Path, count: int, seed: int = 0) -> Path:
    """`count` documents of pretraining prose, separated by blank lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: file.writelines(f"{d}\n\n".encode() for d in documents(count, seed)))
    return path


def _write_folder(folder: Path, content: dict[str, bytes]) -> Path:
    digest = hashlib.sha256()
    for name, data in sorted(content.items()):
        digest.update(f"{name}:{len(data)}:".encode() + data)
    mark = folder / ".world"
    if mark.is_file() and mark.read_text() == digest.hexdigest():
        return folder
    with atomic_folder(folder) as temporary:
        for name, data in content.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_bytes(data)
        (temporary / ".world").write_text(digest.hexdigest())
    return folder
