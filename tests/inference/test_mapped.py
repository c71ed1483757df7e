"""Decoders scored off their files, against transformers' models of the same folders."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.inference.families import OPTIONS, PROMPTS, SHAPE, next_logits
from tests.tiny import saved_decoder
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from flantune.errors import ModelError
from flantune.inference import Engine, GenerateRequest, ScoreRequest, mapped
from flantune.inference.mapped import MappedDecoder, open_mapped
from flantune.inference.opening import open_model
from flantune.models.place import context_length
from flantune.tokens.tokenizer import Tokenizer, load_tokenizer

KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama, biases, tied": (
        LlamaForCausalLM,
        LlamaConfig,
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "mistral, a window": (MistralForCausalLM, MistralConfig, {"sliding_window": 24}),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": None}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"attention_bias": True}),
}
REQUESTS = [ScoreRequest(prompt=p, options=o) for p in PROMPTS for o in OPTIONS]


def saved(folder: Path, tokenizer: Tokenizer, kind: str = "llama", **how: Any) -> Path:
    made, config, more = KINDS[kind]
    torch.manual_seed(1)
    ids = {"vocab_size": tokenizer.vocab_size, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    model = made(config(**SHAPE, **ids, **more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3).add_(float(parameter.dim() == 1))
    model.to(how.pop("dtype", torch.float32)).save_pretrained(folder, **how)
    return folder


@pytest.fixture
def model_folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    return saved(tmp_path / "model", tokenizer)


def scores(model: Any, tokenizer: Tokenizer, **how: Any) -> list[tuple[float, ...]]:
    engine = Engine(model, tokenizer, "causal", 512, prompt_eos=False, **how)
    found = {s.index: s.scores for s in engine.score(REQUESTS)}
    return [found[i] for i in range(len(REQUESTS))]


def close(a: list[tuple[float, ...]], b: list[tuple[float, ...]]) -> bool:
    return all(x == pytest.approx(y, abs=2e-4) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("batch_tokens", [None, 37])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_stock_model(kind: str, batch_tokens: int | None, tmp_path: Path, tokenizer: Tokenizer):
    model = open_mapped(saved(tmp_path / "model", tokenizer, kind))
    assert model is not None
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    engine = Engine(stock, tokenizer, "causal", 512, prompt_eos=False)
    expected = []
    for request in REQUESTS:
        values = []
        for option in request.options:
            alone, whole = (tokenizer.encode(t).tolist() for t in (request.prompt, request.prompt + option))
            assert whole[: len(alone)] == alone
            logits = torch.log_softmax(next_logits(engine, alone, whole[len(alone) : -1]).double(), -1)
            values.append(float(logits.gather(1, torch.tensor(whole[len(alone) :])[:, None]).sum()))
        expected.append(tuple(values))
    assert close(scores(model, tokenizer, batch_tokens=batch_tokens), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_disk_is_read_in_single(dtype: torch.dtype, tmp_path: Path, tokenizer: Tokenizer):
    model = open_mapped(saved(tmp_path / "model", tokenizer, dtype=dtype))
    assert model is not None
    assert close(scores(model, tokenizer), scores(model.whole(), tokenizer))


def test_weights_in_several_files(tmp_path: Path, tokenizer: Tokenizer):
    folder = saved(tmp_path / "model", tokenizer, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    model = open_mapped(folder)
    assert model is not None
    assert close(scores(model, tokenizer), scores(model.whole(), tokenizer))


def test_large_matrices_are_read_in_pieces(model_folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    model = open_mapped(model_folder)
    assert model is not None
    expected = scores(model, tokenizer)
    monkeypatch.setattr(mapped, "_PIECE", 1_000)  # bytes: seven rows
    assert close(scores(model, tokenizer), expected)


def test_prompts_may_see_both_ways(model_folder: Path, tokenizer: Tokenizer):
    model = open_mapped(model_folder)
    assert model is not None
    both = [
        [s.scores for s in sorted(Engine(m, tokenizer, "prefix", 512).score(REQUESTS), key=lambda s: s.index)]
        for m in (model, model.whole())
    ]
    assert close(*both)


def test_who_writes_has_the_whole_model(model_folder: Path, tokenizer: Tokenizer):
    model = open_mapped(model_folder)
    assert model is not None
    engine = Engine(model, tokenizer, "causal", 512, prompt_eos=False)
    before = [s.scores for s in sorted(engine.score(REQUESTS), key=lambda s: s.index)]
    requests = [GenerateRequest(prompt=p, max_new_tokens=6) for p in PROMPTS]
    texts = {g.index: g.texts for g in engine.generate(requests)}
    assert isinstance(engine.model, LlamaForCausalLM)
    whole = Engine(model.whole(), tokenizer, "causal", 512, prompt_eos=False)
    assert whole.eos_ids == engine.eos_ids
    assert texts == {g.index: g.texts for g in whole.generate(requests)}
    assert close(before, [s.scores for s in sorted(engine.score(REQUESTS), key=lambda s: s.index)])


def test_what_texts_end_with_is_the_folders_own(model_folder: Path, tokenizer: Tokenizer):
    path = model_folder / "generation_config.json"
    for ids in ([3, 4], 5):
        path.write_text(json.dumps({"eos_token_id": ids}))
        model = open_mapped(model_folder)
        assert model is not None
        for each in (model, model.whole()):
            engine = Engine(each, tokenizer, "causal", 512)
            assert engine.eos_ids == {tokenizer.eos_id, *([ids] if isinstance(ids, int) else ids)}
    path.write_text("{}")
    model = open_mapped(model_folder)
    assert model is not None
    assert Engine(model, tokenizer, "causal", 512).eos_ids == Engine(model.whole(), tokenizer, "causal", 512).eos_ids
    path.write_text("[")
    assert open_mapped(model_folder) is None
    path.unlink()
    model = open_mapped(model_folder)
    assert model is not None and model.generation_config.eos_token_id == tokenizer.eos_id


@pytest.mark.skipif(sys.platform != "linux", reason="says how much of a file is in memory as Linux does")
def test_no_more_is_in_memory_than_a_layer(tmp_path: Path, tokenizer: Tokenizer):
    shape = {"hidden_size": 256, "intermediate_size": 1_024, "num_attention_heads": 4, "num_hidden_layers": 6}
    config = LlamaConfig(**shape, vocab_size=8_192, eos_token_id=tokenizer.eos_id)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = open_mapped(tmp_path)
    assert model is not None
    assert len(scores(model, tokenizer)) == len(REQUESTS)
    maps = Path("/proc/self/smaps").read_text().split("model.safetensors\n")[1:]
    resident = sum(int(m.split("Rss:")[1].split()[0]) for m in maps) * 1_024
    assert resident < 0.1 * (tmp_path / "model.safetensors").stat().st_size


def test_nothing_of_transformers_is_loaded(tmp_path: Path):
    folder = saved_decoder(tmp_path, max_position_embeddings=64)
    tokenizer = load_tokenizer(folder)
    tokenizer.hf.bos_token = "<unk>"
    tokenizer.save(folder)
    code = f"""
