"""What `flantune tasks fetch` lays out is where the benchmarks look for it, and is read as the copies are."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from flantune.errors import DataError
from flantune.evals import BENCHMARKS
from flantune.evals.mgsm import read_exemplars
from flantune.tasks.fetch import public_sources, source_files

SOURCES = ("gsm8k", "gsm8k-prompts", "mmlu", "mmlu-cot", "bbh", "mgsm", "math", "multiarith")


@pytest.fixture(scope="module")
def fetched(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copies, plain, where the sources' files would be put."""
    to = tmp_path_factory.mktemp("fetched")
    by_source = {f["source"]: f["path"] for f in json.loads((data_dir / "manifest.json").read_bytes())["files"]}
    for name in SOURCES:
        source = public_sources()[name]
        origin = source.url.removeprefix("https://raw.githubusercontent.com/").rpartition("/")
        for file in source_files(name):
            copy = by_source.get(f"{origin[0]}@{origin[2][:10]}:{file.path}")
            place = to / source.folder / file.to
            if copy is not None:
                place.parent.mkdir(parents=True, exist_ok=True)
                data = (data_dir / copy).read_bytes()
                place.write_bytes(gzip.decompress(data) if copy.endswith(".gz") else data)
    shown = json.loads((data_dir / "mgsm/exemplars.json").read_bytes())
    (to / "mgsm/exemplars.py").write_text("".join(f"{name} = {value!r}\n\n" for name, value in shown.items()))
    return to


@pytest.mark.parametrize(
    "name",
    ["gsm8k", "svamp", "mawps", "multiarith", "math", "mgsm", "mgsm_en_cot", "mmlu", "mmlu_original", "bbh"],
)
def test_a_fetched_benchmark_is_asked_as_the_copies_are(name: str, fetched: Path, data_dir: Path):
    benchmark = BENCHMARKS[name]
    for mode in benchmark.modes:
        there = list(benchmark.items(fetched / benchmark.folder, mode, limit=3))
        assert there == list(benchmark.items(data_dir / benchmark.folder, mode, limit=3))
        assert {posed.item.shots for posed in there} & {3, 4, 5, 8}


def test_asdiv_is_read_as_its_repository_has_it(benchmarks: Path, tmp_path: Path):
    shutil.copytree(benchmarks / "prompts", tmp_path / "prompts")
    clone = tmp_path / "math/asdiv/dataset"
    clone.mkdir(parents=True)
    shutil.copy(benchmarks / "math/asdiv/ASDiv.xml", clone)
    asdiv = BENCHMARKS["asdiv"]
    assert list(asdiv.items(clone.parent, "cot")) == list(asdiv.items(benchmarks / "math/asdiv", "cot"))


def test_nothing_of_exemplars_py_is_run(tmp_path: Path):
    file = tmp_path / "exemplars.py"
    file.write_text('"""Text."""\nMGSM_EXEMPLARS = {"en": {"1": {"q": "Question: " "1?", "a": "A: 1."}}}\n')
    assert read_exemplars(file) == {"en": [("Question: 1?", "A: 1.")]}
    for text in ("MGSM_EXEMPLARS = open('x')\n", "MGSM_EXEMPLARS = {\n"):
        file.write_text(text)
        with pytest.raises(DataError, match="expected Python literals"):
            read_exemplars(file)
