"""One revision of a git repository, some of its paths: shallow, sparse, every file compared with its blob's id."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from flantune.errors import DataError, RecipeError
from flantune.tasks.fetch import Job, git_blob_id, mirror_url

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
SETTINGS = (
    "core.hooksPath=/dev/null",  # nothing of the repository's, or of the user's templates, is run
    "core.symlinks=false",
    "core.autocrlf=false",
    "protocol.allow=never",
    "protocol.https.allow=always",
    "protocol.http.allow=always",
    "protocol.file.allow=always",
    "protocol.ssh.allow=always",
    "http.lowSpeedLimit=1000",  # a connection that stalls for a minute ends
    "http.lowSpeedTime=60",
)


def fetch_git(job: Job) -> None:
    """Fetch the commit, check its paths out beside, verify, place. Steps that were done are cheap to do again."""
    source, ledger = job.wanted.source, job.ledger
    url = source.url if job.mirror is None else job.mirror if "://" in job.mirror else mirror_url(job.mirror)
    if source.licence:
        job.on_licence(source.licence)
    git = Git(job.staging / "git", job.staging / "tree", url)
    wanted = ledger.revision or ledger.asked
    commit = git.fetch(wanted)
    if COMMIT.fullmatch(wanted) and commit != wanted:
        raise DataError(url, field="revision", expected=wanted, got=commit)
    ledger.state(url=url, revision=commit, licence=source.licence)
    git.check_out(commit, job.wanted.paths)
    blobs = git.blobs()
    if not blobs:
        raise DataError(
            url, field="paths", expected=f"files under {', '.join(job.wanted.paths)}", got=f"none at {commit[:12]}"
        )
    for path, blob in blobs.items():
        found = git_blob_id(git.tree / path, len(blob))
        if found != blob:
            raise job.refuse(git.tree / path, path, f"git blob {blob}", found)
    job.put_all(git.tree, blobs)


class Git:
    """The `git` program on a repository of our own, apart from the tree it checks out."""

    def __init__(self, folder: Path, tree: Path, url: str) -> None:
        self.folder, self.tree, self.url = folder, tree, url

    def fetch(self, revision: str) -> str:
        """The commit behind a revision, present in our repository. One that is there already is not asked for."""
        self.tree.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "HEAD").is_file():
            self.run("init", "--quiet")
        self.run("config", "remote.origin.url", self.url)
        if not (COMMIT.fullmatch(revision) and self._has(revision)):
            self.run("fetch", "--quiet", "--no-tags", "--depth=1", "--filter=blob:none", "origin", revision)
            revision = "FETCH_HEAD"
        return self.run("rev-parse", "--verify", f"{revision}^{{commit}}").strip()

    def check_out(self, commit: str, paths: tuple[str, ...]) -> None:
        self.run("config", "core.sparseCheckout", "true")
        patterns = self.folder / "info" / "sparse-checkout"
        patterns.parent.mkdir(exist_ok=True)
        patterns.write_text("".join(f"{p}\n" for p in paths), encoding="utf-8")
        for lock in ("index.lock", "HEAD.lock"):  # left by a killed run; nobody else works in this folder
            (self.folder / lock).unlink(missing_ok=True)
        (self.folder / "index").unlink(missing_ok=True)  # so that every file is written, whatever lies there
        self.run("checkout", "--quiet", "--force", "--detach", commit)

    def blobs(self) -> dict[str, str]:
        """path -> blob id of the plain files that were checked out; links and submodules are none."""
        found = {}
        for entry in filter(None, self.run("ls-files", "-z", "--stage").split("\0")):
            facts, _, path = entry.partition("\t")
            mode, blob, _ = facts.split(" ")
            if mode in ("100644", "100755") and (self.tree / path).is_file():
                found[path] = blob
        return found

    def _has(self, commit: str) -> bool:
        try:
            self.run("cat-file", "-e", f"{commit}^{{tree}}")
        except DataError:
            return False
        return True

    def run(self, *arguments: str) -> str:
        """Raises DataError with git's own last words."""
        settings = [part for s in SETTINGS for part in ("-c", s)]
        command = ["git", *settings, f"--git-dir={self.folder}", f"--work-tree={self.tree}", *arguments]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith("GIT_SSL_")}
        environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        try:
            done = subprocess.run(command, capture_output=True, env=environment, check=False)
        except FileNotFoundError:
            raise RecipeError("this source is a git repository, and there is no program 'git'. Install it.") from None
        if done.returncode != 0:
            words = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit {done.returncode}"]
            raise DataError(
                self.url,
                field=f"git {arguments[0]}",
                expected="success",
                got=words[-1],
                mend="What came is kept: the same command goes on from there. --mirror takes another repository.",
            )
        return done.stdout.decode("utf-8", "surrogateescape")
