"""BBH with chains of thought, 3 shots, greedy, 256 new tokens: items per second beside lm-evaluation-harness.

    python benchmarks/generate_vs_lm_eval.py --data DIR --family causal|t5 [--tasks 6] [--items 8] [--threads 2]

A random model of the stated shape, the same prompt strings and stop strings, single precision; the texts are compared
one by one. Where they part, the model is asked for the two likeliest tokens at that place: a near tie is named. Told
nothing, the harness lets an encoder-decoder write as many tokens more as its prompt has; it is held to 256 here
(`max_length`), which is in its favour. The random T5 writes one word for ever, which is what guessing tokens ahead is
good for, so our side is timed with it and without, a token a step. Needs `pip install lm-eval==0.4.13`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from flan_rows import in_child
from lm_eval_side import (
    MAX_LENGTH,
    TIE,
    Asked,
    bbh_prompts,
    best_batch,
    instances,
    make_model,
    need_lm_eval,
    open_engine,
    open_harness,
    read_asked,
    timed,
    warm_up,
    write_asked,
)

TARGET = 3.0
BATCHES = (8, 16, 32, 64)


def ours(
    folder: Path, family: str, asked: list[Asked], device: str, new_tokens: int, *, guesses: bool
) -> dict[str, Any]:
    from flantune.inference import GenerateRequest

    engine = open_engine(folder, family, device)
    engine.guesses = guesses
    requests = [GenerateRequest(prompt=a.prompt, stop=a.stop, max_new_tokens=new_tokens) for a in asked]
    warm_up(engine)
    made = timed(lambda: {g.index: (g.text, g.new_tokens) for g in engine.generate(requests)})
    told = [made["answers"][i] for i in range(len(asked))]
    made["answers"] = [text for text, _ in told]
    made["new_tokens"] = [n for _, n in told]
    return made


def theirs(folder: Path, family: str, asked: list[Asked], device: str, new_tokens: int, batch: int) -> dict[str, Any]:
    harness = open_harness(folder, family, batch, device)

    def settings(stop: tuple[str, ...]) -> dict[str, Any]:
        # In place of the prompt's length and these; with the start token, that is `new_tokens` told.
        held = {"max_length": new_tokens + 1} if family == "t5" else {}
        return {"until": list(stop), "max_gen_toks": new_tokens, "do_sample": False, **held}

    arguments = [(a.prompt, settings(a.stop)) for a in asked]
    return timed(lambda: harness.generate_until(instances("generate_until", arguments), disable_tqdm=True))


def compare(folder: Path, family: str, asked: list[Asked], a: list[str], b: list[str]) -> dict[str, Any]:
    engine = open_engine(folder, family)
    different, ties = [], []
    for item, x, y in zip(asked, a, b, strict=True):
        if x != y:
            (ties if margin_where_they_part(engine, item.prompt, x, y) < TIE else different).append(item.id)
    return {"different": different, "ties": ties}


def margin_where_they_part(engine: Any, prompt: str, x: str, y: str) -> float:
    """Logits between the two likeliest tokens of the stock model, at the first place at which the texts differ."""
    import torch

    tokens = [engine.tokenizer.encode(text).tolist() for text in (x, y)]
    n = min(map(len, tokens))
    first = next((i for i in range(n) if tokens[0][i] != tokens[1][i]), n)
    ids = [*engine.tokenizer.encode(prompt).tolist(), *([engine.tokenizer.eos_id] if engine.prompt_eos else [])]
    with torch.inference_mode():
        if engine.family == "encoder-decoder":
            start = [engine.model.config.decoder_start_token_id, *tokens[0][:first]]
            logits = engine.model(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([start])).logits
        else:
            logits = engine.model(input_ids=torch.tensor([ids + tokens[0][:first]])).logits
    # Text to tokens and back can be other tokens than were told: a few places before the texts part count too.
    two = logits[0, -4:].topk(2).values
    return float((two[:, 0] - two[:, 1]).min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--family", choices=("causal", "t5"), required=True)
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--items", type=int, default=8, help="of each task")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=0, help="of lm-eval; the fastest of a few when not given")
    parser.add_argument("--one-by-one", action="store_true", help=argparse.SUPPRESS)
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
        engine.max_inputs = MAX_LENGTH - (args.new_tokens if args.family == "causal" else 0)
        asked, dropped = bbh_prompts(args.data, args.tasks, args.items, engine.fits)
        tokens = [engine.num_tokens(a.prompt) for a in asked]
        write_asked(asked, path)
        common = ["--data", str(args.data), "--family", args.family, "--threads", str(args.threads)]
        common += ["--device", args.device, "--folder", str(folder), "--asked", str(path)]
        batch, tried = args.batch, {}
        if not batch:
            few = [*common, "--new-tokens", str(min(64, args.new_tokens))]
            batch, tried = best_batch(__file__, few, BATCHES, few=len(asked))
        common += ["--new-tokens", str(args.new_tokens)]
        mine = in_child(__file__, [*common, "--side", "ours"])
        one_by_one = in_child(__file__, [*common, "--side", "ours", "--one-by-one"])
        other = in_child(__file__, [*common, "--side", "theirs", "--batch", str(batch)])
        sides = {"guessed": mine, "one_by_one": one_by_one}
        found = {k: compare(folder, args.family, asked, a["answers"], other["answers"]) for k, a in sides.items()}
    line = {
        "name": f"generate_vs_lm_eval_{args.family}",
        "ratio": other["seconds"] / mine["seconds"],
        "target": TARGET,
        "equal": not any(parted["different"] for parted in found.values()),
        "ratio_one_by_one": other["seconds"] / one_by_one["seconds"],
        "parted": found,
        "items": len(asked),
        "shots_dropped": dropped,
        "mean_tokens": sum(tokens) / len(tokens),
        "mean_new_tokens": sum(mine["new_tokens"]) / len(asked),
        "seconds": {"ours": mine["seconds"], "one_by_one": one_by_one["seconds"], "lm_eval": other["seconds"]},
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
        guesses = not args.one_by_one
        made = ours(Path(args.folder), args.family, asked, args.device, args.new_tokens, guesses=guesses)
    else:
        made = theirs(Path(args.folder), args.family, asked, args.device, args.new_tokens, args.batch)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
