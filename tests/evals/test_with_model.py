"""The whole way with a real (tiny, random) model: files and a store of examples -> items -> engine -> figures."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from flantune.evals import BENCHMARKS, Setting, compare, read_items, run_evaluation
from flantune.evals.collection import Tasks
from flantune.inference import Engine, GenerateRequest
from flantune.inference.backends import Ours
from flantune.recipe import CollectionSpec
from flantune.tasks import ExampleStore, build_store
from flantune.tokens.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ExampleStore:
    folder = tmp_path_factory.mktemp("collection")
    for name in ("plural", "colour", "size"):
        rows = [{"prompt": f"Give the {name} of thing {i}.", "completion": f"{name} {i}"} for i in range(12)]
        (folder / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in rows))
    return build_store([CollectionSpec(path=str(folder), reader="prompts")], folder / "store")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    texts = ["Give the plural of thing 7.", "Q: Which of these floats?\n(A) Duckweed (B) Flint"] * 30
    return train_tokenizer(texts, 400, Path(tmp_path_factory.mktemp("tokenizer")))


def engine_of(tokenizer: Tokenizer, seed: int, batch_tokens: int) -> Engine:
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=tokenizer.vocab_size,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return Engine(model, tokenizer, "encoder-decoder", 300, batch_tokens)


def settings_over(store: ExampleStore, benchmarks: Path) -> list[Setting]:
    held_out = Tasks(store, tuple(store.tasks), max_new_tokens={"direct": 6, "cot": 6})
    return [
        Setting(benchmark=held_out, path=benchmarks, mode="direct", shots=0, limit=5),
        Setting(benchmark=held_out, path=benchmarks, mode="direct", shots=2, limit=5),
        Setting(benchmark=BENCHMARKS["mmlu"], path=benchmarks / "mmlu", mode="direct", shots=2),
        Setting(benchmark=BENCHMARKS["bbh"], path=benchmarks / "bbh", mode="direct"),
    ]


def test_a_model_is_evaluated_on_held_out_tasks_and_benchmarks_alike_in_any_batch_size(
    store: ExampleStore, tokenizer: Tokenizer, benchmarks: Path, tmp_path: Path
):
    settings = settings_over(store, benchmarks)
    summaries = [
        run_evaluation(Ours(engine_of(tokenizer, 0, size), "seed 0"), settings, tmp_path / str(size))
        for size in (100_000, 1)
    ]
    assert [e["items"] for e in summaries[0]["results"]] == [15, 15, 3, 3]
    assert len(summaries[0]["results"][0]["tasks"]) == 3
    one, two = (read_items(tmp_path / size / "items.parquet") for size in ("100000", "1"))
    assert [(r.result.item, r.result.output, r.result.score) for r in one] == [
        (r.result.item, r.result.output, r.result.score) for r in two
    ]
    assert all(r.result.item.shots == 2 for r in one if r.setting == "held_out/direct/2-shot")


def test_two_models_are_compared_over_tasks_and_items(
    store: ExampleStore, tokenizer: Tokenizer, benchmarks: Path, tmp_path: Path
):
    settings = settings_over(store, benchmarks)[:1]
    for seed in (0, 1):
        run_evaluation(Ours(engine_of(tokenizer, seed, 4000), f"seed {seed}"), settings, tmp_path / str(seed))
    rows = compare(tmp_path / "0/items.parquet", tmp_path / "1/items.parquet")
    assert [r.task for r in rows] == [None, *sorted(store.tasks)]
    assert (rows[0].num_tasks, rows[0].items, rows[0].prompts_differ) == (3, 15, 0)


def test_a_chat_template_is_read_as_control_tokens_and_answers_stand_in_the_results(
    tokenizer: Tokenizer, benchmarks: Path, tmp_path: Path
):
    backend = Ours(engine_of(tokenizer, 0, 4000), "m")
    end = tokenizer.hf.eos_token
    setting = Setting(benchmark=BENCHMARKS["gsm8k"], path=benchmarks / "gsm8k", mode="direct", shots=1, chat="dialogue")
    assert backend.chat_template is None
    tokenizer.hf.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}" + end + "{% endfor %}assistant:"
    try:
        run_evaluation(backend, [setting], tmp_path / "e")
        rows = read_items(tmp_path / "e/items.parquet")
        assert rows[0].setting == "gsm8k/direct/1-shot+chat-dialogue"
        prompt = rows[0].result.item.prompt
        assert prompt.count(end) == 3 and prompt.endswith(f"The answer is{end}assistant:")
        plain, chat = (tokenizer.encode_batch([prompt], parse_special=special)[0] for special in (False, True))
        assert list(plain).count(tokenizer.eos_id) == 0 and list(chat).count(tokenizer.eos_id) == 3
        (told,) = backend.generate([GenerateRequest(prompt=prompt, max_new_tokens=8, special=True)])
        assert told.prompt_tokens in (0, len(chat) + 1)
    finally:
        tokenizer.hf.chat_template = None
