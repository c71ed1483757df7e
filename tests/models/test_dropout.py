from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from flantune.models import dropout
from flantune.models.dropout import HashedDropout, hashed_dropout, use_hashed_dropout

N = 1_000_000


def kept(seed: int, p: float = 0.1, n: int = N) -> torch.Tensor:
    return hashed_dropout(torch.ones(n), p, seed) != 0


@pytest.mark.parametrize("p", [0.001, 0.05, 0.1, 0.5, 0.9])
def test_the_share_kept_is_what_was_asked_and_the_mean_stays(p: float):
    sigma = math.sqrt(p * (1 - p) / N)
    for seed in range(5):
        made = hashed_dropout(torch.ones(N), p, seed)
        assert abs(float((made != 0).double().mean()) - (1 - p)) < 5 * sigma
        assert set(made.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}


@pytest.mark.parametrize("lag", [1, 2, 3, 8, 64, 512, 4096])
def test_neighbours_at_any_distance_are_independent(lag: int):
    mask = kept(3, 0.5).double() - 0.5
    assert abs(float((mask[lag:] * mask[:-lag]).mean()) * 4) < 5 / math.sqrt(N - lag)


@pytest.mark.parametrize("difference", [1, 2, 1 << 16, 1 << 32, 1 << 40, 0x9E3779B9, 0x9E3779B97F4A7C15])
def test_masks_of_different_seeds_are_independent(difference: int):
    one, other = kept(1000, 0.5).double() - 0.5, kept((1000 + difference) % 2**63, 0.5).double() - 0.5
    for shift in (0, 1, 2):
        pair = (one[shift:] * other[: N - shift]).mean() * 4
        assert abs(float(pair)) < 5 / math.sqrt(N - shift)


@pytest.mark.parametrize("first_half", [0, 1, 0x9E3779B9])
@pytest.mark.parametrize("second_half", [1, 2, 1 << 16, 0x80000000])
def test_the_hash_itself_parts_seeds_that_differ_in_one_half(first_half: int, second_half: int):
    def half_kept(first: int, second: int) -> np.ndarray:
        out = np.empty(N, dtype=np.float32)
        values = np.ones(N, dtype=np.float32)
        dropout._kernel()(values, out, np.uint32(first), np.uint32(second), np.uint32(1 << 31), np.float32(1))
        return out.astype(np.float64) - 0.5

    one, other = half_kept(77, 5), half_kept((77 + first_half) % 2**32, (5 + second_half) % 2**32)
    for shift in (0, 1, 2):
        assert abs((one[shift:] * other[: N - shift]).mean() * 4) < 5 / math.sqrt(N - shift)


def test_patterns_of_the_mask_are_even():
    """Sixteen kept-or-not bits make a number; at p = 1/2 every number is as likely: chi-squared, 65,535 degrees."""
    bits = torch.cat([kept(seed, 0.5, 1 << 20) for seed in range(8)]).view(-1, 16).long()
    counts = torch.bincount((bits * 2 ** torch.arange(16)).sum(1), minlength=1 << 16).double()
    expected = len(bits) / (1 << 16)
    chi = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi - 65535) < 5 * math.sqrt(2 * 65535)


def test_the_gradient_goes_where_the_values_went():
    values = torch.randn(50, 30, dtype=torch.float64, requires_grad=True)
    made = hashed_dropout(values, 0.3, 7)
    made.backward(torch.full_like(made, 2.0))
    torch.testing.assert_close(values.grad, torch.where(made == 0, 0.0, 2.0 / 0.7).double())
    torch.testing.assert_close(made.detach(), values.detach() * (made != 0) / 0.7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_mask_depends_neither_on_the_type_nor_on_the_strides(dtype: torch.dtype):
    values = torch.ones(64, 48, dtype=dtype)
    assert torch.equal(hashed_dropout(values, 0.3, 5) != 0, hashed_dropout(torch.ones(64, 48), 0.3, 5) != 0)
    strided = torch.ones(48, 64, dtype=dtype).T
    assert torch.equal(hashed_dropout(strided, 0.3, 5), hashed_dropout(values, 0.3, 5))


def test_modules_draw_from_torchs_generator_and_rest_in_evaluation():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.2)))
    names = list(model.state_dict())
    use_hashed_dropout(model)
    assert [type(m) for m in (model[1], model[2][0])] == [HashedDropout, HashedDropout]
    assert (model[1].p, model[2][0].p, list(model.state_dict())) == (0.5, 0.2, names)
    values = torch.ones(1000)
    model.train()
    torch.manual_seed(1)
    first, second = model[1](values), model[1](values)
    torch.manual_seed(1)
    assert torch.equal(model[1](values), first) and not torch.equal(first, second)
    assert torch.equal(model.eval()[1](values), values)


def test_a_nan_stays_a_nan_where_it_is_kept_and_where_it_is_not():
    assert hashed_dropout(torch.full((1000,), float("nan")), 0.5, 1).isnan().all()
