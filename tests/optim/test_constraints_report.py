"""`constraints()` tells what each bound is doing."""

import math

import pytest
import torch
from optim_helpers import matrix, one_step
from torch import nn

from nnunet_cpr.optim import SGDCPR, AdamCPR


def test_fields_and_values():
    p = matrix(4, 5, dtype=torch.float64)
    opt = SGDCPR([("layer.weight", p)], lr=0.0, kappa_init_method="uniform", kappa_init_param=1.0, kappa_update=0.1)
    one_step(opt, [p])
    (row,) = opt.constraints()
    assert row._fields == ("name", "numel", "reg", "kappa", "lagmul", "flips")
    assert (row.name, row.numel, row.kappa) == ("layer.weight", 20, 1.0)
    assert row.reg == pytest.approx(float((p.detach() ** 2).sum()))
    assert row.lagmul == pytest.approx(float(opt.state[p]["lagmul"]))
    assert row.bounded is True and row.active is True
    assert not row.flips


def test_only_regularized_tensors_are_listed():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    opt = AdamCPR(model)
    assert {row.name for row in opt.constraints()} <= {"0.weight", "2.weight"}
    one_step(opt, list(model.parameters()))
    assert {row.name for row in opt.constraints()} == {"0.weight", "2.weight"}


def test_before_the_first_step_nothing_is_bounded():
    opt = AdamCPR(nn.Linear(3, 4))
    for row in opt.constraints():
        assert not row.bounded and not row.active
        assert row.kappa == math.inf and row.lagmul == 0


def test_bounded_but_inactive():
    p = matrix(4, 4)
    opt = SGDCPR([p], lr=0.0, kappa_init_method="uniform", kappa_init_param=1e4)
    one_step(opt, [p])
    (row,) = opt.constraints()
    assert row.bounded and not row.active


@pytest.mark.parametrize(
    "form, mu, flips", [("explicit", 100.0, True), ("explicit", 0.01, False), ("proximal", 100.0, False)]
)
def test_flips_says_when_two_lambda_passes_one(form, mu, flips):
    p = matrix(4, 4, dtype=torch.float64)
    before = p.detach().clone()
    opt = SGDCPR([p], lr=0.0, kappa_init_method="uniform", kappa_init_param=1.0, kappa_update=mu, step_form=form)
    one_step(opt, [p])
    (row,) = opt.constraints()
    assert bool(row.flips) is flips
    assert bool((p.detach() * before < 0).all()) is flips


def test_asking_changes_nothing():
    p = matrix(4, 4)
    opt = AdamCPR([p], kappa_init_method="dependent", kappa_init_param=0.5)
    one_step(opt, [p])
    before, state = p.detach().clone(), {k: torch.as_tensor(v).clone() for k, v in opt.state[p].items()}
    opt.constraints()
    assert torch.equal(p.detach(), before)
    assert set(opt.state[p]) == set(state)
    assert all(torch.equal(torch.as_tensor(opt.state[p][k]), v) for k, v in state.items())
