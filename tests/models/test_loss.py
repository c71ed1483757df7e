from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from flantune.models import loss
from flantune.models.loss import loss_sums

TOKENS, D, VOCABULARY = 40, 12, 50


class Wrapped(nn.Module):
    """A head that is more than a matrix, as LoRA makes it."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    @property
    def weight(self) -> torch.Tensor:
        return self.inner.weight

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.inner(states)


def problem(dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(2, TOKENS // 2, D, dtype=dtype, requires_grad=True)
    labels = torch.randint(VOCABULARY, (2, TOKENS // 2))
    weights = torch.rand(2, TOKENS // 2, dtype=dtype) * (torch.rand(2, TOKENS // 2) > 0.3)
    return hidden, nn.Linear(D, VOCABULARY, bias=False, dtype=dtype), labels, weights


def plain(hidden: Any, head: Any, labels: Any, weights: Any, z_loss: float, softcap: float | None) -> torch.Tensor:
    logits = head(hidden)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    log_z = logits.logsumexp(-1)
    own = log_z - logits.gather(-1, labels[..., None])[..., 0]
    return (weights * (own + z_loss * log_z**2)).sum()


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("rows", [1, 7, 1000])
@pytest.mark.parametrize("wrap", [False, True])
def test_loss_and_gradients_are_those_of_the_whole_logits(
    softcap: float | None, rows: int, wrap: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(loss._LOGITS_AT_ONCE, "cpu", rows * VOCABULARY)
    hidden, head, labels, weights = problem()
    made = loss_sums(hidden, Wrapped(head) if wrap else head, labels, weights, 1e-2, softcap)
    reference = plain(hidden, head, labels, weights, 1e-2, softcap)
    torch.testing.assert_close(made.total, reference, rtol=1e-12, atol=0)
    torch.testing.assert_close(made.total, made.loss_sum + made.z_sum, rtol=1e-12, atol=0)
    assert made.weight_sum == pytest.approx(float(weights.sum()))
    # Scaled as a loop scales it, and not once but by what comes from above.
    mine = torch.autograd.grad(made.total / 3, [hidden, head.weight])
    for one, other in zip(mine, torch.autograd.grad(reference / 3, [hidden, head.weight]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_second_backward_is_refused_rather_than_wrong():
    made = loss_sums(*problem(), 0.0)
    made.total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second time"):
        made.total.backward()


def test_a_frozen_head_gets_no_gradient_and_no_graph_needs_none():
    hidden, head, labels, weights = problem()
    head.weight.requires_grad_(False)
    loss_sums(hidden, head, labels, weights, 0.0).total.backward()
    assert head.weight.grad is None and hidden.grad is not None
    with torch.no_grad():
        assert not loss_sums(hidden, head, labels, weights, 0.0).total.requires_grad


def test_a_vocabulary_of_150_thousand_is_never_whole_in_memory():
    """400 positions of it are 240 MB in float32; the largest tensor made is the pieces' 64 MB."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, (tuple, list)) else (made,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel() * tensor.element_size())
            return made

    head = nn.Linear(4, 150_000, bias=False)
    hidden = torch.randn(1, 400, 4, requires_grad=True)
    with Watch():
        loss_sums(hidden, head, torch.zeros(1, 400, dtype=torch.int64), torch.ones(1, 400), 1e-4).total.backward()
    assert 32e6 < largest < 70e6
