"""What every command shares: errors to exit codes, progress lines, and the one JSON object of --json."""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from flantune.errors import FlantuneError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
_FILE_IN_THE_WAY = "a file stands where a folder is wanted; name another place"
_REFUSALS = {
    errno.EEXIST: _FILE_IN_THE_WAY,
    errno.ENOTDIR: _FILE_IN_THE_WAY,
    errno.EISDIR: "a folder stands where a file is wanted",
    errno.EACCES: "no permission to read or write there",
    errno.EROFS: "nothing can be written there: the file system is read-only",
}


def emit(as_json: bool, result: dict[str, Any], *, text: str | None = None) -> None:
    """The command's result: with --json one object on the last line, else `text`."""
    if as_json:
        sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    elif text:
        out.print(text, markup=False)


@contextmanager
def guarded() -> Iterator[None]:
    """Our errors to one clear message and their exit code; Ctrl-C to 130 with what to do next."""
    try:
        yield
    except FlantuneError as e:
        err.print(f"[bold red]error:[/] {_escape(str(e))}")
        raise SystemExit(e.exit_code) from None
    except KeyboardInterrupt:
        err.print("interrupted; what is finished is kept. The same command goes on from there.")
        raise SystemExit(EXIT_INTERRUPTED) from None
    except OSError as e:
        err.print(f"[bold red]error:[/] {_escape(_of_system(e))}")
        raise SystemExit(EXIT_FAILED) from None


def _of_system(error: OSError) -> str:
    """What the operating system refused, in words."""
    if error.errno == errno.ENOSPC:
        where = f" while writing {error.filename}" if error.filename else ""
        return f"the disk is full{where}. Free some space; the same command goes on."
    told = _REFUSALS.get(error.errno or 0)
    return f"{error.filename}: {told}." if told and error.filename else str(error)


def _escape(text: str) -> str:
    return text.replace("[", "\\[")


class ProgressLine:
    """Stage, done of total, rate and time left, on standard error; a line every few seconds when not a terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._stage = ""
        self._began = self._shown = 0.0
        self._at_start = 0
        self._live = err.is_terminal

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        if self._quiet:
            return
        now = time.monotonic()
        if stage != self._stage:
            self._finish_line()
            self._stage, self._began, self._shown, self._at_start = stage, now, 0.0, done
        last = total > 0 and done >= total
        if not last and now - self._shown < (0.2 if self._live else 10.0):
            return
        if now - self._began < 2.0 and not last:  # nothing for what is over at once
            return
        self._shown = now
        text = self._text(stage, done, total, now, note)
        if self._live:
            sys.stderr.write("\r\x1b[K" + text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def _text(self, stage: str, done: int, total: int, now: float, note: str) -> str:
        seconds = now - self._began
        rate = (done - self._at_start) / seconds if seconds > 0 else 0.0
        left = f", {clock((total - done) / rate)} left" if rate > 0 and total > done else ""
        of = f"/{total:,}" if total else ""
        return f"{stage}: {done:,}{of} ({rate:,.1f}/s{left}) {note}".rstrip()

    def _finish_line(self) -> None:
        if self._live and self._shown:
            sys.stderr.write("\n")
            self._shown = 0.0

    def close(self) -> None:
        self._finish_line()


def clock(seconds: float) -> str:
    """90 -> 1:30"""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
