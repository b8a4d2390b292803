"""l2 makes no temporary of a tensor's size: every allocation of a step is recorded, those inside kernels included."""

import pytest
import torch
from optim_helpers import RULES, STEP_FORMS, cpr_settings
from torch.profiler import ProfilerActivity, profile

from nnunet_cpr.optim import SGDCPR, AdamCPR


def largest_allocation(step):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        step()
    events = prof.profiler.kineto_results.events()  # prof.events() nets what an operator allocates and frees again
    return max((e.nbytes() for e in events if e.name() == "[memory]"), default=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", STEP_FORMS)
@pytest.mark.parametrize("rule", RULES)
def test_l2_step(rule, form, dtype):
    p = torch.nn.Parameter(torch.randn(1000, 1200).to(dtype))
    p.grad = torch.zeros_like(p)
    opt = AdamCPR([p], lr=1e-3, fused=True, step_form=form, **cpr_settings(rule))
    opt.step()  # makes the state
    assert largest_allocation(opt.step) < p.numel() * p.element_size() / 50


def test_l2_step_of_bf16_weights():
    p = torch.nn.Parameter(torch.randn(1000, 1200).bfloat16())
    p.grad = torch.zeros_like(p)
    opt = AdamCPR([p], lr=1e-3, fused=True, kappa_init_method="dependent", kappa_init_param=0.9)
    opt.step()
    assert largest_allocation(opt.step) < p.numel() * p.element_size() / 2


@pytest.mark.parametrize(
    "theta",
    [
        torch.randn(8, 40, 40, 40, 2).permute(4, 0, 1, 2, 3),
        torch.randn(4, 8, 20, 20, 20).contiguous(memory_format=torch.channels_last_3d),
        torch.randn(700, 500).t(),
    ],
    ids=["permuted", "channels_last_3d", "transposed"],
)
def test_other_memory_layouts(theta):
    p = torch.nn.Parameter(theta)
    p.grad = torch.zeros_like(p)
    # torch's own fused SGD copies such weights
    opt = SGDCPR([p], lr=1e-3, fused=False, kappa_init_method="dependent", kappa_init_param=0.9)
    opt.step()
    assert largest_allocation(opt.step) < p.numel() * p.element_size() / 20


def test_many_tensors_are_not_gathered_into_one():
    params = [torch.nn.Parameter(torch.randn(64, 64)) for _ in range(60)]
    for p in params:
        p.grad = torch.zeros_like(p)
    opt = SGDCPR(params, lr=1e-3, fused=True, kappa_init_method="dependent", kappa_init_param=0.9)
    opt.step()
    assert largest_allocation(opt.step) < 64 * 64 * 4


def test_the_watch_sees_temporaries():
    x = torch.randn(1000, 1000)
    assert largest_allocation(lambda: x.square().sum()) >= 4_000_000
    assert largest_allocation(lambda: x.mul_(2)) < 4_000
