"""Conversations: `messages` of role and content, or ShareGPT's `conversations` of from and value.

Every assistant turn that answers a user turn becomes one example.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from flantune.recipe import CollectionSpec
from flantune.sources.reading import Draft, Record, TaskRows, examples_of, file_task, first_object, json_objects
from flantune.sources.rejects import BadRow, Rejects

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bard": "assistant", "bing": "assistant",
    "tool": "tool", "function": "tool", "function_call": "tool", "observation": "tool",
}  # fmt: skip
SPEAKERS = {"system": "System", "user": "User", "assistant": "Assistant", "tool": "Tool"}


class Turn(NamedTuple):
    role: str
    text: str


class ChatReader:
    name = "chat"
    mixture = "chat"

    def matches(self, path: Path) -> bool:
        first = first_object(path)
        if first is None:
            return False
        for key, who, what in (("messages", "role", "content"), ("conversations", "from", "value")):
            turns = first.get(key)
            if isinstance(turns, list) and turns and isinstance(turns[0], dict) and {who, what} <= set(turns[0]):
                return True
        return False

    def read(self, path: Path, spec: CollectionSpec, rejects: Rejects) -> Iterator[TaskRows]:
        task = file_task(
            path,
            spec,
            self,
            category="Dialogue Generation",
            templates="chat",
            fields=("context", "question", "messages"),
        )
        yield TaskRows(task, examples_of(task, path, json_objects(path), parse_conversation, rejects))


def parse_conversation(record: Record) -> Iterator[Draft]:
    """Fields of each answered user turn: `question` that turn, `context` the turns before it as "User: …" lines,
    `messages` the turns up to and including it as a JSON list of role and content."""
    turns = turns_of(record)
    name = str(record.get("id") or record.get("conversation_id") or "")
    found = False
    for k in range(1, len(turns)):
        asked, answer = turns[k - 1], turns[k]
        if (asked.role, answer.role) != ("user", "assistant") or not asked.text.strip() or not answer.text.strip():
            continue
        found = True
        messages = [{"role": t.role, "content": t.text} for t in turns[:k]]
        fields = {
            "context": "\n".join(f"{SPEAKERS[t.role]}: {t.text.strip()}" for t in turns[: k - 1]),
            "question": asked.text.strip(),
            "messages": orjson.dumps(messages).decode(),
        }
        yield Draft(fields, (answer.text,), id=f"{name}-{k}" if name else "")
    if not found:
        raise BadRow("messages", "a user turn that an assistant turn answers", [t.role for t in turns])


def turns_of(record: Record) -> list[Turn]:
    key, who, what = ("messages", "role", "content") if "messages" in record else ("conversations", "from", "value")
    messages = record.get(key)
    if not isinstance(messages, list) or not messages:
        raise BadRow(key, "a list of turns", messages)
    turns = []
    for i, message in enumerate(messages):
        role = message.get(who) if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in ROLES:
            raise BadRow(
                f"{key}[{i}].{who}", f"one of {', '.join(ROLES)}", role if isinstance(message, dict) else message
            )
        turns.append(Turn(ROLES[role], _content(message.get(what), f"{key}[{i}].{what}")))
    return turns


def _content(value: Any, field: str) -> str:
    """Text, or a list of text parts joined. A turn that only calls a tool has none, and is blank."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in value):
        return "\n".join(p["text"] for p in value)
    raise BadRow(field, "text, or a list of text parts", value)
