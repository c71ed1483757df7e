"""The paper's figures that studies are drawn beside, as the package ships them: scripts/paper_curves.py RESULTS.json

RESULTS.json holds the tables of arXiv 2210.11416v5 (and 2301.13688v2) as they were read from the papers; what stands in
src/flantune/studies/paper.yaml is the part of it that is plotted, each block with its source.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).parents[1] / "src/flantune/studies/paper.yaml"
SCORES = ("norm_avg", "mmlu_direct", "mmlu_cot", "bbh_direct", "bbh_cot", "tydiqa", "mgsm")
METHODS = {
    "T5-XL Flan 2022": "all of Flan 2022",
    "without CoT": "without CoT",
    "without input inversion": "without inversion",
    "without few-shot templates": "without few-shot",
    "without mixture balancing": "without balancing",
}


def curves(results: dict[str, Any]) -> dict[str, Any]:
    table3 = results["table3_task_scaling"]
    methods, balance = results["t5_xl_method_ablation"], results["t5_xl_source_balancing"]
    return {
        "scaling": {
            "source": "Chung et al. 2022 (arXiv 2210.11416v5), Table 3",
            "y": "normalised average, %",
            "curves": {
                row["model"]: [[p["tasks"], p["norm_avg"]] for p in row["points"] if p["norm_avg"] is not None]
                for row in table3["rows"]
            },
            "scores": {
                name: {
                    row["model"]: [[p["tasks"], p[name]] for p in row["points"] if p.get(name) is not None]
                    for row in table3["rows"]
                }
                for name in SCORES[1:]
            },
        },
        "cot": {
            "source": "Chung et al. 2022 (arXiv 2210.11416v5), section 4.2; its Figure 5 has no table",
            "said": results["cot_ablation_fig5"]["qualitative"],
        },
        "methods": {
            "source": "Longpre et al. 2023 (arXiv 2301.13688v2), Table 1, Flan-T5-XL; read in one excerpt",
            "columns": methods["columns"],
            "rows": {told: methods["rows"][name] for name, told in METHODS.items()},
        },
        "sources": {
            "source": "Longpre et al. 2023 (arXiv 2301.13688v2), Table 2, Flan-T5-XL; read in one excerpt",
            "columns": balance["columns"],
            "rows": balance["rows"],
        },
    }


def main(path: str) -> None:
    content = yaml.safe_dump(
        curves(json.loads(Path(path).read_text())),
        sort_keys=False,
        allow_unicode=True,
        width=120,
        default_flow_style=None,
    )
    head = "# The papers' own figures, drawn beside a study's for reference. Made by scripts/paper_curves.py.\n"
    TARGET.write_text(head + content)


if __name__ == "__main__":
    main(*sys.argv[1:])
