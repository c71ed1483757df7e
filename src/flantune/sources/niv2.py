"""Super-Natural-Instructions: one JSON object per task, in the official and in the early contributor layout."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flantune.errors import DataError
from flantune.recipe import CollectionSpec
from flantune.sources.reading import Draft, Record, TaskRows, examples_of, head, load_json, stem, suffix, text_of
from flantune.sources.rejects import BadRow, Rejects
from flantune.types import Example, Task

# Tk-Instruct scores these by exact match and all others by ROUGE-L (spec 3.5).
EXACT_MATCH_CATEGORIES = frozenset(
    {
        "textual entailment",
        "cause effect classification",
        "coreference resolution",
        "dialogue act recognition",
        "answerability classification",
        "word analogy",
    }
)

LANGUAGES = {
    "Arabic": "ar", "Bengali": "bn", "Bulgarian": "bg", "Chinese": "zh", "Croatian": "hr", "Czech": "cs",
    "Danish": "da", "Dutch": "nl", "English": "en", "Finnish": "fi", "French": "fr", "German": "de", "Greek": "el",
    "Gujarati": "gu", "Hebrew": "he", "Hindi": "hi", "Hungarian": "hu", "Indonesian": "id", "Italian": "it",
    "Japanese": "ja", "Korean": "ko", "Malayalam": "ml", "Marathi": "mr", "Persian": "fa", "Polish": "pl",
    "Portuguese": "pt", "Punjabi": "pa", "Panjabi": "pa", "Romanian": "ro", "Russian": "ru", "Spanish": "es",
    "Swahili": "sw", "Swedish": "sv", "Tamil": "ta", "Telugu": "te", "Thai": "th", "Turkish": "tr", "Urdu": "ur",
    "Vietnamese": "vi", "Yoruba": "yo",
}  # fmt: skip


_ADDRESS = re.compile(r"\(https?://")


class Niv2Reader:
    name = "niv2"
    mixture = "niv2"

    def matches(self, path: Path) -> bool:
        if suffix(path) != ".json":
            return False
        start = head(path)
        return start.lstrip().startswith(b"{") and b'"Definition"' in start and b'"Positive Examples"' in start

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        record = load_json(path)
        if not isinstance(record, dict):
            raise DataError(str(path), field="file", expected="one JSON object", got=record)
        task = read_task(record, path, spec.mixture or self.mixture)
        instances = record.get("Instances")
        if not isinstance(instances, list):
            raise DataError(str(path), field="Instances", expected="a list", got=instances)
        rows = (
            (f"Instances[{i}]", r if isinstance(r, dict) else BadRow("instance", "an object", r))
            for i, r in enumerate(instances)
        )
        yield TaskRows(task, examples_of(task, path, rows, parse_instance, rejects))


def read_task(record: Record, path: Path, mixture: str) -> Task:
    """What the object says of the task. The early layout (no ids, no language) shares names with the official one,
    so its tasks are named apart: "niv2_early/task143_..."."""
    # `Input_language` came with the official layout; the early one has neither it nor instance ids.
    name = f"{'niv2' if 'Input_language' in record else 'niv2_early'}/{stem(path)}"
    category = _texts(record, "Categories", path)[0]
    return Task(
        name=name,
        mixture=mixture,
        dataset="+".join(dataset_name(s) for s in _texts(record, "Source", path)),
        category=category,
        templates="niv2",
        fields=("input",),
        language=_language(record),
        definition="\n".join(_texts(record, "Definition", path)).strip(),
        demonstrations=tuple(_demonstrations(record, name, path)),
        metric="exact_match" if category.lower() in EXACT_MATCH_CATEGORIES else "rouge_l",
        licence=", ".join(str(x) for x in _listed(record.get("Instance License"))) or None,
        source="niv2",
        path=str(path),
    )


def dataset_name(source: str) -> str:
    """A source's bare name: 'scan (https://…)' -> 'scan', 'librispeech_asr,' -> 'librispeech_asr'."""
    bare = source.strip()
    address = _ADDRESS.search(bare) if bare.endswith(")") else None
    return (bare[: address.start()] if address else bare).strip().rstrip(",").strip() or source


def parse_instance(instance: Record) -> Iterator[Draft]:
    output = instance.get("output")
    if isinstance(output, str):  # contributors' files sometimes give the one output bare
        output = [output]
    if not isinstance(output, list) or not all(isinstance(o, str) for o in output):
        raise BadRow("output", "a list of texts", output)
    yield Draft({"input": text_of(instance, "input")}, tuple(output), id=str(instance.get("id") or ""))


def _demonstrations(record: Record, task: str, path: Path) -> Iterator[Example]:
    """The positive examples that are whole, as exemplars; rows count from -1 down."""
    count = 0
    for i, shown in enumerate(_listed(record.get("Positive Examples"))):
        output = shown.get("output") if isinstance(shown, dict) else None
        answers = [output] if isinstance(output, str) else output if isinstance(output, list) else []
        targets = tuple(dict.fromkeys(str(a).strip() for a in answers if str(a).strip()))
        if not targets or not str(shown.get("input") or "").strip():
            continue
        count += 1
        yield Example(
            task=task,
            row=-count,
            id=f"{task}-positive-{i}",
            fields={"input": str(shown["input"])},
            targets=targets,
            rationale=str(shown.get("explanation") or "").strip() or None,
            where=f"{path.name}:Positive Examples[{i}]",
        )


def _texts(record: Record, key: str, path: Path) -> list[str]:
    value: Any = record.get(key)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise DataError(str(path), field=key, expected="a text, or a list of them", got=value)
    return texts


def _language(record: Record) -> str:
    languages = _listed(record.get("Input_language")) or ["English"]  # the early layout's tasks are all English
    first = str(languages[0])
    return LANGUAGES.get(first, first.lower())


def _listed(value: Any) -> list[Any]:
    """A list as it is, one thing as a list of it, and nothing as none: these keys are read for what they are worth."""
    return value if isinstance(value, list) else [value] if value else []
