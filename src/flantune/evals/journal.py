"""What a backend answered, in an evaluation's folder: one line per answer, appended the moment it is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import orjson

from flantune.errors import StateError
from flantune.inference.answers import Given, Request, content_key, lacking


class Journal:
    """The answers in the file at `path`, and those to come. A last line torn by a kill is cut off.

    Raises StateError, naming the line, where another one is no answer of ours.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path, self._identity = path, identity
        self._known = read_journal(path)
        self._file: BinaryIO | None = None

    def __enter__(self) -> Journal:
        self._file = self.path.open("ab")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file:
            self._file.close()

    def key(self, request: Request) -> str:
        return content_key(self._identity, request)

    def get(self, request: Request) -> Given | None:
        """The whole answer, or None where a part of it is lacking."""
        given = self.begun(request)
        return None if given is None or lacking(request, given) else given

    def begun(self, request: Request) -> Given | None:
        """As `get`, but fewer samples too: the first of them."""
        return self._known.get(self.key(request))

    def add(self, request: Request, given: Given) -> None:
        """Known to the system when this returns: the death of this process does not lose it."""
        assert self._file is not None
        key = self.key(request)
        record = {
            "key": key,
            "texts": list(given.texts) or None,
            "scores": list(given.scores) or None,
            "truncated": given.truncated,
            "prompt_tokens": given.prompt_tokens,
            "new_tokens": given.new_tokens,
            "refused": given.refused,
            "reused": given.reused,
        }
        try:
            self._file.write(orjson.dumps(record) + b"\n")
            self._file.flush()
        except OSError as e:
            raise StateError(f"{self.path}: cannot be written: {e.strerror or e}. What came before is kept.") from e
        self._known[key] = given


def read_journal(path: Path) -> dict[str, Given]:
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    answers = {}
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            record = orjson.loads(line)
            answers[record["key"]] = Given(
                texts=tuple(record["texts"] or ()),
                scores=tuple(record["scores"] or ()),
                truncated=record["truncated"],
                prompt_tokens=record["prompt_tokens"],
                new_tokens=record["new_tokens"],
                refused=record["refused"],
                reused=record["reused"],
            )
        except (orjson.JSONDecodeError, KeyError, TypeError) as e:
            raise StateError(
                f"{path}:{number}: not an answer of ours: {e}. Remove the folder to evaluate anew."
            ) from None
    return answers
