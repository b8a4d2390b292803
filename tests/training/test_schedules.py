"""The schedule against numbers worked out by hand and against PyTorch's and nnU-Net's schedulers."""

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim.lr_scheduler import LinearLR, PolynomialLR, SequentialLR

from nnunet_cpr.schedules import warmup_poly_lr


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 0.000005),  # 0.01 / 2000
        (999, 0.005),
        (1999, 0.01),
        (2000, 0.01),
        (13500, 0.01 * 0.5358867312681466),  # half of the 23,000 steps after the warmup: 0.5 ** 0.9
        (24999, 0.01 * (1 / 23000) ** 0.9),
    ],
)
def test_the_papers_schedule_by_hand(step, lr):
    assert warmup_poly_lr(step, 0.01, 2000, 25_000) == pytest.approx(lr, rel=1e-12)


def test_against_torch():
    warmup, total = 7, 40
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    linear = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    poly = PolynomialLR(optimizer, total_iters=total - warmup, power=0.9)
    schedule = SequentialLR(optimizer, [linear, poly], milestones=[warmup])
    for step in range(total):
        assert warmup_poly_lr(step, 0.3, warmup, total) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        schedule.step()


def test_after_the_warmup_it_is_nnunets_own():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.01)
    schedule = PolyLRScheduler(optimizer, 0.01, max_steps=30)
    for step in range(30):
        schedule.step(step)
        assert warmup_poly_lr(step + 5, 0.01, 5, 35) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
