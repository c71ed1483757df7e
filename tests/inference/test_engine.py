from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, T5ForConditionalGeneration

from flantune.errors import ModelError
from flantune.inference import Engine, GenerateRequest, ScoreRequest
from flantune.inference.stops import cut_at
from flantune.tokens.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

PROMPTS = (
    "The ferry left at nine.",
    "Q: yes or no?",
    "The kiln was cold and the ferry left at nine. " * 4,
    "渡轮九点出发。",
    "24",
    "Question: how many jars?\nAnswer:",
)
BOS = 7  # whatever id it is, it stands before every prompt and nowhere else
OPTIONS = ((" yes", " no"), (" (A)", " (B)", " (C)"), (" at nine.", " not at all, it never left", " no"))


@pytest.fixture(params=["encoder-decoder", "causal", "causal without EOS", "causal from BOS"])
def engine(
    request: pytest.FixtureRequest, t5: T5ForConditionalGeneration, llama: LlamaForCausalLM, tokenizer: Tokenizer
) -> Engine:
    return make(request.param, t5, llama, tokenizer)


def make(
    kind: str, t5: torch.nn.Module, llama: torch.nn.Module, tokenizer: Tokenizer, batch_tokens: int = 400
) -> Engine:
    if kind == "encoder-decoder":
        return Engine(t5, tokenizer, "encoder-decoder", 256, batch_tokens)
    bos = BOS if kind == "causal from BOS" else None
    return Engine(llama, tokenizer, "causal", 256, batch_tokens, prompt_eos=kind == "causal", prompt_bos=bos)


def texts(engine: Engine, requests: Sequence[GenerateRequest]) -> list[str]:
    return [g.text for g in sorted(engine.generate(requests), key=lambda g: g.index)]


def scores(engine: Engine, requests: Sequence[ScoreRequest]) -> list[tuple[float, ...]]:
    return [s.scores for s in sorted(engine.score(requests), key=lambda s: s.index)]


def prompt_ids(engine: Engine, prompt: str) -> torch.Tensor:
    ids = engine.tokenizer.encode_batch([prompt])[0].tolist()
    return torch.tensor([before(engine) + ids + [engine.tokenizer.eos_id] * engine.prompt_eos])


def before(engine: Engine) -> list[int]:
    return [] if engine.prompt_bos is None else [engine.prompt_bos]


def test_greedy_texts_equal_those_of_transformers_generate_one_prompt_at_a_time(engine: Engine):
    told = texts(engine, [GenerateRequest(prompt=p, max_new_tokens=24) for p in PROMPTS])
    for prompt, text in zip(PROMPTS, told, strict=True):
        ids = prompt_ids(engine, prompt)
        out = engine.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            max_new_tokens=24,
            eos_token_id=engine.tokenizer.eos_id,
            suppress_tokens=list(range(engine.vocab_size, engine.model.config.vocab_size)) or None,
        )[0]
        ids_out = out[1:] if engine.family == "encoder-decoder" else out[ids.shape[1] :]
        end = (ids_out == engine.tokenizer.eos_id).nonzero()
        ids_out = ids_out[: end[0, 0]] if len(end) else ids_out
        assert text == engine.tokenizer.decode(ids_out.tolist())
        assert text


def test_a_batch_gives_every_prompt_what_it_gets_alone(engine: Engine):
    requests = [
        GenerateRequest(prompt=p, max_new_tokens=n) for p, n in zip(PROMPTS, (3, 20, 9, 1, 14, 20), strict=True)
    ]
    engine.batch_tokens = 100_000
    together = texts(engine, requests)
    assert together == [texts(engine, [r])[0] for r in requests]
    engine.batch_tokens = 1
    assert texts(engine, requests) == together


def test_rows_that_end_early_leave_the_others_as_they_were(
    t5: T5ForConditionalGeneration, llama: LlamaForCausalLM, tokenizer: Tokenizer
):
    for kind in ("encoder-decoder", "causal"):
        engine = make(kind, t5, llama, tokenizer, batch_tokens=100_000)
        long = [GenerateRequest(prompt=p, max_new_tokens=30) for p in PROMPTS]
        short = [GenerateRequest(prompt=f"{p} jars", max_new_tokens=1 + i) for i, p in enumerate(PROMPTS)]
        assert texts(engine, [*short, *long])[len(short) :] == texts(engine, long)


