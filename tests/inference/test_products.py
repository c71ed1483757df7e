"""Products by the other of torch's two libraries, against `torch.nn.functional.linear`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from transformers.activations import ACT2FN

from flantune.inference import products
from flantune.inference.products import Product, ReadsMany, linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


@pytest.fixture(autouse=True)
def quicker(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Whatever the processor, oneDNN is taken to be quicker; the list has the number of rows of its products."""
    taken: list[int] = []
    ours = torch.ops.mkldnn._linear_pointwise

    def counting(x: torch.Tensor, *rest: object) -> torch.Tensor:
        taken.append(x.numel() // x.shape[-1])
        made: torch.Tensor = ours(x, *rest)
        return made

    monkeypatch.setattr(products, "_one_dnn_is_quicker", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", counting)
    return taken


@settings(max_examples=20)
@given(st.integers(1, 600), st.integers(1, 40), st.integers(1, 40), st.booleans(), st.booleans())
def test_the_same_product(rows: int, given_: int, made: int, biased: bool, turned: bool):
    draw = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, given_, generator=draw), torch.randn(made, given_, generator=draw)
    bias = torch.randn(made, generator=draw) if biased else None
    weight = weight.t().contiguous().t() if turned else weight
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, bias), functional.linear(x, weight, bias), atol=1e-4, rtol=1e-5)


def test_many_rows_alone_and_no_gradients(quicker: list[int]):
    module, x = nn.Linear(8, 4), torch.randn(2, 300, 8)
    with ReadsMany():
        made = module(x)
        made.sum().backward()
        assert module.weight.grad is not None and not quicker
        with torch.inference_mode():
            torch.testing.assert_close(module(x), made.detach(), atol=1e-5, rtol=0)
            assert quicker == [600]
            module(x[:, :100])
            assert quicker == [600]
    with torch.inference_mode():
        module(x)
    assert quicker == [600]


@pytest.mark.parametrize("name", ["relu", "silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu"])
@pytest.mark.parametrize("biased", [False, True])
def test_an_activation_is_the_modules(name: str, biased: bool):
    activation, draw = ACT2FN[name], torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=draw) for shape in ((9, 20), (33, 20), (33,)))
    product = Product(weight, activation=activation)
    wanted = activation(functional.linear(x, weight, bias if biased else None))
    with torch.inference_mode():
        assert torch.equal(product(x, bias if biased else None), wanted)
        product.pack()
        torch.testing.assert_close(product(x, bias if biased else None), wanted, atol=1e-5, rtol=1e-5)


def test_half_precision_is_torchs(quicker: list[int]):
    with torch.inference_mode():
        linear(torch.randn(300, 8, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64))
    assert not quicker


def test_it_is_told_by_the_processor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    found = products._one_dnn_is_quicker.__wrapped__
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert found() is False
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(products.Path, "read_text", lambda self, encoding: "vendor_id : GenuineIntel")
    assert found() is False
    monkeypatch.setattr(products.Path, "read_text", lambda self, encoding: "vendor_id : AuthenticAMD")
    assert found() is True
