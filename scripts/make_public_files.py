"""The list of single files that `flantune tasks fetch` knows, with sizes and hashes, from a manifest of copies.

    python scripts/make_public_files.py MANIFEST.json OUT

MANIFEST.json lists copies of public files: path, bytes, sha256, source ("owner/repository@commit:path"), transform. A
hash counts where the copy is unmodified; `MORE` names files of the same commits of which there is no whole copy.
Written: public_files.csv. Equal inputs give equal bytes.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flantune.tasks.fetch import FILES_COLUMNS, FILES_TABLE, public_sources

MMLU = (
    "{astronomy,formal_logic,high_school_computer_science,high_school_us_history,marketing,moral_disputes,"
    "sociology,virology}"
)
BBH = "{causal_judgement,multistep_arithmetic_two,snarks,word_sorting}"
FRONTS: Mapping[str, tuple[str, ...]] = {  # source -> how its files' paths begin; cut off below its folder
    "flan-cot": ("flan/v2/cot_data/",),
    "flan-collection-info": ("flan/v2/flan_collection_info.csv",),
    "t0-samples": ("data/finetuning/t0_train_50k/data_per_template/",),
    "fewglue": ("FewGLUE/",),
    "nq-open": ("nq_open/",),
    "e2e-nlg": ("",),
    "dart": ("data/v1.1.1/",),
    "cosmos-qa": ("data/",),
    "llm-foundry-icl": ("scripts/eval/local_data/",),
    "qed": ("",),
    "gsm8k": ("grade_school_math/data/",),
    "mmlu": ("MMLU/data/",),
    "mmlu-cot": ("",),
    "bbh": ("bbh/", "cot-prompts/"),
    "mgsm": ("mgsm/",),
    "tydiqa": ("",),
    "gsm8k-prompts": ("gsm8k/lib_prompt/",),
    "math": ("src/data/", "src/data/math/"),
    "multiarith": ("research/complexity_based_prompting/MultiArith/data/",),
    "humaneval": ("data/",),
    "mbpp": ("Evaluation/MBPP/data/",),
}
PLACED = {"cot-prompts/": "cot-prompts/", "src/data/math/": "MATH/"}  # what stands for a front; else nothing
MORE: Mapping[str, tuple[str, ...]] = {
    "flan-cot": ("flan/v2/cot_data/esnli_train.tsv", "flan/v2/cot_data/qed_train.tsv"),
    "nq-open": ("nq_open/NQ-open.train.jsonl",),
    "e2e-nlg": ("trainset.csv",),
    "gsm8k": ("grade_school_math/data/test.jsonl",),
    "mmlu": tuple(f"MMLU/data/{split}/{MMLU}_{split}.csv" for split in ("dev", "val", "test")),
    "mmlu-cot": ("mmlu-cot.json",),
    "bbh": (f"bbh/{BBH}.json", f"cot-prompts/{BBH}.txt"),
    "mgsm": ("mgsm/mgsm_{fr,sw,te}.tsv", "mgsm/exemplars.py"),
    "humaneval": ("data/HumanEval.jsonl.gz",),
}


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 2:
        raise SystemExit(__doc__)
    text = table(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    out = Path(arguments[1]) / FILES_TABLE
    out.write_text(text, encoding="utf-8", newline="")
    print(f"{out}: {text.count(chr(10)) - 1:,} files")


def table(manifest: Mapping[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FILES_COLUMNS)
    for name, fronts in FRONTS.items():
        rows = {**{path: ("", "") for pattern in MORE.get(name, ()) for path in expanded(pattern)}}
        rows |= dict(known(manifest, repository(name), fronts))
        for path in sorted(rows):
            front = max((f for f in fronts if path.startswith(f)), key=len)
            to = PLACED.get(front, "") + path.removeprefix(front) or Path(path).name
            writer.writerow((name, path, "" if to == path else to, *rows[path]))
    return text.getvalue()


def repository(name: str) -> str:
    """ "owner/repository@commit" out of a source's URL; commits are compared by their first ten digits."""
    found = re.fullmatch(r"https://raw\.githubusercontent\.com/([^/]+/[^/]+)/([0-9a-f]+)", public_sources()[name].url)
    if found is None:
        raise SystemExit(f"{name}: not a folder of raw files at a commit")
    return f"{found[1]}@{found[2][:10]}"


def known(
    manifest: Mapping[str, Any], repository: str, fronts: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, str]]]:
    """(path, (bytes, sha256)) of the unmodified copies; a copy gzipped for keeping states its content's."""
    for file in manifest["files"]:
        origin, _, path = file["source"].partition(":")
        if origin == repository and file["transform"] == "unmodified" and path.startswith(fronts):
            size = file.get("bytes_of_content", file["bytes"])
            yield path, (str(size), file.get("sha256_of_content", file["sha256"]))


def expanded(pattern: str) -> Iterator[str]:
    """`a_{b,c}` -> a_b, a_c"""
    pieces = [p[1:-1].split(",") if p.startswith("{") else [p] for p in re.split(r"(\{[^}]*\})", pattern)]
    return ("".join(choice) for choice in itertools.product(*pieces))


if __name__ == "__main__":
    main(sys.argv[1:])
