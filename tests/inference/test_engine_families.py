"""Every kind of model against the slow obvious way: the stock model on one whole sequence at a time, without cache."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from transformers import LlamaForCausalLM, T5ForConditionalGeneration

from flantune.inference import (
    Engine,
    GenerateRequest,
    ScoreRequest,
    encoder,
    encoder_loops,
    prefix_tree,
    products,
    row_loops,
    run_loops,
)
from flantune.tokens.tokenizer import Tokenizer

from .families import HEAD, NAMES, OPTIONS, OTHER, PROMPTS, SAMPLED, ids_of, next_logits, write_slowly


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest, engines: Callable[[str], Engine]) -> Engine:
    return engines(request.param)


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
    monkeypatch.setattr(products, "COPIES_AFTER", 3)  # and packed weights, where there are any
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


def test_scores_are_those_of_one_option_at_a_time(engine: Engine, monkeypatch: pytest.MonkeyPatch):
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
        monkeypatch.setattr(encoder_loops, "_MUCH", 0 if budget else 1e30)  # loops, and packed weights, after all
        monkeypatch.setattr(encoder, "_LONG", 30)
        monkeypatch.setattr(products, "COPIES_AFTER", 3)
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


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_samples_from_a_number_on_are_those_of_the_whole_run(name: str, engines: Callable[[str], Engine]):
    engine = engines(name)
    whole = GenerateRequest(prompt=OTHER, max_new_tokens=7, samples=9, sampling=SAMPLED)
    rest = replace(whole, first=4, samples=5)
    told = {g.index: g.texts for g in engine.generate([rest, whole])}
    assert told[0] == told[1][4:] and len(set(told[1])) > 1


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
