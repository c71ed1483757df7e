"""Fetching from git: repositories made here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flantune.cli.app import app
from flantune.errors import DataError, RecipeError
from flantune.tasks import fetch as fetching
from flantune.tasks.fetch import PublicSource, Wanted, fetch

from .mirrors import made, sha256, tree


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run(["git", *settings, *arguments], cwd=folder, env=environment, capture_output=True, check=True)
    return done.stdout.decode().strip()


TASKS = {"tasks/task001_a-b.json": b'{"a": 1}', "tasks/task002_b.json": b"{}\r\n", "tasks/README.md": b"r"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Tag v1, then a commit on main that changes one file and adds another."""
    root = tmp_path / "repository"
    for path, data in {**TASKS, "splits/train.txt": b"task001\n", "code/run.py": b"x"}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    os.symlink("/etc/hostname", root / "tasks" / "link.json")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    git(root, "tag", "v1")
    (root / "tasks" / "task002_b.json").write_bytes(b"[]")
    (root / "tasks" / "task003.json").write_bytes(b"3")
    git(root, "add", ".")
    git(root, "commit", "-qm", "two")
    git(root, "config", "uploadpack.allowFilter", "true")
    git(root, "config", "uploadpack.allowAnySHA1InWant", "true")
    return root


def git_source(revision: str = "v1", **changes: object) -> PublicSource:
    facts = {"url": "https://nowhere.invalid/x.git", "revision": revision, "paths": ("/tasks/*.json", "/splits/"),
             "part": "/tasks/{task}.*json", "folder": "niv2", "reader": "niv2"}  # fmt: skip
    return made("git", **{**facts, **changes})


V1 = {
    "tasks/task001_a-b.json": b'{"a": 1}',
    "tasks/task002_b.json": b"{}\r\n",
    "splits/train.txt": b"task001\n",
}


@pytest.mark.parametrize("way", ["path", "file"])
@pytest.mark.parametrize("revision", ["v1", "commit"])
def test_git_gives_the_paths_of_one_revision(way: str, revision: str, repository: Path, tmp_path: Path) -> None:
    commit = git(repository, "rev-parse", "v1")
    source = git_source("v1" if revision == "v1" else commit)
    place = str(repository) if way == "path" else repository.as_uri()
    done = fetch(Wanted(source), tmp_path / "to", mirror=place)
    found = tree(tmp_path / "to" / "niv2")
    # A link is no data and stays behind, as do the paths that were not asked for.
    assert found == V1 and done.revision == commit and done.brought == 3
    manifest = json.loads(done.ledger.read_text())
    assert manifest["files"] == {p: {"bytes": len(d), "sha256": sha256(d)} for p, d in sorted(V1.items())} and manifest[
        "asked"
    ] == (source.revision)
    assert sorted(p.name for p in (tmp_path / "to" / "fetched").iterdir()) == ["made.json"]
    shutil.rmtree(repository)  # a second run asks nobody
    assert fetch(Wanted(source), tmp_path / "to", mirror=None).brought == 0


def test_the_command_says_which_revision_it_asks_for(repository: Path, tmp_path: Path) -> None:
    to = ["--to", str(tmp_path / "to"), "--mirror", str(repository)]
    done = CliRunner().invoke(app, ["tasks", "fetch", "natural-instructions", *to, "--revision", "main"])
    assert done.exit_code == 0 and f"from {repository} at main\n" in done.stderr
    assert (tmp_path / "to/niv2/tasks/task003.json").read_bytes() == b"3"


def test_git_goes_on_with_the_commit_it_began_with(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, to = git_source("main"), tmp_path / "to"
    put, placed = fetching.Job.put, []

    def once(self: fetching.Job, staged: Path, path: str) -> None:
        if placed:
            raise KeyboardInterrupt
        put(self, staged, path)
        placed.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(fetching.Job, "put", once)
        with pytest.raises(KeyboardInterrupt):
            fetch(Wanted(source), to, mirror=str(repository))
    assert len(tree(to / "niv2")) == 1
    began = git(repository, "rev-parse", "main")
    (repository / "tasks" / "task004.json").write_bytes(b"4")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "three")
    done = fetch(Wanted(source), to, mirror=str(repository))
    assert done.revision == began and done.brought == 3
    assert tree(to / "niv2") == {
        "tasks/task001_a-b.json": b'{"a": 1}', "tasks/task002_b.json": b"[]", "tasks/task003.json": b"3",
        "splits/train.txt": b"task001\n",
    }  # fmt: skip


def test_git_part_of_one_task_beside_the_whole(repository: Path, tmp_path: Path) -> None:
    """The taxonomy writes task001_a_b where the file is task001_a-b."""
    source, to = git_source(), tmp_path / "to"
    done = fetch(Wanted(source, "task001_a_b"), to, mirror=str(repository))
    assert sorted(tree(to / "niv2")) == ["tasks/task001_a-b.json"] and done.name == "made/task001_a_b"
    assert fetch(Wanted(source), to, mirror=str(repository)).brought == 2
    assert tree(to / "niv2") == V1


def test_git_says_what_is_wrong(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"git fetch.*no-such-tag"):
        fetch(Wanted(git_source("no-such-tag")), tmp_path / "a", mirror=str(repository))
    with pytest.raises(DataError, match="field 'paths'"):
        fetch(Wanted(git_source(paths=("/none/",))), tmp_path / "b", mirror=str(repository))
    with pytest.raises(DataError, match="git fetch"):
        fetch(Wanted(git_source()), tmp_path / "c", mirror="ext::sh -c touch% /dev/null://x")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RecipeError, match="no program 'git'"):
        fetch(Wanted(git_source()), tmp_path / "d", mirror=str(repository))


def test_git_file_that_is_not_its_blob_is_refused(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flantune.tasks.fetch_git import Git

    check_out = Git.check_out

    def spoiled(self: Git, commit: str, paths: tuple[str, ...]) -> None:
        check_out(self, commit, paths)
        (self.tree / "tasks" / "task001_a-b.json").write_bytes(b"spoiled")

    monkeypatch.setattr(Git, "check_out", spoiled)
    with pytest.raises(DataError, match=r"expected git blob .*set aside"):
        fetch(Wanted(git_source()), tmp_path / "to", mirror=str(repository))
    assert not (tmp_path / "to" / "niv2").exists()


def test_our_blob_ids_are_gits(repository: Path) -> None:
    for path in TASKS:
        assert fetching.git_blob_id(repository / path) == git(repository, "hash-object", "--no-filters", path)
