from __future__ import annotations

import dataclasses
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flantune.errors import StateError
from flantune.models.family import family_of
from flantune.recipe import OptimizerSpec, TrainSpec
from flantune.train.checkpoint import latest_checkpoint
from flantune.train.loop import NonFiniteLoss, dropout_seed, train, train_step
from flantune.train.metrics import Metrics, cut_after, read_metrics
from flantune.train.optimizers import make_optimizer
from flantune.train.precision import choose_precision
from models.packs import random_row, tiny_model
from train.runs import SPEC, batches, small_run, start

CPU = torch.device("cpu")
TIMED = {"tokens_per_second", "seconds"}


def untimed(folder: Path) -> list[dict[str, Any]]:
    lines = [dataclasses.asdict(m) for m in read_metrics(folder / "metrics.jsonl")]
    return [{k: v for k, v in line.items() if k not in TIMED} for line in lines]


def assert_same_weights(one: Any, other: Any) -> None:
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    torch.set_num_threads(1)
    done = {}
    for family in ("t5", "llama"):
        folder = tmp_path_factory.mktemp(family)
        done[family] = (small_run(folder, family=family)[0], folder)
    return done


class TestResume:
    @pytest.mark.parametrize(
        ("family", "kills"),
        [
            ("t5", (2, 10)),  # before the first checkpoint, and after later ones
            ("llama", (4,)),
            *(
                pytest.param(family, tuple(range(first, 14, 2)), marks=pytest.mark.slow)
                for family in ("t5", "llama")
                for first in (1, 2)
            ),
        ],
    )
    def test_killed_and_started_again_it_ends_with_the_same_bits(
        self, family: str, kills: tuple[int, ...], tmp_path: Path, uninterrupted: Any
    ):
        for step in kills:
            process = start(tmp_path, family, kill_after=step)
            process.communicate()
            assert process.returncode == -signal.SIGKILL
        model, report = small_run(tmp_path, family=family)
        whole, folder = uninterrupted[family]
        assert report.resumed_from == (kills[-1] - 1) // 3 * 3
        assert_same_weights(model, whole)
        assert untimed(tmp_path) == untimed(folder)

    def test_killed_while_it_saves_it_ends_with_the_same_bits(self, tmp_path: Path, uninterrupted: Any):
        process = start(tmp_path, "t5", kill_after=-1)
        checkpoints = tmp_path / "checkpoints"
        while process.poll() is None and not any(checkpoints.glob(".tmp-*")):
            time.sleep(0.0005)
        process.kill()
        process.communicate()
        model, _ = small_run(tmp_path)
        assert_same_weights(model, uninterrupted["t5"][0])
        assert not any(checkpoints.glob(".tmp-*"))

    def test_a_truncated_checkpoint_costs_only_the_steps_since_the_one_before(self, tmp_path: Path, uninterrupted: Any):
        start(tmp_path, "t5", kill_after=8).communicate()
        path = tmp_path / "checkpoints" / "step-6" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.warns(UserWarning, match="step-6: not a whole checkpoint"):
            model, report = small_run(tmp_path)
        assert report.resumed_from == 3
        assert_same_weights(model, uninterrupted["t5"][0])
        assert untimed(tmp_path) == untimed(uninterrupted["t5"][1])

    def test_a_second_call_finds_it_done_and_gives_the_trained_weights(self, tmp_path: Path):
        model, first = small_run(tmp_path)
        lines = (tmp_path / "metrics.jsonl").read_bytes()
        again, second = small_run(tmp_path, on_step=lambda m: pytest.fail("a step was run"))
        assert_same_weights(model, again)
        assert second == dataclasses.replace(first, resumed_from=14)
        assert (tmp_path / "metrics.jsonl").read_bytes() == lines

    def test_ctrl_c_finishes_the_step_saves_and_can_be_resumed(self, tmp_path: Path, uninterrupted: Any):
        def at_five(metrics: Metrics) -> None:
            if metrics.step == 5:
                signal.raise_signal(signal.SIGINT)

        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            small_run(tmp_path, on_step=at_five)
        assert signal.getsignal(signal.SIGINT) is before
        found = latest_checkpoint(tmp_path / "checkpoints")
        assert found is not None and found.step == 5
        model, report = small_run(tmp_path)
        assert report.resumed_from == 5
        assert_same_weights(model, uninterrupted["t5"][0])
        assert untimed(tmp_path) == untimed(uninterrupted["t5"][1])

    def test_tensorboard_shows_each_logged_step_once(self, tmp_path: Path):
        start(tmp_path, "t5", kill_after=5).communicate()  # step 4 is logged and lost: the checkpoint is of step 3
        small_run(tmp_path)
        events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        told = {m.step: m.loss for m in read_metrics(tmp_path / "metrics.jsonl")}
        shown = {e.step: e.value for e in events.Scalars("train/loss")}
        assert [e.step for e in events.Scalars("train/loss")] == list(told)
        assert shown == pytest.approx(told, rel=1e-6)

    @pytest.mark.parametrize(
        ("change", "seed", "identity", "named"),
        [
            ({"z_loss": 0.5}, 7, None, "train.z_loss: expected 0.5, got 0.0001"),
            ({"optimizer": OptimizerSpec(lr=1.0)}, 7, None, "train.optimizer.lr: expected 1.0, got 0.02"),
            ({"steps": 20}, 7, None, "train.steps: expected 20, got 14"),  # the cosine would have been another
            ({}, 8, None, "seed: expected 8, got 7"),
            ({}, 7, {"shards": "abc"}, "shards: expected abc, got None"),
        ],
    )
    def test_another_recipes_checkpoint_is_refused_and_says_why(
        self, change: dict[str, Any], seed: int, identity: Any, named: str, tmp_path: Path
    ):
        small_run(tmp_path)
        model = tiny_model()
        with pytest.raises(StateError, match=named):
            train(
                model,
                family_of(model),
                batches(model),
                SPEC.model_copy(update=change),
                tmp_path,
                seed=seed,
                identity=identity,
            )

    def test_a_constant_rate_may_go_on_for_longer_and_log_more_often(self, tmp_path: Path):
        constant = SPEC.model_copy(update={"optimizer": OptimizerSpec(lr=0.02)})
        small_run(tmp_path / "a", constant.model_copy(update={"steps": 8}))
        model, report = small_run(tmp_path / "a", constant.model_copy(update={"log_every": 1}))
        assert report.resumed_from == 8
        assert_same_weights(model, small_run(tmp_path / "b", constant)[0])
        with pytest.raises(StateError, match="steps: expected at most 5, got 14"):
            small_run(tmp_path / "a", constant.model_copy(update={"steps": 5}))


