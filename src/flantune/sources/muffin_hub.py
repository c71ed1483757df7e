"""Muffin's sets as the Hugging Face hub has them: what the columns of each mean stands in muffin_hub.yaml.

hub/glue/cola/train-00000-of-00001.parquet      the layout a download leaves: the set's folder, the configuration
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import BaseModel, ConfigDict

from flantune.errors import DataError
from flantune.recipe import CollectionSpec
from flantune.sources.code import code_contests
from flantune.sources.hub_files import shard_rows, shards_of, split_and_folder
from flantune.sources.reading import (
    Draft,
    Record,
    TaskRows,
    choice_of,
    examples_of,
    header_of,
    selected,
    suffix,
    table_rows,
    text_of,
)
from flantune.sources.rejects import BadRow, Rejects
from flantune.sources.table import parquet_columns
from flantune.types import Task

TABLE_FILE = "muffin_hub.yaml"
SUFFIXES = (".parquet", ".csv")
NO_ANSWER = "unanswerable"
LANGUAGES = {"cs": "Czech", "de": "German", "en": "English", "es": "Spanish", "fi": "Finnish", "fr": "French",
             "ro": "Romanian", "ru": "Russian", "tr": "Turkish"}  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Label(_Part):
    column: str
    words: Mapping[str | int, str]


class Choice(_Part):
    column: str
    options: str | tuple[str, ...]
    keys: str | None = None
    first: int = 0


class HubSet(_Part):
    """One set of the table; muffin_hub.yaml explains the keys."""

    name: str
    hub: str
    folders: tuple[str, ...] = ()
    config: str | None = None
    split: str = "train"
    dataset: str = ""
    category: str
    templates: str = ""
    fields: Mapping[str, str] = {}
    label: Label | None = None
    choice: Choice | None = None
    text: str | None = None
    shape: str | None = None
    columns: tuple[str, ...] = ()
    languages: tuple[str, str] | None = None
    metric: Literal["exact_match", "rouge_l"] = "exact_match"
    samples: tuple[str, ...] = ()

    @functools.cached_property
    def needed(self) -> tuple[str, ...]:
        """Every column that its rows are read from."""
        asked = [*self.fields.values(), *self.columns, *([self.text] if self.text else [])]
        if self.label:
            asked.append(self.label.column)
        if self.choice:
            options = self.choice.options
            asked += [self.choice.column, *([options] if isinstance(options, str) else options)]
        return tuple(dict.fromkeys(column.partition(".")[0] for column in asked))

    @property
    def known_as(self) -> tuple[str, ...]:
        return (self.hub.rpartition("/")[2], *self.folders)

    def task(self, mixture: str, path: str) -> Task:
        code = self.shape == "programs"  # counted apart from the others by the public mixture
        return Task(
            name=f"muffin/{self.name}",
            mixture=mixture,
            dataset=self.dataset or self.name,
            category=self.category,
            templates=self.templates if code else f"muffin_{self.templates or self.name}",
            fields=tuple(self.fields) or ("text", "language", "other_language"),
            language=self.languages[0] if self.languages else "en",
            has_options=bool(self.label or self.choice or self.shape in ("cloze", "similarity")),
            metric=self.metric,
            source="code" if code else "muffin",
            path=path,
        )


@functools.cache
def hub_sets() -> tuple[HubSet, ...]:
    text = resources.files("flantune.sources").joinpath(TABLE_FILE).read_text(encoding="utf-8")
    return tuple(HubSet(name=name, **facts) for name, facts in yaml.safe_load(text).items())


class MuffinHubReader:
    name = "muffin_hub"
    mixture = "muffin"

    def matches(self, path: Path) -> bool:
        """By where it lies: below a folder named as the set, and one named as the configuration where it has one."""
        return bool(sets_of(path))

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        found = sets_of(path)
        if not found:
            raise DataError(
                str(path),
                field="file",
                expected="a Muffin set's file below a folder of its name, as the hub lays it out",
                got=str(path.parent),
                mend="glue/cola/train-00000-of-00001.parquet, for instance. Another table: reader: table and columns.",
            )
        split = split_and_folder(path)[0]
        asked = [s for s in found if s.split == split]
        if not asked:
            splits = " or ".join(dict.fromkeys(f"'{s.split}'" for s in found))
            rejects.skip(path, f"split '{split}' is not the one trained on, {splits}")
            return
        for k, hub_set in enumerate(asked):
            files = (path,) if path == Path(spec.path) else set_files(hub_set, path, spec)
            if path != files[0]:
                continue
            names = class_names(files, hub_set)
            task = hub_set.task(spec.mixture or self.mixture, str(path))
            # A file of several tasks is read once for each; its rows are counted with the first.
            counted = rejects if k == 0 else Rejects()
            rows = table_rows(path, ",") if suffix(path) == ".csv" else shard_rows(files, hub_set.needed)
            yield TaskRows(task, examples_of(task, path, rows, parser_of(hub_set, names), counted))


def sets_of(path: Path) -> tuple[HubSet, ...]:
    """The sets whose file this is by its place, whatever its split; those it is trained on where it is of their split.

    The nearest folder of a set's name decides; a download cache's "datasets--nyu-mll--glue" is one too.
    """
    if suffix(path) not in SUFFIXES:
        return ()
    _, folder = split_and_folder(path)
    above = [part.rpartition("--")[2] for part in folder.parts]
    for depth in range(len(above) - 1, -1, -1):
        below = set(above[depth + 1 :])
        named = [s for s in hub_sets() if above[depth] in s.known_as]
        found = tuple(s for s in named if s.config in (None, "*") or s.config in below)
        if found:
            return found
    return ()


def sets_on_hub(hub: str, config: str | None, split: str) -> tuple[HubSet, ...]:
    """The sets that a hub id, its configuration and a split name."""
    found = (s for s in hub_sets() if (s.hub, s.split) == (hub, split))
    return tuple(s for s in found if s.config is None or s.config == config or (s.config == "*" and config is not None))


def set_files(hub_set: HubSet, path: Path, spec: CollectionSpec) -> tuple[Path, ...]:
    """Every file of a set that the collection takes, shards and configurations together, in order."""
    if suffix(path) != ".parquet":
        return (path,)
    if hub_set.config != "*":
        return shards_of(path, spec)
    root = Path(spec.path)
    base = next(p for p in path.parents if p.name.rpartition("--")[2] in hub_set.known_as)
    files = (f for f in sorted(base.rglob("*.parquet")) if split_and_folder(f)[0] == hub_set.split)
    taken = [f for f in files if f.is_relative_to(root) and selected(f, root, spec)]
    return tuple(dict.fromkeys(shard for f in taken for shard in shards_of(f, spec)))


def samples_of(folder: Path) -> tuple[str, ...]:
    """Globs on the files of smaller collections that stand in for sets which `folder` holds whole."""
    files = folder.rglob("*.parquet") if folder.is_dir() else ()
    return tuple(
        sorted({glob for f in files for s in sets_of(f) if s.split == split_and_folder(f)[0] for glob in s.samples})
    )


def class_names(files: tuple[Path, ...], hub_set: HubSet) -> tuple[str, ...] | None:
    """The classes of the label column in the file's own order, where it states them. Raises DataError for a column
    that is not there, and for classes that are not the set's."""
    for file in files:
        header = header_of(file, ",") if suffix(file) == ".csv" else parquet_columns(file)
        missing = [c for c in hub_set.needed if c not in header]
        if missing:
            raise DataError(
                str(file),
                field="header",
                expected=f"the columns {missing} of {hub_set.hub}",
                got=header,
                mend="The set may have changed: read it with reader: table and 'columns'.",
            )
    if hub_set.label is None or suffix(files[0]) == ".csv":
        return None
    stated = _stated_classes(files[0], hub_set.label.column)
    known = [str(k) for k in hub_set.label.words]
    if stated is not None and sorted(stated) != sorted(known):
        raise DataError(
            str(files[0]),
            field=hub_set.label.column,
            expected=f"the classes {known}",
            got=list(stated),
            mend="The set may have changed: read it with reader: table and 'columns'.",
        )
    return stated


