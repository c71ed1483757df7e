"""Every reader against every file of the real collections: each row kept or set aside, none lost."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from flantune.recipe import CollectionSpec
from flantune.sources import collection_files, reader_for
from flantune.sources.p3 import PREFIXES, p3_dataset
from flantune.sources.reading import stem
from flantune.tasks import CheckReport, check_collections

# Rows the README of the data states, and rows that hold nothing to learn from.
TRAINING = ("cot", "cot_raw", "muffin", "niv2", "niv2_early", "t0")


def manifest(folder: Path) -> dict[str, int]:
    files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    return {f["path"]: f["examples"] for f in files}


def check(folder: Path, name: str, **spec: object) -> CheckReport:
    report = check_collections([CollectionSpec(path=str(folder / name), **spec)])  # type: ignore[arg-type]
    counts = manifest(folder)
    for line in report.lines:
        path = Path(line.path).relative_to(folder).as_posix()
        assert line.rows == counts[path], path
    assert report.problems == ()
    return report


def test_chain_of_thought(data_dir):
    report = check(data_dir, "cot")
    assert (report.files, report.examples, report.rejected) == (7, 33_443, 0)


def test_qed(data_dir):
    report = check(data_dir, "cot_raw")
    assert (report.examples, report.rejected) == (1_021, 334)  # 151 without explanation, 183 over several sentences


def test_early_natural_instructions(data_dir):
    report = check(data_dir, "niv2_early")
    assert (report.files, report.examples, report.rejected) == (22, 96_894, 0)


def test_natural_instructions_in_a_sample(data_dir):
    names = ("task388_*", "task924_*", "task1195_*", "task293_*", "task603_*", "task1540_*")
    report = check(data_dir, "niv2", include=names)
    assert report.files == 6
    assert report.rejected == 6  # 3 + 2 empty outputs, 1 blank input


@pytest.mark.slow
def test_natural_instructions_whole(data_dir):
    report = check(data_dir, "niv2")
    assert (report.files, report.examples, report.rejected) == (171, 524_181 - 6, 6)


def test_p3(data_dir):
    report = check(data_dir, "t0")
    assert (report.files, report.tasks) == (249, 249 - 11 - 7)
    assert (report.examples, report.rejected) == (46_294 - 1_400, 1_400)
    assert Counter(line.status for line in report.lines) == {"read": 238, "skipped": 11}


def test_p3_file_names_give_31_configurations(data_dir):
    names = [stem(p) for p in collection_files(CollectionSpec(path=str(data_dir / "t0")))]
    found = {max((p for p in PREFIXES if n.startswith(p + "_")), key=len) for n in names}
    assert len(found) == 31
    assert all(p3_dataset(n).category != "P3" for n in names)


def test_muffin(data_dir):
    report = check(data_dir, "muffin")
    assert report.rejected == 0
    by_file = {Path(line.path).relative_to(data_dir / "muffin").as_posix(): line for line in report.lines}
    assert by_file["e2e_nlg/devset.csv.gz"].examples == 547  # meanings, of 4,672 rows
    assert by_file["superglue_fewglue/MultiRC/train.jsonl"].examples > 32
    one_to_one = [f for f in by_file if "e2e" not in f and "MultiRC" not in f and "ReCoRD" not in f]
    assert all(by_file[f].examples == by_file[f].rows for f in one_to_one)
    assert report.tasks == report.files == 20


def test_no_benchmark_is_taken_for_training_data(data_dir):
    spec = CollectionSpec(path=str(data_dir))
    taken: Counter[str] = Counter()
    for path in collection_files(spec):
        if reader_for(path, spec) is not None:
            taken[path.relative_to(data_dir).parts[0]] += 1
    assert taken == {"cot": 7, "cot_raw": 1, "muffin": 20, "niv2": 171, "niv2_early": 22, "t0": 238}
    assert set(taken) == set(TRAINING)
