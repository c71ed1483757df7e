"""lm-evaluation-harness beside flantune: one model folder, the same prompts, each side in a process of its own.

Needs `pip install lm-eval==0.4.13` beside flantune. What is compared is its backend `hf`, at its best batch size.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from flan_rows import in_child, peak_memory

VOCABULARY = 32_000
MAX_LENGTH = 2_048  # tokens of a prompt, on both sides
SPREAD = 0.05  # of random weights: at the usual 0.02 a deep model writes one word for ever
TIE = 1e-3  # nats between the two likeliest: less is within what single precision rounds


@dataclass(frozen=True, slots=True)
class Asked:
    id: str
    prompt: str
    options: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()


def need_lm_eval() -> None:
    if importlib.util.find_spec("lm_eval") is None:
        sys.exit("lm-eval is missing, so there is nothing to compare with: pip install lm-eval==0.4.13")


def mmlu_prompts(data: Path, subjects: int, items: int, fits: Callable[[str], bool]) -> tuple[list[Asked], int]:
    """So many subjects of the test split, 5-shot direct in the original's words, `items` of each (0: all), and how many
    exemplars were dropped for room. Taken are the subjects nearest to the mean over all items, both in what
    their prompts share and in what each has of its own."""
    from flantune.evals.catalog import BENCHMARKS

    benchmark = BENCHMARKS["mmlu_original"]
    folder = data / benchmark.folder
    limit = items or None
    posed = list(benchmark.items(folder, "direct", split="test", fits=lambda prompt: True))
    shapes = _shapes(posed)
    total = sum(count for count, _, _ in shapes.values())
    shared, own = (sum(s[0] * s[i] for s in shapes.values()) / total for i in (1, 2))
    far = {t: abs(math.log(s[1] / shared)) + abs(math.log(s[2] / own)) for t, s in shapes.items()}
    chosen = sorted(far, key=lambda task: far[task])[:subjects]
    if limit or not all(fits(p.item.prompt) for p in posed if p.item.task in chosen):
        posed = list(benchmark.items(folder, "direct", split="test", limit=limit, fits=fits))
    return _asked(posed, chosen)


def _shapes(posed: Iterable[Any]) -> dict[str, tuple[int, int, float]]:
    """Of each task: its items, characters their prompts begin with alike, and characters of each one's own."""
    by_task: dict[str, list[str]] = {}
    for p in posed:
        by_task.setdefault(p.item.task, []).append(p.item.prompt)
    found = {}
    for task, prompts in by_task.items():
        pairs = zip(min(prompts), max(prompts), strict=False)
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        found[task] = (len(prompts), alike, sum(map(len, prompts)) / len(prompts) - alike)
    return found


