"""The tables of the Flan 2022 collection that the package ships, from the published taxonomy and the recipe's tables.

    python scripts/make_flan_catalog.py SPEC_DATA TAXONOMY.csv OUT

SPEC_DATA holds niv2_tasks.csv, collection_muffin_t0sf_cot.csv and public_mixture_rates.csv; TAXONOMY.csv is the
publishers' flan_collection_info.csv. Written: flan_catalog.csv, one row per task, and flan_public_rates.csv, one row
per task of the public code. Equal inputs give equal bytes. What the package can derive is left out (the capped rate,
the probability, the mixture), and where two inputs tell the same fact they must agree.
"""

from __future__ import annotations

import ast
import csv
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from flantune.errors import DataError
from flantune.tasks.flan import (
    CATALOG_COLUMNS,
    CATALOG_FILE,
    MIXTURE_OF,
    PUBLIC_CAPS,
    RATES_COLUMNS,
    RATES_FILE,
    RENDERINGS,
    VARIANTS,
)

Row = Mapping[str, str]

# The taxonomy has one row twice; the public code's names tell the two evaluation sets apart.
TWINS = {"mnli": ("mnli_matched", "mnli_mismatched")}


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 3:
        raise SystemExit(__doc__)
    spec, taxonomy, out = (Path(a) for a in arguments)
    for name, text in tables(spec, taxonomy).items():
        (out / name).write_text(text, encoding="utf-8", newline="")
        print(f"{out / name}: {text.count(chr(10)) - 1:,} rows, {len(text.encode()):,} bytes")


def tables(spec: Path, taxonomy: Path) -> dict[str, str]:
    """File name -> its text, for both tables."""
    rates = read(spec / "public_mixture_rates.csv")
    cases = {r["task"]: r["num_cases"] for r in rates if r["few_shot_variant"] == "zero_shot"}
    niv2 = read(spec / "niv2_tasks.csv")
    rows = [*catalog_rows(read(taxonomy), cases, {r["task"]: r for r in niv2}), *excluded_rows(niv2)]
    agree(rows, read(spec / "collection_muffin_t0sf_cot.csv"), niv2)
    return {CATALOG_FILE: text_of(CATALOG_COLUMNS, rows), RATES_FILE: text_of(RATES_COLUMNS, rate_rows(rates))}


def catalog_rows(taxonomy: Iterable[Row], cases: Mapping[str, str], niv2: Mapping[str, Row]) -> list[dict[str, str]]:
    rows = []
    seen: dict[tuple[str, str], int] = {}
    for entry in taxonomy:
        source, dataset, specific, category, languages = entry.values()
        count = seen[dataset, specific] = seen.get((dataset, specific), -1) + 1
        own = TWINS[dataset][count] if dataset in TWINS else dataset
        if source in ("T0", "NIv2"):
            name, inverted = specific, False
            prefix = "t0" if source == "T0" else "niv2"
            examples = cases[name] if source == "T0" else niv2[name]["num_examples"]
        else:
            prefix = "cot" if source == "CoT" else "muffin"
            inverted = is_inverted(source, category)
            name = own.removeprefix("cot_").removeprefix("stream_") if source == "CoT" else own
            examples = "" if inverted else cases.get(own, cases.get(f"cot_{name}", ""))
            if inverted:
                name += f"/inverted/{slug(category)}" if source == "CoT" else "/inverted"
        rows.append(
            {
                "name": f"{prefix}/{name}",
                "source": source,
                "dataset": dataset,
                "category": category,
                "languages": language_list(languages),
                "inverted": "1" if inverted else "",
                "excluded": "",
                "examples": examples,
            }
        )
    return rows


def is_inverted(source: str, category: str) -> bool:
    """By the category's name: the taxonomy has no field for it."""
    if source in ("FLAN", "FLAN/T0"):
        return category.startswith("Inverted ")
    return category in (
        {"Question Generation", "Explanation Generation", "Generate Question and Answer from Explanation"}
        if source == "CoT"
        else {"Dialog Context Generation", "Code Error Generation", "Coding Instruction Generation"}
    )


