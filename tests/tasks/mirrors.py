"""What the tests of fetching share: a loopback HTTP server with moods, and small things."""

from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path

from flantune.tasks.fetch import PublicSource

BODY = b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(1 << 15))  # 1 MiB in which every place differs
SMALL = b"question\tanswer\twhy\n"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def made(kind: str = "files", **changes: object) -> PublicSource:
    facts = {"name": "made", "kind": kind, "url": "https://nowhere.invalid/x", "revision": "r1", "folder": "cot",
             "reader": "flan_cot", "licence": "CC0", "about": "made for a test"}  # fmt: skip
    return PublicSource(**{**facts, **changes})  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; `moods` are taken one per GET: cut, stall, busy, whole (ignores ranges), wrong_range, lie."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.moods: list[str] = []
        self.asked: list[tuple[str, str | None]] = []
        self.etag = '"one"'
        self.sent_half = threading.Event()
        self.let_go = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append((self.path, wanted))
        mood = server.moods.pop(0) if server.moods else ""
        data = server.files.get(self.path)
        if data is None or mood == "busy":
            self.send_error(404 if data is None else 503)
            return
        start = 0
        if wanted and mood != "whole" and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
            self.send_response(206)
            first = start + 1 if mood == "wrong_range" else start
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[start:]
        if mood == "lie":
            body = bytes(reversed(body))
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if mood in ("cut", "stall"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if mood == "stall":
                server.sent_half.set()
                server.let_go.wait(60)
            self.close_connection = True
            return
        self.wfile.write(body)
