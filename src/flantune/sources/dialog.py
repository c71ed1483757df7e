"""Dialog sets of Muffin: a conversation cut at one boundary, its next turn the target. Spec 2.8.

WikiDialog   {"utterances": [text, ...], "pid": ...}
TaskMaster   {"utterances": [{"speaker", "text"}, ...], "conversation_id": ...}
QReCC        {"Context": [text, ...], "Question", "Answer", "Conversation_no", "Turn_no"}
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flantune.errors import DataError
from flantune.recipe import CollectionSpec
from flantune.sources.reading import (
    Draft,
    Record,
    TaskRows,
    examples_of,
    file_task,
    first_object,
    json_objects,
    text_of,
)
from flantune.sources.rejects import BadRow, Rejects

MAX_EXCHANGES = 20  # a cut lies within the first twenty, two turns each
QRECC_MIN_TURN = 7  # QReCC keeps turns numbered above 6
CATEGORY = "Dialogue Generation"
QRECC_KEYS = frozenset({"Context", "Question", "Answer", "Turn_no"})


def cut_dialogue(turns: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """(turns before the boundary, the turn after it). The boundary is drawn uniformly, even and odd ones alike, from
    the conversation's own words: a pure function, whatever stands around the conversation.

    Raises BadRow where there is nothing to cut: fewer than two turns.
    """
    if len(turns) < 2:
        raise BadRow("turns", "two or more", len(turns))
    last = min(len(turns) - 1, 2 * MAX_EXCHANGES)
    word = hashlib.blake2b("\n".join(turns).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    boundary = 1 + (int.from_bytes(word, "little") * last >> 64)
    return tuple(turns[:boundary]), turns[boundary]


class DialogReader:
    name = "dialog"
    mixture = "muffin"

    def matches(self, path: Path) -> bool:
        first = first_object(path)
        return first is not None and parser_of(first) is not None

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        first = first_object(path) or {}
        parse = parser_of(first)
        if parse is None:
            raise DataError(
                str(path),
                field="keys",
                expected="'utterances', or QReCC's 'Context', 'Question', 'Answer' and 'Turn_no'",
                got=sorted(first),
                mend="Conversations of role and content are read by reader: chat.",
            )
        dataset = "qrecc" if set(first) >= QRECC_KEYS else None
        task = file_task(path, spec, self, category=CATEGORY, templates="dialog", fields=("turns",), dataset=dataset)
        yield TaskRows(task, examples_of(task, path, json_objects(path), parse, rejects))


def parser_of(first: Record) -> Callable[[Record], Iterator[Draft]] | None:
    if set(first) >= QRECC_KEYS:
        return qrecc
    utterances = first.get("utterances")
    if not isinstance(utterances, list) or not utterances:
        return None
    if all(isinstance(u, str) for u in utterances):
        return wiki_dialog
    return task_master if all(isinstance(u, dict) and "text" in u for u in utterances) else None


def wiki_dialog(record: Record) -> Iterator[Draft]:
    utterances = record.get("utterances")
    if not isinstance(utterances, list) or not all(isinstance(u, str) for u in utterances):
        raise BadRow("utterances", "a list of texts", utterances)
    yield _draft([_line(u) for u in utterances], str(record.get("pid") or ""))


def task_master(record: Record) -> Iterator[Draft]:
    """Neighbouring utterances of one speaker are one turn."""
    utterances = record.get("utterances")
    if not isinstance(utterances, list) or not all(isinstance(u, dict) for u in utterances):
        raise BadRow("utterances", "a list of objects", utterances)
    turns: list[str] = []
    speaker: object = None
    for utterance in utterances:
        text = _line(text_of(utterance, "text"))
        if turns and utterance.get("speaker") == speaker:
            turns[-1] += " " + text
        else:
            turns.append(text)
        speaker = utterance.get("speaker")
    yield _draft(turns, str(record.get("conversation_id") or ""))


def qrecc(record: Record) -> Iterator[Draft]:
    """A row is a turn with all before it. Early turns and unanswered ones are set aside, as the recipe has it."""
    context, number = record.get("Context"), record.get("Turn_no")
    if not isinstance(context, list) or not all(isinstance(t, str) for t in context):
        raise BadRow("Context", "a list of texts", context)
    if isinstance(number, bool) or not isinstance(number, int):
        raise BadRow("Turn_no", "a number", number)
    if number < QRECC_MIN_TURN:
        raise BadRow("Turn_no", f"{QRECC_MIN_TURN} or more", number, malformed=False)
    if not str(record.get("Answer") or "").strip():
        raise BadRow("Answer", "text that is not blank", record.get("Answer"), malformed=False)
    turns = [_line(t) for t in (*context, text_of(record, "Question")) if t.strip()]
    name = f"{record.get('Conversation_no', '')}-{number}"
    yield Draft({"turns": "\n".join(turns)}, (_line(text_of(record, "Answer")),), id=name)


def _draft(turns: list[str], name: str) -> Draft:
    before, after = cut_dialogue([t for t in turns if t])
    return Draft({"turns": "\n".join(before)}, (after,), id=name)


def _line(text: str) -> str:
    """A turn on one line: the marks begin lines of their own."""
    return " ".join(text.split())
