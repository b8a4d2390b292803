"""torch.distributed.checkpoint: initializes every optimizer by a step with lr = 0, saves, loads and continues."""

import math

import pytest
import torch
import torch.distributed.checkpoint as dcp
from optim_helpers import RULES, assert_same_bits, cpr_settings
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from nnunet_cpr.optim import SGDCPR, AdamCPR


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, 2))


def train(model, opt, start, stop):
    for step in range(start, stop):
        g = torch.Generator().manual_seed(step)
        x = torch.randn(16, 6, generator=g)
        opt.zero_grad()
        (model(x) - 3 * x[:, :2]).square().mean().backward()
        opt.step()


@pytest.mark.parametrize("cls", [AdamCPR, SGDCPR])
@pytest.mark.parametrize("rule", ["warm_start", "inflection_point"])
def test_initializing_moves_no_weight(rule, cls):
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    opt = cls(model, lr=0.1, **cpr_settings(rule))
    state = get_optimizer_state_dict(model, opt)
    assert_same_bits([p.detach() for p in model.parameters()], before)
    assert {"lagmul", "kappa", "cpr_step"} <= set(state["state"]["0.weight"])
    assert math.isinf(state["state"]["0.weight"]["kappa"])
    assert opt.param_groups[0]["lr"] == 0.1


def test_an_inactive_bound_moves_no_weight_either():
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    opt = AdamCPR(model, lr=0.1, kappa_init_method="dependent", kappa_init_param=1.5)
    get_optimizer_state_dict(model, opt)
    assert_same_bits([p.detach() for p in model.parameters()], before)


@pytest.mark.parametrize("at", [10, 100])
@pytest.mark.parametrize("rule", RULES)
def test_saved_to_disk_and_continued_equals_uninterrupted(rule, at, tmp_path):
    settings = {**cpr_settings(rule), "kappa_update": 0.3}
    model = network()
    opt = AdamCPR(model, lr=0.01, **settings)
    train(model, opt, 0, at)
    dcp.save({"model": model.state_dict(), "optim": get_optimizer_state_dict(model, opt)}, checkpoint_id=tmp_path)

    other = network()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    fresh = AdamCPR(other, lr=0.01, **settings)
    state = {"model": other.state_dict(), "optim": get_optimizer_state_dict(other, fresh)}
    dcp.load(state, checkpoint_id=tmp_path)
    other.load_state_dict(state["model"])
    set_optimizer_state_dict(other, fresh, state["optim"])

    train(model, opt, at, 130)
    train(other, fresh, at, 130)
    assert_same_bits([p.detach() for p in model.parameters()], [p.detach() for p in other.parameters()])
    assert [tuple(row) for row in fresh.constraints()] == [tuple(row) for row in opt.constraints()]
