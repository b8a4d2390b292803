"""torch.compile(optimizer.step): compiled in the first steps, then never again with a tensor lr, whatever it does."""

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from nnunet_cpr.optim import SGDCPR, AdamCPR, param_groups

CLASSES = {AdamCPR: {}, SGDCPR: {"momentum": 0.9}}
TORCHS = {AdamCPR: torch.optim.Adam, SGDCPR: torch.optim.SGD}


def graphs(cls, lr, steps, torchs=False):
    """Return the optimizer and the graphs compiled up to each step, with another lr in each and a bound set at 10.

    The backend is the cheapest of those that compile for a number's value.
    """
    torch._dynamo.reset()
    counters.clear()
    model = nn.Sequential(nn.Linear(20, 9), nn.LayerNorm(9), nn.ReLU(), nn.Linear(9, 3))
    if torchs:
        opt = TORCHS[cls](param_groups(model), lr=lr, **CLASSES[cls])
    else:
        opt = cls(model, lr=lr, kappa_init_method="warm_start", kappa_init_param=10, **CLASSES[cls])
    step = torch.compile(opt.step, backend="aot_eager")
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
    assert 0 < counts[3] <= 6
    assert counts[-1] == counts[3]


@pytest.mark.parametrize("cls", CLASSES)
def test_a_changing_number_is_compiled_for_no_oftener_than_by_torch(cls):
    """torch compiles SGD for some eight numbers, and then gives up; Adam once.

    What it traces as `capturable` has not come into the groups.
    """
    _, counts = graphs(cls, 1e-3, 25, torchs=True)
    opt, ours = graphs(cls, 1e-3, 25)
    assert ours[3] <= 6
    assert ours[-1] - ours[3] <= counts[-1] - counts[3]
    assert not any(group.get("capturable") for group in opt.param_groups)
