"""Peak memory of `flantune build` over the real collections, and over the same data repeated many times.

    python benchmarks/build_memory.py --data DIR [--repeats 20] [--rows 4000]

Every repetition is a collection of its own, with task names of its own: 20 times the files read, the tasks mixed and
the examples stored. Files whose names are free (niv2, t0) are linked under other names; those whose names mean
something (muffin, cot) are written once as native tasks, and the rows linked beside a task file for each repetition.
Peaks are the kernel's own figure (ru_maxrss) for the process that built. Needs room for the larger store in --scratch.

Equality: a mixture that names the original tasks alone gives the same packed rows from either store.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

NAME = "build_memory"
TARGET_RATIO, TARGET_GB = 1.10, 1.5
LINKED = ("niv2", "niv2_early", "t0")  # file names are free there
CHECKED_BLOCKS = 2  # of the restricted stream, compared between the two stores


def main() -> None:
    arguments = _arguments()
    scratch = Path(tempfile.mkdtemp(prefix="flantune-memory-", dir=arguments.scratch))
    try:
        result = measure(arguments.data.resolve(), scratch, arguments.repeats, arguments.rows, arguments.files)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps(result))


def measure(data: Path, scratch: Path, repeats: int, rows: int, files: int | None) -> dict[str, Any]:
    base = base_collection(data, scratch / "data", files)
    more = repeat_collection(base, scratch / "data", repeats)
    print(f"{len(base)} collections, and {len(more)} with {repeats} repetitions", flush=True)
    once = build(scratch, "once", base, rows)
    print(once, flush=True)
    many = build(scratch, "many", [*base, *more], rows)
    print(many, flush=True)
    digests = {name: subprocess_digest(scratch, name) for name in ("once", "many")}
    ratio = many["peak_gb"] / once["peak_gb"]
    equal = digests["once"] == digests["many"]
    return {
        "name": NAME,
        "ratio": round(ratio, 4),
        "value": round(max(once["peak_gb"], many["peak_gb"]), 3),
        "unit": "GB",
        "target": {"ratio": TARGET_RATIO, "value": TARGET_GB},
        "equal": equal,
        "met": equal and ratio <= TARGET_RATIO and many["peak_gb"] < TARGET_GB,
        "repeats": repeats,
        "once": once,
        "many": many,
        "digest": digests["once"],
    }


# The data ------------------------------------------------------------------------------------------------------------


def base_collection(data: Path, folder: Path, files: int | None) -> list[dict[str, str]]:
    """The collections as they are: linked file by file, so that `files` can make them fewer."""
    specs = []
    for name, reader in (
        ("niv2", "niv2"),
        ("niv2_early", "niv2"),
        ("t0", "p3"),
        ("muffin", "muffin"),
        ("cot", "flan_cot"),
    ):
        found = sorted(p for p in (data / name).rglob("*") if p.is_file())
        for path in found[:files]:
            link = folder / "once" / name / path.relative_to(data / name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
        specs.append({"path": str(folder / "once" / name), "reader": reader})
    return specs


def repeat_collection(base: list[dict[str, str]], folder: Path, repeats: int) -> list[dict[str, str]]:
    """The same again, `repeats - 1` times, every task under a name of its own."""
    specs = []
    named = [s for s in base if Path(s["path"]).name not in LINKED]
    native = write_native(named, folder / "native")
    for number in range(1, repeats):
        for spec in base:
            name = Path(spec["path"]).name
            if name not in LINKED:
                continue
            target = folder / f"again-{number:02}" / name
            target.mkdir(parents=True)
            for path in sorted(Path(spec["path"]).rglob("*")):
                if path.is_file():
                    stem, dot, rest = path.name.partition(".json")
                    (target / f"{stem}_again_{number:02}{dot}{rest}").symlink_to(path.resolve())
            specs.append({"path": str(target), "reader": spec["reader"]})
        target = folder / f"again-{number:02}" / "native"
        target.mkdir(parents=True)
        for i, (task, rows) in enumerate(native):
            renamed = {**task, "name": f"{task['name']}_again_{number:02}"}
            (target / f"{i:03}.task.yaml").write_text(yaml.safe_dump(renamed, sort_keys=False, allow_unicode=True))
            (target / f"{i:03}.jsonl").symlink_to(rows)
        specs.append({"path": str(target), "reader": "native"})
    return specs


def write_native(specs: list[dict[str, str]], folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """Each task's keys and the file of its rows, in the native format."""
    from flantune.recipe import CollectionSpec
    from flantune.sources import Rejects, read_collection

    folder.mkdir(parents=True)
    written = []
    for spec in specs:
        for rows in read_collection(CollectionSpec(**spec), Rejects(), 1.0):
            task, path = rows.task, folder / f"{len(written):03}.jsonl"
            with path.open("w", encoding="utf-8") as file:
                for example in rows.examples:
                    row = {"id": example.id, "fields": dict(example.fields), "targets": list(example.targets)}
                    row |= {} if example.rationale is None else {"rationale": example.rationale}
                    row |= {} if example.options is None else {"options": list(example.options)}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            keys = {
                "name": task.name,
                "mixture": task.mixture,
                "dataset": task.dataset,
                "category": task.category,
                "language": task.language,
                "metric": task.metric,
                "fields": list(task.fields),
                "template_set": task.templates,
            }
            written.append((keys, path))
    return written