def _stated_classes(path: Path, column: str) -> tuple[str, ...] | None:
    try:
        metadata = pq.read_schema(path).metadata or {}
        names = orjson.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (pa.ArrowException, OSError, KeyError, TypeError, orjson.JSONDecodeError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


# Rows ----------------------------------------------------------------------------------------------------------------


def parser_of(hub_set: HubSet, names: tuple[str, ...] | None = None) -> Callable[[Record], Iterator[Draft]]:
    """A row -> its drafts. `names`: the label's classes in the file's order, where it states them."""
    if hub_set.shape is not None:
        return functools.partial(SHAPES[hub_set.shape], hub_set)

    def parse(record: Record) -> Iterator[Draft]:
        fields = {field: text_of(record, column) for field, column in hub_set.fields.items()}
        if hub_set.label is not None:
            options = tuple(hub_set.label.words.values())
            yield Draft(fields, (label_word(record, hub_set.label, names),), options=options)
        elif hub_set.choice is not None:
            options, right = chosen(record, hub_set.choice)
            yield Draft(fields, (right,), options=options)
        else:
            yield Draft(fields, texts_at(record, hub_set.text or ""))

    return parse


def at(record: Mapping[str, Any], column: str) -> Any:
    """The value of "a.b": b of the record a, or of every record in the list a, as the hub stores either."""
    value: Any = record
    for key in column.split("."):
        if isinstance(value, list):
            value = [v.get(key) if isinstance(v, Mapping) else None for v in value]
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
    return value


def texts_at(record: Record, column: str) -> tuple[str, ...]:
    """One text, or a list of texts that is not empty."""
    value = at(record, column)
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(t, str) for t in texts):
        raise BadRow(column, "text", value)
    return tuple(texts)


