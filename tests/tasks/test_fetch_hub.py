"""Fetching from a hub: as much of one as a download needs, on loopback."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flantune.errors import DataError
from flantune.tasks.fetch import PublicSource, Wanted, fetch

from .mirrors import BODY, made, sha256, tree


class Hub(http.server.ThreadingHTTPServer):
    """As much of a hub's interface as a download of one dataset needs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.commit = "c" * 40
        self.files = {"one/train-0.parquet": BODY, "one/test-0.parquet": b"t", "README.md": b"r", "load.py": b"evil"}
        self.claimed: dict[str, bytes] = {}  # what a file is said to be, where that is not what is sent
        self.asked: list[str] = []
        self.tokens: set[str] = set()


class HubHandler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, head: bool) -> None:
        hub = self.server
        hub.asked.append(f"{self.command} {self.path}")
        hub.tokens.add(self.headers.get("Authorization", ""))
        known = re.match(rf"/api/datasets/o/d/(revision|tree)/(main|{hub.commit})", self.path)
        found = re.match(rf"/datasets/o/d/resolve/{hub.commit}/(.*)", self.path)
        headers = {"X-Repo-Commit": hub.commit}
        if known:
            body = json.dumps(self.info() if known[1] == "revision" else self.tree()).encode()
        elif found and found[1] in hub.files:
            body = hub.files[found[1]]
            headers["ETag"] = f'"{hashlib.sha1(body).hexdigest()}"'
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def info(self) -> dict[str, object]:
        siblings: list[dict[str, object]] = []
        for path, sent in self.server.files.items():
            data = self.server.claimed.get(path, sent)
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            siblings.append({"rfilename": path, "size": len(data), "blobId": blob})
            if path.endswith(".parquet"):
                siblings[-1]["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
        return {"id": "o/d", "sha": self.server.commit, "siblings": siblings, "tags": ["license:cc-by-4.0"]}

    def tree(self) -> list[dict[str, object]]:
        return [{"type": "file", "path": p, "size": len(d), "oid": "0" * 40} for p, d in self.server.files.items()]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def hub_source(**changes: object) -> PublicSource:
    facts = {"url": "o/d", "revision": "main", "folder": "hub/d", "reader": "table", "part": "{task}/train-*.parquet"}
    return made("hub", **{**facts, **changes})


def test_the_hub_states_commit_licence_and_hashes(hub: Hub, tmp_path: Path) -> None:
    mirror, licences = f"http://127.0.0.1:{hub.server_port}", []
    done = fetch(Wanted(hub_source()), tmp_path, mirror=mirror, on_licence=licences.append)
    assert (done.revision, done.licence, licences) == ("c" * 40, "cc-by-4.0", ["cc-by-4.0"])
    assert tree(tmp_path / "hub" / "d") == {p: d for p, d in hub.files.items() if p != "load.py"}
    assert hub.tokens == {""}  # a mirror is not told the user's token
    asked = len(hub.asked)
    assert fetch(Wanted(hub_source()), tmp_path, mirror=mirror).brought == 0 and len(hub.asked) == asked
    (tmp_path / "hub" / "d" / "README.md").unlink()
    assert fetch(Wanted(hub_source()), tmp_path, mirror=mirror).brought == 1
    assert not any("resolve" in a and "parquet" in a for a in hub.asked[asked:])


def test_the_hub_gives_one_tasks_part(hub: Hub, tmp_path: Path) -> None:
    done = fetch(Wanted(hub_source(), "one"), tmp_path, mirror=f"http://127.0.0.1:{hub.server_port}")
    assert sorted(tree(tmp_path / "hub")) == ["d/one/train-0.parquet"] and done.ledger.name == "one.json"


def test_a_hub_file_that_is_not_what_was_said_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.claimed = {"one/train-0.parquet": BODY[::-1]}
    with pytest.raises(DataError, match=rf"expected sha256 {sha256(BODY[::-1])}.*set aside"):
        fetch(Wanted(hub_source()), tmp_path, mirror=f"http://127.0.0.1:{hub.server_port}")
    assert not (tmp_path / "hub").exists()


def test_the_hub_out_of_reach_or_without_it(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"o/other.*gated, moved or out of reach"):
        fetch(Wanted(hub_source(url="o/other")), tmp_path, mirror=f"http://127.0.0.1:{hub.server_port}")
    with pytest.raises(DataError, match=r"files that match none/\*"):
        fetch(Wanted(hub_source(paths=("none/*",))), tmp_path, mirror=f"http://127.0.0.1:{hub.server_port}")


def test_a_folder_stands_in_for_the_hub(tmp_path: Path) -> None:
    (tmp_path / "m" / "one").mkdir(parents=True)
    (tmp_path / "m" / "one" / "train-0.parquet").write_bytes(BODY)
    (tmp_path / "m" / "load.py").write_bytes(b"evil")
    done = fetch(Wanted(hub_source()), tmp_path / "to", mirror=str(tmp_path / "m"))
    assert tree(tmp_path / "to" / "hub") == {"d/one/train-0.parquet": BODY} and done.revision == "main"
    assert fetch(Wanted(hub_source()), tmp_path / "to", mirror=str(tmp_path / "m")).brought == 0
