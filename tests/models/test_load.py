from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BertConfig

from flantune.errors import ModelError, StateError
from flantune.models import place
from flantune.models.check import check_packing
from flantune.models.load import check_vocabulary, count_parameters, load_model, save_model, scratch_model
from flantune.recipe import DEMO, ModelSize
from flantune.whole import atomic_folder, remove_leftovers
from models.packs import EOS, PAD, packed_row, tiny_model

FAMILIES = ["t5", "llama", "qwen3"]


def logits_of(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 13)[None]
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(input_ids=ids, **extra).logits


def untie(model: Any) -> None:
    """As T5 1.1's and Flan-T5's files are: an output matrix of their own."""
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone() * 1.5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_is_what_transformers_loads(family: Any, tied: bool, tmp_path: Path):
    model = tiny_model(family, seed=1)
    if not tied:
        untie(model)
        if family != "t5":
            model.config.tie_word_embeddings = False
    save_model(model, None, tmp_path / "model")
    auto = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    theirs, ours = auto.from_pretrained(tmp_path / "model").eval(), load_model(str(tmp_path / "model"))
    assert torch.equal(logits_of(theirs), logits_of(model))
    assert torch.equal(logits_of(ours), logits_of(model))
    assert count_parameters(ours) == count_parameters(model)
    rows = [packed_row([(5, 3), (2, 7)], seed=2)]
    check_packing(ours, rows, tolerance=1e-5)


