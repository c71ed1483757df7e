"""40 samples of one prompt: texts per second beside transformers' generate(num_return_sequences=40).

    python benchmarks/self_consistency.py --data DIR [--family causal|t5] [--prompts 2] [--samples 40] [--threads 2]

A random model of the stated shape, BBH prompts with chains of thought, temperature 0.7, the 40 likeliest tokens.
transformers draws with its own generator, so its samples are other texts. Checked instead: the greedy text of every
prompt equals transformers'; and every token of every sample of ours is the one that its uniform number picks off the
stock model's distribution, read in one pass without cache, by an inverse of the cumulative sum written apart. A number
that falls within rounding of a boundary is counted apart ("near"), and so is a draw that is the number's among the
other 40 likeliest where the 40th and the next are equal within rounding.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from flan_rows import in_child
from lm_eval_side import (
    MAX_LENGTH,
    Asked,
    bbh_prompts,
    make_model,
    open_engine,
    read_asked,
    timed,
    warm_up,
    write_asked,
)

TARGET = 5.0
TEMPERATURE, TOP_K, SEED = 0.7, 40, 1
ROUNDING = 1e-4  # of a probability
TIE = 1e-5  # of logits as large as 1


def requests_of(asked: list[Asked], samples: int, new_tokens: int) -> list[Any]:
    from flantune.inference import GenerateRequest, Sampling

    sampling = Sampling(temperature=TEMPERATURE, top_k=TOP_K, seed=SEED)
    return [
        GenerateRequest(prompt=a.prompt, max_new_tokens=new_tokens, samples=samples, sampling=sampling) for a in asked
    ]


def ours(folder: Path, family: str, asked: list[Asked], samples: int, new_tokens: int) -> dict[str, Any]:
    engine = open_engine(folder, family)
    warm_up(engine)

    def answer() -> int:
        return sum(len(g.texts) for g in engine.generate(requests_of(asked, samples, new_tokens)))

    return timed(answer)


def theirs(folder: Path, asked: list[Asked], family: str, samples: int, new_tokens: int) -> dict[str, Any]:
    import torch

    engine = open_engine(folder, family)
    engine.whole_model().set_attn_implementation("sdpa")

    def answer() -> int:
        count = 0
        for a in asked:
            ids = torch.tensor([prompt_ids(engine, a.prompt)])
            out = engine.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=TEMPERATURE,
                top_k=TOP_K,
                top_p=1.0,
                num_return_sequences=samples,
                max_new_tokens=new_tokens,
            )
            count += len(engine.tokenizer.hf.batch_decode(out, skip_special_tokens=True))
        return count

    return timed(answer)


def prompt_ids(engine: Any, prompt: str) -> list[int]:
    return [*engine.tokenizer.encode(prompt).tolist(), *([engine.tokenizer.eos_id] if engine.prompt_eos else [])]


def check(folder: Path, family: str, asked: list[Asked], samples: int, new_tokens: int) -> dict[str, Any]:
    """Greedy texts, and every token of every sample against its number."""
    import torch

    from flantune.inference import GenerateRequest

    engine = open_engine(folder, family)
    greedy = {
        g.index: g.text
        for g in engine.generate([GenerateRequest(prompt=a.prompt, max_new_tokens=new_tokens) for a in asked])
    }
    sampled = dict(engine.generate_tokens(requests_of(asked, samples, new_tokens)))
    engine.whole_model().set_attn_implementation("sdpa")
    equal_greedy, wrong, near, checked = 0, 0, 0, 0
    for i, a in enumerate(asked):
        ids = torch.tensor([prompt_ids(engine, a.prompt)])
        with torch.inference_mode():
            out = engine.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens
            )[0].tolist()
        told = out[1:] if family == "t5" else out[ids.shape[1] :]
        end = told.index(engine.tokenizer.eos_id) if engine.tokenizer.eos_id in told else len(told)
        equal_greedy += engine.tokenizer.decode(told[:end]) == greedy[i]
        for number, tokens in enumerate(sampled[i]):
            logits = stock_logits(engine, family, ids, tokens)
            checked += len(tokens)
            for place, (token, row) in enumerate(zip(tokens, logits, strict=True)):
                chosen, others = likeliest(row)
                expected, distance = picks(row, chosen, SEED, number, place)
                if token != expected:
                    excused = distance < ROUNDING or any(token == picks(row, o, SEED, number, place)[0] for o in others)
                    near, wrong = near + excused, wrong + (not excused)
    return {"greedy_equal": equal_greedy == len(asked), "tokens_checked": checked, "near": near, "wrong": wrong}


def stock_logits(engine: Any, family: str, ids: Any, tokens: list[int]) -> Any:
    import torch

    told = torch.tensor([tokens])
    with torch.inference_mode():
        if family == "t5":
            start = torch.full((1, 1), engine.model.config.decoder_start_token_id)
            return engine.model(
                input_ids=ids, decoder_input_ids=torch.cat([start, told[:, :-1]], 1), use_cache=False
            ).logits[0]
        out = engine.model(input_ids=torch.cat([ids, told[:, :-1]], 1), use_cache=False, logits_to_keep=len(tokens))
        return out.logits[0]


def likeliest(logits: Any) -> tuple[Any, list[Any]]:
    """Ids of the TOP_K largest, ascending; and with the last of them changed for the next where those two are a tie."""
    values = logits.numpy()
    order = np.argsort(-values, kind="stable")[: TOP_K + 1]
    last, following = values[order[-2:]]
    tied = last - following < TIE * max(1.0, abs(last))
    return np.sort(order[:-1]), [np.sort(np.delete(order, TOP_K - 1))] if tied else []


def picks(logits: Any, ids: Any, seed: int, sample: int, place: int) -> tuple[int, float]:
    """Of these ids the token, and how far its number is from the next boundary. Written apart from the engine's own."""
    values = logits.numpy().astype(np.float64)[ids] / TEMPERATURE
    weights = np.exp(values - values.max())
    reached = np.cumsum(weights / weights.sum())
    number = uniform(seed, sample, place)
    at = int(np.searchsorted(reached, number, side="right"))
    return int(ids[min(at, TOP_K - 1)]), float(np.abs(reached - number).min())