def label_word(record: Record, label: Label, names: tuple[str, ...] | None) -> str:
    value = record.get(label.column)
    if value is None or value == -1:
        raise BadRow(label.column, "a label", value, malformed=False)  # how the hub marks a row that has none
    if isinstance(value, int) and not isinstance(value, bool) and value not in label.words:
        order = names or tuple(k for k in label.words if isinstance(k, str))
        value = order[value] if 0 <= value < len(order) else value
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value not in label.words:
        raise BadRow(label.column, f"one of {list(label.words)}", value)
    return label.words[value]


def chosen(record: Record, choice: Choice) -> tuple[tuple[str, ...], str]:
    """(options, the right one)."""
    if isinstance(choice.options, str):
        options = texts_at(record, choice.options)
    else:
        options = tuple(text_of(record, column) for column in choice.options)
    value = record.get(choice.column)
    if value is None or value in (-1, "", "-1"):
        raise BadRow(choice.column, "a label", value, malformed=False)
    if choice.keys is not None:
        keys = texts_at(record, choice.keys)
        if value not in keys or len(keys) != len(options):
            raise BadRow(choice.column, f"one of {list(keys)}, one for each of {len(options)} options", value)
        return options, options[keys.index(value)]
    whole = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10 else value
    place = whole - choice.first if isinstance(whole, int) and not isinstance(whole, bool) else whole
    return options, choice_of({choice.column: place}, choice.column, options)


def _fields(hub_set: HubSet, record: Record) -> dict[str, str]:
    return {field: text_of(record, column) for field, column in hub_set.fields.items()}


def similarity(hub_set: HubSet, record: Record) -> Iterator[Draft]:
    """Scores from 0 to 5 as the nearest whole number."""
    score = record.get("label")
    if score == -1:
        raise BadRow("label", "a score", score, malformed=False)
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 5:
        raise BadRow("label", "a number from 0 to 5", score)
    yield Draft(_fields(hub_set, record), (str(round(score)),), options=tuple("012345"))


def cloze(hub_set: HubSet, record: Record) -> Iterator[Draft]:
    options = tuple(dict.fromkeys(e.strip() for e in texts_at(record, "entities")))
    yield Draft(_fields(hub_set, record), texts_at(record, "answers"), options=options)