def test_an_untied_t5_1_1_is_not_scaled_and_stays_untied(tmp_path: Path):
    """Their config says tie_word_embeddings false, which transformers 5.23 turns into true and "do not scale"."""
    model: Any = tiny_model("t5")
    untie(model)
    save_model(model, None, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    del config["scale_decoder_outputs"]
    config["tie_word_embeddings"] = False
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    loaded: Any = load_model(str(tmp_path / "m"))
    assert loaded.config.scale_decoder_outputs is False
    assert loaded.lm_head.weight is not loaded.shared.weight
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    check_packing(loaded, [packed_row([(5, 3), (2, 7)], seed=2)], tolerance=1e-5)
    save_model(loaded, None, tmp_path / "again")
    assert torch.equal(logits_of(load_model(str(tmp_path / "again"))), logits_of(loaded))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_alone_decides_the_weights_of_a_scratch_model(family: Any):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one, same, other = tiny_model(family, seed=1), tiny_model(family, seed=1), tiny_model(family, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(logits_of(one), logits_of(other))


def test_a_scratch_t5_has_the_shape_of_t5_1_1():
    """Flan-T5 small has 76,961,152 parameters, of which the separate output matrix is 32,128 x 512."""
    with torch.device("meta"):
        small = ModelSize(d_model=512, layers=8, heads=6, d_kv=64, d_ff=1024)
        model = scratch_model("t5", small, vocab_size=32_128, eos_id=1, pad_id=0)
    assert count_parameters(model) == 76_961_152 - 32_128 * 512
    assert (model.config.feed_forward_proj, model.config.relative_attention_num_buckets) == ("gated-gelu", 32)


@pytest.mark.parametrize("family", ["t5", "llama", "qwen3"])
def test_a_hollow_model_has_names_shapes_and_buffers_and_no_numbers(family: Any, tmp_path: Path):
    save_model(tiny_model(family, dropout=0.1), None, tmp_path / "model")
    whole = load_model(str(tmp_path / "model"), dropout=0.2)
    hollow = load_model(str(tmp_path / "model"), dropout=0.2, hollow=True)
    assert [(n, p.shape, p.dtype) for n, p in hollow.named_parameters()] == [
        (n, p.shape, p.dtype) for n, p in whole.named_parameters()
    ]
    assert all(p.is_meta for p in hollow.parameters()) and not hollow.training
    buffers = dict(whole.named_buffers())
    assert all(torch.equal(b, buffers.pop(name)) for name, b in hollow.named_buffers()) and not buffers
    modules = [(n, type(m)) for n, m in whole.named_modules()]
    assert [(n, type(m)) for n, m in hollow.named_modules()] == modules
    assert not torch.nn.Linear(2, 2).weight.is_meta  # what is made after is as ever


def test_a_decoder_that_pads_with_eos_still_learns_eos():
    model = scratch_model("llama", ModelSize(d_model=16, layers=1, heads=1), vocab_size=64, eos_id=1, pad_id=1)
    model(input_ids=torch.tensor([[5, 1, 6]])).logits.sum().backward()
    embedding: Any = model.get_input_embeddings()
    assert embedding.weight.grad[1].abs().sum() > 0


@pytest.mark.parametrize(("family", "name"), [("t5", "dropout_rate"), ("llama", "attention_dropout")])
def test_dropout_is_the_recipes_and_weights_are_float32(family: Any, name: str, tmp_path: Path):
    save_model(tiny_model(family, dropout=0.3).to(torch.bfloat16), None, tmp_path / "m")
    model = load_model(str(tmp_path / "m"), dropout=0.05)
    assert getattr(model.config, name) == 0.05
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    if family == "t5":
        assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.05}
    assert getattr(load_model(str(tmp_path / "m")).config, name) == 0.3


class TestFoldersThatCannotServe:
    def test_no_such_folder(self, tmp_path: Path):
        with pytest.raises(ModelError, match="found no such folder"):
            load_model(str(tmp_path / "nowhere"))

    def test_the_demo_model_missing_from_the_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(place, "embedded_base", lambda name: tmp_path / "base")
        with pytest.raises(ModelError, match="found no such folder"):
            load_model(DEMO)

    def test_the_demo_model_is_the_packages(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        save_model(tiny_model(), None, tmp_path / "base")
        monkeypatch.setattr(place, "embedded_base", lambda name: tmp_path / "base")
        assert torch.equal(logits_of(load_model(DEMO)), logits_of(tiny_model()))

    def test_weights_as_a_pickle_only(self, tmp_path: Path):
        save_model(tiny_model(), None, tmp_path / "m")
        (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
        with pytest.raises(ModelError, match=r"got only pytorch_model\.bin, a pickle"):
            load_model(str(tmp_path / "m"))

    def test_no_weights_at_all(self, tmp_path: Path):
        save_model(tiny_model(), None, tmp_path / "m")
        (tmp_path / "m" / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="found none"):
            load_model(str(tmp_path / "m"))

    def test_weights_cut_short(self, tmp_path: Path):
        save_model(tiny_model(), None, tmp_path / "m")
        whole = (tmp_path / "m" / "model.safetensors").read_bytes()
        (tmp_path / "m" / "model.safetensors").write_bytes(whole[:-100])
        with pytest.raises(ModelError, match="the weights cannot be read"):
            load_model(str(tmp_path / "m"))

    def test_a_missing_weight_is_not_filled_with_random_numbers(self, tmp_path: Path):
        save_model(tiny_model(), None, tmp_path / "m")
        path = tmp_path / "m" / "model.safetensors"
        weights = load_file(path)
        del weights["decoder.block.1.layer.2.DenseReluDense.wo.weight"]
        save_file(weights, path, metadata={"format": "pt"})
        with pytest.raises(
            ModelError,
            match=r"every parameter, got 1 missing, the first decoder\.block\.1\.layer\.2",
        ):
            load_model(str(tmp_path / "m"))

    def test_weights_of_another_shape_than_the_configuration(self, tmp_path: Path):
        save_model(tiny_model("llama"), None, tmp_path / "m")
        path = tmp_path / "m" / "config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 1}))
        with pytest.raises(ModelError, match=r"another shape .*1 .*expected \(97, 32\), got \(96, 32\)"):
            load_model(str(tmp_path / "m"))

    def test_an_architecture_without_a_family(self, tmp_path: Path):
        save_model(tiny_model(), None, tmp_path / "m")
        BertConfig().save_pretrained(tmp_path / "m")
        with pytest.raises(ModelError, match="got 'bert'"):
            load_model(str(tmp_path / "m"))

    def test_no_config(self, tmp_path: Path):
        save_model(tiny_model(), None, tmp_path / "m")
        (tmp_path / "m" / "config.json").unlink()
        with pytest.raises(ModelError, match=r"config\.json"):
            load_model(str(tmp_path / "m"))

    def test_a_vocabulary_larger_than_the_embedding(self, tmp_path: Path):
        save_model(tiny_model(), None, tmp_path / "m")
        load_model(str(tmp_path / "m"), vocab_size=96)
        with pytest.raises(ModelError, match=r"at least 97 rows in the embedding.*got 96"):
            load_model(str(tmp_path / "m"), vocab_size=97)
        check_vocabulary(tiny_model(), 50)


class TestAtomicFolder:
    def test_an_error_inside_leaves_what_was_there(self, tmp_path: Path):
        final = tmp_path / "model"
        with atomic_folder(final) as folder:
            (folder / "a").write_text("old")
        with pytest.raises(ZeroDivisionError), atomic_folder(final) as folder:
            (folder / "a").write_text("new")
            _ = 1 / 0
        assert (final / "a").read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["model"]

    def test_a_second_writing_replaces_the_first_whole(self, tmp_path: Path):
        final = tmp_path / "model"
        for name in ("a", "b"):
            with atomic_folder(final) as folder:
                (folder / name).write_text(name)
        assert [p.name for p in final.iterdir()] == ["b"]
        assert [p.name for p in tmp_path.iterdir()] == ["model"]

    def test_what_a_kill_left_is_removed_and_nothing_else(self, tmp_path: Path):
        script = (
            "import os, pathlib, sys; from flantune.whole import atomic_folder\n"
            "with atomic_folder(pathlib.Path(sys.argv[1]) / 'm') as f: (f / 'a').write_text('x'); os._exit(9)"
        )
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
        (tmp_path / "mine").mkdir()
        assert len(list(tmp_path.iterdir())) == 2 and not (tmp_path / "m").exists()
        remove_leftovers(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["mine"]

    def test_a_disk_that_takes_no_more_is_a_clear_error(self, tmp_path: Path):
        """A real limit on what the process may write, so that safetensors meets it in its own way."""
        save_model(tiny_model(), None, tmp_path / "m")
        script = (
            "import resource, signal, sys, pathlib\n"
            "from flantune.errors import StateError\n"
            "from flantune.models.load import load_model, save_model\n"
            "folder = pathlib.Path(sys.argv[1]); model = load_model(str(folder))\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
            "try: save_model(model, None, folder)\n"
            "except StateError as e: print(e)\n"
        )
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "m")], capture_output=True, text=True)
        assert "could not be written" in done.stdout and "untouched" in done.stdout, done.stderr
        assert torch.equal(logits_of(load_model(str(tmp_path / "m"))), logits_of(tiny_model()))
        assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="could not be written"):
        save_model(tiny_model(), None, tmp_path / "file" / "model")


def test_ids_of_the_tokenizer_reach_generation():
    model = tiny_model("t5")
    config: Any = model.generation_config
    assert (config.eos_token_id, config.pad_token_id, config.decoder_start_token_id) == (EOS, PAD, PAD)
