"""Every kind of model against the slow obvious way: the stock model on one whole sequence at a time, without cache."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
)

from flantune.compiled import shared_threads
from flantune.errors import ModelError
from flantune.inference import (
    Engine,
    GenerateRequest,
    Sampling,
    ScoreRequest,
    drafts,
    prefix_tree,
    products,
    row_loops,
    run_loops,
    writers,
    writing,
)
from flantune.inference.engine import FamilyName
from flantune.inference.requests import GREEDY
from flantune.inference.sampling import Draw, uniforms
from flantune.models.encdec import start_id
from flantune.tokens.tokenizer import Tokenizer

HEAD = "Answer the question. " + "The ferry left at nine and the kiln was cold. Question: how many jars? 24.\n\n" * 3
OTHER = "The kiln was cold. " * 6
PROMPTS = (
    HEAD + "Q: yes or no?\nA:",
    HEAD + "Question: how many jars?\nA:",
    HEAD + "Question: how many ferries left at nine?\nA:",
    OTHER + "24",
    OTHER + "yes",
    "Q: no?",
    HEAD + "Q: yes or no?\nA:",  # again
)
OPTIONS = ((" yes", " no"), (" at nine.", " not at all, it never left", " no"))
SAMPLED = Sampling(temperature=0.8, top_k=30, top_p=0.95, seed=5)
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": None,
}


@pytest.fixture(scope="module")
def engines(tokenizer: Tokenizer, t5: T5ForConditionalGeneration, llama: LlamaForCausalLM) -> Callable[[str], Engine]:
    ids = {"vocab_size": tokenizer.vocab_size, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    windowed = {"sliding_window": 24, "max_position_embeddings": 1_024}
    made: dict[str, Engine] = {}

    def spread(model: Any) -> Any:
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.3)
                elif not parameter.any():  # biases
                    parameter.normal_(0, 0.1)
        return model.eval()

    def make(name: str) -> tuple[Any, FamilyName, bool]:
        if name == "t5":
            return t5, "encoder-decoder", True
        if name == "t5gemma, windows and caps":
            stack = SHAPE | ids | windowed | {"bos_token_id": 2, "query_pre_attn_scalar": 8}
            config = T5GemmaConfig(encoder=stack, decoder=stack, tie_word_embeddings=False, **ids)
            return spread(T5GemmaForConditionalGeneration(config)), "encoder-decoder", True
        if name == "llama":
            return llama, "causal", False
        if name == "llama prefix":
            return llama, "prefix", True
        if name == "llama, biases":
            return (
                spread(LlamaForCausalLM(LlamaConfig(**SHAPE, **ids, attention_bias=True, mlp_bias=True))),
                "causal",
                False,
            )
        if name == "qwen2, a window in some layers":
            mixed = {"use_sliding_window": True, "max_window_layers": 1}
            return spread(Qwen2ForCausalLM(Qwen2Config(**SHAPE, **ids, **windowed, **mixed))), "causal", False
        if name == "qwen3":
            return spread(Qwen3ForCausalLM(Qwen3Config(**SHAPE, **ids))), "causal", True
        if name == "mistral, a window":
            return spread(MistralForCausalLM(MistralConfig(**SHAPE, **ids, **windowed))), "causal", False
        if name == "gemma2, windows and caps":
            capped = Gemma2Config(**SHAPE, **ids, **windowed, attn_logit_softcapping=5.0, final_logit_softcapping=8.0)
            return spread(Gemma2ForCausalLM(capped)), "causal", False
        if name == "gemma3, windows":
            return spread(Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, **ids, **windowed))), "causal", False
        raise AssertionError(name)

    def engine(name: str) -> Engine:
        if name not in made:
            model, family, eos = make(name)
            made[name] = Engine(model, tokenizer, family, 512, prompt_eos=eos)
        made[name].batch_tokens = None
        return made[name]

    return engine


NAMES = (
    "t5",
    "t5gemma, windows and caps",
    "llama",
    "llama prefix",
    "llama, biases",
    "qwen2, a window in some layers",
    "qwen3",
    "mistral, a window",
    "gemma2, windows and caps",
    "gemma3, windows",
)


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    return engines(request.param)


def ids_of(engine: Engine, prompt: str) -> list[int]:
    return [*engine.tokenizer.encode(prompt).tolist(), *([engine.tokenizer.eos_id] if engine.prompt_eos else [])]


def next_logits(engine: Engine, prompt: list[int], told: Sequence[int]) -> torch.Tensor:
    """Of the token after each of prompt's last and `told`: (1 + len(told), tokenizer's vocabulary)."""
    with torch.inference_mode():
        if engine.family == "encoder-decoder":
            start = torch.tensor([[start_id(engine.model), *told]])
            logits = engine.model(input_ids=torch.tensor([prompt]), decoder_input_ids=start, use_cache=False).logits[0]
        else:
            ids = torch.tensor([[*prompt, *told]])
            mask = None
            if engine.family == "prefix":
                places = torch.arange(ids.shape[1])
                mask = ((places[None, :] <= places[:, None]) | (places[None, :] < len(prompt)))[None, None]
            logits = engine.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, len(prompt) - 1 :]
    return logits[:, : engine.vocab_size]


def write_slowly(engine: Engine, prompt: str, new: int, sampling: Sampling = GREEDY, sample: int = 0) -> list[int]:
    told: list[int] = []
    ids = ids_of(engine, prompt)
    while len(told) < new and (not told or told[-1] not in engine.eos_ids):
        logits = next_logits(engine, ids, told)[-1]
        if sampling.temperature == 0:
            told.append(int(logits.argmax()))
            continue
        values = logits.numpy().astype(np.float64) / sampling.temperature
        order = np.argsort(-values, kind="stable")[: sampling.top_k]
        weights = np.exp(values[order] - values[order[0]])
        before = np.cumsum(weights) - weights
        kept = np.sort(order[before < (sampling.top_p or 1.0) * weights.sum()])
        weights = np.exp(values[kept] - values[order[0]])
        number = uniforms([Draw(sampling, sample, len(told))])[0]
        told.append(int(kept[np.searchsorted(np.cumsum(weights), number * weights.sum(), side="right")]))
    return told


@pytest.mark.parametrize(
    ("name", "loops"),
    [*((name, False) for name in NAMES), *((name, True) for name in ("t5", "llama", "mistral, a window"))],
)
def test_greedy_texts_and_samples_are_those_of_one_prompt_at_a_time(
    name: str, loops: bool, engines: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
):
    engine = engines(name)
    monkeypatch.setattr(row_loops, "_WORTH", 0 if loops else 1 << 62)
    monkeypatch.setattr(run_loops, "_FEWEST", 1)
    monkeypatch.setattr(products, "_STEPS", 3)  # and packed weights, where there are any
    engine.batch_tokens = 300
    requests = [GenerateRequest(prompt=p, max_new_tokens=5 + 4 * i) for i, p in enumerate(PROMPTS)]
    requests += [GenerateRequest(prompt=p, max_new_tokens=9, samples=3, sampling=SAMPLED) for p in PROMPTS[:4]]
    told = dict(engine.generate_tokens(requests))
    assert sorted(told) == list(range(len(requests)))
    for i, request in enumerate(requests):
        for sample in range(request.samples):
            expected = write_slowly(engine, request.prompt, request.max_new_tokens, request.sampling, sample)
            assert told[i][sample] == expected
    assert told[7][0] != told[7][1]


def test_scores_are_those_of_one_option_at_a_time(engine: Engine):
    requests = [ScoreRequest(prompt=p, options=o) for p in PROMPTS for o in OPTIONS]
    expected = []
    for request in requests:
        if engine.prompt_eos:
            prompt = ids_of(engine, request.prompt)
            wholes = [[*prompt, *engine.tokenizer.encode(o.lstrip(" ")).tolist()] for o in request.options]
            seam = len(prompt)
        else:
            wholes = [ids_of(engine, request.prompt + o) for o in request.options]
            own = ids_of(engine, request.prompt)
            columns = zip(own, *wholes, strict=False)
            seam = next((i for i, column in enumerate(columns) if len(set(column)) > 1), len(own))
        expected.append(
            [
                float(
                    torch.log_softmax(full_logits(engine, whole[:seam], whole[seam:-1]).double(), -1)[
                        range(len(whole) - seam), whole[seam:]
                    ].sum()
                )
                for whole in wholes
            ]
        )
    for budget in (None, 150, 20):
        engine.batch_tokens = budget
        got = {s.index: s.scores for s in engine.score(requests)}
        for i, want in enumerate(expected):
            assert got[i] == pytest.approx(want, abs=3e-4)


def full_logits(engine: Engine, prompt: list[int], told: list[int]) -> torch.Tensor:
    """With the padding of the embedding table: it is part of the softmax."""
    kept, engine.vocab_size = engine.vocab_size, engine.model.config.vocab_size
    try:
        return next_logits(engine, prompt, told)
    finally:
        engine.vocab_size = kept


@pytest.mark.parametrize("name", ["t5", "llama", "gemma2, windows and caps", "llama prefix"])
def test_neither_order_nor_company_nor_budget_changes_a_text(
    name: str, engines: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
):
    engine = engines(name)
    requests = [
        GenerateRequest(prompt=p, max_new_tokens=6 + i, samples=1 + i % 3, sampling=SAMPLED)
        for i, p in enumerate(PROMPTS[:5])
    ]
    alone = [next(engine.generate([r])).texts for r in requests]
    for budget, order in zip((None, 40, 90, 400), list(permutations(range(5)))[::31], strict=True):
        engine.batch_tokens = budget
        monkeypatch.setattr(prefix_tree, "STEP_COST", 0 if budget != 90 else 512)  # what is shared changes nothing
        for g in engine.generate([requests[i] for i in order]):
            assert g.texts == alone[order[g.index]]


@pytest.mark.parametrize(
    ("name", "loops"),
    [*((name, False) for name in NAMES if not name.startswith("t5gemma")), ("t5", True), ("llama", True)],
)  # T5Gemma is never asked
def test_what_is_guessed_ahead_changes_no_text(
    name: str, loops: bool, engines: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
):
    """All rows guess from their second token on, and mostly wrong."""
    engine = engines(name)
    monkeypatch.setattr(row_loops, "_WORTH", 0 if loops else 1 << 62)
    monkeypatch.setattr(run_loops, "_FEWEST", 1)
    monkeypatch.setattr(drafts, "_ALIKE", 1)
    monkeypatch.setattr(drafts, "_SURE", 0)
    monkeypatch.setattr(writing, "_MANY", 0)
    engine.batch_tokens = 300
    requests = [GenerateRequest(prompt=p, max_new_tokens=5 + 6 * i) for i, p in enumerate(PROMPTS)]
    requests += [GenerateRequest(prompt=p, max_new_tokens=14, samples=3, sampling=SAMPLED) for p in PROMPTS[:4]]
    for i, texts in engine.generate_tokens(requests):
        request = requests[i]
        for sample, told in enumerate(texts):
            assert told == write_slowly(engine, request.prompt, request.max_new_tokens, request.sampling, sample)


@pytest.mark.parametrize("name", ["t5", "gemma2, windows and caps"])
def test_texts_that_go_round_in_circles_take_few_steps(
    name: str, engines: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
):
    engine = engines(name)
    monkeypatch.setattr(engine, "eos_ids", frozenset())
    monkeypatch.setattr(row_loops, "_WORTH", 0)
    looked = 0

    def attend_keys(*given: Any) -> Any:
        nonlocal looked
        looked += 1
        return by_keys(*given)

    by_keys = row_loops.attend_keys
    monkeypatch.setattr(row_loops, "attend_keys", attend_keys)
    requests = [GenerateRequest(prompt=p, max_new_tokens=240) for p in PROMPTS[:4]]
    steps: list[int] = []
    output = writers.OutputMatrix.logits
    monkeypatch.setattr(
        writers.OutputMatrix, "logits", lambda self, states: (steps.append(len(states)), output(self, states))[1]
    )
    told = dict(engine.generate_tokens(requests))
    few = len(steps)
    assert bool(looked) == (name == "t5" and shared_threads())  # encoder states' keys and values, once it is worth them
    steps.clear()
    monkeypatch.setattr(engine, "guesses", False)
    assert dict(engine.generate_tokens(requests)) == told
    assert all(len(texts[0]) == 240 for texts in told.values()) and few < len(steps) / 2


def test_memory_that_ends_with_several_tokens_a_row_is_enough_for_one(
    engines: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
):
    engine = engines("llama")
    requests = [GenerateRequest(prompt=p, max_new_tokens=40) for p in PROMPTS[:4]]
    want = dict(engine.generate_tokens(requests))
    monkeypatch.setattr(drafts, "_SURE", 0)
    monkeypatch.setattr(writing, "_MANY", 0)

    def fail(self: Any, tokens: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(writers.CausalWriter, "check", fail)
    assert dict(engine.generate_tokens(requests)) == want
    assert engine.budget.shrunk == 0


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_samples_from_a_number_on_are_those_of_the_whole_run(name: str, engines: Callable[[str], Engine]):
    engine = engines(name)
    whole = GenerateRequest(prompt=OTHER, max_new_tokens=7, samples=9, sampling=SAMPLED)
    rest = replace(whole, first=4, samples=5)
    told = {g.index: g.texts for g in engine.generate([rest, whole])}
    assert told[0] == told[1][4:] and len(set(told[1])) > 1


def tokens_read(engine: Engine, ask: Callable[[], Any]) -> int:
    read: list[int] = []
    module = engine.model.get_encoder() if engine.family == "encoder-decoder" else engine.model.base_model
    hook = module.register_forward_hook(lambda m, a, k, o: read.append(k["input_ids"].numel()), with_kwargs=True)
    try:
        ask()
    finally:
        hook.remove()
    return sum(read)


def test_shared_beginnings_are_read_once_whatever_the_budget(engines: Callable[[str], Engine]):
    engine = engines("llama")
    prompts = [HEAD + f"{i} jars and {i * 7} kilns left at nine" for i in range(20)]
    rows = [tuple(ids_of(engine, p)) for p in prompts]
    beginnings = len({row[: i + 1] for row in rows for i in range(len(row))})
    requests = [ScoreRequest(prompt=p, options=(" yes", " no")) for p in prompts]
    for budget in (10_000, 100):
        engine.batch_tokens = budget
        assert tokens_read(engine, lambda: list(engine.score(requests))) < 1.3 * beginnings
    whole = sum(map(len, rows))
    assert whole > 5 * beginnings
    new = [GenerateRequest(prompt=p, max_new_tokens=1) for p in prompts]
    assert tokens_read(engine, lambda: list(engine.generate(new))) < 1.3 * beginnings


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_samples_of_a_prompt_share_its_reading(name: str, engines: Callable[[str], Engine]):
    engine = engines(name)
    one = len(ids_of(engine, HEAD))
    request = GenerateRequest(prompt=HEAD, max_new_tokens=1, samples=12, sampling=SAMPLED)
    assert tokens_read(engine, lambda: list(engine.generate([request]))) == one


def test_rows_that_end_make_room_for_others(engines: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch):
    engine = engines("llama")
    monkeypatch.setattr("flantune.inference.memory._ROWS", {"cpu": 4})
    engine.batch_tokens = None
    lengths = [30, 2, 2, 2, 2, 2, 2, 2]
    requests = [GenerateRequest(prompt=f"{OTHER} {i}", max_new_tokens=n) for i, n in enumerate(lengths)]
    rows: list[int] = []
    hook = engine.model.lm_head.register_forward_hook(lambda m, a, o: rows.append(len(o)))
    try:
        texts = {g.index: g.text for g in engine.generate(requests)}
    finally:
        hook.remove()
    assert max(rows) <= 4 and len(rows) < 40  # batches of four that wait for their slowest would take as many again
    for i, request in enumerate(requests):
        told = write_slowly(engine, request.prompt, request.max_new_tokens)
        assert texts[i] == engine._text(told, ())


class OutOfMemoryNow:
    """A model that has no memory for more than so many tokens at once."""

    def __init__(self, engine: Engine, limit: int, error: Exception) -> None:
        self.engine, self.limit, self.error, self.raised = engine, limit, error, 0

    def __enter__(self) -> OutOfMemoryNow:
        def check(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if kwargs["input_ids"].numel() > self.limit:
                self.raised += 1
                raise self.error

        model = self.engine.model
        encoded = self.engine.family == "encoder-decoder"
        modules = [model.get_encoder(), model.get_decoder()] if encoded else [model.base_model]
        self.hooks = [m.register_forward_pre_hook(check, with_kwargs=True) for m in modules]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
)


@pytest.mark.parametrize(("name", "error"), list(zip(("t5", "llama"), ERRORS, strict=True)))
def test_out_of_memory_halves_the_batch_and_nothing_is_lost(
    name: str, error: Exception, engines: Callable[[str], Engine]
):
    engine = engines(name)
    longest = max(len(ids_of(engine, p)) for p in PROMPTS)
    ask = [ScoreRequest(prompt=p, options=o) for p in PROMPTS for o in OPTIONS]
    write = [GenerateRequest(prompt=p, max_new_tokens=12, samples=2, sampling=SAMPLED) for p in PROMPTS]
    scores, texts = (
        (lambda: {s.index: s.scores for s in engine.score(ask)}),
        (lambda: {g.index: g.texts for g in engine.generate(write)}),
    )
    want_scores, want_texts = scores(), texts()
    for limit in (longest, 2 * longest) if name == "t5" else (30, longest):
        engine.batch_tokens = None
        with OutOfMemoryNow(engine, limit, error) as memory:
            for i, values in scores().items():
                assert values == pytest.approx(want_scores[i], abs=3e-4)
            assert memory.raised > 0 and engine.budget.shrunk == memory.raised
    engine.batch_tokens = None
    with OutOfMemoryNow(engine, longest if name == "t5" else 30, error) as memory:
        assert texts() == want_texts
    assert memory.raised > 0


def test_memory_that_runs_out_while_writing_sends_rows_back(engines: Callable[[str], Engine]):
    engine = engines("llama")
    write = [GenerateRequest(prompt=f"{i}", max_new_tokens=12, samples=2, sampling=SAMPLED) for i in range(6)]
    want = {g.index: g.texts for g in engine.generate(write)}
    steps = 0

    def check(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal steps
        steps += 1
        if steps > 4 and kwargs["input_ids"].numel() > 5:
            raise torch.OutOfMemoryError

    engine.batch_tokens = None
    hook = engine.model.base_model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        assert {g.index: g.texts for g in engine.generate(write)} == want
    finally:
        hook.remove()
    assert engine.budget.shrunk > 0 and engine.budget.rows <= 5


def test_memory_for_nothing_at_all_is_an_error(engines: Callable[[str], Engine]):
    for name in ("t5", "llama"):
        engine = engines(name)
        engine.batch_tokens = None
        with OutOfMemoryNow(engine, 0, ERRORS[0]):
            with pytest.raises(ModelError, match="memory ran out"):
                list(engine.score([ScoreRequest(prompt="Q: no?", options=("a", "b"))]))
            with pytest.raises(ModelError, match="memory ran out"):
                list(engine.generate([GenerateRequest(prompt="Q: no?")]))
        engine.batch_tokens = None


def test_another_error_of_the_model_goes_on(engines: Callable[[str], Engine]):
    engine = engines("llama")
    with OutOfMemoryNow(engine, 0, RuntimeError("shapes differ")), pytest.raises(RuntimeError, match="shapes differ"):
        list(engine.score([ScoreRequest(prompt="Q: no?", options=("a", "b"))]))


def test_the_stock_attention_is_back_after_every_question(llama: LlamaForCausalLM, engines: Callable[[str], Engine]):
    before = llama.config._attn_implementation
    for _ in engines("llama").generate([GenerateRequest(prompt=p, max_new_tokens=3) for p in PROMPTS]):
        assert llama.config._attn_implementation == before


def test_control_tokens_spelled_in_a_prompt_count_only_where_the_request_says_so(engines: Callable[[str], Engine]):
    engine = engines("llama")
    plain, special = (
        next(engine.generate([GenerateRequest(prompt="Q: no?</s>A:", max_new_tokens=8, special=s)]))
        for s in (False, True)
    )
    assert special.prompt_tokens < plain.prompt_tokens


def test_a_prompt_beyond_the_trained_length_is_read_whole_and_told_of_once(
    t5: T5ForConditionalGeneration, tokenizer: Tokenizer
):
    engine = Engine(t5, tokenizer, "encoder-decoder", 512, trained_inputs=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not next(engine.generate([GenerateRequest(prompt="24", max_new_tokens=1)])).truncated
        with pytest.warns(UserWarning, match="more than the 20 this encoder was trained with"):
            long = next(engine.generate([GenerateRequest(prompt=HEAD, max_new_tokens=4)]))
        assert long.prompt_tokens == engine.num_tokens(HEAD) and not long.truncated
        assert next(engine.generate([GenerateRequest(prompt=HEAD, max_new_tokens=4)])).texts == long.texts