import sys
from flantune.inference import Engine, ScoreRequest
from flantune.inference.opening import open_model
from flantune.models.place import context_length, how_to_ask, model_type
from flantune.tokens.tokenizer import load_tokenizer
words = load_tokenizer({str(folder)!r}, lazy=True)
engine = Engine(open_model({str(folder)!r}, words.vocab_size), words, "causal", 64, prompt_eos=False)
assert words.fingerprint and words.leading_bos is None and not words.has_chat_template
assert model_type({str(folder)!r}) == "llama" and context_length({str(folder)!r}) == 64
assert not how_to_ask({str(folder)!r}, True).prompt_eos
print(len(list(engine.score([ScoreRequest(prompt="Q: floats", options=(" a", " b"))])))) 
print(sorted(n for n in ("transformers", "numba", "sympy", "pyarrow") if n in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["1", "[]"]


class TestWhatTransformersIsLeft:
    @pytest.mark.parametrize(
        "changed",
        [
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
            {"rope_parameters": None, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": None},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            {"hidden_act": "gelu"},
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            {"model_type": "gemma"},
            {"architectures": ["LlamaForSequenceClassification"]},
            {"num_key_value_heads": None},
            {"tie_word_embeddings": True},  # and an output matrix in the file all the same
            {"vocab_size": 7},
            {"intermediate_size": 63},
            {"attention_bias": True},  # and none in the file
            {"num_hidden_layers": 3},
        ],
        ids=str,
    )
    def test_a_configuration_that_asks_for_more(self, changed: dict[str, Any], model_folder: Path):
        path = model_folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
        assert open_mapped(model_folder) is None

    def test_a_window_in_some_layers(self, tmp_path: Path, tokenizer: Tokenizer):
        folder = saved(tmp_path / "model", tokenizer, "qwen2")
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"use_sliding_window": True}))
        assert open_mapped(folder) is None

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda path: path.write_bytes(path.read_bytes()[:100]),
            lambda path: path.write_bytes(path.read_bytes()[:-100]),
            lambda path: save_file({k: v for k, v in load_file(path).items() if "k_proj" not in k}, path),
            lambda path: save_file({k: v.double() for k, v in load_file(path).items()}, path),
        ],
        ids=["no header", "cut short", "a matrix missing", "double precision"],
    )
    def test_weights_that_are_not_whole(self, spoil: Callable[[Path], None], model_folder: Path):
        spoil(model_folder / "model.safetensors")
        assert open_mapped(model_folder) is None

    def test_tensors_in_two_files(self, model_folder: Path):
        again = (model_folder / "model.safetensors").read_bytes()
        (model_folder / "model-00001-of-00001.safetensors").write_bytes(again)
        assert open_mapped(model_folder) is None

    def test_an_adapter_beside_the_weights(self, model_folder: Path):
        (model_folder / "adapter_config.json").write_text("{}")
        assert open_mapped(model_folder) is None

    def test_positions_that_are_not_stated(self, model_folder: Path):
        path = model_folder / "config.json"
        stated = json.loads(path.read_text())
        del stated["max_position_embeddings"]
        path.write_text(json.dumps(stated))
        assert context_length(str(model_folder)) == LlamaConfig().max_position_embeddings

    def test_it_says_what_is_wrong(self, model_folder: Path, tokenizer: Tokenizer):
        path = model_folder / "model.safetensors"
        save_file({k: v for k, v in load_file(path).items() if "k_proj" not in k}, path)
        with pytest.raises(ModelError, match="got 2 missing, the first"):
            open_model(str(model_folder), tokenizer.vocab_size)

    def test_a_tokenizer_with_more_ids(self, model_folder: Path, tokenizer: Tokenizer):
        assert isinstance(open_model(str(model_folder), tokenizer.vocab_size), MappedDecoder)
        with pytest.raises(ModelError, match="one for each id of the tokenizer"):
            open_model(str(model_folder), tokenizer.vocab_size + 1)

    def test_another_precision(self, model_folder: Path, tokenizer: Tokenizer):
        assert isinstance(open_model(str(model_folder), tokenizer.vocab_size, "bf16"), LlamaForCausalLM)

    def test_no_such_folder(self, tmp_path: Path):
        with pytest.raises(ModelError, match="found no such folder"):
            open_model(str(tmp_path / "nowhere"), 1)


def test_rotary_bases_in_the_words_of_before(model_folder: Path, tokenizer: Tokenizer):
    path = model_folder / "config.json"
    stated = json.loads(path.read_text())
    del stated["rope_parameters"]
    path.write_text(json.dumps({**stated, "rope_theta": 500.0, "rope_scaling": None}))
    model = open_mapped(model_folder)
    assert model is not None and model.shape.theta == 500.0
    assert close(scores(model, tokenizer), scores(model.whole(), tokenizer))
