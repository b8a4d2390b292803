"""At home in every loop: hooks, schedulers, torch.compile, differentiable, distributed checkpoints."""

import copy

import pytest
import torch
from optim_helpers import as_ours
from torch import nn

from nnunet_cpr.optim import SGDCPR, AdamCPR

HALF = {"kappa_init_method": "dependent", "kappa_init_param": 0.5}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 33), nn.LayerNorm(33), nn.ReLU(), nn.Linear(33, 3))


def data():
    torch.manual_seed(1)
    return torch.randn(64, 20), torch.randn(64, 3)


def train(model, opt, steps, step=None):
    x, y = data()
    for _ in range(steps):
        opt.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        (step or opt.step)()


def largest_difference(one, other):
    return max(float((p - q).detach().abs().max()) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_a_scheduler_does_not_change_the_constraint():
    p, q = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 3))
    opt, other = (SGDCPR([w], lr=lr, kappa_update=0.1, **HALF) for w, lr in ((p, 0.5), (q, 1e-3)))
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.1)
    for _ in range(3):
        p.grad = q.grad = torch.zeros(3, 3)
        opt.step()
        scheduler.step()
        other.step()
    assert opt.state[p]["lagmul"] > 0
    assert torch.equal(p, q)


@pytest.mark.parametrize(
    "settings",
    [
        HALF,
        {"reg_step_size": 3},
        {**HALF, "reg_function": "std"},
        {**HALF, "reg_function": "l1", "step_form": "proximal"},
    ],
    ids=["l2", "inflection point", "std", "l1"],
)
def test_compiled_step(settings):
    torch._dynamo.reset()
    plain, compiled = network(), network()
    opt = AdamCPR(plain, lr=1e-3, **settings)
    train(plain, opt, 12)
    other = AdamCPR(compiled, lr=torch.tensor(1e-3), **settings)
    train(compiled, other, 12, torch.compile(other.step, backend="eager"))
    assert largest_difference(plain, compiled) < 1e-5


@pytest.mark.parametrize("cls", [torch.optim.Adam, AdamCPR])
def test_a_full_graph_is_refused_as_for_torchs_own(cls):
    """Were this to change in torch, the reference page is to be changed with it."""
    torch._dynamo.reset()
    model = network()
    opt = cls(list(model.parameters()), lr=torch.tensor(1e-3))
    with pytest.raises(torch._dynamo.exc.Unsupported):
        train(model, opt, 1, torch.compile(opt.step, backend="eager", fullgraph=True))


@pytest.mark.parametrize("flags", [{"foreach": True}, {"fused": True}, {"amsgrad": True}, {"maximize": True}])
def test_flags_of_adam_stay(flags):
    ours, plain = network(), network()
    opt, other = (
        AdamCPR(ours, lr=1e-3, **flags),
        torch.optim.Adam(plain.parameters(), lr=1e-3, **as_ours(torch.optim.Adam, flags)),
    )
    train(ours, opt, 5)
    train(plain, other, 5)
    assert largest_difference(ours, plain) == 0


def test_differentiable_step():
    w = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    opt = SGDCPR([nn.Parameter(torch.ones(4, 4, dtype=torch.float64))], lr=0.1, differentiable=True, **HALF)
    p = w.clone()
    p.grad = 2 * w
    opt.param_groups[0]["params"] = [p]
    opt.step()
    lam = float(opt.state[p]["lagmul"])
    p.sum().backward()
    # p = w (1 - 2 lambda) - 0.1 * 2 w, with lambda a constant
    torch.testing.assert_close(w.grad, torch.full_like(w, 1 - 2 * lam - 0.2))


@pytest.mark.parametrize("settings", [{"kappa_init_method": "warm_start", "kappa_init_param": 3}, {"reg_step_size": 1}])
def test_a_step_with_zero_gradients_and_lr_0_moves_no_weight(settings):
    """What torch.distributed.checkpoint does to every optimizer."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = network()
    before = copy.deepcopy(model.state_dict())
    opt = AdamCPR(model, lr=1e-3, **settings)
    get_optimizer_state_dict(model, opt)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert opt.state[model[0].weight]["cpr_step"] == 1