# The builds ----------------------------------------------------------------------------------------------------------


def recipe_of(name: str, scratch: Path, collections: list[dict[str, str]], rows: int) -> dict[str, Any]:
    return {
        "name": name,
        "seed": 1,
        "runs": str(scratch / "runs"),
        "collections": collections,
        "mixture": {"preset": "flan2022-paper-b"},
        "tokens": {"inputs_len": 2048, "targets_len": 512},
        "train": {"steps": rows // 8, "batch_rows": 8},
    }


def build(scratch: Path, name: str, collections: list[dict[str, str]], rows: int) -> dict[str, Any]:
    """One `flantune build` in a process of its own: its peak, seconds, and what it read."""
    path = scratch / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe_of(name, scratch, collections, rows), sort_keys=False))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "flantune", "build", str(path), "--json"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name}: the build failed")
    run = scratch / "runs" / name
    card = json.loads(output.strip().rpartition("\n")[2])
    store = json.loads((run / "data" / "examples" / "store.json").read_text())
    return {
        "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 3),
        "seconds": round(time.monotonic() - began, 1),
        "tasks": store["tasks"],
        "examples": store["examples"],
        "rows": card["rows"],
        "tasks_drawn": sum(t["examples"] > 0 for t in card["tasks"].values()),
    }


# Equality ------------------------------------------------------------------------------------------------------------


def subprocess_digest(scratch: Path, name: str) -> str:
    """In a process of its own, so that this one stays small."""
    command = [sys.executable, __file__, "--digest", str(scratch), name]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip().rpartition("\n")[2]


def digest(scratch: Path, name: str) -> str:
    """sha256 over packed rows of a mixture of the original tasks alone, from the store of that build."""
    from flantune.pipeline.data import Readied, data_of, encoded_blocks
    from flantune.pipeline.folder import RunFolder
    from flantune.recipe import MixturePart, MixtureSpec, load_recipe
    from flantune.tasks import ExampleStore
    from flantune.tokens.block import pack_block
    from flantune.tokens.tokenizer import load_tokenizer

    folder, once = (RunFolder(scratch / "runs" / n) for n in (name, "once"))
    parts = (MixturePart(name="original", tasks=tuple(sorted(ExampleStore.open(once.store).tasks))),)
    recipe = load_recipe(scratch / f"{name}.yaml", {"tokens.reuse": False})
    recipe = recipe.model_copy(update={"mixture": MixtureSpec(parts=parts)})
    data = data_of(recipe, folder, ExampleStore.open(folder.store))
    blocks = encoded_blocks(recipe, folder, Readied(data, load_tokenizer(once.tokenizer)))
    sha = hashlib.sha256()
    for b in range(CHECKED_BLOCKS):
        for row in pack_block(blocks(b), recipe.tokens).rows():
            for array in (row.inputs, row.targets, row.inputs_lengths, row.targets_lengths, row.indices):
                sha.update(array.tobytes())
            sha.update(json.dumps(row.tasks).encode())
    return sha.hexdigest()


def _arguments() -> argparse.Namespace:
    if len(sys.argv) == 4 and sys.argv[1] == "--digest":
        print(digest(Path(sys.argv[2]), sys.argv[3]))
        raise SystemExit
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real collections")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rows", type=int, default=4000, help="packed rows built")
    parser.add_argument("--files", type=int, help="files of each collection; all when not given")
    parser.add_argument("--scratch", type=Path, help="where the stores go; the system's temporary folder if not given")
    return parser.parse_args()


if __name__ == "__main__":
    main()
