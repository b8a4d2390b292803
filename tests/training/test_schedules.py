"""The schedule against numbers worked out by hand and against PyTorch's and nnU-Net's schedulers."""

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, PolynomialLR, SequentialLR

from nnunet_cpr.schedules import warmup_cosine_lr, warmup_poly_lr


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


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 0.0002),  # 1 / 5000
        (2499, 0.5),
        (4999, 1.0),
        (5000, 1.0),
        (70_000, 0.775),  # a third of the 195,000 steps after the warmup: the cosine of 60 degrees is a half
        (102_500, 0.55),  # half of them: the middle of 1 and 0.1
        (135_000, 0.325),
        (199_999, 0.1),
    ],
)
def test_the_papers_gpt2_schedule_by_hand(step, lr):
    assert warmup_cosine_lr(step, 1.0, 5000, 200_000) == pytest.approx(lr, abs=1e-9)


@pytest.mark.parametrize("final_share", [0.0, 0.1, 1.0])
def test_the_cosine_against_torch(final_share):
    warmup, total = 7, 40
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    linear = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
    cosine = CosineAnnealingLR(optimizer, T_max=total - warmup, eta_min=final_share * 0.3)
    schedule = SequentialLR(optimizer, [linear, cosine], milestones=[warmup])
    for step in range(total):
        expected = optimizer.param_groups[0]["lr"]
        assert warmup_cosine_lr(step, 0.3, warmup, total, final_share) == pytest.approx(expected, rel=1e-9)
        optimizer.step()
        schedule.step()
