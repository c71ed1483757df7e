"""The embedded bases: both load, speak of the world, and are small together."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from flantune.demo.prose import documents
from flantune.models.load import count_parameters, load_model
from flantune.models.place import embedded_base
from flantune.recipe import DEMO, DEMO_SMALL, EMBEDDED
from flantune.tokens.tokenizer import load_tokenizer

MOST_BYTES = 16_000_000


def loss_of_rest(name: str, texts: list[str]) -> float:
    """Nats per token of each document's second half, given its first half."""
    tokenizer, model = load_tokenizer(embedded_base(name)), load_model(name, dropout=0.0)
    total, count = 0.0, 0
    with torch.no_grad():
        for ids in tokenizer.encode_batch(texts):
            half = len(ids) // 2
            inputs = torch.tensor([[*ids[:half].tolist(), tokenizer.eos_id]])
            rest = torch.tensor([ids[half:].tolist()])
            loss = model(input_ids=inputs, attention_mask=torch.ones_like(inputs), labels=rest).loss
            total, count = total + float(loss) * rest.shape[1], count + rest.shape[1]
    return total / count


@pytest.fixture(scope="module")
def fresh() -> list[str]:
    """Documents of another seed than the pretraining's."""
    return list(documents(40, seed=1))


def test_both_are_shipped_and_small_together():
    files = [p for name in EMBEDDED for p in embedded_base(name).iterdir()]
    assert sum(p.stat().st_size for p in files) <= MOST_BYTES
    assert {p.suffix for p in files} == {".json", ".safetensors"}


def test_the_small_one_is_smaller_and_reads_with_the_first_ones_tokenizer():
    small, first = (count_parameters(load_model(name)) for name in (DEMO_SMALL, DEMO))
    assert small < first / 2
    assert load_tokenizer(embedded_base(DEMO_SMALL)).fingerprint == load_tokenizer(embedded_base(DEMO)).fingerprint


@pytest.mark.parametrize("name", EMBEDDED)
def test_each_is_a_language_model_of_the_world(name: str, fresh: list[str]):
    tokenizer = load_tokenizer(embedded_base(name))
    seen = Counter(int(t) for ids in tokenizer.encode_batch(list(documents(2000))) for t in ids)
    whole = sum(seen.values())
    held = [int(t) for ids in tokenizer.encode_batch(fresh) for t in ids[len(ids) // 2 :]]
    unigram = -sum(math.log((seen[t] + 1) / (whole + tokenizer.vocab_size)) for t in held) / len(held)
    assert unigram < math.log(tokenizer.vocab_size)
    assert loss_of_rest(name, fresh) < 0.6 * unigram


def test_the_first_knows_more(fresh: list[str]):
    assert loss_of_rest(DEMO, fresh) < loss_of_rest(DEMO_SMALL, fresh)
