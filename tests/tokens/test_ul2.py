"""UL2's denoisers: every example gives its window back, by a slow reading of the rules; kinds in their shares."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flantune.errors import ModelError, RecipeError
from flantune.recipe import DenoiserSpec, ObjectiveSpec, PretrainSpec
from flantune.tokens.objectives import longest_sides, pretraining_example
from flantune.tokens.ul2 import UL2, UL2R, denoiser_at, denoisers, special_ids

EOS = 1
SENTINELS = tuple(range(999, 899, -1))
MODES = {"R": 800, "X": 801, "S": 802}


def example(length: int, index: int, objective: str = "ul2r", kind: str = "encoder-decoder", seed: int = 0, **more):
    tokens = np.arange(2, 2 + length, dtype=np.int32)
    return pretraining_example(
        tokens,
        index,
        seed=seed,
        spec=ObjectiveSpec(objective=objective, **more),
        eos_id=EOS,
        sentinel_ids=SENTINELS,
        mode_ids=MODES,
        kind=kind,
    )


def restored(inputs: list[int], targets: list[int], kind: str) -> list[int]:
    """The window, read back token by token: without the mode token, each sentinel replaced by what the targets have
    after it; of S, the one after the other."""
    assert inputs[0] == MODES[kind]
    inputs = inputs[1:]
    if kind == "S":
        return inputs + targets
    spans: dict[int, list[int]] = {}
    for token in targets:
        if token in SENTINELS:
            spans[token] = []
        else:
            spans[next(reversed(spans))].append(token)
    assert list(spans) == [t for t in inputs if t in SENTINELS] == list(SENTINELS[: len(spans)])
    return [t for token in inputs for t in spans.get(token, [token])]


@settings(deadline=None, max_examples=200)
@given(
    length=st.integers(2, 590),
    index=st.integers(0, 10**12),
    objective=st.sampled_from(["ul2", "ul2r"]),
    seed=st.integers(0, 5),
)
def test_every_example_gives_its_window_back(length, index, objective, seed):
    made = example(length, index, objective, seed=seed)
    inputs, targets = made.inputs.tolist(), made.targets.tolist()
    assert inputs.pop() == targets.pop() == EOS
    assert restored(inputs, targets, made.template) == list(range(2, 2 + length))


@settings(deadline=None, max_examples=200)
@given(length=st.integers(2, 590), index=st.integers(0, 10**12))
def test_in_a_decoders_row_nothing_stands_between_inputs_and_targets(length, index):
    made = example(length, index, kind="causal")
    inputs, targets = made.inputs.tolist(), made.targets.tolist()
    if made.template == "S":
        assert [*inputs[1:], *targets] == list(range(2, 2 + length))  # the window as it stood
    else:
        assert targets.pop() == EOS
        assert restored(inputs, targets, made.template) == list(range(2, 2 + length))


@pytest.mark.parametrize(("objective", "table"), [("ul2r", UL2R), ("ul2", UL2)])
def test_kinds_stand_in_their_shares_over_any_stretch(objective, table):
    total = sum(d.share for d in table)
    for start in (0, 12_345, 10**9):
        counts = Counter(denoiser_at(i, table, seed=4) for i in range(start, start + 1000))
        for denoiser in table:
            assert abs(counts[denoiser] - 1000 * denoiser.share / total) < 6, denoiser
    made = Counter(example(64, i, objective).template for i in range(800))
    by_kind = Counter[str]()
    for d in table:
        by_kind[d.kind] += d.share / total * 800
    assert all(abs(made[k] - by_kind[k]) < 12 for k in "RXS")


def test_the_published_mixture_is_the_specs(spec_dir):
    import json

    told = json.loads((spec_dir.parent / "paper_results.json").read_text())["ul2r"]
    shares = Counter[str]()
    for d in UL2R:
        shares[d.kind] += d.share
    assert dict(shares) == told["mixture"]
    (regular,) = (d for d in UL2R if d.kind == "R")
    assert (regular.mean_span, regular.noise_density) == (told["R"]["mean_span"], told["R"]["corruption"])
    extreme = [d for d in UL2R if d.kind == "X"]
    assert told["X"]["mean_span"] in {d.mean_span for d in extreme}
    assert max(d.noise_density for d in extreme) == told["X"]["or_corruption_up_to"]
    for kind in "RX":
        pairs = [[d.mean_span, d.noise_density] for d in UL2 if d.kind == kind]
        assert sorted(pairs) == sorted(told[f"ul2_original_{kind}"])
    assert ObjectiveSpec().mode_tokens == told["mode_tokens"]


def test_noise_is_as_much_as_each_denoiser_says():
    for number, denoiser in enumerate(UL2R[1:] + UL2[:-1]):
        own = DenoiserSpec(**{**denoiser.model_dump(), "share": 1})
        made = example(512, number, denoisers=(own,))
        noise = int(np.isin(made.targets, np.arange(2, 514)).sum())
        spans = int(np.isin(made.targets, SENTINELS).sum())
        assert noise == round(512 * denoiser.noise_density)
        assert spans == max(1, round(noise / denoiser.mean_span))


@settings(deadline=None, max_examples=100)
@given(
    window=st.integers(9, 300),
    shorter=st.floats(0, 1),
    index=st.integers(0, 10**6),
    objective=st.sampled_from(["auto", "span_corruption", "prefix", "lm", "ul2", "ul2r"]),
    kind=st.sampled_from(["encoder-decoder", "causal"]),
)
def test_no_example_is_longer_than_told(window, shorter, index, objective, kind):
    if objective == "lm" and kind == "encoder-decoder":
        return
    spec = ObjectiveSpec(objective=objective)
    most = longest_sides(spec, kind, window)
    made = example(max(2, int(window * shorter)), index, objective, kind)
    full = example(window, index, objective, kind)
    for side, limit in zip(("inputs", "targets"), most, strict=True):
        # A split puts nearly all on either side; its limit is a whole window.
        assert len(getattr(made, side)) <= limit and len(getattr(full, side)) <= limit


def test_an_example_depends_on_seed_and_index_alone():
    def all_of(order):
        return {i: (e.inputs.tolist(), e.targets.tolist()) for i in order for e in [example(100, i)]}

    assert all_of(range(50)) == all_of(reversed(range(50)))
    assert example(100, 7).inputs.tolist() != example(100, 7, seed=1).inputs.tolist()


def tokenizer_of(*pieces: str):
    return SimpleNamespace(hf=SimpleNamespace(get_vocab=lambda: {p: n for n, p in enumerate(pieces)}))


def test_mode_tokens_are_the_tokenizers_or_an_error_that_says_what_to_do():
    spec = ObjectiveSpec(objective="ul2r")
    plain = [f"<extra_id_{k}>" for k in range(5)]
    with pytest.raises(
        ModelError, match=r"pretrain.mode_tokens: expected tokens of the tokenizer, got \[NLG\], \[NLU\]"
    ):
        special_ids(spec, tokenizer_of(*plain), "pretrain")
    sentinels, modes = special_ids(spec, tokenizer_of(*plain, "[NLU]", "[NLG]", "[S2S]"), "pretrain")
    assert sentinels == (0, 1, 2, 3, 4) and modes == {"R": 5, "X": 6, "S": 7}
    reused = spec.model_copy(update={"mode_tokens": {"R": "<extra_id_2>", "X": "<extra_id_3>", "S": "<extra_id_4>"}})
    assert special_ids(reused, tokenizer_of(*plain), "pretrain") == ((0, 1), {"R": 2, "X": 3, "S": 4})
    none = spec.model_copy(update={"mode_tokens": {}})
    assert special_ids(none, tokenizer_of(*plain), "pretrain") == ((0, 1, 2, 3, 4), {})
    reserved = ObjectiveSpec(objective="span_corruption", sentinels="<|reserved_special_token_{}|>")
    assert special_ids(reserved, tokenizer_of("<|reserved_special_token_0|>"), "x")[0] == (0,)


def test_a_mixture_of_ones_own_replaces_the_published_one():
    own = (DenoiserSpec(kind="S", share=1),)
    assert denoisers(ObjectiveSpec(objective="ul2", denoisers=own)) == own
    assert example(30, 3, denoisers=own).template == "S"
    with pytest.raises(ValueError, match="'denoisers' needs"):
        PretrainSpec(denoisers=own)
    with pytest.raises(ValueError, match="'sentinels' needs"):
        PretrainSpec(sentinels="<x>")


def test_plain_language_modelling_is_a_decoders():
    with pytest.raises(RecipeError, match="lm: expected a decoder"):
        example(30, 0, "lm")
    made = example(30, 0, "lm", "causal")
    assert len(made.inputs) == 0 and made.targets.tolist() == list(range(2, 32))