def uniform(seed: int, sample: int, place: int) -> float:
    mask, step = (1 << 64) - 1, 0x9E3779B97F4A7C15

    def mixed(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    state = mixed((seed + step) & mask)
    for counter in (sample, place):
        state = mixed((state + step * (counter + 1)) & mask)
    return ((state >> 11) + 0.5) * 2.0**-53


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--family", choices=("causal", "t5"), default="causal")
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    for name in ("--side", "--folder", "--asked"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder, path = Path(temporary) / "model", Path(temporary) / "asked.json"
        make_model(args.family, args.data, folder)
        engine = open_engine(folder, args.family)
        engine.max_inputs = MAX_LENGTH - args.new_tokens
        asked, _ = bbh_prompts(args.data, args.prompts, 1, engine.fits)
        tokens = [engine.num_tokens(a.prompt) for a in asked]
        write_asked(asked, path)
        common = ["--data", str(args.data), "--family", args.family, "--threads", str(args.threads)]
        common += ["--samples", str(args.samples), "--new-tokens", str(args.new_tokens)]
        common += ["--folder", str(folder), "--asked", str(path)]
        found = in_child(__file__, [*common, "--side", "check"])
        mine = in_child(__file__, [*common, "--side", "ours"])
        other = in_child(__file__, [*common, "--side", "theirs"])
    line = {
        "name": f"self_consistency_{args.family}",
        "ratio": other["seconds"] / mine["seconds"],
        "target": TARGET,
        "equal": found["greedy_equal"] and found["wrong"] == 0,
        **found,
        "prompts": len(asked),
        "samples": args.samples,
        "new_tokens": args.new_tokens,
        "mean_tokens": sum(tokens) / len(tokens),
        "seconds": {"ours": mine["seconds"], "transformers": other["seconds"]},
        "peak_memory": {"ours": mine["peak_memory"], "transformers": other["peak_memory"]},
    }
    print(json.dumps(line))


def side(args: Any) -> None:
    import torch

    torch.set_num_threads(args.threads)
    asked, folder = read_asked(Path(args.asked)), Path(args.folder)
    if args.side == "ours":
        made = ours(folder, args.family, asked, args.samples, args.new_tokens)
    elif args.side == "theirs":
        made = theirs(folder, asked, args.family, args.samples, args.new_tokens)
    else:
        made = check(folder, args.family, asked, args.samples, args.new_tokens)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
