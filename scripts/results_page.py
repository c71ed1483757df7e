"""A run's figures as a page for docs/results: before and after by benchmark and by task, with intervals.

python scripts/results_page.py runs/NAME --out docs/results/NAME.md --title "..." [--note FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--title", required=True)
    parser.add_argument("--note", type=Path, help="text that goes under the title: commands, and what the figures mean")
    arguments = parser.parse_args()
    note = arguments.note.read_text(encoding="utf-8").strip() + "\n" if arguments.note else ""
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(page(arguments.run, arguments.title, note), encoding="utf-8")
    print(arguments.out)


def page(run: Path, title: str, note: str) -> str:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    comparison = json.loads((run / "compare.json").read_text())["rows"]
    summaries = {
        side: {e["setting"]: e for e in json.loads((run / "evals" / side / "summary.json").read_text())["results"]}
        for side in ("base", "tuned")
    }
    card = json.loads((run / "data" / "shards" / "card.json").read_text())
    versions = ", ".join(f"{k} {v}" for k, v in recipe["versions"].items())
    parts = [f"# {title}\n", note, f"Versions: {versions}.\n", "## Benchmarks\n", *benchmarks(comparison, summaries)]
    if (found := run / "evals" / "contamination.json").exists():
        parts += ["\n## Without leaked items\n", *clean(json.loads(found.read_text())["settings"])]
    parts += ["\n## Held-out tasks\n", *tasks(comparison), "\n## What was trained on\n", *composition(card)]
    return "\n".join(parts) + "\n"


def benchmarks(rows: list[dict[str, Any]], summaries: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "| benchmark | mode | shots | items | base | tuned | change | 95 % interval | read, base | read, tuned |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in (r for r in rows if r["task"] is None):
        low, high = r["interval"]
        read = [percent(summaries[side][r["setting"]]["extraction_rate"]) for side in ("base", "tuned")]
        lines.append(
            f"| {r['benchmark']} | {r['mode']} | {r['shots']} | {r['items']} | {r['score_a']:.3f} | "
            f"{r['score_b']:.3f} | {r['difference']:+.3f} | {low:+.3f} to {high:+.3f} | {read[0]} | {read[1]} |"
        )
    return lines


def clean(settings: list[dict[str, Any]]) -> list[str]:
    """Items whose own text lies in a training row are left out (docs/trust.md)."""
    lines = [
        "| setting | items | of them leaked | base, clean | tuned, clean | change | 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for s in settings:
        base, tuned = (s["sides"][side]["clean_score"] for side in ("base", "tuned"))
        difference = s["difference"]
        low, high = difference["interval"]
        leaked = s["verdicts"].get("test_leak", 0)
        lines.append(
            f"| {s['setting']} | {s['items']} | {leaked} | {number(base)} | {number(tuned)} | "
            f"{difference['mean']:+.3f} | {low:+.3f} to {high:+.3f} |"
        )
    return lines


def number(score: float | None) -> str:
    return "–" if score is None else f"{score:.3f}"


def tasks(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| task | shots | items | base | tuned | change | 95 % interval |", "|---|---|---|---|---|---|---|"]
    for r in (r for r in rows if r["task"] is not None and r["benchmark"] == "held_out"):
        low, high = r["interval"]
        lines.append(
            f"| {r['task']} | {r['shots']} | {r['items']} | {r['score_a']:.3f} | {r['score_b']:.3f} | "
            f"{r['difference']:+.3f} | {low:+.3f} to {high:+.3f} |"
        )
    return lines


def composition(card: dict[str, Any]) -> list[str]:
    """Shares by mixture of what the recipe's weights count."""
    lines = ["| mixture | examples | asked | got | input tokens | target tokens |", "|---|---|---|---|---|---|"]
    for name, part in card["mixtures"].items():
        asked, got = (f"{part[key]:.2%}" if part[key] is not None else "" for key in ("asked", "got"))
        counts = f"{part['input_tokens']:,} | {part['target_tokens']:,}"
        lines.append(f"| {name} | {part['examples']:,} | {asked} | {got} | {counts} |")
    return lines


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    main()
