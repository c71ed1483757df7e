"""Fetching a public source: known place, revision and licence; whole files, verified; goes on where it stopped.

    DIR/FOLDER/...              the files, each whole and verified before it stands there
    DIR/fetched/NAME.json       what they are: url, revision, licence, and each file's size and sha256
    DIR/fetched/NAME.partial/   what is under way; NAME.refused/ what arrived and was not what it should be

The facts are in public_sources.yaml and public_files.csv beside this file.
"""

from __future__ import annotations

import csv
import difflib
import fcntl
import functools
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field

from flantune.errors import DataError, RecipeError, StateError
from flantune.tasks.download import download
from flantune.whole import write_json

SOURCES_FILE, FILES_TABLE = "public_sources.yaml", "public_files.csv"
FILES_COLUMNS = ("source", "path", "to", "bytes", "sha256")
LEDGERS = "fetched"

OnProgress = Callable[[str, int, int], object]  # (what, done, of how many; 0 where unknown)
OnLicence = Callable[[str], object]


class PublicSource(BaseModel):
    """A place on the net, and what flantune makes of what lies there. public_sources.yaml explains the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["files", "git", "hub", "manual"]
    url: str = Field(description="folder of files, git repository, hub id, or a page to read")
    revision: str = ""
    paths: tuple[str, ...] = ("*",)
    part: str | None = None
    folder: str
    reader: str = Field(description="a reader's name, 'benchmark NAME', or none")
    licence: str = Field("as the hub states it", description="shown before anything is fetched")
    tasks: tuple[str, ...] = Field((), description="globs on names of the catalog")
    about: str


class SourceFile(NamedTuple):
    path: str  # below the source's URL
    to: str  # below its folder
    size: int | None = None
    sha256: str | None = None


class Wanted(NamedTuple):
    source: PublicSource
    part: str | None = None  # the one task asked for, where the source can be had in parts

    @property
    def name(self) -> str:
        return f"{self.source.name}/{self.part}" if self.part else self.source.name

    @property
    def paths(self) -> tuple[str, ...]:
        if self.part and self.source.part:
            # Natural Instructions' file names have a few dashes and dots where the taxonomy has underscores.
            return (self.source.part.format(task=self.part.replace("_", "[-._]")),)
        return self.source.paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    name: str
    folder: Path
    ledger: Path
    url: str
    revision: str
    licence: str
    reader: str
    files: int
    brought: int  # files that were not there before
    bytes: int


@functools.cache
def public_sources() -> dict[str, PublicSource]:
    """Every source by name, in the order in which they are asked for a task."""
    text = resources.files("flantune.tasks").joinpath(SOURCES_FILE).read_text(encoding="utf-8")
    return {name: PublicSource(name=name, **facts) for name, facts in yaml.safe_load(text).items()}


@functools.cache
def source_files(name: str) -> tuple[SourceFile, ...]:
    """The single files of a source of kind `files`."""
    text = resources.files("flantune.tasks").joinpath(FILES_TABLE).read_text(encoding="utf-8")
    return tuple(
        SourceFile(r["path"], r["to"] or r["path"], int(r["bytes"]) if r["bytes"] else None, r["sha256"] or None)
        for r in csv.DictReader(io.StringIO(text, newline=""))
        if r["source"] == name
    )


def source_of(task: str) -> PublicSource | None:
    """The first source that serves a task of the catalog (an inverted task: its forward one's)."""
    forward = task.partition("/inverted")[0]
    return next((s for s in public_sources().values() if any(fnmatchcase(forward, g) for g in s.tasks)), None)


def find_source(name: str) -> Wanted:
    """A source by its name, or the source of a task of the catalog. Raises RecipeError naming the nearest names."""
    from flantune.tasks.flan import catalog

    sources = public_sources()
    if name in sources:
        return Wanted(sources[name])
    tasks = {task.name: task for task in catalog()}
    if name in tasks:
        source = source_of(name)
        if source is None:
            raise RecipeError(f"task '{name}': no public source is known for it.")
        return Wanted(source, tasks[name].forward.partition("/")[2] if source.part else None)
    close = difflib.get_close_matches(name, [*sources, *tasks], n=3, cutoff=0.5)
    hint = f"Near names: {', '.join(close)}." if close else "flantune tasks fetch --list shows the sources."
    raise RecipeError(f"no public source and no task of the catalog is named '{name}'. {hint}")


def fetch(
    wanted: Wanted | str,
    to: Path,
    *,
    mirror: str | None = None,
    revision: str | None = None,
    on_licence: OnLicence = lambda licence: None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> Fetched:
    """Bring a source (or a task's part of one) below `to`; what is there and whole is not fetched again.

    `mirror` stands in for the source's place: a folder or a file:// or http(s):// URL laid out as the source is, a
    git repository, or for the hub another endpoint. Raises DataError where something cannot be had or is not what it
    should be, StateError where other files stand in the way. After any interruption the same call goes on.
    """
    if isinstance(wanted, str):
        wanted = find_source(wanted)
    source = wanted.source
    if source.kind == "manual":
        raise RecipeError(f"'{source.name}' is to be had by hand: {source.about}. See {source.url}.")
    ledger = Ledger.open(to / LEDGERS / f"{wanted.name}.json", revision or source.revision)
    job = Job(wanted, to / source.folder, ledger, mirror, on_licence, on_progress)
    if not (ledger.complete and job.all_there()):
        with alone(ledger.path.with_suffix(".lock")):
            _bring(job)
            ledger.finish()
            shutil.rmtree(job.staging, ignore_errors=True)
    return job.fetched()


def _bring(job: Job) -> None:
    kind = job.wanted.source.kind
    if kind == "files":
        _fetch_files(job)
    elif kind == "git":
        from flantune.tasks.fetch_git import fetch_git

        fetch_git(job)
    else:
        from flantune.tasks.fetch_hub import fetch_hub

        fetch_hub(job)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """One process at a time; the lock falls with the process that holds it. Raises StateError where it is held."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(file.fileno()), lock.stat())
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:  # held, or removed by its holder just now
            raise StateError(f"{lock}: the same source is being fetched here already; wait for that to end.")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


class Ledger:
    """NAME.json: what was asked for, the commit it stands for, and the files that have arrived."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self.path, self._data = path, data

    @classmethod
    def open(cls, path: Path, revision: str) -> Ledger:
        """The one there, if it is of this revision; else a new one. Raises StateError for another revision."""
        new = {"complete": False, "asked": revision, "revision": "", "url": "", "licence": "", "files": {}}
        if not path.is_file():
            return cls(path, new)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if not all(type(data[key]) is type(value) for key, value in new.items()):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            raise StateError(f"{path}: is no list of fetched files; remove it to have the files looked over.") from None
        if revision not in (data["asked"], data["revision"]):
            raise StateError(
                f"{path}: revision {data['asked']} was fetched here, not {revision}. Take another --to for that one."
            )
        return cls(path, data)

    @property
    def complete(self) -> bool:
        return bool(self._data["complete"])

    @property
    def asked(self) -> str:
        return str(self._data["asked"])

    @property
    def revision(self) -> str:
        """The commit that was found behind what was asked, "" before it is known."""
        return str(self._data["revision"])

    @property
    def licence(self) -> str:
        return str(self._data["licence"])

    @property
    def url(self) -> str:
        return str(self._data["url"])

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        return dict(self._data["files"])

    def state(self, *, url: str, revision: str, licence: str) -> None:
        if (self.url, self.revision, self.licence) != (url, revision, licence):
            self._data |= {"url": url, "revision": revision, "licence": licence}
            self._write()

    def record(self, files: Iterable[tuple[str, int, str]], *, known: bool = False) -> None:
        """(path below the folder, bytes, sha256) of files that are whole; written before they are put in place.

        Files whose hash was `known` beforehand are written down with the next that are not, or at the end: a run that
        is stopped before knows them again by that hash.
        """
        self._data["files"] |= {path: {"bytes": size, "sha256": digest} for path, size, digest in files}
        if not known:
            self._write()

    def finish(self) -> None:
        self._data["complete"] = True
        self._data["files"] = dict(sorted(self._data["files"].items()))
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self._data)


class Job:
    """One fetch under way: where its files go, and how an arrived file is checked and put in place."""

    def __init__(
        self,
        wanted: Wanted,
        folder: Path,
        ledger: Ledger,
        mirror: str | None,
        on_licence: OnLicence,
        on_progress: OnProgress,
    ) -> None:
        self.wanted, self.folder, self.ledger, self.mirror = wanted, folder, ledger, mirror
        self.on_licence, self.on_progress = on_licence, on_progress
        self.staging = ledger.path.with_suffix(".partial")
        self.refused = ledger.path.with_suffix(".refused")
        self.brought = 0

    def place_of(self, path: str) -> Path:
        final = self.folder / path
        if not final.resolve().is_relative_to(self.folder.resolve()):
            raise DataError(self.wanted.name, field="path", expected="one below its folder", got=path)
        return final

    def stands(self, path: str, sha256: str | None) -> bool:
        """Whether the file is there, as it should be. Another one there is never overwritten: StateError."""
        final = self.place_of(path)
        if not final.exists():
            return False
        sha256 = sha256 or self.ledger.files.get(path, {}).get("sha256")
        if sha256 is None or digest_of(final) != sha256:
            known = f"sha256 {sha256}" if sha256 else "a file fetched here before"
            raise StateError(
                f"{final}: expected {known}, found another file. Move it away, and the same command fetches it."
            )
        return True

    def all_there(self) -> bool:
        files = self.ledger.files
        return bool(files) and all(self.stands(path, None) for path in files)

    def put(self, staged: Path, path: str) -> None:
        """Put a whole, recorded file in its place."""
        final = self.place_of(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, final)
        self.brought += 1

    def put_all(self, tree: Path, paths: Iterable[str]) -> None:
        """Record and place the verified files of a folder."""
        found = [(path, (tree / path).stat().st_size, digest_of(tree / path)) for path in sorted(paths)]
        self.ledger.record(found)
        for number, (path, _, sha256) in enumerate(found, 1):
            if not self.stands(path, sha256):
                self.put(tree / path, path)
            self.on_progress("files", number, len(found))

    def refuse(self, staged: Path, path: str, expected: str, got: str) -> DataError:
        """Set an arrived file aside and say what is wrong with it."""
        aside = self.refused / path
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, aside)
        return DataError(
            self.wanted.name,
            field=path,
            expected=expected,
            got=got,
            mend=f"It was set aside as {aside}. The source or its mirror changed, or it was altered on the way.",
        )

    def fetched(self) -> Fetched:
        files = self.ledger.files
        return Fetched(
            name=self.wanted.name,
            folder=self.folder,
            ledger=self.ledger.path,
            url=self.ledger.url,
            revision=self.ledger.revision,
            licence=self.ledger.licence,
            reader=self.wanted.source.reader,
            files=len(files),
            brought=self.brought,
            bytes=sum(f["bytes"] for f in files.values()),
        )


