"""Fetching sources of single files from folders and a loopback server, the shipped facts, and the command."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flantune.cli.app import app
from flantune.errors import DataError, RecipeError, StateError
from flantune.tasks import fetch as fetching
from flantune.tasks.fetch import SourceFile, Wanted, fetch, find_source, public_sources, source_files
from flantune.tasks.flan import catalog

from .mirrors import BODY, SMALL, Server, made, sha256, tree

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def two_files(monkeypatch: pytest.MonkeyPatch) -> Wanted:
    """A source of two files: one whose hash is known, one whose hash is not."""
    files = (SourceFile("a/big.tsv", "big.tsv", len(BODY), sha256(BODY)), SourceFile("a/b c.tsv", "sub/small.tsv"))
    monkeypatch.setattr(fetching, "source_files", lambda name: files)
    return Wanted(made())


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    root = tmp_path / "mirror"
    (root / "a").mkdir(parents=True)
    (root / "a" / "big.tsv").write_bytes(BODY)
    (root / "a" / "b c.tsv").write_bytes(SMALL)
    return root


WHOLE = {"big.tsv": BODY, "sub/small.tsv": SMALL}


@pytest.mark.parametrize("way", ["path", "file", "http"])
def test_a_mirror_gives_the_files_and_a_manifest(
    way: str, two_files: Wanted, mirror: Path, server: Server, tmp_path: Path
) -> None:
    server.files = {"/m/a/big.tsv": BODY, "/m/a/b%20c.tsv": SMALL}
    place = {"path": str(mirror), "file": mirror.as_uri(), "http": f"{server.url}/m/"}[way]
    to, licences = tmp_path / "to", []
    done = fetch(two_files, to, mirror=place, on_licence=licences.append)
    assert tree(to / "cot") == WHOLE and licences == ["CC0"] and done.brought == 2
    manifest = json.loads((to / "fetched" / "made.json").read_text())
    assert manifest == {
        "complete": True, "asked": "r1", "revision": "r1", "licence": "CC0",
        "url": mirror.as_uri() if way == "path" else place,
        "files": {
            "big.tsv": {"bytes": len(BODY), "sha256": sha256(BODY)},
            "sub/small.tsv": {"bytes": len(SMALL), "sha256": sha256(SMALL)},
        },
    }  # fmt: skip
    assert sorted(tree(to)) == ["cot/big.tsv", "cot/sub/small.tsv", "fetched/made.json"]
    before = (tree(to), len(server.asked))
    again = fetch(two_files, to, mirror=place)
    assert again.brought == 0 and (tree(to), len(server.asked)) == before


def test_a_missing_file_is_fetched_again_and_no_other(two_files: Wanted, server: Server, tmp_path: Path) -> None:
    server.files = {"/a/big.tsv": BODY, "/a/b%20c.tsv": SMALL}
    fetch(two_files, tmp_path, mirror=server.url)
    (tmp_path / "cot" / "sub" / "small.tsv").unlink()
    server.asked.clear()
    assert fetch(two_files, tmp_path, mirror=server.url).brought == 1
    assert server.asked == [("/a/b%20c.tsv", None)] and tree(tmp_path / "cot") == WHOLE


def test_a_wrong_hash_sets_the_file_aside(two_files: Wanted, mirror: Path, tmp_path: Path) -> None:
    wrong = bytes([1]) + BODY[1:]
    (mirror / "a" / "big.tsv").write_bytes(wrong)
    to = tmp_path / "to"
    with pytest.raises(DataError, match=rf"made: field 'big.tsv': expected .*{sha256(BODY)}.*set aside as") as error:
        fetch(two_files, to, mirror=str(mirror))
    assert error.value.exit_code == 1
    assert not (to / "cot").exists() and (to / "fetched" / "made.refused" / "big.tsv").read_bytes() == wrong
    (mirror / "a" / "big.tsv").write_bytes(BODY)
    fetch(two_files, to, mirror=str(mirror))
    assert tree(to / "cot") == WHOLE


def test_a_bad_beginning_costs_one_whole_download(two_files: Wanted, server: Server, tmp_path: Path) -> None:
    server.files = {"/a/big.tsv": BODY, "/a/b%20c.tsv": SMALL}
    part = tmp_path / "fetched" / "made.partial" / "big.tsv"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    fetch(two_files, tmp_path, mirror=server.url)
    assert [r for p, r in server.asked if p == "/a/big.tsv"] == ["bytes=1000-", None]
    assert tree(tmp_path / "cot") == WHOLE


def test_a_users_file_is_never_overwritten(two_files: Wanted, mirror: Path, tmp_path: Path) -> None:
    for name in ("big.tsv", "sub/small.tsv"):  # known hash, and unknown
        own = tmp_path / name.replace("/", "_") / "cot" / name
        own.parent.mkdir(parents=True)
        own.write_bytes(b"mine")
        with pytest.raises(StateError, match="Move it away"):
            fetch(two_files, tmp_path / name.replace("/", "_"), mirror=str(mirror))
        assert own.read_bytes() == b"mine"
    done = tmp_path / "done"
    fetch(two_files, done, mirror=str(mirror))
    (done / "cot" / "sub" / "small.tsv").write_bytes(b"edited")
    with pytest.raises(StateError, match=rf"expected sha256 {sha256(SMALL)}"):
        fetch(two_files, done, mirror=str(mirror))
    same = tmp_path / "same" / "cot" / "big.tsv"  # the very file is welcome
    same.parent.mkdir(parents=True)
    same.write_bytes(BODY)
    assert fetch(two_files, tmp_path / "same", mirror=str(mirror)).brought == 1


def test_a_killed_fetch_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.files = {"/flan/v2/flan_collection_info.csv": BODY}
    server.moods = ["stall"]
    command = [sys.executable, "-m", "flantune", "tasks", "fetch", "flan-collection-info"]
    environment = {**os.environ, "no_proxy": "127.0.0.1"}
    child = subprocess.Popen([*command, "--to", str(tmp_path), "--mirror", server.url], env=environment)
    part = tmp_path / "fetched" / "flan-collection-info.partial" / "flan_collection_info.csv"
    try:
        assert server.sent_half.wait(60)
        for _ in range(600):
            if part.exists() and part.stat().st_size > len(BODY) // 4:
                break
            threading.Event().wait(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    there = part.stat().st_size
    assert 0 < there < len(BODY) and not (tmp_path / "taxonomy").exists()
    with pytest.raises(DataError, match="set aside"):  # the server's file is not the published one
        fetch("flan-collection-info", tmp_path, mirror=server.url)
    assert [r for _, r in server.asked] == [None, f"bytes={there}-", None]


def test_ctrl_c_between_arriving_and_placing(
    two_files: Wanted, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files = {"/a/big.tsv": BODY, "/a/b%20c.tsv": SMALL}

    def interrupted(self: fetching.Job, staged: Path, path: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching.Job, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(two_files, tmp_path, mirror=server.url)
    assert not (tmp_path / "cot").exists()
    server.asked.clear()
    fetch(two_files, tmp_path, mirror=server.url)
    assert server.asked == [("/a/big.tsv", f"bytes={len(BODY)}-"), ("/a/b%20c.tsv", None)]  # 416: nothing is missing
    assert tree(tmp_path / "cot") == WHOLE


def test_two_at_once_are_refused(two_files: Wanted, mirror: Path, tmp_path: Path) -> None:
    with (
        fetching.alone(tmp_path / "fetched" / "made.lock"),
        pytest.raises(StateError, match="being fetched here already"),
    ):
        fetch(two_files, tmp_path, mirror=str(mirror))
    fetch(two_files, tmp_path, mirror=str(mirror))


def test_what_cannot_be_asked(two_files: Wanted, mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="list of single files of revision r1"):
        fetch(two_files, tmp_path / "a", mirror=str(mirror), revision="r2")
    with pytest.raises(RecipeError, match="no such folder"):
        fetch(two_files, tmp_path / "b", mirror=str(tmp_path / "none"))
    with pytest.raises(RecipeError, match="expected a folder, or a URL"):
        fetch(two_files, tmp_path / "c", mirror="ftp://x/y")
    fetch(two_files, tmp_path, mirror=str(mirror))
    with pytest.raises(StateError, match="revision r1 was fetched here, not r2"):
        fetch(two_files, tmp_path, mirror=str(mirror), revision="r2")
    (tmp_path / "fetched" / "made.json").write_text("[]")
    with pytest.raises(StateError, match="no list of fetched files"):
        fetch(two_files, tmp_path, mirror=str(mirror))


def test_published_hashes_hold_for_real_files(data_dir: Path, tmp_path: Path) -> None:
    """A mirror laid out as the publisher's, of the copies here: every hash in the list that a copy can answer."""
    mirror = tmp_path / "mirror"
    source = public_sources()["t0-samples"]
    files = source_files(source.name)
    for file in files:
        place = mirror / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        plain = data_dir / "t0" / file.to
        place.write_bytes(plain.read_bytes() if plain.exists() else gzip.decompress(Path(f"{plain}.gz").read_bytes()))
    done = fetch(source.name, tmp_path / "to", mirror=str(mirror))
    assert (done.files, done.brought) == (249, 249) and all(f.sha256 for f in files)
    cot = mirror / "flan" / "v2" / "cot_data"
    cot.mkdir(parents=True)
    for copy in (data_dir / "cot").glob("*.tsv.gz"):
        (cot / copy.name.removesuffix(".gz")).write_bytes(gzip.decompress(copy.read_bytes()))
    with pytest.raises(DataError, match=r"esnli_train\.tsv"):  # not among the copies
        fetch("flan-cot", tmp_path / "to", mirror=str(mirror))
    for name in ("esnli", "qed"):
        (cot / f"{name}_train.tsv").write_bytes(SMALL)
    assert fetch("cot/esnli", tmp_path / "to", mirror=str(mirror)).files == 9
    listed = CliRunner().invoke(
        app, ["tasks", "list", "--collection", "flan", "--data", str(tmp_path / "to"), "--json"]
    )
    counts = json.loads(listed.stdout.splitlines()[-1])["mixtures"]
    assert (counts["cot"]["usable"], counts["t0_sf"]["usable"]) == (9, 122)  # what was fetched is what the readers read