def excluded_rows(niv2: Iterable[Row]) -> list[dict[str, str]]:
    """The tasks made from MMLU: in Natural Instructions, and in no row of the taxonomy."""
    return [
        {"name": f"niv2/{r['task']}", "source": "NIv2", "dataset": r["dataset"], "category": r["category"],
         "languages": "", "inverted": "", "excluded": "1", "examples": r["num_examples"]}
        for r in niv2
        if r["excluded_mmlu"] == "1"
    ]  # fmt: skip


def language_list(text: str) -> str:
    """`English` and `['English', 'Persian']` as written there -> "" (English alone) and "English|Persian"."""
    names = ast.literal_eval(text) if text.startswith("[") else [text]
    joined = "|".join(names)
    return "" if joined == "English" else joined


def slug(category: str) -> str:
    return category.lower().replace(" ", "_")


def rate_rows(rates: Iterable[Row]) -> list[dict[str, str]]:
    """The cases of each variant side by side. The cap must be the sub-mixture's, the rate the smaller of the two."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    renderings: dict[tuple[str, str], dict[str, str]] = {}
    for r in rates:
        cap = PUBLIC_CAPS[r["submixture"]]
        if int(r["cap"]) != cap or int(r["rate"]) != min(cap, int(r["num_cases"])):
            raise DataError(r["task"], field="rate", expected=f"min({cap}, cases)", got=dict(r))
        key = (r["component"], r["task"])
        row = rows.setdefault(key, {"submixture": r["submixture"], "component": r["component"], "task": r["task"]})
        variant = VARIANTS[r["setting"], r["few_shot_variant"]]
        row[variant] = r["num_cases"]
        renderings.setdefault(key, {})[variant] = r["options_rendering"]
    for key, row in rows.items():
        found = renderings[key]
        kinds = [k for k, by_variant in RENDERINGS.items() if all(by_variant[v] == r for v, r in found.items())]
        if not kinds:
            raise DataError(row["task"], field="options_rendering", expected=list(RENDERINGS), got=found)
        row["options"] = kinds[0]
    return list(rows.values())


def agree(rows: Sequence[Row], collection: Sequence[Row], niv2: Sequence[Row]) -> None:
    """What the recipe's tables say of the same rows: inverted, counted, dataset, category, languages, excluded."""
    ours = sorted(
        (r["source"], r["dataset"], r["category"], r["languages"] or "English", r["inverted"] or "0")
        for r in rows
        if r["source"] != "NIv2"
    )
    theirs = sorted(
        (r["csv_source"], r["dataset"], r["generic_task_category"], r["languages"], r["is_inverted"])
        for r in collection
    )
    if ours != theirs or any(r["counted_in_paper"] == r["is_inverted"] for r in collection):
        raise DataError("collection_muffin_t0sf_cot.csv", field="rows", expected="the taxonomy's", got="others")
    mixtures = {r["csv_source"]: r["paper_mixture"] for r in collection}
    names = {"Muffin": "muffin", "T0-SF": "t0_sf", "CoT": "cot"}
    if any(MIXTURE_OF[source] != names[mixture] for source, mixture in mixtures.items()):
        raise DataError("collection_muffin_t0sf_cot.csv", field="paper_mixture", expected=MIXTURE_OF, got=mixtures)
    told = {(r["task"], r["dataset"], r["category"], r["languages"], r["excluded_mmlu"]) for r in niv2}
    found = {
        (r["name"].removeprefix("niv2/"), r["dataset"], r["category"],
         "" if r["excluded"] else r["languages"] or "English", r["excluded"] or "0")
        for r in rows
        if r["source"] == "NIv2"
    }  # fmt: skip
    if told != found:
        raise DataError("niv2_tasks.csv", field="rows", expected="the taxonomy's", got=sorted(told ^ found)[:3])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def text_of(columns: Sequence[str], rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    main(sys.argv[1:])
