"""Datasets of the Muffin mixture in their publishers' own formats: SuperGLUE, NQ-open, E2E, DART, Cosmos QA, and the
multiple-choice files of llm-foundry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from flantune.errors import DataError
from flantune.recipe import CollectionSpec
from flantune.sources.reading import (
    Draft,
    Record,
    TaskRows,
    choice_of,
    examples_of,
    first_object,
    header_of,
    json_objects,
    stem,
    suffix,
    table_rows,
    text_of,
    texts_of,
)
from flantune.sources.rejects import BadRow, Rejects
from flantune.sources.superglue import CB, RTE, SUPERGLUE, Dataset
from flantune.types import Example, Task


def nq_open(record: Record) -> Iterator[Draft]:
    yield Draft({"question": text_of(record, "question")}, texts_of(record, "answer"))


def dart(record: Record) -> Iterator[Draft]:
    """Triples one a line, "subject | relation | object"; every annotation is a reference."""
    triples, notes = record.get("tripleset"), record.get("annotations")
    if not isinstance(triples, list) or not triples or not all(_is_triple(t) for t in triples):
        raise BadRow("tripleset", "a list of three texts each", triples)
    if not isinstance(notes, list) or not notes or not all(isinstance(n, dict) for n in notes):
        raise BadRow("annotations", "a list of objects", notes)
    yield Draft({"triples": "\n".join(" | ".join(t) for t in triples)}, tuple(text_of(n, "text") for n in notes))


def _is_triple(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(v, str) for v in value)


def cosmos_qa(record: Record) -> Iterator[Draft]:
    options = tuple(text_of(record, f"answer{i}") for i in range(4))
    fields = {k: text_of(record, k) for k in ("context", "question")}
    yield Draft(fields, (choice_of(record, "label", options),), options=options, id=record.get("id", ""))


def multiple_choice(field: str) -> Callable[[Record], Iterator[Draft]]:
    """query, choices, gold; the words "Question: " and the line break put around some queries are no part of them."""

    def parse(record: Record) -> Iterator[Draft]:
        options = texts_of(record, "choices")
        query = text_of(record, "query").removeprefix("Question: ").strip()
        yield Draft({field: query}, (choice_of(record, "gold", options),), options=options)

    return parse


def winogrande(record: Record) -> Iterator[Draft]:
    """Two contexts that differ in their last words, and one continuation: worded back into a sentence with a blank."""
    contexts = texts_of(record, "context_options")
    if len(contexts) != 2:
        raise BadRow("context_options", "two", len(contexts))
    words = [c.split(" ") for c in contexts]
    same = 0
    while same < min(map(len, words)) and words[0][same] == words[1][same]:
        same += 1
    options = tuple(" ".join(w[same:]) for w in words)
    if not all(options):
        raise BadRow("context_options", "two that end differently", list(contexts))
    sentence = " ".join([*words[0][:same], "_", text_of(record, "continuation").strip()])
    yield Draft({"sentence": sentence}, (choice_of(record, "gold", options),), options=options)


def e2e_nlg(group: tuple[str, list[str]]) -> Iterator[Draft]:
    mr, references = group
    yield Draft({"mr": mr}, tuple(references))


SCIENCE = "Science Question Answering"
ICL_KEYS = frozenset({"query", "choices", "gold"})
ICL: tuple[Dataset, ...] = (
    Dataset("arc_easy", "arc", SCIENCE, ICL_KEYS, ("question",), multiple_choice("question")),
    Dataset("arc_challenge", "arc", SCIENCE, ICL_KEYS, ("question",), multiple_choice("question")),
    Dataset("openbook_qa", "openbook_qa", SCIENCE, ICL_KEYS, ("question",), multiple_choice("question")),
    Dataset("piqa", "piqa", "Commonsense Reasoning", ICL_KEYS, ("goal",), multiple_choice("goal")),
    Dataset("boolq_icl", "boolq", "Reading Comprehension", ICL_KEYS, ("query",), multiple_choice("query")),
    Dataset("copa_icl", "copa", "Commonsense Reasoning", ICL_KEYS, ("query",), multiple_choice("query")),
)
WINOGRANDE_KEYS = frozenset({"context_options", "continuation", "gold"})
OTHERS: tuple[Dataset, ...] = (
    Dataset("winogrande", "winogrande", "Coreference Resolution", WINOGRANDE_KEYS, ("sentence",),
            winogrande),
    Dataset("nq_open", "nq_open", "Closed-Book QA", frozenset({"question", "answer"}), ("question",), nq_open,
            has_options=False),
    Dataset("dart", "dart", "Structure-to-Text", frozenset({"tripleset", "annotations"}), ("triples",), dart,
            has_options=False, free_text=True),
)  # fmt: skip
COSMOS_HEADER = ["id", "context", "question", "answer0", "answer1", "answer2", "answer3", "label"]
COSMOS = Dataset(
    "cosmos_qa", "cosmos_qa", "Reading Comprehension", frozenset(COSMOS_HEADER), ("context", "question"), cosmos_qa
)
E2E_HEADER = ["mr", "ref"]


class MuffinReader:
    name = "muffin"
    mixture = "muffin"

    def matches(self, path: Path) -> bool:
        return is_e2e(path) or dataset_of(path) is not None

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        mixture = spec.mixture or self.mixture
        if is_e2e(path):
            yield read_e2e(path, mixture, rejects)
            return
        found = dataset_of(path)
        if found is None:
            raise DataError(
                str(path),
                field="file",
                expected="a dataset of Muffin",
                got=path.name,
                mend="Try reader: prompts or table.",
            )
        task = muffin_task(found, path, mixture)
        examples: Iterator[Example]
        if found is COSMOS:
            examples = examples_of(task, path, table_rows(path, ","), found.parse, rejects)
        else:
            examples = examples_of(task, path, json_objects(path), found.parse, rejects)
        yield TaskRows(task, examples)


def muffin_task(found: Dataset, path: Path, mixture: str) -> Task:
    return Task(
        name=f"muffin/{found.name}",
        mixture=mixture,
        dataset=found.dataset,
        category=found.category,
        templates=f"muffin_{found.name}",
        fields=found.fields,
        has_options=found.has_options,
        metric="rouge_l" if found.free_text else "exact_match",
        source="muffin",
        path=str(path),
    )


def dataset_of(path: Path) -> Dataset | None:
    """The dataset a file surely is, by its keys; by its name too where the keys are shared by several."""
    if suffix(path) == ".csv":
        return COSMOS if header_of(path, ",") == COSMOS_HEADER else None
    first = first_object(path)
    if first is None:
        return None
    keys = set(first)
    if keys == ICL_KEYS:
        return next((d for d in ICL if stem(path) in (d.name, d.name.removesuffix("_icl"))), None)
    if {"premise", "hypothesis", "label"} <= keys:
        names = {path.parent.name.lower(), stem(path).lower()}
        return RTE if "rte" in names else CB if "cb" in names else None
    if keys == {"question", "answer"} and not isinstance(first["answer"], list):
        return None  # GSM8K's files have these keys too, with one text as the answer
    for d in (*OTHERS, *SUPERGLUE):
        exact = d.name in ("nq_open", "winogrande")
        if keys == d.keys if exact else d.keys <= keys:
            return d
    return None


def is_e2e(path: Path) -> bool:
    return suffix(path) == ".csv" and header_of(path, ",") == E2E_HEADER


def read_e2e(path: Path, mixture: str, rejects: Rejects) -> TaskRows:
    """E2E's rows joined by meaning representation: one example with every reference. Dev and test are two tasks."""
    split = next((s for s in ("dev", "test", "train") if stem(path).startswith(s)), stem(path))
    task = Task(
        name=f"muffin/e2e_nlg_{split}",
        mixture=mixture,
        dataset="e2e_nlg",
        category="Structure-to-Text",
        templates="muffin_e2e_nlg",
        fields=("mr",),
        metric="rouge_l",
        source="muffin",
        path=str(path),
    )
    return TaskRows(task, examples_of(task, path, e2e_groups(path, rejects), e2e_nlg, rejects))


def e2e_groups(path: Path, rejects: Rejects) -> Iterator[tuple[str, tuple[str, list[str]] | BadRow]]:
    """(first line, (mr, references)) in the order the representations first come; bad rows as they come."""
    groups: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for place, row in table_rows(path, ","):
        if isinstance(row, BadRow):
            yield place, row
            continue
        try:
            mr, reference = text_of(row, "mr"), text_of(row, "ref")
        except BadRow as bad:
            yield place, bad
            continue
        first.setdefault(mr, place)
        groups.setdefault(mr, []).append(reference)
    for mr, references in groups.items():
        rejects.row(path, len(references) - 1)  # `examples_of` counts the group itself
        yield first[mr], (mr, references)
