"""A run's folder as the stages leave it, small and invented; every text that a user's data may hold is hostile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

HOSTILE = '<script>alert(1)</script><img src=http://evil.example/x.png onerror=alert(2)> & "quoted" {{ 7 * 7 }}'
TASK = f"niv2/{HOSTILE}"
HELD, MMLU = "held_out/direct/0-shot", "mmlu/direct/5-shot"


def write_run(root: Path, without: tuple[str, ...] = ()) -> Path:
    """Everything, but for the paths in `without`."""
    files: dict[str, Any] = {
        "recipe.yaml": yaml.safe_dump(recipe(), sort_keys=False, allow_unicode=True),
        "data/shards/card.json": card(),
        "data/examples/store.json": store(),
        "data/examples/rejected.jsonl": [rejected(i) for i in range(30)],
        "data/samples.jsonl": samples(),
        "pretrain/metrics.jsonl": [metrics(step, 8.0) for step in range(10, 210, 10)],
        "metrics.jsonl": [metrics(step, 5.0) for step in range(10, 510, 10)],
        "evals/base/summary.json": summary(0.10, 0.40),
        "evals/tuned/summary.json": summary(0.25, 0.95),
        "compare.json": {"format": 1, "difference": "b - a", "rows": compared()},
    }
    for name, content in files.items():
        if name in without:
            continue
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = isinstance(content, list)
        text = "".join(json.dumps(line) + "\n" for line in content) if lines else content
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    for side in ("base", "tuned"):
        name = f"evals/{side}/items.parquet"
        if name not in without:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(items(side)), root / name)
    return root


def recipe() -> dict[str, Any]:
    return {
        "name": "invented",
        "seed": 3,
        "collections": [{"path": HOSTILE}],
        "pretrain": {"steps": 200},
        "versions": {"flantune": "0.1.0", "torch": "2.13"},
    }


def counted(mixture: str, examples: int, asked: float | None, got: float) -> dict[str, Any]:
    zeros = dict.fromkeys(("inputs_cut", "targets_cut", "input_tokens_lost", "target_tokens_lost", "empty_targets"), 0)
    return {
        **zeros,
        "mixture": mixture,
        "asked": asked,
        "got": got,
        "examples": examples,
        "input_tokens": 50 * examples,
        "target_tokens": 1234,
        "exemplars_lost": 5,
        "input_token_share": got,
        "target_token_share": got,
    }


def card() -> dict[str, Any]:
    return {
        "rows": 77,
        "inputs_len": 256,
        "targets_len": 64,
        "one_sided": False,
        "total": counted("", 40, 1.0, 1.0),
        "fill": {"inputs": 0.975, "targets": None},
        "dropped": {"no exemplar fits": 4},
        "mixtures": {"niv2": counted("niv2", 30, 0.7, 0.75), "t0_sf": counted("t0_sf", 10, 0.3, 0.25)},
        "tasks": {TASK: counted("niv2", 30, 0.7, 0.75), "t0/x": counted("t0_sf", 10, None, 0.25)},
        "formats": {"zs_opt": 25, "fs_opt": 15},
        "templates": {"niv2/1": 30, "p3/1": 10},
        "input_lengths": {"32": 20, "64": 20},
        "target_lengths": {"1": 3, "2": 37},
    }


def store() -> dict[str, Any]:
    return {
        "tasks": 2,
        "rows": 1030,
        "examples": 1000,
        "rejected": 30,
        "malformed": 30,
        "reasons": {"blank target": 30},
        "empty_tasks": [{"task": "t0/empty", "path": "e", "reason": "no row was kept"}],
        "skipped_files": {"odd.bin": "no reader"},
    }


def rejected(number: int) -> dict[str, Any]:
    return {"file": f"rows-{number}.jsonl", "place": number, "field": "target", "expected": "text", "got": HOSTILE}


def samples() -> list[dict[str, Any]]:
    segments = [
        {"role": "instruction", "text": "Answer this.\n"},
        {"role": "exemplar", "text": "Q: one\nA: 1\n\n"},
        {"role": "query", "text": f"  Q: {HOSTILE}\n"},
        {"role": "rationale", "text": "Because so."},
        {"role": "target", "text": " The answer is 七."},
    ]
    one = {"mixture": "niv2", "task": TASK, "row": 4, "template": "niv2/1", "exemplars": [1], "segments": segments}
    return [one | {"index": i, "task": TASK if i % 2 else "t0/x"} for i in range(40)]


def metrics(step: int, loss: float) -> dict[str, Any]:
    return {
        "step": step,
        "loss": loss - step / 1000,
        "z_loss": 0.0,
        "accuracy": 0.5,
        "learning_rate": 5e-4,
        "grad_norm": 1.5,
        "tokens_per_second": 12_345.6,
        "seconds": float(step),
        "examples": step,
        "input_tokens": step * 10,
        "target_tokens": step,
    }


def figures(score: float | None, read: float, number: int = 50) -> dict[str, Any]:
    return {
        "score": score,
        "interval": None if score is None else [score - 0.05, score + 0.05],
        "score_parsed": None,
        "items": number,
        "extraction_rate": read,
        "truncated": 2,
        "items_with_shots_dropped": 1,
        "metric": "exact_match",
    }


def summary(held: float, read: float) -> dict[str, Any]:
    def entry(setting: str, score: float, tasks: dict[str, Any]) -> dict[str, Any]:
        name, mode, shots = setting.split("/")
        own = {"setting": setting, "benchmark": name, "mode": mode, "shots": int(shots[0]), "normalised": None}
        return own | figures(score, read, 100) | {"missing": 0, "tasks": tasks}

    held_tasks = {TASK: figures(held, read), "niv2/none": figures(None, read)}
    return {
        "format": 1,
        "model": "m",
        "results": [entry(HELD, held, held_tasks), entry(MMLU, 0.26, {"virology": figures(0.26, read)})],
    }


def compared() -> list[dict[str, Any]]:
    def row(setting: str, task: str | None, low: float, high: float) -> dict[str, Any]:
        pair = {"setting": setting, "task": task, "difference": (low + high) / 2, "interval": [low, high]}
        return pair | {"rose": 17, "fell": 2, "items": 100}

    return [row(HELD, None, 0.08, 0.22), row(HELD, TASK, 0.05, 0.25), row(MMLU, None, -0.03, 0.03)]


def items(side: str) -> list[dict[str, Any]]:
    rows = []
    for i in range(12):
        score = (1.0, 0.0, None, 0.5)[i % 4]
        rows.append(
            {
                "setting": HELD if i < 8 else MMLU,
                "task": TASK,
                "id": f"item-{i}",
                "prompt": f"\n{HOSTILE} " + "long " * (2000 if i == 0 else 1) + f"end-of-prompt-{i}",
                "references": [f"reference-{i}", HOSTILE],
                "output": f"{side} says {HOSTILE} {i}",
                "extracted": None if score is None else f"{side}-extract-{i}",
                "rule": "" if score is None else "last number",
                "score": score,
                "reason": "no answer found in it" if score is None else "",
            }
        )
    return rows
