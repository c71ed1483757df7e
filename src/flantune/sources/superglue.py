"""SuperGLUE's own JSON lines (as in FewGLUE). Labels become words; closed sets become options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from flantune.sources.reading import Draft, Record, choice_of, text_of
from flantune.sources.rejects import BadRow

YES_NO = ("yes", "no")


class Dataset(NamedTuple):
    """One dataset's shape: the keys that give it away, what its examples carry, and how a row is parsed."""

    name: str  # task "muffin/<name>", template set "muffin_<name>"
    dataset: str
    category: str
    keys: frozenset[str]
    fields: tuple[str, ...]
    parse: Callable[[Record], Iterator[Draft]]
    has_options: bool = True
    free_text: bool = False


def word_of(record: Record, labels: dict[Any, str]) -> str:
    label = record.get("label")
    # `True == 1` in Python, so types are compared too: RTE's labels are text, WiC's are booleans.
    for value, word in labels.items():
        if type(value) is type(label) and value == label:
            return word
    raise BadRow("label", f"one of {list(labels)}", label)


def identity(record: Record) -> str:
    return str(record.get("idx", ""))


TRUTH = {True: "yes", False: "no"}
RTE_LABELS: dict[Any, str] = {"entailment": "entailment", "not_entailment": "not entailment"}
CB_LABELS: dict[Any, str] = {w: w for w in ("entailment", "contradiction", "neutral")}


def pair(labels: dict[Any, str]) -> Callable[[Record], Iterator[Draft]]:
    def parse(record: Record) -> Iterator[Draft]:
        fields = {k: text_of(record, k) for k in ("premise", "hypothesis")}
        yield Draft(fields, (word_of(record, labels),), options=tuple(labels.values()), id=identity(record))

    return parse


def boolq(record: Record) -> Iterator[Draft]:
    fields = {k: text_of(record, k) for k in ("passage", "question")}
    yield Draft(fields, (word_of(record, TRUTH),), options=YES_NO, id=identity(record))


def wic(record: Record) -> Iterator[Draft]:
    fields = {k: text_of(record, k) for k in ("sentence1", "sentence2", "word")}
    yield Draft(fields, (word_of(record, TRUTH),), options=YES_NO, id=identity(record))


def wsc(record: Record) -> Iterator[Draft]:
    target = record.get("target")
    if not isinstance(target, dict):
        raise BadRow("target", "an object of spans", target)
    fields = {
        "text": text_of(record, "text"),
        "span1": text_of(target, "span1_text"),
        "span2": text_of(target, "span2_text"),
    }
    yield Draft(fields, (word_of(record, TRUTH),), options=YES_NO, id=identity(record))


def copa(record: Record) -> Iterator[Draft]:
    options = (text_of(record, "choice1"), text_of(record, "choice2"))
    fields = {k: text_of(record, k) for k in ("premise", "question")}  # question: "cause" or "effect"
    yield Draft(fields, (choice_of(record, "label", options),), options=options, id=identity(record))


def multirc(record: Record) -> Iterator[Draft]:
    """One example per candidate answer: any number of a question's candidates may be right."""
    passage = _object(record, "passage")
    paragraph = text_of(passage, "text")
    for question in _objects(passage, "questions"):
        for answer in _objects(question, "answers"):
            fields = {
                "paragraph": paragraph,
                "question": text_of(question, "question"),
                "candidate": text_of(answer, "text"),
            }
            word = word_of(answer, {1: "yes", 0: "no"})
            name = f"{identity(record)}-{identity(question)}-{identity(answer)}"
            yield Draft(fields, (word,), options=YES_NO, id=name)


def record_cloze(record: Record) -> Iterator[Draft]:
    """The passage's entities are the options; entity ends are inclusive. The query keeps its `@placeholder`."""
    passage = _object(record, "passage")
    text = text_of(passage, "text")
    entities = []
    for span in _objects(passage, "entities"):
        start, end = span.get("start"), span.get("end")
        if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start <= end < len(text):
            raise BadRow("entities", "spans within the passage", span)
        entities.append(text[start : end + 1])
    for query in _objects(record, "qas"):
        answers = tuple(dict.fromkeys(text_of(a, "text") for a in _objects(query, "answers")))
        fields = {"passage": text, "query": text_of(query, "query")}
        name = f"{identity(record)}-{identity(query)}"
        yield Draft(fields, answers, options=tuple(dict.fromkeys(e.strip() for e in entities)), id=name)


def _object(record: Record, key: str) -> Record:
    value = record.get(key)
    if not isinstance(value, dict):
        raise BadRow(key, "an object", value)
    return value


def _objects(record: Record, key: str) -> list[Record]:
    value = record.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        raise BadRow(key, "a list of objects", value)
    return value


def _keys(names: str) -> frozenset[str]:
    return frozenset(names.split())


NLI = "Natural Language Inference"
SUPERGLUE: tuple[Dataset, ...] = (
    Dataset("boolq", "boolq", "Reading Comprehension", _keys("question passage label"), ("passage", "question"), boolq),
    Dataset("wic", "wic", "Word Sense Disambiguation", _keys("word sentence1 sentence2 label"),
            ("sentence1", "sentence2", "word"), wic),
    Dataset("wsc", "wsc", "Coreference Resolution", _keys("text target label"), ("text", "span1", "span2"), wsc),
    Dataset("copa", "copa", "Commonsense Reasoning", _keys("premise choice1 choice2 question label"),
            ("premise", "question"), copa),
    Dataset("multirc", "multirc", "Reading Comprehension", _keys("passage version idx"),
            ("paragraph", "question", "candidate"), multirc),
    Dataset("record", "record", "Reading Comprehension", _keys("source passage qas"), ("passage", "query"),
            record_cloze),
)  # fmt: skip

# RTE and CB have the same keys; the folder's name tells them apart, as it does in SuperGLUE's own release.
RTE = Dataset("rte", "rte", NLI, _keys("premise hypothesis label"), ("premise", "hypothesis"), pair(RTE_LABELS))
CB = Dataset("cb", "cb", NLI, _keys("premise hypothesis label"), ("premise", "hypothesis"), pair(CB_LABELS))
