"""An evaluation shared out to workers: the same answers, whoever gave them and whoever died."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flantune.errors import ModelError, StateError
from flantune.evals import BENCHMARKS, Setting, read_items, run_evaluation
from flantune.inference.mock import Mock
from flantune.inference.requests import Generated, GenerateRequest, ScoreRequest
from flantune.pipeline import asking
from flantune.pipeline.asking import Heard, LocalCrew, Shared, _common, heard_from, shares_of
from flantune.pipeline.evaluation import open_backend
from flantune.pipeline.parallel import Failure, Workers
from flantune.recipe import EvalSpec
from tiny import saved_decoder

FILES = Path(__file__).parents[1] / "data" / "benchmarks"


@given(st.lists(st.text("ab ", max_size=12), max_size=60), st.integers(1, 5))
def test_shares_hold_every_request_once_in_the_order_of_the_prompts(prompts: list[str], workers: int):
    requests = [GenerateRequest(prompt=p) for p in prompts]
    shares = shares_of(requests, workers)
    places = [p for s in shares for p in s.places]
    assert sorted(places) == list(range(len(prompts)))
    assert [r.prompt for s in shares for r in s.requests] == sorted(prompts)
    assert all(requests[p] is r for s in shares for p, r in zip(s.places, s.requests, strict=True))
    assert len(shares) <= 2 * workers * asking.SHARES + 1


@given(st.text("ab"), st.text("ab"))
def test_what_two_prompts_have_in_common_is_counted(a: str, b: str):
    assert _common(a, b) == len(os.path.commonprefix([a, b]))  # noqa: RUF071


def test_a_shared_prefix_is_cut_last():
    heads = ["one long head " * 20, "another head " * 20, "third " * 30]
    requests = [GenerateRequest(prompt=f"{head}{n:02}") for head in heads for n in range(20)]
    random.Random(0).shuffle(requests)
    shares = shares_of(requests, 1)
    assert len(shares) in (3, 4, 5)
    assert sum(len({r.prompt[:10] for r in s.requests}) == 1 for s in shares) >= len(shares) - 1


class Crew:
    """Workers inside this process, each a mock; some die after some answers."""

    def __init__(self, dies_after: dict[int, int], fails: bool = False) -> None:
        self.hired, self.dies_after, self.fails = 0, dies_after, fails
        self.words: list[Heard] = []
        self.answers = 0
        self.closed = False

    def hire(self) -> int:
        self.hired += 1
        self.words.append(Heard("ready", self.hired, {"model": "m", "max_inputs": 9, "prompt_eos": True}))
        if self.dies_after.get(self.hired) == -1:
            self.words = [*self.words[:-1], Heard("lost", self.hired)]
        return self.hired

    def send(self, worker: int, requests: tuple[Any, ...]) -> None:
        if self.fails:
            self.words.append(heard_from(worker, "failed", Failure(ModelError("broken weights"))))
            return
        for number, answer in enumerate(asking.answers_to(Mock(), requests)):
            if number == self.dies_after.get(worker):
                self.words.append(Heard("lost", worker))
                return
            self.answers += 1
            self.words.append(heard_from(worker, "answer", answer))
        self.words.append(heard_from(worker, "done", None))

    def heard(self) -> list[Heard]:
        assert self.words, "it would wait for ever"
        return [self.words.pop(0)]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(number: int, dies_after: dict[int, int], **how: Any) -> tuple[Shared, Crew]:
        crew = Crew(dies_after, **how)
        monkeypatch.setattr(asking, "_open_crew", lambda job, workers: (crew, number))
        monkeypatch.setattr("flantune.tokens.tokenizer.load_tokenizer", lambda path: None)
        return Shared("folder", 9, Workers(count=number)), crew

    return make


@pytest.mark.parametrize("dies_after", [{}, {1: 2}, {1: 0, 2: 1}, {2: 3, 3: 0}, {1: -1, 2: 1}])
def test_every_request_is_answered_once_whoever_dies(shared: Any, dies_after: dict[int, int]):
    backend, crew = shared(2, dies_after)
    requests = [GenerateRequest(prompt=f"question {n % 17} {n}") for n in range(50)]
    expected = {g.index: g for g in Mock().generate(requests)}
    found = list(backend.generate(requests))
    assert {g.index: g for g in found} == expected and len(found) == crew.answers == 50
    scores = [ScoreRequest(prompt=f"q {n}", options=("a", "b")) for n in range(9)]
    assert sorted(backend.score(scores), key=lambda s: s.index) == list(Mock().score(scores))
    assert list(backend.generate([])) == []


def test_who_dies_again_and_again_ends_it(shared: Any):
    backend, _ = shared(1, {1: 0, 2: 0, 3: 0})
    with pytest.raises(StateError, match="3 workers were lost"):
        list(backend.generate([GenerateRequest(prompt="q")]))
    with pytest.raises(StateError, match="3 workers were lost"):
        shared(1, {1: -1, 2: -1, 3: -1})


def test_an_error_of_a_worker_is_the_evaluations(shared: Any):
    backend, _ = shared(1, {}, fails=True)
    with pytest.raises(ModelError, match="broken weights"):
        list(backend.generate([GenerateRequest(prompt="q")]))


def test_workers_with_other_models_are_refused(shared: Any):
    backend, crew = shared(1, {})
    crew.words.append(Heard("ready", 2, {"model": "another", "max_inputs": 9, "prompt_eos": True}))
    with pytest.raises(StateError, match="Is it the same folder on every machine"):
        list(backend.generate([GenerateRequest(prompt="q")]))


# Real processes, real model ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved_decoder(tmp_path_factory.mktemp("model"), width=32, layers=2, max_position_embeddings=8192))


def settings() -> list[Setting]:
    asked = [("mmlu", "direct"), ("bbh", "cot"), ("gsm8k", "cot"), ("mgsm", "cot")]
    return [Setting(benchmark=BENCHMARKS[n], path=FILES / n, mode=m, shots=1) for n, m in asked]


def same(folder: Path, other: Path) -> bool:
    """Every item alike, log-probabilities but for the rounding that other neighbours in a batch bring about."""
    one, two = (read_items(f / "items.parquet") for f in (folder, other))
    for a, b in zip(one, two, strict=True):
        assert a.result.option_scores == pytest.approx(b.result.option_scores, abs=1e-4)
    bare = [[replace(r, result=replace(r.result, option_scores=None)) for r in rows] for rows in (one, two)]
    files = [[(f / name).read_bytes() for name in ("unread.jsonl", "header.json")] for f in (folder, other)]
    return bare[0] == bare[1] and files[0] == files[1] and len(one) == 11


@pytest.mark.slow
def test_two_processes_leave_the_same_files_as_one_and_one_may_die(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run_evaluation(open_backend(model, EvalSpec(), 4000), settings(), tmp_path / "one")
    with Shared(model, 4000, Workers(count=2)) as backend:
        run_evaluation(backend, settings(), tmp_path / "two")
        assert same(tmp_path / "two", tmp_path / "one")
        crew = backend._crew
        assert isinstance(crew, LocalCrew)
        sent = LocalCrew.send

        def send_and_kill(self: LocalCrew, worker: int, requests: Any) -> None:
            sent(self, worker, requests)
            monkeypatch.setattr(LocalCrew, "send", sent)
            os.kill(self.processes[worker], signal.SIGKILL)

        monkeypatch.setattr(LocalCrew, "send", send_and_kill)
        run_evaluation(backend, settings(), tmp_path / "killed")
    assert same(tmp_path / "killed", tmp_path / "one")
    with pytest.raises(ModelError, match="found no such folder"):
        Shared(str(tmp_path / "nothing"), 4000, Workers(count=1))


@pytest.mark.slow
def test_a_ray_cluster_leaves_the_same_files_and_an_actor_may_die(model: str, tmp_path: Path):
    ray = pytest.importorskip("ray")
    from flantune.pipeline.ray_asking import RayCrew

    run_evaluation(open_backend(model, EvalSpec(), 4000), settings(), tmp_path / "one")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20)
    try:
        with Shared(model, 4000, Workers(count=2, ray="local")) as backend:
            run_evaluation(backend, settings(), tmp_path / "ray")
            assert same(tmp_path / "ray", tmp_path / "one")
            assert isinstance(backend._crew, RayCrew)
            os.kill(backend._crew.processes()[1], signal.SIGKILL)
            answers = list(backend.generate([GenerateRequest(prompt=f"q {n}", max_new_tokens=2) for n in range(9)]))
            assert sorted(a.index for a in answers) == list(range(9)) and isinstance(answers[0], Generated)
    finally:
        ray.shutdown()
