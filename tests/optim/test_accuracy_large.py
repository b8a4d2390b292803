"""R to 1e-6 where naive float32 sums are off by 1e-3: 40 million elements, bf16, and a mean far from zero under std."""

import pytest
import torch
from optim_helpers import REGULARIZER_NAMES
from reference import algorithm1

from nnunet_cpr.optim import SGDCPR


@pytest.fixture(scope="module")
def forty_million():
    return torch.randn(5000, 8000, generator=torch.Generator().manual_seed(3)).mul_(0.02)


def r_seen(weights, reg):
    p = torch.nn.Parameter(weights)
    p.grad = torch.zeros_like(p)
    opt = SGDCPR([p], lr=0.0, kappa_init_method="dependent", kappa_init_param=1.0, reg_function=reg)
    opt.step()
    return float(opt.state[p]["kappa"])


@pytest.mark.parametrize("reg", REGULARIZER_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forty_million_elements(forty_million, dtype, reg):
    weights = forty_million.to(dtype, copy=True)
    if reg == "huber":
        weights.mul_(50)  # both branches
    expected = float(algorithm1.regularizer(reg, weights.double()))
    assert r_seen(weights, reg) == pytest.approx(expected, rel=1e-6)


def test_std_with_a_mean_far_from_zero(forty_million):
    weights = forty_million + 1.0  # mean is 50 standard deviations away
    expected = float(algorithm1.regularizer("std", weights.double()))
    assert r_seen(weights, "std") == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("offset", [0.0, 7e-6, 1.1e-5, 1.9e-5])
def test_std_where_the_mean_itself_is_rounded_coarsely(offset):
    """Weights near 300 that differ by 2e-4: float32 gives the mean to 2e-5 at best; the variance must not see that."""
    spread = 2e-4 * torch.randn(300, 500, dtype=torch.float64)
    weights = (300 + offset + spread).float()
    expected = float(algorithm1.regularizer("std", weights.double()))
    assert r_seen(weights, "std") == pytest.approx(expected, rel=1e-5)


def test_a_sum_longer_than_float32_can_count():
    """2^25 ones added one at a time in float32 stop at 2^24."""
    weights = torch.ones(2**12, 2**13)
    assert r_seen(weights, "l2") == pytest.approx(2.0**25, rel=1e-6)