def bbh_prompts(data: Path, tasks: int, items: int, fits: Callable[[str], bool]) -> tuple[list[Asked], int]:
    """3-shot with chains of thought."""
    from flantune.evals.catalog import BENCHMARKS

    benchmark = BENCHMARKS["bbh"]
    posed = list(benchmark.items(data / benchmark.folder, "cot", limit=items, fits=fits))
    lengths: dict[str, list[int]] = {}
    for p in posed:
        lengths.setdefault(p.item.task, []).append(len(p.item.prompt))
    # The middles of equal shares of all tasks, by their mean length: so they are about as long as all are.
    names = sorted(lengths, key=lambda task: sum(lengths[task]) / len(lengths[task]))
    return _asked(posed, [names[(2 * i + 1) * len(names) // (2 * tasks)] for i in range(tasks)])


def _asked(posed: Iterable[Any], tasks: Sequence[str]) -> tuple[list[Asked], int]:
    own = [p for p in posed if p.item.task in tasks]
    asked = [Asked(p.item.id, p.item.prompt, tuple(p.item.options or ()), tuple(p.item.stop)) for p in own]
    return asked, sum(p.shots_dropped for p in own)


def make_model(family: str, data: Path, folder: Path) -> None:
    """A random model of 55 to 60 million parameters with a tokenizer of 32,000 pieces trained on the prompts' words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from flantune.models.load import save_model, scratch_model
    from flantune.recipe import ModelSize
    from flantune.tokens.tokenizer import load_tokenizer

    tokenizer = _tokenizer(family, data, folder.with_name(folder.name + "-tokenizer"))
    if family == "t5":
        size = ModelSize(d_model=512, layers=6, heads=8, d_kv=64, d_ff=2048, activation="relu")  # T5-small's
        model = scratch_model("t5", size, vocab_size=VOCABULARY, eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id)
    else:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=512,
            intermediate_size=1_408,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=MAX_LENGTH + 256,
            eos_token_id=tokenizer.eos_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_id,
        )
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 1.0 if name.startswith("shared") else SPREAD, generator=generator)
    save_model(model, tokenizer.hf, folder)
    load_tokenizer(folder)


def _tokenizer(family: str, data: Path, folder: Path) -> Any:
    """A decoder's adds no EOS when it is called as lm-eval calls it: the prompt's text goes on."""
    from tokenizers import processors

    from flantune.tokens.tokenizer import train_tokenizer

    texts = [p.read_text(encoding="utf-8", errors="replace") for p in sorted(data.glob("mmlu/**/*.csv"))]
    texts += [p.read_text(encoding="utf-8", errors="replace") for p in sorted(data.glob("bbh/**/*.txt"))]
    lines = [line for text in texts for line in text.splitlines()]
    tokenizer = train_tokenizer(lines, VOCABULARY, folder, prefix_space=False)
    if family == "causal":
        tokenizer.hf.backend_tokenizer.post_processor = processors.Sequence([])
    return tokenizer


def open_engine(folder: Path, family: str, device: str = "cpu") -> Any:
    from flantune.inference import Engine
    from flantune.inference.opening import open_model
    from flantune.tokens.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder, lazy=True)
    if device == "cpu":
        model = open_model(str(folder), tokenizer.vocab_size)
    else:
        from flantune.models.load import load_model

        model = load_model(str(folder)).to(device)
    name = "encoder-decoder" if family == "t5" else "causal"
    return Engine(model, tokenizer, name, max_inputs=MAX_LENGTH, prompt_eos=family == "t5")


def warm_up(engine: Any) -> None:
    """What is loaded once, and what an installation compiles once."""
    from flantune.inference import GenerateRequest, row_loops

    kept, row_loops._WORTH = row_loops._WORTH, 0
    list(engine.generate([GenerateRequest(prompt="Q: 1\nA:", max_new_tokens=4)]))
    row_loops._WORTH = kept


def open_harness(folder: Path, family: str, batch: int, device: str = "cpu") -> Any:
    import logging

    from lm_eval.models.huggingface import HFLM

    logging.disable(logging.WARNING)
    return HFLM(
        pretrained=str(folder),
        backend="seq2seq" if family == "t5" else "causal",
        dtype="float32",
        device=device,
        batch_size=batch,
        max_length=MAX_LENGTH,
    )


def instances(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


def write_asked(asked: Sequence[Asked], path: Path) -> None:
    path.write_text(json.dumps([asdict(a) for a in asked]))


def read_asked(path: Path) -> list[Asked]:
    raw = json.loads(path.read_text())
    return [Asked(r["id"], r["prompt"], tuple(r["options"]), tuple(r["stop"])) for r in raw]


def timed(answer: Callable[[], Any]) -> dict[str, Any]:
    """What it answers, its seconds, and the most memory the process has held."""
    began = time.perf_counter()
    answers = answer()
    return {"answers": answers, "seconds": time.perf_counter() - began, "peak_memory": peak_memory()}


def best_batch(script: str, arguments: Sequence[str], batches: Sequence[int], few: int) -> tuple[int, dict[int, float]]:
    """The harness's fastest batch size on the first `few` prompts, and seconds for each tried."""
    seconds = {}
    for batch in batches:
        made = in_child(script, [*arguments, "--side", "theirs", "--batch", str(batch), "--few", str(few)])
        seconds[batch] = made["seconds"]
        print(f"lm-eval, batch {batch}: {made['seconds']:.1f} s for {few} prompts", flush=True)
        if len(seconds) > 1 and made["seconds"] > 1.15 * min(seconds.values()):
            break  # past its best
    return min(seconds, key=lambda b: seconds[b]), seconds
