"""What is read once for all, and batches that memory is not enough for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from flantune.errors import ModelError
from flantune.inference import Engine, GenerateRequest, ScoreRequest

from .families import HEAD, OPTIONS, OTHER, PROMPTS, SAMPLED, ids_of, write_slowly


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