def shared_prefix(a: list[int], b: list[int]) -> int:
    return next((i for i in range(min(len(a), len(b))) if a[i] != b[i]), min(len(a), len(b)))


def reference_scores(engine: Engine, prompt: str, options: Sequence[str]) -> list[float]:
    """Teacher forcing, one option at a time, no cache, no padding."""
    values = []
    for option in options:
        with torch.inference_mode():
            if engine.prompt_eos:
                ids = prompt_ids(engine, prompt)
                told = torch.tensor([engine.tokenizer.encode_batch([option.strip()])[0].tolist()])
            else:
                whole = engine.tokenizer.encode_batch([prompt + option])[0].tolist()
                alone = [engine.tokenizer.encode_batch([prompt + o])[0].tolist() for o in options]
                own = engine.tokenizer.encode_batch([prompt])[0].tolist()
                seam = min(shared_prefix(own, a) for a in alone)
                ids, told = torch.tensor([before(engine) + whole[:seam]]), torch.tensor([whole[seam:]])
            if engine.family == "encoder-decoder":
                start = torch.cat([torch.zeros((1, 1), dtype=torch.long), told[:, :-1]], dim=1)
                logits = engine.model(input_ids=ids, decoder_input_ids=start, use_cache=False).logits
            else:
                logits = engine.model(input_ids=torch.cat([ids, told], dim=1), use_cache=False).logits
                logits = logits[:, ids.shape[1] - 1 : -1]
            logp = torch.log_softmax(logits.double(), dim=-1).gather(-1, told[..., None]).sum()
        values.append(float(logp))
    return values


def test_option_scores_equal_teacher_forcing_without_cache_or_padding(engine: Engine):
    requests = [ScoreRequest(prompt=p, options=o) for p in PROMPTS for o in OPTIONS]
    expected = [reference_scores(engine, request.prompt, request.options) for request in requests]
    for batch_tokens in (100_000, 300, 1):
        engine.batch_tokens = batch_tokens
        for want, got in zip(expected, scores(engine, requests), strict=True):
            assert got == pytest.approx(want, abs=2e-4)


def test_one_token_options_are_scored_from_the_prompts_own_logits(engine: Engine):
    single = [c for c in "bcdefgh" if len(engine.tokenizer.encode_batch([c])[0]) == 1]
    requests = [ScoreRequest(prompt=p + "\n", options=tuple(single)) for p in PROMPTS]
    expected = [reference_scores(engine, r.prompt, r.options) for r in requests]
    read: list[int] = []
    decoder = engine.model.get_decoder() if engine.family == "encoder-decoder" else engine.model.base_model
    hook = decoder.register_forward_hook(lambda m, a, k, o: read.append(k["input_ids"].numel()), with_kwargs=True)
    try:
        got = scores(engine, requests)
    finally:
        hook.remove()
    for values, want in zip(got, expected, strict=True):
        assert values == pytest.approx(want, abs=2e-4)
    own = len(requests) if engine.family == "encoder-decoder" else sum(engine.num_tokens(r.prompt) for r in requests)
    assert sum(read) <= own


def test_the_encoder_reads_each_prompt_once(t5: T5ForConditionalGeneration, tokenizer: Tokenizer):
    engine = Engine(t5, tokenizer, "encoder-decoder", 256, 200)
    read: list[int] = []
    encoder = t5.get_encoder()
    hook = encoder.register_forward_hook(lambda m, a, k, o: read.append(k["input_ids"].numel()), with_kwargs=True)
    try:
        list(engine.score([ScoreRequest(prompt=p, options=OPTIONS[2]) for p in PROMPTS]))
        tokens = sum(engine.num_tokens(p) for p in PROMPTS)
        assert sum(read) == tokens
        read.clear()
        list(engine.generate([GenerateRequest(prompt=p, max_new_tokens=9) for p in PROMPTS]))
        assert sum(read) == tokens
    finally:
        hook.remove()


