"""bf16 weights: the bound is kept within a few percent over hundreds of steps of real training."""

import pytest
import torch
from optim_helpers import REGULARISERS
from torch import nn

from nnunet_cpr.optim import SGDCPR, AdamCPR


def train(cls, dtype, reg, form="explicit", steps=500, **kwargs):
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4)).to(dtype)
    x = torch.randn(512, 16)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs(), 3 * x[:, 3], x[:, 4] ** 2], 1)
    opt = cls(model, reg_function=reg, step_form=form, kappa_init_method="warm_start", kappa_init_param=100, **kwargs)
    overshoot = 0.0
    for step in range(steps):
        rows = torch.randint(0, 512, (64,), generator=torch.Generator().manual_seed(step))
        opt.zero_grad()
        loss = (model(x[rows].to(dtype)).float() - y[rows]).square().mean()
        loss.backward()
        opt.step()
        if step >= 300:
            overshoot = max(overshoot, *(row.reg / row.kappa for row in opt.constraints()))
    return opt.constraints(), overshoot, loss.item()


@pytest.mark.parametrize("form", ["explicit", "proximal"])
@pytest.mark.parametrize("reg", REGULARISERS)
def test_adam_keeps_the_bound(reg, form):
    rows, overshoot, _ = train(AdamCPR, torch.bfloat16, reg, form, lr=3e-3)
    assert any(row.active for row in rows), "the bound must bind for this to mean anything"
    assert all(row.bounded for row in rows)
    assert overshoot < 1.06


def test_sgd_keeps_the_bound():
    rows, overshoot, _ = train(SGDCPR, torch.bfloat16, "l2", lr=0.05, momentum=0.9)
    assert any(row.lagmul > 0 for row in rows)
    assert overshoot < 1.06


def test_bf16_ends_where_fp32_does():
    low, _, loss_low = train(AdamCPR, torch.bfloat16, "l2", lr=3e-3)
    full, _, loss_full = train(AdamCPR, torch.float32, "l2", lr=3e-3)
    for a, b in zip(low, full, strict=True):
        assert a.kappa == pytest.approx(b.kappa, rel=0.05)
        assert a.reg == pytest.approx(b.reg, rel=0.06)
    assert loss_low == pytest.approx(loss_full, rel=0.5)


def test_std_really_moves_bf16_weights():
    """The authors' std update vanishes in bf16."""
    p = nn.Parameter(torch.randn(64, 64).bfloat16())
    start = float(p.detach().float().std())
    opt = SGDCPR([p], lr=0.0, reg_function="std", kappa_init_method="dependent", kappa_init_param=0.5)
    for _ in range(600):
        p.grad = torch.zeros_like(p)
        opt.step()
    assert float(p.detach().float().std()) < 0.6 * start
