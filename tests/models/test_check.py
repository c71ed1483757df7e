"""Packed equals one at a time, and every wrong way that users of these libraries met is caught."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from flantune.errors import ModelError
from flantune.models import causal, check, encdec
from flantune.models.attention import PACKED, prepare
from flantune.models.causal import Causal, PrefixLM
from flantune.models.check import (
    PackingCheck,
    check_packing,
    examples_of,
    first_examples,
    measure_packing,
    require_packing,
)
from flantune.models.encdec import EncDec
from flantune.models.family import DENSE, families, family_of
from flantune.models.layout import Attending
from flantune.models.loss import loss_sums
from flantune.tokens.collate import CausalBatch, EncDecBatch
from models.packs import EOS, PAD, packed_row, tiny_model

ROWS = [packed_row([(17, 5), (40, 9), (3, 2), (20, 10)], seed=1), packed_row([(5, 3), (2, 7)], seed=2)]
FLOAT64 = 1e-9
GEMMA = 5e-8  # its norms are in float32 whatever the model's type
EXACT = 1e-5  # what float32 rounding may leave; these models leave about 1e-6


def tiny_stock(model_type: str, attention: str = PACKED, **more: Any) -> PreTrainedModel:
    """A stock architecture with random weights, grouped-query attention where it has any."""
    ids: dict[str, Any] = {"vocab_size": 96, "pad_token_id": PAD, "eos_token_id": EOS}
    if model_type == "t5gemma":
        stack = {
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "bos_token_id": 2,
        }
        own = ids | more
        config = CONFIG_MAPPING[model_type](encoder=stack | own, decoder=stack | own | {"is_decoder": True}, **ids)
        auto: Any = AutoModelForSeq2SeqLM
    elif model_type in EncDec.model_types:
        config = CONFIG_MAPPING[model_type](
            d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=PAD, **ids
        )
        auto = AutoModelForSeq2SeqLM
    else:
        config = CONFIG_MAPPING[model_type](
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            bos_token_id=2,
            **ids,
            **more,
        )
        auto = AutoModelForCausalLM
    config._attn_implementation = attention
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return auto.from_config(config).eval()


def dense(model: PreTrainedModel) -> PreTrainedModel:
    model.set_attn_implementation(DENSE)
    return model


@pytest.mark.parametrize(("family", "model_type"), [(f, t) for f in families() for t in f.model_types])
def test_packed_equals_one_at_a_time_on_every_architecture_listed(family: Any, model_type: str):
    model = prepare(tiny_stock(model_type)).double()
    check = check_packing(model, ROWS, family=family, tolerance=GEMMA if "gemma" in model_type else FLOAT64)
    assert (check.attention, check.examples, check.rows) == (PACKED, 6, 2)


@pytest.mark.parametrize("family", families(), ids=lambda f: f.name)
def test_dense_masks_are_exact_too(family: Any):
    check = check_packing(tiny_stock(family.model_types[0], DENSE).double(), ROWS, family=family, tolerance=FLOAT64)
    assert check.attention == DENSE


@pytest.mark.parametrize("model_type", ["mistral", "gemma2", "gemma3_text", "olmo3", "phi3"])
@pytest.mark.parametrize("family", [Causal(), PrefixLM()], ids=lambda f: f.name)
@pytest.mark.parametrize("attention", [PACKED, DENSE])
def test_a_sliding_window_is_each_examples_own(model_type: str, family: Any, attention: str):
    if (model_type, attention) == ("gemma2", DENSE):
        pytest.skip("transformers' SDPA cannot cap scores")
    model = tiny_stock(model_type, attention, sliding_window=8).double()
    check_packing(prepare(model) if attention == PACKED else model, ROWS, family=family, tolerance=GEMMA)
    short, long = ([packed_row([(n, 3), (n, 4)], seed=n)] for n in (2, 40))
    unbounded = copy.deepcopy(model)
    unbounded.config.sliding_window = 4096
    for module in unbounded.modules():
        if getattr(module, "sliding_window", None) is not None:
            module.sliding_window = 4096
    for rows, same in ((short, True), (long, False)):
        batch = family.collate(model, rows, 64, 32)
        ours, theirs = family.hidden(model, batch), family.hidden(unbounded, batch)
        assert torch.allclose(ours[batch.segments > 0], theirs[batch.segments > 0]) == same


def test_t5gemmas_windows_caps_and_positions_are_those_of_the_stock_model():
    """Its encoder's window takes in the key at that very distance; transformers' eager attention is the reference."""
    model = prepare(tiny_stock("t5gemma", sliding_window=8)).double()
    check_packing(model, ROWS, tolerance=GEMMA)
    stock = copy.deepcopy(model)
    stock.set_attn_implementation("eager")
    family = EncDec()
    for inputs, targets in examples_of(ROWS[0]):
        ours, theirs = (family.unpacked_logits(m, inputs, targets) for m in (model, stock))
        assert (ours - theirs).abs().max() < 1e-6  # its softmax is in float32
    wider = prepare(tiny_stock("t5gemma", sliding_window=9)).double()
    inputs, targets = next(examples_of(ROWS[0]))
    assert not torch.allclose(
        family.unpacked_logits(wider, inputs, targets), family.unpacked_logits(model, inputs, targets)
    )


@pytest.mark.parametrize("family", ["t5", "llama", "qwen3"])
def test_packed_equals_one_at_a_time_on_scratch_models_and_restores_their_state(family: Any):
    model = tiny_model(family, dropout=0.5).train()
    marker = torch.ones(())
    parameter = next(model.parameters())
    parameter.grad = torch.full_like(parameter, 7.0)
    check_packing(model, ROWS, tolerance=EXACT)
    assert model.training and (parameter.grad == 7 * marker).all()


lengths = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 6)), min_size=2, max_size=5)


@settings(max_examples=15, deadline=None)
@given(rows=st.lists(lengths, min_size=1, max_size=3), family=st.sampled_from(["t5", "llama"]))
def test_packed_equals_one_at_a_time_at_any_lengths(rows: list[list[tuple[int, int]]], family: Any):
    packed = [packed_row(row, seed=k) for k, row in enumerate(rows)]
    check_packing(tiny_model(family), packed, tolerance=EXACT)


def test_a_decoder_example_without_inputs_starts_at_its_second_target():
    row = packed_row([(1, 6), (4, 3)], seed=5)
    empty = dataclasses.replace(
        row, inputs=row.inputs[1:], inputs_lengths=row.inputs_lengths - row.inputs_lengths.dtype.type(1) * [1, 0]
    )
    check_packing(tiny_model("llama"), [empty], tolerance=EXACT)


def test_nothing_is_proved_by_rows_of_one_example():
    with pytest.raises(ModelError, match="at least two examples"):
        check_packing(tiny_model(), [packed_row([(5, 3)], seed=1)])


def test_nan_is_no_agreement():
    model = tiny_model()
    with torch.no_grad():
        next(model.parameters())[4] = float("nan")
    with pytest.raises(ModelError, match="differences"):
        check_packing(model, ROWS)


def test_a_small_gradient_that_float32_alone_has_refuses_nothing_and_a_large_one_does(monkeypatch):
    def measured(model: PreTrainedModel, rows: Any, **how: Any) -> PackingCheck:
        found = measure_packing(model, rows, **how)
        rounded = next(model.parameters()).dtype == torch.float32
        return dataclasses.replace(found, gradient=off) if rounded else found

    monkeypatch.setattr(check, "measure_packing", measured)
    model = tiny_model()
    off = 2e-3
    before = copy.deepcopy(model.state_dict())
    assert check_packing(model, ROWS).gradient < FLOAT64
    after = model.state_dict()
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())
    off = 2e-2
    with pytest.raises(ModelError, match=r"gradient 0\.02"):
        check_packing(model, ROWS)


class TestWrongWaysAreCaught:
    """Each of these ran without an error somewhere and trained on mixed examples."""

    @pytest.mark.parametrize("family", ["t5", "llama"])
    @pytest.mark.parametrize("attention", ["eager", "flex_attention"])
    def test_boolean_masks_under_other_attention_are_refused(self, family: Any, attention: str):
        model = tiny_model(family)
        model.set_attn_implementation(attention)
        with pytest.raises(ModelError, match="expected attention 'flantune_packed' or 'sdpa'"):
            family_of(model).loss(model, family_of(model).collate(model, ROWS, 96, 32))

    @pytest.mark.parametrize("family", ["t5", "llama"])
    def test_boolean_masks_added_to_the_scores(self, family: Any, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(encdec if family == "t5" else causal, "uses_packed_attention", lambda model: False)
        model = tiny_model(family)
        model.set_attn_implementation("eager")
        self.expect_caught(model)

    @pytest.mark.parametrize("family", ["t5", "llama"])
    def test_no_mask_between_examples(self, family: Any, monkeypatch: pytest.MonkeyPatch):
        module = encdec if family == "t5" else causal
        monkeypatch.setattr(module, "causal_same_segment", lambda s: _causal_only(s))
        self.expect_caught(dense(tiny_model(family)))

    def test_no_mask_in_cross_attention(self, monkeypatch: pytest.MonkeyPatch):
        right = encdec.same_segment

        def wrong(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
            return (
                right(queries, keys)
                if queries is keys
                else (keys > 0)[:, None, None].expand(-1, 1, queries.shape[1], -1)
            )

        monkeypatch.setattr(encdec, "same_segment", wrong)
        self.expect_caught(dense(tiny_model("t5")))

    def test_targets_shifted_by_the_model(self):
        class Shifted(EncDec):
            def collate(self, model: Any, *args: Any, **kwargs: Any) -> EncDecBatch:
                batch = super().collate(model, *args, **kwargs)
                return dataclasses.replace(batch, decoder_input_ids=model._shift_right(batch.target_ids))

        self.expect_caught(tiny_model("t5"), Shifted())

    def test_positions_that_run_through_the_row(self):
        # With rotary positions whole segments may be moved, so each token is moved against its neighbours.
        class Stretched(Causal):
            def collate(self, *args: Any, **kwargs: Any) -> CausalBatch:
                batch = super().collate(*args, **kwargs)
                return dataclasses.replace(batch, positions=batch.positions * 2)

        self.expect_caught(tiny_model("llama"), Stretched())

    def test_an_all_ones_mask_over_a_packed_row(self):
        class AllOnes(Causal):
            def hidden(self, model: Any, batch: CausalBatch) -> torch.Tensor:
                return model.base_model(
                    input_ids=batch.input_ids,
                    attention_mask=torch.ones_like(batch.input_ids),
                    position_ids=batch.positions,
                    use_cache=False,
                ).last_hidden_state

        self.expect_caught(dense(tiny_model("llama")), AllOnes())

    def test_a_cache_that_mixes_packed_rows(self):
        """Without a mask transformers finds the examples by their positions, but not where there is a cache."""

        class Cached(Causal):
            def __init__(self, use_cache: bool) -> None:
                self.use_cache = use_cache

            def loss(self, model: Any, batch: CausalBatch, z_loss: float = 0.0) -> Any:
                head = model.get_output_embeddings()
                return loss_sums(self.hidden(model, batch), head, batch.labels, batch.loss_weights, z_loss)

            def hidden(self, model: Any, batch: CausalBatch) -> torch.Tensor:
                return model.base_model(
                    input_ids=batch.input_ids, position_ids=batch.positions, use_cache=self.use_cache
                ).last_hidden_state

        row = [ROWS[0]]
        self.expect_caught(dense(tiny_model("llama")), Cached(True), row)
        assert measure_packing(dense(tiny_model("llama")), row, family=Cached(False)).logits < EXACT

    @pytest.mark.parametrize("name", ["encdec", "causal", "prefix"])
    def test_boundaries_of_examples_that_our_attention_is_not_told(self, name: str, monkeypatch: pytest.MonkeyPatch):
        class Joined(Attending):
            def __init__(self, queries: Any, keys: Any = None, **more: Any) -> None:
                more = {k: v[:1] if k == "prefix" else v for k, v in more.items()}
                super().__init__(queries.sum(keepdims=True), None if keys is None else keys.sum(keepdims=True), **more)

        family = next(f for f in families() if f.name == name)
        monkeypatch.setattr(encdec if name == "encdec" else causal, "Attending", Joined)
        self.expect_caught(tiny_model("t5" if name == "encdec" else "llama"), family)

    def test_inputs_that_do_not_see_each_other_both_ways(self):
        class OneWay(PrefixLM):
            attending = Causal.attending

        self.expect_caught(tiny_model("llama"), OneWay())

    def test_targets_that_see_ahead(self):
        class Ahead(PrefixLM):
            def attending(self, batch: CausalBatch) -> Attending:
                whole = np.concatenate(batch.lengths)
                return Attending(whole, prefix=whole)

        self.expect_caught(tiny_model("llama"), Ahead())

    @pytest.mark.parametrize("family", ["t5", "llama"])
    def test_a_layer_that_loses_the_packing(self, family: Any):
        model = tiny_model(family)

        def forget(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {k: v for k, v in kwargs.items() if k != "packed"}

        layers = model.encoder.block if family == "t5" else model.model.layers
        layers[1].register_forward_pre_hook(forget, with_kwargs=True)
        with pytest.raises(ModelError, match="lost the keyword 'packed'"):
            check_packing(model, ROWS)

    def test_loss_on_the_inputs_too(self):
        class OnInputs(Causal):
            def loss(self, model: Any, batch: CausalBatch, z_loss: float = 0.0) -> Any:
                everywhere = dataclasses.replace(batch, loss_weights=(batch.labels >= 0).float())
                return super().loss(model, everywhere, z_loss)

        self.expect_caught(tiny_model("llama"), OnInputs())

    def test_decoder_states_left_unscaled_in_a_tied_t5(self):
        class Unscaled(EncDec):
            def hidden(self, model: Any, batch: EncDecBatch) -> torch.Tensor:
                return super().hidden(model, batch) * model.config.d_model**0.5

        self.expect_caught(dense(tiny_model("t5")), Unscaled())

    @staticmethod
    def expect_caught(model: PreTrainedModel, family: Any = None, rows: Any = ROWS) -> None:
        with pytest.raises(ModelError, match="packed examples see each other"):
            check_packing(model, rows, family=family)
        with pytest.raises(ModelError, match="packed examples see each other"):
            require_packing(model, family or family_of(model), rows)


class TestBeforeTraining:
    def test_the_first_examples_are_looked_at(self):
        few = first_examples(ROWS, 70)
        assert [row.inputs_lengths.tolist() for row in few] == [[17, 40]]
        few = first_examples(ROWS, 1000)
        assert [len(row.inputs_lengths) for row in few] == [4, 2]
        assert np.array_equal(few[0].inputs, ROWS[0].inputs) and few[0].indices.tolist() == ROWS[0].indices.tolist()
        check = require_packing(tiny_model(), EncDec(), ROWS)
        assert check is not None and check.examples == 6

    def test_at_least_two_examples_are_looked_at_however_long(self):
        assert [len(row.inputs_lengths) for row in first_examples(ROWS, 5)] == [2]

    def test_rows_that_are_not_packed_need_no_proof(self):
        assert require_packing(tiny_model(), EncDec(), [packed_row([(5, 3)], seed=1)]) is None


def _causal_only(segments: torch.Tensor) -> torch.Tensor:
    length = segments.shape[1]
    return torch.ones(length, length, dtype=torch.bool).tril().expand(len(segments), 1, -1, -1)