def _fetch_files(job: Job) -> None:
    source = job.wanted.source
    if job.ledger.asked != source.revision:
        raise RecipeError(
            f"'{source.name}' is a list of single files of revision {source.revision}; --revision is not."
        )
    base = mirror_url(job.mirror) if job.mirror else source.url
    job.ledger.state(url=base, revision=source.revision, licence=source.licence)
    job.on_licence(source.licence)
    files = source_files(source.name)
    for number, file in enumerate(files, 1):
        if not job.stands(file.to, file.sha256):
            _fetch_file(job, base, file)
        elif file.to not in job.ledger.files:
            final = job.place_of(file.to)
            job.ledger.record([(file.to, final.stat().st_size, digest_of(final))], known=True)
        job.on_progress("files", number, len(files))


def _fetch_file(job: Job, base: str, file: SourceFile) -> None:
    """Download, verify, record, place. A file that was gone on with and came out wrong is fetched once more whole."""
    staged = job.staging / file.to
    for resumed in (staged.exists(), False):
        download(
            f"{base.rstrip('/')}/{quote(file.path)}", staged, on_bytes=lambda n, of: job.on_progress(file.to, n, of)
        )
        size, digest = staged.stat().st_size, digest_of(staged)
        if (file.size or size) == size and (file.sha256 or digest) == digest:
            break
        wrong = job.refuse(staged, file.to, f"{file.size:,} bytes of sha256 {file.sha256}", f"{size:,} of {digest}")
        if not resumed:
            raise wrong
    job.ledger.record([(file.to, size, digest)], known=file.sha256 is not None)
    job.put(staged, file.to)


def mirror_url(mirror: str) -> str:
    """A mirror as a URL; a path is a folder of this machine's."""
    if urlsplit(mirror).scheme in ("http", "https", "file"):
        return mirror
    if "://" in mirror:
        raise RecipeError(f"--mirror {mirror}: expected a folder, or a URL of file, http or https.")
    folder = Path(mirror).resolve()
    if not folder.is_dir():
        raise RecipeError(f"--mirror {mirror}: no such folder.")
    return folder.as_uri()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_id(path: Path, length: int = 40) -> str:
    """What git calls a file of these bytes; `length` 64 for repositories that use sha256."""
    digest = hashlib.sha1(usedforsecurity=False) if length == 40 else hashlib.sha256()
    digest.update(b"blob %d\0" % path.stat().st_size)
    for chunk in _chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk
