"""AdaCPR: when lambda falls back to zero after having been positive, the bound moves to the R of that step."""

import math

import pytest
import torch
from optim_helpers import matrix, one_step

from nnunet_cpr.optim import SGDCPR


def follow(values, adaptive, **kwargs):
    p = matrix(4, 4, dtype=torch.float64)
    opt = SGDCPR([p], lr=0.0, kappa_init_method="uniform", kappa_init_param=2.0, adaptive_bounds=adaptive, **kwargs)
    seen = []
    for r in values:
        with torch.no_grad():
            p.fill_(math.sqrt(r / 16))
        one_step(opt, [p])
        seen.append((float(opt.state[p]["lagmul"]), float(opt.state[p]["kappa"])))
    return seen


def test_bound_tightens_when_lambda_returns_to_zero():
    # lambda * 16: 1, 2, then max(0, 2 - 3)... R = 0.5 is 1.5 below: 0.5, then -1.0 -> 0
    seen = follow([3.0, 3.0, 0.5, 0.5, 1.5], adaptive=True)
    assert [lam * 16 for lam, _ in seen] == pytest.approx([1.0, 2.0, 0.5, 0.0, 1.0])
    assert [kappa for _, kappa in seen] == pytest.approx([2.0, 2.0, 2.0, 0.5, 0.5])


def test_it_is_off_by_default():
    seen = follow([3.0, 0.5, 0.5], adaptive=False)
    assert [kappa for _, kappa in seen] == [2.0] * 3
    p = matrix(2, 2)
    assert SGDCPR([p], lr=0.1).param_groups[0]["adaptive_bounds"] is False


def test_a_lambda_that_was_never_positive_moves_no_bound():
    assert [kappa for _, kappa in follow([1.0, 0.5, 0.1], adaptive=True)] == [2.0] * 3


def test_bound_moves_once_per_return():
    seen = follow([3.0, 0.5, 0.4, 0.3], adaptive=True)
    assert [kappa for _, kappa in seen] == pytest.approx([2.0, 0.5, 0.5, 0.5])