def test_a_text_ends_before_its_first_stop_string_and_nothing_else_changes(engine: Engine):
    for prompt in PROMPTS:
        whole = texts(engine, [GenerateRequest(prompt=prompt, max_new_tokens=40)])[0]
        for stop in filter(None, (whole[5:7], whole[-3:], whole[0])):  # one text is short
            got = texts(engine, [GenerateRequest(prompt=prompt, max_new_tokens=40, stop=("never said", stop))])[0]
            assert got == whole[: whole.index(stop)]


def test_stop_strings_save_steps(t5: T5ForConditionalGeneration, tokenizer: Tokenizer):
    engine = Engine(t5, tokenizer, "encoder-decoder", 64)
    whole = texts(engine, [GenerateRequest(prompt=PROMPTS[0], max_new_tokens=60)])[0]
    steps: list[int] = []
    hook = t5.decoder.register_forward_hook(lambda *_: steps.append(1))
    try:
        texts(engine, [GenerateRequest(prompt=PROMPTS[0], max_new_tokens=60, stop=(whole[2:4],))])
    finally:
        hook.remove()
    assert len(steps) < 30


def test_an_overlong_prompt_with_eos_is_cut_from_the_right_as_in_training_and_says_so(
    t5: T5ForConditionalGeneration, tokenizer: Tokenizer
):
    engine = Engine(t5, tokenizer, "encoder-decoder", 12)
    ids = tokenizer.encode_batch([PROMPTS[2]])[0]
    fitted, cut = engine._fit(ids)
    assert fitted.tolist() == [*ids[:11].tolist(), tokenizer.eos_id] and cut
    told = list(engine.generate([GenerateRequest(prompt=PROMPTS[2]), GenerateRequest(prompt="24")]))
    assert {g.index: g.truncated for g in told} == {0: True, 1: False}
    scored = list(engine.score([ScoreRequest(prompt=PROMPTS[2], options=("a", "b"))]))
    assert scored[0].truncated
    assert not engine.fits(PROMPTS[2]) and engine.fits("24")


def test_an_overlong_prompt_without_eos_keeps_its_end(llama: LlamaForCausalLM, tokenizer: Tokenizer):
    engine = Engine(llama, tokenizer, "causal", 12, prompt_eos=False)
    ids = tokenizer.encode_batch([PROMPTS[2]])[0]
    fitted, cut = engine._fit(ids)
    assert fitted.tolist() == ids[-12:].tolist() and cut
    assert engine._fit(ids[:12])[1] is False


def test_fits_means_not_truncated(engine: Engine):
    for limit in (5, 6, 7, 8, 20, 60):
        engine.max_inputs = limit
        for generated in engine.generate([GenerateRequest(prompt=p, max_new_tokens=1) for p in PROMPTS]):
            assert generated.truncated is not engine.fits(PROMPTS[generated.index])


def test_asking_leaves_the_caller_able_to_train(engine: Engine):
    for _ in engine.generate([GenerateRequest(prompt=p, max_new_tokens=2) for p in PROMPTS]):
        assert not torch.is_inference_mode_enabled()


def test_no_requests_no_answers(engine: Engine):
    assert list(engine.generate([])) == [] and list(engine.score([])) == []


def test_an_option_without_tokens_is_refused(t5: T5ForConditionalGeneration, tokenizer: Tokenizer):
    with pytest.raises(ModelError, match="no tokens"):
        list(Engine(t5, tokenizer, "encoder-decoder", 64).score([ScoreRequest(prompt="a", options=("b", " "))]))


def test_broken_weights_are_an_error_and_no_score(llama: LlamaForCausalLM, tokenizer: Tokenizer):
    weight = llama.lm_head.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(float("nan"))
        with pytest.raises(ModelError, match="finite"):
            list(Engine(llama, tokenizer, "causal", 64).score([ScoreRequest(prompt="a", options=("b", "c"))]))
    finally:
        with torch.no_grad():
            weight.copy_(kept)


@given(st.text(alphabet="abQ:\n", max_size=30), st.lists(st.sampled_from(["\n\n", "Q:", "a", ""]), max_size=3))
def test_a_cut_text_is_the_longest_beginning_without_a_stop_string(text: str, stop: list[str]):
    got = cut_at(text, stop)
    real = [s for s in stop if s]
    assert text.startswith(got) and not any(s in got for s in real)
    if got != text:
        assert any(text[len(got) :].startswith(s) for s in real)