# The facts, and the command


def test_every_task_has_a_source_and_every_source_its_facts() -> None:
    sources = public_sources()
    for task in catalog():
        assert fetching.source_of(task.name) is not None, task.name
    for source in sources.values():
        files = source_files(source.name)
        assert bool(files) == (source.kind == "files")
        assert len({f.to for f in files}) == len(files)
        assert not any(f.to.startswith("/") or ".." in Path(f.to).parts for f in files)
        assert source.kind == "manual" or source.revision
        assert source.url.startswith("https://") != (source.kind == "hub")
        assert source.kind == "hub" or source.licence != "as the hub states it" or source.kind == "manual"
        for pattern in source.tasks:
            assert any(fetching.fnmatchcase(t.name, pattern) for t in catalog()), pattern


def test_the_list_of_files_is_what_its_script_makes(data_dir: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
    try:
        from make_public_files import table
    finally:
        sys.path.pop(0)
    made = table(json.loads((data_dir / "manifest.json").read_text(encoding="utf-8")))
    shipped = Path(fetching.__file__).with_name(fetching.FILES_TABLE)
    assert made.encode() == shipped.read_bytes()


def test_a_task_names_its_source() -> None:
    assert find_source("niv2/task1146_country_capital") == Wanted(
        public_sources()["natural-instructions"], "task1146_country_capital"
    )
    assert find_source("muffin/rte/inverted") == Wanted(public_sources()["superglue"])
    assert find_source("t0/quarel_logic_test").paths == ("quarel[-._]logic[-._]test/train-*.parquet",)
    with pytest.raises(RecipeError, match="Near names: natural-instructions"):
        find_source("natural-instuctions")
    with pytest.raises(RecipeError, match=r"by hand.*nlp\.cornell\.edu"):
        fetch("newsroom", Path("nowhere"))


def test_the_command(mirror: Path, two_files: Wanted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner()
    monkeypatch.setattr(fetching, "public_sources", lambda: {"made": two_files.source})
    to = str(tmp_path / "to")
    done = run.invoke(app, ["tasks", "fetch", "made", "--to", to, "--mirror", str(mirror), "--json"])
    assert done.exit_code == 0, done.output
    assert "licence: CC0" in done.stderr and str(mirror) in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["files"], result["brought"], result["licence"]) == (2, 2, "CC0")
    shown = run.invoke(app, ["tasks", "fetch", "--list"])
    assert "made: made for a test" in shown.stdout and "at r1" in shown.stdout
    listed = json.loads(run.invoke(app, ["tasks", "fetch", "--list", "--json"]).stdout.splitlines()[-1])
    assert [(s["name"], s["files"], s["files_without_hash"]) for s in listed["sources"]] == [("made", 2, 1)]
    for arguments, words in ([["made"], "--to DIR"], [[], "--list"], [["mad", "--to", to], "Near names: made"]):
        wrong = run.invoke(app, ["tasks", "fetch", *arguments])
        assert wrong.exit_code == 2 and words in wrong.stderr.replace("\n", " ")
