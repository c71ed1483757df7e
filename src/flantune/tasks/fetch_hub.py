"""One revision of a dataset on the Hugging Face hub, some of its files, through `huggingface_hub`, which resumes."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from flantune.errors import DataError, FlantuneError
from flantune.tasks.download import download
from flantune.tasks.fetch import Job, digest_of, git_blob_id, mirror_url

NOT_DATA = ("*.py", ".gitattributes", ".gitignore")


def fetch_hub(job: Job) -> None:
    """From the hub, from another endpoint (`mirror` http), or from a folder with the dataset's files (`mirror` file).

    The commit, the files' hashes and the licence are the hub's own words. A folder states none of them: the licence
    is left as "as the hub states it", and the hashes written down are those of the files as they came.
    """
    if job.mirror is not None:
        url = mirror_url(job.mirror)
        if urlsplit(url).scheme == "file":
            _copy_folder(job, url)
            return
    _snapshot(job)


def _copy_folder(job: Job, url: str) -> None:
    root = Path(url2pathname(urlsplit(url).path))
    licence = job.wanted.source.licence
    paths = _selected(job, (p.relative_to(root).as_posix() for p in sorted(root.rglob("*")) if p.is_file()), url)
    job.ledger.state(url=url, revision=job.ledger.revision or job.ledger.asked, licence=licence)
    job.on_licence(licence)
    tree = job.staging / "tree"
    for path in paths:
        if not (path in job.ledger.files and job.stands(path, None)):
            download((root / path).as_uri(), tree / path)
            job.put_all(tree, [path])


def _snapshot(job: Job) -> None:
    source, ledger = job.wanted.source, job.ledger
    try:
        from huggingface_hub import HfApi, snapshot_download

        token = None if job.mirror is None else False  # the user's token is the hub's business alone
        info = HfApi(endpoint=job.mirror, token=token).dataset_info(
            source.url, revision=ledger.revision or ledger.asked, files_metadata=True
        )
        siblings = {s.rfilename: s for s in info.siblings or ()}
        paths = _selected(job, siblings, source.url)
        licence = _licence(info) or source.licence
        ledger.state(
            url=job.mirror or f"https://huggingface.co/datasets/{source.url}", revision=str(info.sha), licence=licence
        )
        job.on_licence(licence)
        tree = job.staging / "tree"
        missing = [p for p in paths if not (p in ledger.files and job.stands(p, None))]
        if missing:
            snapshot_download(
                source.url,
                repo_type="dataset",
                revision=str(info.sha),
                allow_patterns=[_literal(p) for p in missing],
                local_dir=tree,
                endpoint=job.mirror,
                token=token,
            )
    except FlantuneError:
        raise
    except Exception as e:  # the library raises whatever its backends do: network, access, file system
        raise DataError(
            source.url,
            field="dataset",
            expected=f"revision {ledger.revision or ledger.asked} on the hub",
            got=f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else 'no more is said'}",
            mend=f"See https://huggingface.co/datasets/{source.url}: it may be gated, moved or out of reach. "
            "The same command goes on; --mirror takes another endpoint or a folder.",
        ) from None
    for path in missing:
        _verify(job, tree / path, path, siblings[path])
    job.put_all(tree, missing)


def _selected(job: Job, paths: Any, where: str) -> list[str]:
    wanted = [
        p
        for p in paths
        if any(fnmatchcase(p, g) for g in job.wanted.paths)
        and not any(fnmatchcase(Path(p).name, g) for g in NOT_DATA)
        and not p.startswith(".cache/")
    ]
    if not wanted:
        raise DataError(where, field="paths", expected=f"files that match {', '.join(job.wanted.paths)}", got="none")
    return wanted


def _literal(path: str) -> str:
    """A path as a pattern that matches itself alone."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


def _licence(info: Any) -> str:
    """What the dataset's card says, by its tags."""
    return ", ".join(t.partition(":")[2] for t in info.tags or () if t.startswith("license:"))


def _verify(job: Job, staged: Path, path: str, sibling: Any) -> None:
    if sibling.size is not None and staged.stat().st_size != sibling.size:
        raise job.refuse(staged, path, f"{sibling.size:,} bytes", f"{staged.stat().st_size:,}")
    if sibling.lfs is not None:
        expected, found = f"sha256 {sibling.lfs.sha256}", f"sha256 {digest_of(staged)}"
    elif sibling.blob_id:
        expected, found = f"git blob {sibling.blob_id}", f"git blob {git_blob_id(staged, len(sibling.blob_id))}"
    else:
        return
    if found != expected:
        raise job.refuse(staged, path, expected, found)
