"""Answers kept by content, so that nothing is asked twice: by this run, by another run, by another process.

The key is a hash of the backend's identity and of everything the request states. Samples are kept one by one: ten of
forty answer a request for ten. One SQLite file in write-ahead mode takes several writers at once and survives a kill.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from flantune.errors import StateError
from flantune.inference.requests import GenerateRequest, ScoreRequest

FILE = "answers.sqlite"
FORMAT = 1  # of the file, kept as its user_version
MARK = 0x666C6174  # "flat": SQLite's application_id of our files
PATIENCE = 120.0  # seconds to wait for another process that writes
Request = GenerateRequest | ScoreRequest


@dataclass(frozen=True, slots=True)
class Given:
    """What came back for a request: texts or scores, or why it was refused."""

    texts: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    truncated: bool = False
    prompt_tokens: int = 0
    new_tokens: int = 0
    refused: str = ""
    reused: bool = False  # not asked for this run

    def joined(self, later: Given) -> Given:
        """These samples and `later` ones behind them. What is refused later is refused."""
        if later.refused:
            return later
        return replace(later, texts=self.texts + later.texts, new_tokens=self.new_tokens + later.new_tokens)


def lacking(request: Request, given: Given) -> int:
    """Samples that the request asks for and `given` does not have."""
    if not isinstance(request, GenerateRequest) or given.refused:
        return 0
    return max(0, request.samples - len(given.texts))


def default_path() -> Path:
    """$FLANTUNE_CACHE/answers.sqlite, else in the user's cache folder."""
    stated = os.environ.get("FLANTUNE_CACHE")
    if stated:
        return Path(stated).expanduser() / FILE
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "flantune" / FILE


def content_key(identity: Mapping[str, Any], request: Request) -> str:
    """32 hex digits. How many samples are asked for, and from which on, is no part of it."""
    if isinstance(request, ScoreRequest):
        content: list[Any] = ["score", request.prompt, request.options, request.special]
    else:
        drawn = request.sampling
        # Greedy decoding draws nothing: its answer depends on no seed.
        sampling = [drawn.temperature, drawn.top_k, drawn.top_p, drawn.seed] if drawn.temperature > 0 else []
        content = ["generate", request.prompt, request.max_new_tokens, request.stop, sampling, request.special]
    written = orjson.dumps([dict(identity), content], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(written, digest_size=16).hexdigest()


class AnswerStore:
    """The file at `path`, made where it is not there. Raises StateError where it is no store or is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with self._told():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
            self._open()

    def _open(self) -> None:
        with self._writing():  # so that another process that makes it too is through or has not begun
            mark, version = (self._db.execute(f"PRAGMA {n}").fetchone()[0] for n in ("application_id", "user_version"))
            if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._db.execute(
                    "CREATE TABLE answers (key TEXT, sample INTEGER, value BLOB, PRIMARY KEY (key, sample)) "
                    "WITHOUT ROWID"
                )
                self._db.execute(f"PRAGMA application_id={MARK}")
                self._db.execute(f"PRAGMA user_version={FORMAT}")
            elif (mark, version) != (MARK, FORMAT):
                raise StateError(f"{self.path}: not a store of answers of this version. Remove it, or give --no-reuse.")
        self._write_ahead()

    def _write_ahead(self) -> None:
        """SQLite does not wait here as it does elsewhere: whoever opens it at the same moment may hold it."""
        deadline = time.monotonic() + PATIENCE
        while self._db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as e:
                if "locked" not in str(e) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def get(self, identity: Mapping[str, Any], request: Request) -> Given | None:
        """The whole answer to the request, or None where a part of it is lacking."""
        begun = self.begun(identity, request)
        return None if begun is None or lacking(request, begun) else begun

    def begun(self, identity: Mapping[str, Any], request: Request) -> Given | None:
        """As `get`, but fewer samples too: the first of those asked for, up to the first that is lacking."""
        first, wanted = (request.first, request.samples) if isinstance(request, GenerateRequest) else (0, 1)
        with self._told():
            rows = self._db.execute(
                "SELECT sample, value FROM answers WHERE key = ? AND sample >= ? AND sample < ? ORDER BY sample",
                (content_key(identity, request), first, first + wanted),
            ).fetchall()
            values = [orjson.loads(value) for place, (sample, value) in enumerate(rows) if sample == first + place]
            if not values:
                return None
            one = values[0]
            return Given(
                texts=tuple(v["text"] for v in values) if "text" in one else (),
                scores=tuple(one.get("scores", ())),
                truncated=one["truncated"],
                prompt_tokens=one["prompt_tokens"],
                new_tokens=round(sum(v["new_tokens"] for v in values)),
                reused=True,
            )

    def put(self, identity: Mapping[str, Any], request: Request, given: Given) -> None:
        """Kept when this returns, also through a kill. Refusals are not kept: another day may take the request."""
        if given.refused:
            return
        common = {"truncated": given.truncated, "prompt_tokens": given.prompt_tokens}
        told: list[dict[str, Any]]
        if isinstance(request, ScoreRequest):
            told = [{"scores": given.scores, "new_tokens": 0}]
        else:
            told = [{"text": text, "new_tokens": given.new_tokens / len(given.texts)} for text in given.texts]
        key = content_key(identity, request)
        first = request.first if isinstance(request, GenerateRequest) else 0
        rows = [(key, sample, orjson.dumps(own | common)) for sample, own in enumerate(told, first)]
        with self._told(), self._writing():  # the first answer stays: what some run was told does not change
            self._db.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", rows)

    def __len__(self) -> int:
        with self._told():
            return int(self._db.execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as e:
            raise StateError(f"{self.path}: {_reason(e)}") from e
        except (KeyError, TypeError, orjson.JSONDecodeError) as e:
            raise StateError(f"{self.path}: an answer in it cannot be read: {e}. {_MEND}") from e
        except OSError as e:
            raise StateError(f"{self.path}: cannot be opened: {e}. Point FLANTUNE_CACHE at another folder.") from e


_MEND = "Remove it (answers in evaluation folders are kept beside it), give another with --reuse-from, or --no-reuse."


def _reason(error: sqlite3.DatabaseError) -> str:
    text = str(error)
    if "locked" in text:
        return (
            f"another process held it for {PATIENCE:.0f} s. On a network disk locks may not work: point "
            "FLANTUNE_CACHE at a local folder, or give --no-reuse."
        )
    if "full" in text:
        return "the disk is full. Free some space and give the same command again; what was answered is kept."
    if "unable to open" in text or "readonly" in text:
        return f"cannot be opened for writing: {text}. Point FLANTUNE_CACHE at another folder, or give --no-reuse."
    return f"the store of answers is damaged: {text}. {_MEND}"


@contextmanager
def opened(path: Path | None) -> Iterator[AnswerStore | None]:
    """The store at `path`, closed afterwards; None for none."""
    if path is None:
        yield None
        return
    with closing(AnswerStore(path)) as store:
        yield store
