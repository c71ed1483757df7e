"""One file from a URL (http, https, file), resumed where it was cut off. What it should be is the caller's to check."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import flantune
from flantune.errors import DataError, RecipeError

CHUNK = 1 << 20
TIMEOUT = 60.0  # seconds without a byte
ATTEMPTS = 5  # in a row that bring nothing
PAUSE = 1.0  # seconds before the second attempt, doubled each time

OnBytes = Callable[[int, int], object]  # (bytes there, bytes in all or 0 where unknown)

_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_CUT = (ConnectionError, TimeoutError, http.client.HTTPException, urllib.error.URLError)


class _Short(ConnectionError):
    """The connection ended before the file did."""


def _quiet(there: int, total: int) -> None:
    pass


def download(
    url: str, partial: Path, *, on_bytes: OnBytes = _quiet, attempts: int = ATTEMPTS, pause: float = PAUSE
) -> None:
    """Bring `partial` to the whole content of `url`, going on from the bytes it holds.

    A server that knows no ranges, or whose file changed since, sends all of it anew. Attempts that bring bytes are
    not counted. Raises DataError where the file is not there or cannot be had; what came stays in `partial`.
    """
    scheme = urlsplit(url).scheme
    if scheme not in ("http", "https", "file"):
        raise RecipeError(f"{url}: expected a URL of http, https or file, got '{scheme}'.")
    partial.parent.mkdir(parents=True, exist_ok=True)
    if scheme == "file":
        _copy(url, partial, on_bytes)
        return
    failed = 0
    while True:
        before = _size(partial)
        try:
            _go_on(url, partial, on_bytes)
            _etag_file(partial).unlink(missing_ok=True)
            return
        except urllib.error.HTTPError as e:
            with e:
                if e.code not in _PASSING:
                    raise _not_had(url, f"HTTP {e.code} {e.reason}") from None
                reason = f"HTTP {e.code} {e.reason}"
        except _CUT as e:
            reason = str(getattr(e, "reason", "") or e or type(e).__name__)
        failed = 1 if _size(partial) > before else failed + 1
        if failed >= attempts:
            raise _not_had(url, f"{reason}, {attempts} times in a row") from None
        time.sleep(pause * 2 ** (failed - 1))


def _not_had(url: str, got: str) -> DataError:
    return DataError(
        url,
        field="download",
        expected="the file",
        got=got,
        mend="What came is kept: the same command goes on from there. --mirror takes another place.",
    )


def _go_on(url: str, partial: Path, on_bytes: OnBytes) -> None:
    """One request: the rest of the file, or all of it where there is nothing to go on from."""
    have = _size(partial)
    headers = {"User-Agent": f"flantune/{flantune.__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        with suppress(FileNotFoundError):
            headers["If-Range"] = _etag_file(partial).read_text(encoding="ascii")
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as e:
        if e.code != 416 or not have:
            raise
        with e:
            total = _range(e.headers.get("Content-Range", ""))[1]
        if total == have:  # the cut came after the last byte
            return
        partial.unlink()
        raise _Short("what was there is no beginning of the file") from None
    with response:
        start, total = 0, int(response.headers.get("Content-Length") or 0)
        if response.status == 206:
            start, total = _range(response.headers.get("Content-Range", ""))
            if start != have:
                partial.unlink()
                raise _Short(f"asked for bytes from {have}, got them from {start}")
        etag = response.headers.get("ETag", "")
        if etag.startswith('"') and etag.isascii():  # weak ones do not vouch for bytes
            _etag_file(partial).write_text(etag, encoding="ascii")
        else:
            _etag_file(partial).unlink(missing_ok=True)
        there = _pour(response, partial, start, total, on_bytes)
    if total and there < total:
        raise _Short(f"cut off after {there:,} of {total:,} bytes")


def _pour(stream: Any, partial: Path, start: int, total: int, on_bytes: OnBytes) -> int:
    """Append to the first `start` bytes of `partial` until the stream ends. Returns the bytes there."""
    with partial.open("ab") as file:
        file.truncate(start)
        there = start
        while chunk := stream.read1(CHUNK) if hasattr(stream, "read1") else stream.read(CHUNK):
            file.write(chunk)
            there += len(chunk)
            on_bytes(there, total)
        _flush(file)
    return there


def _flush(file: BinaryIO | Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _copy(url: str, partial: Path, on_bytes: OnBytes) -> None:
    source = Path(url2pathname(urlsplit(url).path))
    if not source.is_file():
        raise DataError(
            url, field="download", expected="a file", got="none there", mend="Is --mirror the right folder?"
        )
    total, have = source.stat().st_size, _size(partial)
    with source.open("rb") as stream:
        start = have if have <= total else 0
        stream.seek(start)
        _pour(stream, partial, start, total, on_bytes)


def _range(value: str) -> tuple[int, int]:
    """(first byte, bytes in all) of a Content-Range such as `bytes 5-9/10` or `bytes */10`; -1 and 0 where unknown."""
    span, _, total = value.removeprefix("bytes").strip().partition("/")
    start = span.partition("-")[0]
    return int(start) if start.isdigit() else -1, int(total) if total.isdigit() else 0


def _etag_file(partial: Path) -> Path:
    return partial.with_name(partial.name + ".etag")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
