"""bf16 weights: over hundreds of steps of real training the bound is kept as well as with fp32 weights."""

import pytest
import torch
from reference import algorithm1
from torch import nn

from nnunet_cpr.optim import SGDCPR, AdamCPR

ADAM = {"lr": 3e-3}
SGD = {"lr": 0.05, "momentum": 0.9}


def train(cls, dtype, reg, form="explicit", steps=500, **kwargs):
    """Return for each weight R / kappa averaged over the last 200 steps, its maximum there, and the last rows."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4)).to(dtype)
    x = torch.randn(512, 16)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs(), 3 * x[:, 3], x[:, 4] ** 2], 1)
    opt = cls(model, reg_function=reg, step_form=form, kappa_init_method="warm_start", kappa_init_param=100, **kwargs)
    shares = []
    for step in range(steps):
        rows = torch.randint(0, 512, (64,), generator=torch.Generator().manual_seed(step))
        opt.zero_grad()
        (model(x[rows].to(dtype)).float() - y[rows]).square().mean().backward()
        opt.step()
        if step >= steps - 200:
            shares.append([row.reg / row.kappa for row in opt.constraints()])
    shares = torch.tensor(shares)
    return shares.mean(0), shares.max(0).values, opt.constraints()


@pytest.mark.parametrize(
    "cls, reg, form, options",
    [(AdamCPR, reg, "explicit", ADAM) for reg in algorithm1.PAPER]  # how close R stays depends on R
    + [(AdamCPR, "l2", "proximal", ADAM), (SGDCPR, "l2", "explicit", SGD)],
)
def test_the_bound_is_kept(cls, reg, form, options):
    mean, largest, rows = train(cls, torch.bfloat16, reg, form, **options)
    fp32_mean, fp32_largest, fp32_rows = train(cls, torch.float32, reg, form, **options)
    assert all(row.bounded for row in rows)
    assert any(row.active for row in rows), "the bound must bind for this to mean anything"
    assert ((mean - 1).abs() < 0.03).all()
    assert ((mean - fp32_mean).abs() < (0.08 if reg == "std" else 0.04)).all()  # std swings slowly, in fp32 as well
    assert (largest < fp32_largest + 0.04).all()
    for row, full in zip(rows, fp32_rows, strict=True):
        assert row.kappa == pytest.approx(full.kappa, rel=0.05)


def test_std_really_moves_bf16_weights():
    """The authors' std update vanishes in bf16."""
    p = nn.Parameter(torch.randn(64, 64).bfloat16())
    start = float(p.detach().float().std())
    opt = SGDCPR([p], lr=0.0, reg_function="std", kappa_init_method="dependent", kappa_init_param=0.5)
    for _ in range(600):
        p.grad = torch.zeros_like(p)
        opt.step()
    assert float(p.detach().float().std()) < 0.6 * start


@pytest.mark.parametrize("form", ["explicit", "proximal"])
def test_small_weights_under_steady_pressure(form):
    """Steps of lambda are far below its bf16 resolution here: R, kappa and lambda need their own precision."""
    p = nn.Parameter((0.005 * torch.randn(256, 256)).bfloat16())
    pull = -torch.sign(p.detach())
    opt = AdamCPR([p], lr=5e-5, step_form=form, kappa_init_method="dependent", kappa_init_param=1.0)
    shares = []
    for _ in range(1500):
        p.grad = pull + 0.5 * torch.randn_like(pull)
        opt.step()
        (row,) = opt.constraints()
        shares.append(row.reg / row.kappa)
    assert row.active
    assert sum(shares[-300:]) / 300 == pytest.approx(1, abs=0.02)