class TestOneStep:
    @pytest.mark.parametrize("family", ["t5", "llama"])
    @pytest.mark.parametrize("normalizer", ["target_tokens", "t5x_sum"])
    def test_the_split_into_micro_batches_changes_nothing(self, family: Any, normalizer: Any):
        spec = TrainSpec(loss_normalizer=normalizer, z_loss=1e-3, precision="fp32")
        results = []
        for micro_rows in (1, 2, 4):
            model = tiny_model(family, seed=1).train()
            optimizer = make_optimizer(OptimizerSpec(lr=0.0001), model)
            rows = batches(model, micro_rows=micro_rows)(0)
            assert len({float(batch.loss_weights.sum()) for batch in batches(model, 1)(0)}) > 1  # of unequal weight
            sums = train_step(model, family_of(model), optimizer, rows, spec, 1, 0, "fp32")
            results.append((sums, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
        for sums, gradients in results[1:]:
            assert sums.loss_sum == pytest.approx(results[0][0].loss_sum, rel=1e-6)
            assert (sums.weight_sum, sums.input_tokens) == (results[0][0].weight_sum, results[0][0].input_tokens)
            for one, other in zip(gradients, results[0][1], strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * float(other.abs().max() + 1e-3))

    @pytest.mark.parametrize("normalizer", ["target_tokens", "t5x_sum"])
    def test_the_gradient_is_of_the_mean_over_target_tokens_or_of_the_sum(self, normalizer: Any):
        model = tiny_model(seed=1).train()
        family, micros = family_of(model), batches(model)(0)
        tokens = sum(float(b.loss_weights.sum()) for b in micros)
        total = sum((family.loss(model, b).total for b in micros), start=torch.zeros(()))
        (total / (tokens if normalizer == "target_tokens" else 1)).backward()
        expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        spec = TrainSpec(loss_normalizer=normalizer)
        train_step(model, family, make_optimizer(spec.optimizer, model), micros, spec, 1, 0, "fp32")
        for one, other in zip([p.grad for p in model.parameters()], expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7 * tokens)

    def test_counts_leave_padding_out(self):
        for family in ("t5", "llama"):
            model = tiny_model(family)  # type: ignore[arg-type]
            rows = [random_row(k) for k in range(4)]
            spec = TrainSpec()
            optimizer = make_optimizer(spec.optimizer, model)
            sums = train_step(model, family_of(model), optimizer, batches(model)(0), spec, 1, 0, "fp32")
            assert sums.examples == 12
            assert sums.input_tokens == sum(len(r.inputs) for r in rows)
            assert sums.target_tokens == sums.weight_sum == sum(len(r.targets) for r in rows)

    def test_dropout_is_keyed_by_seed_step_and_micro_batch_and_leaves_the_global_stream(self):
        def draw(*key: int) -> float:
            with dropout_seed(*key, CPU):  # type: ignore[misc, arg-type]
                return float(torch.rand(()))

        before = torch.get_rng_state()
        assert draw(1, 2, 3) == draw(1, 2, 3)
        assert len({draw(1, 2, 3), draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(12, 3, 0), draw(1, 23, 0)}) == 6
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_loss_that_is_not_finite_stops_before_the_weights_move(self, tmp_path: Path):
        model = tiny_model(seed=1)
        with torch.no_grad():
            model.get_input_embeddings().weight[:] = float("inf")  # type: ignore[index, union-attr, operator]
        before = [p.detach().clone() for p in model.parameters()]
        with pytest.raises(
            NonFiniteLoss, match=r"step 1: .* got loss nan\. Examples of the stream in it: 0, 1, 2, 100"
        ):
            train(model, family_of(model), batches(model), SPEC, tmp_path, seed=7)
        for one, other in zip(model.parameters(), before, strict=True):
            torch.testing.assert_close(one.detach(), other, rtol=0, atol=0, equal_nan=True)
        assert latest_checkpoint(tmp_path / "checkpoints") is None

    def test_a_batch_without_targets_is_named(self):
        model = tiny_model()
        empty = [dataclasses.replace(b, loss_weights=torch.zeros_like(b.loss_weights)) for b in batches(model)(0)]
        with pytest.raises(StateError, match="step 3: expected target tokens"):
            train_step(model, family_of(model), make_optimizer(SPEC.optimizer, model), empty, SPEC, 3, 0, "fp32")


class TestLearning:
    @pytest.mark.parametrize("family", ["t5", "llama", "qwen3"])
    @pytest.mark.parametrize("optimizer", ["adafactor", "adamw"])
    def test_a_tiny_model_learns_a_few_rows_by_heart(self, family: Any, optimizer: Any, tmp_path: Path):
        model = tiny_model(family, seed=1)
        rate = 0.05 if optimizer == "adafactor" else 0.01
        spec = TrainSpec(steps=120, log_every=1, optimizer=OptimizerSpec(name=optimizer, lr=rate), precision="fp32")
        train(model, family_of(model), batches(model, 2, 2, distinct=1), spec, tmp_path, seed=0)
        lines = read_metrics(tmp_path / "metrics.jsonl")
        assert lines[0].loss > 3 and lines[-1].loss < 0.1 and lines[-1].accuracy > 0.98

    def test_bf16_follows_fp32_and_keeps_float32_weights(self, tmp_path: Path):
        losses = {}
        for precision in ("fp32", "bf16"):
            model, _ = small_run(tmp_path / precision, SPEC.model_copy(update={"precision": precision}))
            assert {p.dtype for p in model.parameters()} == {torch.float32}
            losses[precision] = [m.loss for m in read_metrics(tmp_path / precision / "metrics.jsonl")]
        assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
        assert losses["bf16"] != losses["fp32"]


def test_metrics_have_means_since_the_line_before_and_counts_since_the_start(tmp_path: Path):
    steps: list[Metrics] = []
    _, report = small_run(tmp_path, on_step=steps.append)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [m.step for m in lines] == [4, 8, 12, 14]
    assert lines[-1].examples == report.examples == 14 * 12
    assert (lines[-1].input_tokens, lines[-1].target_tokens) == (report.input_tokens, report.target_tokens)
    weights = [(b.target_tokens - a) for a, b in zip([0, *[s.target_tokens for s in steps]], steps, strict=False)]
    mean = sum(s.loss * w for s, w in zip(steps[12:], weights[12:], strict=True)) / sum(weights[12:])
    assert lines[-1].loss == pytest.approx(mean)
    assert [m.learning_rate for m in lines[:1]] == [steps[3].learning_rate]
    assert all(m.z_loss > 0 and m.grad_norm > 0 and m.tokens_per_second > 0 for m in lines)


def test_lines_after_the_checkpoint_and_a_half_written_one_are_cut(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": s}) + "\n" for s in (4, 8, 12)) + '{"step": 1')
    cut_after(path, 8)
    assert path.read_text() == '{"step": 4}\n{"step": 8}\n'


def test_precision_asked_for_is_given_and_auto_is_bf16_only_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch):
    assert (choose_precision("bf16", CPU), choose_precision("fp32", CPU)) == ("bf16", "fp32")
    for flags, expected in (({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "fp32"), ({"avx2": True}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        assert choose_precision("auto", CPU) == expected
