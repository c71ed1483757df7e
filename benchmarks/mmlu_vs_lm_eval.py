"""MMLU 5-shot direct: items per second and peak memory beside lm-evaluation-harness on the same model folder.

    python benchmarks/mmlu_vs_lm_eval.py --data DIR --family causal|t5 [--subjects 2] [--items 0] [--threads 2]

A random model of the stated shape, the same prompt strings, single precision. The prediction of every item is compared;
where two options lie nearer than single precision rounds, the item is named. Prompts hold at most 2,048 tokens:
exemplars are dropped whole before, and counted. Needs `pip install lm-eval==0.4.13`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from flan_rows import in_child
from lm_eval_side import (
    MAX_LENGTH,
    TIE,
    Asked,
    best_batch,
    instances,
    make_model,
    mmlu_prompts,
    need_lm_eval,
    open_engine,
    open_harness,
    read_asked,
    timed,
    write_asked,
)

TARGET = {"causal": 12.0, "t5": 6.0}
MEMORY_TARGET = {"causal": 1 / 3, "t5": None}
BATCHES = {"causal": (1, 2, 4, 8, 16), "t5": (4, 8, 16, 32)}


def ours(folder: Path, family: str, asked: list[Asked], device: str) -> dict[str, Any]:
    from flantune.inference import ScoreRequest, encoder_loops

    engine = open_engine(folder, family, device)
    requests = [ScoreRequest(prompt=a.prompt, options=a.options) for a in asked]
    # What is loaded once, and what an installation compiles once.
    kept, encoder_loops._MUCH = encoder_loops._MUCH, 0
    list(engine.score(requests[:1]))
    encoder_loops._MUCH = kept
    made = timed(lambda: {s.index: s.scores for s in engine.score(requests)})
    made["answers"] = [made["answers"][i] for i in range(len(asked))]
    return made


def theirs(folder: Path, family: str, asked: list[Asked], device: str, batch: int) -> dict[str, Any]:
    harness = open_harness(folder, family, batch, device)
    # After the EOS of an encoder an answer begins without the blank that would part it from a text.
    pairs = [(a.prompt, o.lstrip(" ") if family == "t5" else o) for a in asked for o in a.options]
    harness.loglikelihood(instances("loglikelihood", pairs[:4]), disable_tqdm=True)
    made = timed(lambda: harness.loglikelihood(instances("loglikelihood", pairs), disable_tqdm=True))
    values = iter(made["answers"])
    made["answers"] = [[next(values)[0] for _ in a.options] for a in asked]
    return made


def compare(asked: list[Asked], a: list[list[float]], b: list[list[float]]) -> dict[str, Any]:
    different, ties, gap = [], [], 0.0
    for item, x, y in zip(asked, a, b, strict=True):
        gap = max(gap, max(abs(p - q) for p, q in zip(x, y, strict=True)))
        if x.index(max(x)) != y.index(max(y)):
            first, second = sorted(y, reverse=True)[:2]
            (ties if first - second < TIE else different).append(item.id)
    return {"different": different, "ties": ties, "largest_gap_nats": gap}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--family", choices=("causal", "t5"), required=True)
    parser.add_argument("--subjects", type=int, default=2, help="those most like the mean of all items")
    parser.add_argument("--items", type=int, default=0, help="of each subject; 0: all, so that sharing is the test's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=0, help="of lm-eval; the fastest of a few when not given")
    for name in ("--side", "--folder", "--asked", "--few"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    need_lm_eval()
    if args.side:
        side(args)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder, path = Path(temporary) / "model", Path(temporary) / "asked.json"
        make_model(args.family, args.data, folder)
        engine = open_engine(folder, args.family)
        asked, dropped = mmlu_prompts(args.data, args.subjects, args.items, engine.fits)
        tokens = [engine.num_tokens(a.prompt) for a in asked]
        del engine
        write_asked(asked, path)
        common = ["--data", str(args.data), "--family", args.family, "--threads", str(args.threads)]
        common += ["--device", args.device, "--folder", str(folder), "--asked", str(path)]
        batch, tried = args.batch, {}
        if not batch:
            batch, tried = best_batch(__file__, common, BATCHES[args.family], few=16)
        mine = in_child(__file__, [*common, "--side", "ours"])
        other = in_child(__file__, [*common, "--side", "theirs", "--batch", str(batch)])
    found = compare(asked, mine["answers"], other["answers"])
    memory = mine["peak_memory"] / other["peak_memory"]
    line = {
        "name": f"mmlu_vs_lm_eval_{args.family}",
        "ratio": other["seconds"] / mine["seconds"],
        "target": TARGET[args.family],
        "equal": not found["different"],
        "memory_ratio": memory,
        "memory_target": MEMORY_TARGET[args.family],
        **found,
        "items": len(asked),
        "subjects": dict(Counter(a.id.rpartition("/")[0] or a.id for a in asked)),
        "shots_dropped": dropped,
        "cut": sum(n > MAX_LENGTH for n in tokens),
        "mean_tokens": sum(tokens) / len(tokens),
        "seconds": {"ours": mine["seconds"], "lm_eval": other["seconds"]},
        "peak_memory": {"ours": mine["peak_memory"], "lm_eval": other["peak_memory"]},
        "lm_eval_batch": batch,
        "lm_eval_batches_tried": tried,
    }
    print(json.dumps(line))


def side(args: Any) -> None:
    import torch

    torch.set_num_threads(args.threads)
    asked = read_asked(Path(args.asked))
    if args.few:
        asked = asked[:: max(1, len(asked) // int(args.few))][: int(args.few)]
    if args.side == "ours":
        made = ours(Path(args.folder), args.family, asked, args.device)
    else:
        made = theirs(Path(args.folder), args.family, asked, args.device, args.batch)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
