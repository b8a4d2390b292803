"""torch.compile(optimizer.step): compiled in the first steps, then never again with a tensor lr, whatever it does."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from nnunet_cpr.optim import SGDCPR, AdamCPR

CLASSES = {AdamCPR: {}, SGDCPR: {"momentum": 0.9}}


def graphs(cls, lr, steps):
    """Return the optimizer and the graphs compiled up to each step, with another lr in each and a bound set at 10."""
    torch._dynamo.reset()
    counters.clear()
    model = nn.Sequential(nn.Linear(20, 9), nn.LayerNorm(9), nn.ReLU(), nn.Linear(9, 3))
    opt = cls(model, lr=lr, kappa_init_method="warm_start", kappa_init_param=10, **CLASSES[cls])
    step = torch.compile(opt.step, backend="eager")
    counts = []
    for number in range(steps):
        for group in opt.param_groups:
            if isinstance(lr, torch.Tensor):
                group["lr"].fill_(1e-3 * (1 + number))
            else:
                group["lr"] = lr * (1 + number)
        opt.zero_grad()
        model(torch.ones(4, 20)).square().mean().backward()
        step()
        counts.append(counters["stats"]["unique_graphs"])
    return opt, counts


@pytest.mark.parametrize("cls", CLASSES)
def test_a_changing_tensor_lr_does_not_compile_again(cls):
    _, counts = graphs(cls, torch.tensor(1e-3), 30)
    assert 0 < counts[3] <= 8
    assert counts[-1] == counts[3]


@pytest.mark.parametrize("cls", CLASSES)
def test_a_changing_number_is_compiled_for_until_torch_gives_up(cls):
    """Then torch goes on without compiling; and what it traces as `capturable` has not come into the groups."""
    opt, counts = graphs(cls, 1e-3, 25)
    assert counts[-1] == counts[15] <= 16
    assert not any(group.get("capturable") for group in opt.param_groups)