def last_word(hub_set: HubSet, record: Record) -> Iterator[Draft]:
    before, _, word = text_of(record, "text").strip().rpartition(" ")
    if not before.strip():
        raise BadRow("text", "two words or more", record["text"])
    yield Draft({"passage": before}, (word,))


def answer_or_none(hub_set: HubSet, record: Record) -> Iterator[Draft]:
    none = at(record, "answers.text") == []
    yield Draft(_fields(hub_set, record), (NO_ANSWER,) if none else texts_at(record, "answers.text"))


def joined_spans(hub_set: HubSet, record: Record) -> Iterator[Draft]:
    """In the training split the spans are the parts of one answer."""
    spans = dict.fromkeys(s.strip() for s in texts_at(record, "answers_spans.spans"))
    yield Draft(_fields(hub_set, record), (", ".join(s for s in spans if s),))


def turns(hub_set: HubSet, record: Record) -> Iterator[Draft]:
    """A conversation gives an example for each of its questions; the text may have no background."""
    questions, answers = texts_at(record, "questions"), texts_at(record, "orig_answers.texts")
    if len(questions) != len(answers):
        raise BadRow("orig_answers", f"an answer to each of {len(questions)} questions", len(answers))
    background = record.get("background")
    fields = {"background": background if isinstance(background, str) else "", "context": text_of(record, "context")}
    for question, answer in zip(questions, answers, strict=True):
        yield Draft({**fields, "question": question}, (answer,))


def numbered(hub_set: HubSet, record: Record) -> Iterator[Draft]:
    """All questions of a story at once, and all answers, one a line."""
    questions, answers = texts_at(record, "questions"), texts_at(record, "answers.input_text")
    if len(questions) != len(answers):
        raise BadRow("answers", f"an answer to each of {len(questions)} questions", len(answers))
    asked, told = ("\n".join(f"{n}. {t.strip()}" for n, t in enumerate(ts, 1)) for ts in (questions, answers))
    yield Draft({"story": text_of(record, "story"), "questions": asked}, (told,))


def mathematics(hub_set: HubSet, record: Record) -> Iterator[Draft]:
    yield Draft({"question": _said(text_of(record, "question"))}, (_said(text_of(record, "answer")),))


def _said(text: str) -> str:
    """The hub's rows were written as Python shows bytes: "b'Solve ...\\\\n'"."""
    if text[:2] in ("b'", 'b"'):
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            return text.strip()
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else text
    return text.strip()


def articles(hub_set: HubSet, record: Record) -> Iterator[Draft]:
    """Several articles with bars between them."""
    parts = [part.strip() for part in text_of(record, "document").split("|||||")]
    yield Draft({"text": "\n\n".join(p for p in parts if p)}, texts_at(record, "summary"))


def concepts(hub_set: HubSet, record: Record) -> Iterator[Draft]:
    yield Draft({"concepts": ", ".join(texts_at(record, "concepts"))}, texts_at(record, "target"))


def triples(hub_set: HubSet, record: Record) -> Iterator[Draft]:
    yield Draft({"triples": "\n".join(t.strip() for t in texts_at(record, "input"))}, texts_at(record, "target"))


def translation(hub_set: HubSet, record: Record) -> Iterator[Draft]:
    assert hub_set.languages is not None
    source, target = hub_set.languages
    pair = record.get("translation")
    if not isinstance(pair, dict):
        raise BadRow("translation", f"a record of {source} and {target}", pair)
    fields = {"text": text_of(pair, source), "language": LANGUAGES[source], "other_language": LANGUAGES[target]}
    yield Draft(fields, (text_of(pair, target),))


def programs(hub_set: HubSet, record: Record) -> Iterator[Draft]:
    yield from code_contests(record, "")


SHAPES: Mapping[str, Callable[[HubSet, Record], Iterator[Draft]]] = {
    shape.__name__: shape
    for shape in (
        similarity, cloze, last_word, answer_or_none, joined_spans, turns, numbered, mathematics, articles, concepts,
        triples, translation, programs,
    )
}  # fmt: skip
