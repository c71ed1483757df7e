"""How much Adafactor remembers: at T5-Large's shape under 2 % of Adam's, by what it really keeps."""

from __future__ import annotations

import torch
from transformers import T5Config, T5ForConditionalGeneration

from flantune.train.adafactor import Adafactor


def kept(optimizer: torch.optim.Optimizer) -> int:
    return sum(t.numel() * t.element_size() for state in optimizer.state.values() for t in state.values())


def test_the_state_of_t5_large_is_under_two_percent_of_adams():
    shape = T5Config(
        d_model=1024, d_kv=64, d_ff=2816, num_layers=24, num_heads=16, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, vocab_size=32128,
    )  # fmt: skip
    with torch.device("meta"):
        model = T5ForConditionalGeneration(shape)
    parameters = list(model.parameters())
    optimizer = Adafactor(parameters, lr=1e-3)
    for parameter in parameters:
        optimizer.start(parameter)
    numbers = sum(p.numel() for p in parameters)
    assert numbers > 700e6
    adam = 2 * 4 * numbers
    assert kept(optimizer) / adam < 0.02
    # Row and column sums of every matrix; each norm and relative bias whole; a counter of 8 bytes each.
    factored = sum(4 * sum(p.shape) for p in parameters if p.ndim == 2 and min(p.shape) >= 128)
    whole = sum(4 * p.numel() for p in parameters if p.ndim == 1 or min(p.shape) < 128)
    assert kept(optimizer) == factored + whole + 8 * len(parameters)


def test_a_step_keeps_what_was_counted_and_adam_keeps_what_it_is_compared_with():
    """Really allocated: a layer's matrices and the embedding's shape, in sixteenths."""
    shapes = [(2008, 256), (256, 704), (704, 256), (256, 256), (256,)]
    made = []
    for make in (lambda p: Adafactor(p, lr=1e-3), lambda p: torch.optim.AdamW(p, lr=1e-3)):
        parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer = make(parameters)
        optimizer.step()
        made.append(sum(t.untyped_storage().nbytes() for state in optimizer.state.values() for t in state.values()))
    adafactor, adamw = made
    numbers = sum(torch.Size(shape).numel() for shape in shapes)
    assert adafactor == sum(4 * sum(shape) for shape in shapes if len(shape) == 2) + 4 * 256 + 8 * len(shapes)
    assert adamw == 2 * 4 * numbers + 4 * len(shapes)
    assert adafactor / adamw < 0.02
