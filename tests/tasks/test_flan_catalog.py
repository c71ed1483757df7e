"""The catalog of the whole collection: the shipped tables, the counts beside the paper's, and what lies here."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flantune.cli.app import app
from flantune.cli.tasks import collection_specs
from flantune.errors import DataError
from flantune.mixtures import find_leaves
from flantune.recipe import HeldOut, MixtureSpec
from flantune.sources import Rejects, read_collection
from flantune.tasks import MMLU_NUMBERS, flan, is_mmlu, split_held_out
from flantune.tasks.flan import catalog, public_probabilities, public_rates
from flantune.tasks.flan_counts import (
    PAPER,
    PAPER_TOTAL,
    catalog_name,
    deviations,
    mixture_counts,
    presence,
    total_count,
)
from flantune.types import Task


@pytest.fixture(scope="module")
def script() -> Iterator[object]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
    try:
        import make_flan_catalog
    finally:
        sys.path.pop(0)
    yield make_flan_catalog


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# The shipped tables


def test_the_tables_are_what_their_script_makes(script, data_dir: Path, spec_dir: Path) -> None:
    made = script.tables(spec_dir, data_dir / "taxonomy" / "flan_collection_info.csv")
    assert sorted(made) == sorted([flan.CATALOG_FILE, flan.RATES_FILE])
    for name, text in made.items():
        assert Path(flan.__file__).with_name(name).read_bytes() == text.encode(), name


def test_the_script_refuses_tables_that_disagree(script, data_dir: Path, spec_dir: Path, tmp_path: Path) -> None:
    taxonomy = data_dir / "taxonomy" / "flan_collection_info.csv"
    for name in ("niv2_tasks.csv", "collection_muffin_t0sf_cot.csv", "public_mixture_rates.csv"):
        (tmp_path / name).write_bytes((spec_dir / name).read_bytes())
    script.tables(tmp_path, taxonomy)
    for name, old, new in (
        (
            "collection_muffin_t0sf_cot.csv",
            "Grammatical Acceptability,English,0,1",
            "Grammatical Acceptability,English,1,0",
        ),
        ("niv2_tasks.csv", "quoref,Question Generation", "quoref,Question Answering"),
        ("public_mixture_rates.csv", "bool_q,9220,30000,9220", "bool_q,9220,30000,9221"),
    ):
        text = (spec_dir / name).read_text(encoding="utf-8")
        assert old in text
        (tmp_path / name).write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(DataError):
            script.tables(tmp_path, taxonomy)
        (tmp_path / name).write_text(text, encoding="utf-8")


def test_every_row_of_the_taxonomy_is_in_the_catalog(data_dir: Path) -> None:
    """Read again here by itself: sources, datasets, categories and languages, duplicates counted."""
    rows = table(data_dir / "taxonomy" / "flan_collection_info.csv")

    def languages(text: str) -> tuple[str, ...]:
        return tuple(text.strip("[]").replace("'", "").split(", "))

    theirs = Counter(
        (r["Source"], r["Dataset"], r["Specific Task Category"], r["Generic Task Category"], languages(r["Languages"]))
        for r in rows
    )
    ours = Counter(
        (t.source, t.dataset, t.specific_category, t.category, t.languages) for t in catalog() if not t.excluded
    )
    assert len(rows) == 1945 and ours == theirs


def test_names_are_unique_and_inverted_tasks_have_a_forward_one() -> None:
    names = {t.name for t in catalog()}
    assert len(names) == len(catalog()) == 2002
    for task in catalog():
        assert task.forward in names and (task.forward == task.name) != task.inverted


def test_the_public_rates_are_the_specs(spec_dir: Path) -> None:
    rows = table(spec_dir / "public_mixture_rates.csv")
    assert len(public_rates()) == len(rows) == 1389
    for r, p, row in zip(public_rates(), public_probabilities(), rows, strict=True):
        assert (r.submixture, r.component, r.setting, r.variant, r.task, r.options_rendering) == tuple(
            row[k] for k in ("submixture", "component", "setting", "few_shot_variant", "task", "options_rendering")
        )
        assert [r.cases, r.cap, r.rate] == [int(row[k]) for k in ("num_cases", "cap", "rate")]
        assert f"{float(p):.6e}" == row["prob_in_flan2022"]  # to the last of its seven printed digits
    assert sum(public_probabilities()) == 1


def test_the_five_spot_values_of_the_spec(spec_dir: Path) -> None:
    share = {(r.task, r.setting, r.variant): p for r, p in zip(public_rates(), public_probabilities(), strict=True)}

    def printed(task: str, setting: str = "zs_opt", variant: str = "zero_shot") -> str:
        return f"{float(share[task, setting, variant]):.5e}"

    assert printed("cot_gsm8k") == "1.92230e-03"
    assert printed("bool_q") == "6.16545e-04"
    assert printed("cnn_dailymail") == "2.00611e-03"  # one at its cap
    assert printed("qrecc") == "5.58339e-04"
    assert sum(share.values(), Fraction(0)) == 1


# Counts


def test_counts_per_mixture() -> None:
    """Spec 10, test 1."""
    assert {c.mixture: c.tasks for c in mixture_counts()} == {"muffin": 80, "t0_sf": 193, "niv2": 1556, "cot": 9}
    assert sum(t.excluded for t in catalog()) == 57
    assert sum(p.tasks for p in PAPER.values()) == PAPER_TOTAL.tasks == 1836
    total = total_count()
    assert (total.tasks, total.datasets, total.inverted, total.excluded) == (1838, 485, 107, 57)
    assert total.tasks + total.inverted == 1945
    assert len({language for t in catalog() for language in t.languages}) == 60


def test_every_figure_that_differs_has_its_sentence() -> None:
    said = deviations()
    for count in (*mixture_counts(), total_count()):
        for figure in ("tasks", "datasets", "categories"):
            ours, paper = getattr(count, figure), getattr(count.paper, figure)
            if ours != paper:
                about = [s for s in said if s.startswith((count.mixture, figure))]
                assert any(f"{ours:,}" in s and f"{paper:,}" in s for s in about), (count.mixture, figure)


def test_excluded_are_the_57_and_no_stream_draws_them() -> None:
    excluded = [t for t in catalog() if t.excluded]
    assert {int(t.name.removeprefix("niv2/task").partition("_")[0]) for t in excluded} == MMLU_NUMBERS
    assert {t.dataset for t in excluded} == {"mmmlu"} and len(excluded) == len(MMLU_NUMBERS) == 57
    tasks = {
        t.name: Task(
            name=t.name, mixture=t.mixture, dataset=t.dataset, category=t.category, templates="niv2",
            fields=("input",), source="niv2" if t.mixture == "niv2" else "p3",
        )
        for t in catalog()
        if not t.inverted
    }  # fmt: skip
    split = split_held_out(tasks, HeldOut())
    assert set(split.excluded) == {t.name for t in excluded} and len(split.train) == 1838
    train = {name: task for name, task in tasks.items() if name in split.train}
    sizes = dict.fromkeys(tasks, 10)
    for preset in ("paper-b", "proportional"):
        drawn = {leaf.task for leaf in find_leaves(MixtureSpec(preset=preset), train, sizes).leaves}
        assert drawn == set(split.train)
        kept = find_leaves(MixtureSpec(preset=preset), tasks, sizes, held_out=split.excluded)
        assert not any(is_mmlu(tasks[leaf.task]) for leaf in kept.leaves)


# What lies here


def test_reader_names_find_their_catalog_tasks() -> None:
    assert catalog_name("muffin/boolq") == catalog_name("muffin/boolq_icl") == "muffin/bool_q"
    assert catalog_name("niv2/task1580_eqasc-perturbed_question_generation") == (
        "niv2/task1580_eqasc_perturbed_question_generation"
    )
    assert catalog_name("niv2/task1638_doqa2.1_movies_text_summarization") == "niv2/task1638_doqa2"
    assert catalog_name("niv2_early/task141_odd-man-out_classification_category") == (
        "niv2/task141_odd_man_out_classification_category"
    )
    assert catalog_name("t0/cos_e_v1.11_rationale") == "t0/cos_e_v1.11_rationale"
    assert catalog_name("t0/imdb_Movie_Expressed_Sentiment") is None
    assert catalog_name("mine/boolq") is None
    assert catalog_name("muffin/train_no_errors", "dr_repair") == "muffin/dr_repair_no_errors"
    assert catalog_name("muffin/scai-qrecc21-training-turns", "qrecc") == "muffin/qrecc"
    assert catalog_name("muffin/train-0", "code_contests") == "muffin/dmcc_python"
    assert catalog_name("muffin/mbpp", "mbpp") is None


def test_presence_of_forward_inverted_and_excluded() -> None:
    by_name = {t.name: t for t in catalog()}
    excluded = next(t.name for t in catalog() if t.excluded)
    names = ("muffin/copa", "muffin/copa_icl", "cot/qed", "mine/x", excluded)
    here = presence({name: name.partition("/")[2] for name in names})
    assert here.found["muffin/copa"] == ("muffin/copa", "muffin/copa_icl") and here.others == ("mine/x",)
    assert here.usable(by_name["muffin/copa/inverted"]) and not here.usable(by_name["muffin/rte"])
    assert here.usable(by_name["cot/qed/inverted/question_generation"])
    assert not here.usable(by_name[excluded])


def test_all_natural_instructions_and_cot_files_are_known(data_dir: Path) -> None:
    """Every task of the real folders that the collection has, by an independent look at file names."""
    for folder in ("niv2", "niv2_early"):
        for file in (data_dir / folder).iterdir():
            number = file.name.partition("_")[0]
            found = catalog_name(f"{folder}/{file.name.partition('.json')[0]}")
            assert found is not None and found.startswith(f"niv2/{number}_"), file.name
    prompts = {t.name for t in catalog() if t.mixture == "t0_sf"}
    files = {f"t0/{f.name.partition('.jsonl')[0]}" for f in (data_dir / "t0").iterdir()}
    assert {n for n in map(catalog_name, files) if n} == files & prompts and len(files & prompts) == 122


def test_the_command_counts_what_is_usable(data_dir: Path) -> None:
    """Against the readers themselves, over the folders that are quick to read."""
    folders = [data_dir / "muffin", data_dir / "cot", data_dir / "cot_raw", data_dir / "niv2_early"]
    rejects, read = Rejects(), []
    for spec in collection_specs(folders, None, "auto"):
        for part in read_collection(spec, rejects, 1.0):
            read.append(part.task.name)
            next(iter(part.examples))
    arguments = ["tasks", "list", *map(str, folders), "--collection", "flan"]
    run = CliRunner().invoke(app, [*arguments, "--json"])
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout.splitlines()[-1])
    usable = {c: m["usable"] for c, m in result["mixtures"].items()}
    assert usable == {"muffin": 17, "t0_sf": 0, "niv2": 22, "cot": 8, "total": 47}
    assert {n for t in result["tasks"] for n in t["found"]} | set(result["outside"]) == set(read)
    by_name = {t["name"]: t for t in result["tasks"]}
    assert by_name["cot/esnli"]["fetch"] == "flan-cot" and not by_name["cot/esnli"]["usable"]
    text = CliRunner().invoke(app, [*arguments, "--mixture", "cot"]).stdout
    assert "Absent: 1." in text and "flan-cot" in text and "natural-instructions" not in text


def test_the_command_without_data() -> None:
    run = CliRunner()
    text = run.invoke(app, ["tasks", "list", "--collection", "flan"]).stdout
    rows = [line.split()[:3] for line in text.splitlines()[1:6]]
    assert rows == [
        ["muffin", "80", "80"], ["t0_sf", "193", "193"], ["niv2", "1,556", "1,554"], ["cot", "9", "9"],
        ["total", "1,838", "1,836"],
    ]  # fmt: skip
    assert all(f"  {sentence}" in text for sentence in deviations())
    assert len(text.splitlines()) < 25
    everything = run.invoke(app, ["tasks", "list", "--collection", "flan", "--all"]).stdout
    assert "2,002 of 2,002 tasks" in everything and everything.count("not for training") == 57
    some = run.invoke(app, ["tasks", "list", "--collection", "flan", "--match", "cot/*", "--mixture", "cot"]).stdout
    assert "36 of 2,002 tasks" in some and "fetch flan-cot" in some and "Grade School Math Word Problems" in some
    listed = json.loads(run.invoke(app, ["tasks", "list", "--collection", "flan", "--json"]).stdout.splitlines()[-1])
    assert len(listed["tasks"]) == 2002 and "usable" not in listed["tasks"][0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--collection", "flam"], "expected one of flan"),
        (["--collection", "flan", "--mixture", "t0"], "expected one of muffin, t0_sf, niv2, cot"),
        (["--collection", "flan", "--match", "none*"], "matches no task"),
        (["--all"], "--all goes with --collection"),
    ],
)
def test_wrong_calls(arguments: list[str], words: str) -> None:
    wrong = CliRunner().invoke(app, ["tasks", "list", *arguments])
    assert wrong.exit_code == 2 and words in " ".join(wrong.stderr.split())