def test_padding_ids_of_the_embedding_table_are_never_told(t5: T5ForConditionalGeneration, tokenizer: Tokenizer):
    engine = Engine(t5, tokenizer, "encoder-decoder", 64)
    requests = [GenerateRequest(prompt=p, max_new_tokens=8) for p in PROMPTS]
    before = texts(engine, requests)
    kept = t5.lm_head.weight.detach().clone()
    try:
        with torch.no_grad():
            t5.lm_head.weight[tokenizer.vocab_size :] *= 100  # now the likeliest everywhere, or the least likely
        assert texts(engine, requests) == before
    finally:
        with torch.no_grad():
            t5.lm_head.weight.copy_(kept)


def test_bf16_is_another_precision_of_the_same_scores(engine: Engine):
    requests = [ScoreRequest(prompt=p, options=OPTIONS[0]) for p in PROMPTS]
    exact = scores(engine, requests)
    engine.precision = "bf16"
    rounded = scores(engine, requests)
    assert rounded != exact
    assert np.allclose(rounded, exact, rtol=0.1, atol=0.5)


@pytest.mark.parametrize("prefix_space", [False, True])
def test_options_behind_long_prompts_are_tokenised_as_one_text_with_them(
    prefix_space: bool, llama: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory
):
    lines = ["The ferry left at nine and the kiln was cold.", "A. 24 jars", "B.  渡轮九点出发。", "Answer:"] * 9
    own = train_tokenizer(lines, 400, tmp_path_factory.mktemp("own"), prefix_space=prefix_space)
    engine = Engine(llama, own, "causal", 512, prompt_eos=False)
    prompts = ["\n".join(lines[:n]) + end for n in range(1, 9) for end in ("", "\n", " ", "\n\n", " B. 2")]
    options = (" A", " B", "4 jars", "\n渡轮")
    found = engine._encode_options([ScoreRequest(prompt=p, options=options) for p in prompts])
    for prompt, kept, behind in zip(prompts, *found[:2], strict=True):
        for option, tokens in zip(options, behind, strict=True):
            assert [*kept.tolist(), *tokens.tolist()] == own.encode(prompt + option).tolist()


def test_a_prompt_that_begins_with_bos_gets_no_other_and_a_cut_one_keeps_it(
    t5: torch.nn.Module, llama: torch.nn.Module, tokenizer: Tokenizer
):
    engine = make("causal from BOS", t5, llama, tokenizer)
    tokens = np.array([BOS, 9, 10, 11], dtype=np.int32)
    assert engine._fit(tokens)[0].tolist() == engine._fit(tokens[1:])[0].tolist() == [BOS, 9, 10, 11]
    engine.max_inputs = 3
    kept, cut = engine._fit(tokens)
    assert kept.tolist() == [BOS, 10, 11] and cut
    assert engine.num_tokens(PROMPTS[0]) == len(tokenizer.encode(PROMPTS[0])) + 1


def test_bos_is_what_the_tokenizer_itself_puts_before_a_text(tmp_path: Path):
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, unk_token="b"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()

    def loaded(template: str | None) -> Tokenizer:
        core.post_processor = tokenizers.processors.TemplateProcessing(
            single=template or "$A", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        folder = tmp_path / str(template)
        PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
        return load_tokenizer(str(folder))

    assert [loaded(t).leading_bos for t in ("<s> $A", "<s> $A </s>", "$A </s>", None)] == [0, 0, None, None]
    assert loaded("<s> $A").encode("a b").tolist() == [2, 3]


def test_more_than_a_decoders_positions_is_said_once(t5: torch.nn.Module, llama: torch.nn.Module, tokenizer: Tokenizer):
    engine = make("causal without EOS", t5, llama, tokenizer)
    known = engine.model.config.max_position_embeddings
    short = GenerateRequest(prompt="24", max_new_tokens=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        texts(engine, [short])
    engine.model.config.max_position_embeddings = 3
    try:
        with pytest.warns(UserWarning, match="more than the 3 positions of this decoder"):
            texts(engine, [GenerateRequest(prompt=PROMPTS[0], max_new_tokens=2)])
    finally:
        engine.model.config.max_position_embeddings = known
