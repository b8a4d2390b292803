"""Optimizers that keep their moments in 8 or 4 bits, bitsandbytes' and torchao's, as bases of cpr()."""

import importlib.util

import pytest
import torch
from optim_helpers import assert_same_bits, bits, round_trip
from reference import algorithm1
from torch import nn

from nnunet_cpr.optim import cpr, param_groups

SETTINGS = {"kappa_init_method": "warm_start", "kappa_init_param": 3, "kappa_update": 1.0}
BASES = {
    "bitsandbytes.optim": ("Adam8bit", "AdamW8bit", "PagedAdamW8bit", "Lion8bit", "RMSprop8bit", "SGD8bit"),
    "torchao.optim": ("Adam8bit", "AdamW8bit", "AdamW4bit", "AdamWFp8"),
}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(params=[(package, name) for package, names in BASES.items() for name in names], ids=".".join)
def base(request):
    """A class and the arguments that make it use few bits for the small tensors here."""
    package, name = request.param
    if importlib.util.find_spec(package.split(".")[0]) is None:
        pytest.skip(f"{package.split('.')[0]} is not installed")
    if package == "torchao.optim":
        return getattr(pytest.importorskip(package), name), {"lr": 0.01}
    options = {"lr": 0.01, "min_8bit_size": 1} | ({"momentum": 0.9} if name == "SGD8bit" else {})
    return getattr(pytest.importorskip(package), name), options


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64))  # torchao keeps fewer than 4096 whole


def gradients(model, step):
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(step))
    model.zero_grad()
    (model(x) - 9 * x).square().sum(1).mean().backward()


def train(model, optimizer, start, stop):
    for step in range(start, stop):
        gradients(model, step)
        optimizer.step()


def test_a_step_is_algorithm_1(base):
    """The constraint's weights by the reference, then the plain optimizer's own step at these."""
    cls, options = base
    model, other = network(), network()
    optimizer = cpr(cls)(model, **options, **SETTINGS)
    plain = cls(param_groups(other), weight_decay=0, **options)
    constraints = {name: algorithm1.Constraint(algorithm1.Settings(**SETTINGS)) for name in ("0.weight", "2.weight")}
    acted = 0
    for step in range(8):
        gradients(model, step)
        for (name, p), q in zip(other.named_parameters(), model.parameters(), strict=True):
            p.grad = q.grad.clone()
            if name in constraints:
                p.data.copy_(constraints[name].step(p.detach().double()))
        optimizer.step()
        plain.step()
        for row in optimizer.constraints():
            assert row.lagmul == pytest.approx(constraints[row.name].lam, rel=1e-3, abs=1e-6)
            constraints[row.name].lam = row.lagmul
            acted += row.active
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-5, atol=1e-5)
            q.data.copy_(p.data)
    assert acted > 0


def test_saved_and_loaded_it_goes_on_bit_for_bit(base):
    cls, options = base
    ends = []
    for saved in (True, False):
        model = network()
        optimizer = cpr(cls)(model, **options, **SETTINGS)
        train(model, optimizer, 0, 6)
        if saved:
            weights, state = round_trip(model.state_dict()), round_trip(optimizer.state_dict())
            model = network()
            optimizer = cpr(cls)(model, **options)  # its settings come from the file
            model.load_state_dict(weights)
            optimizer.load_state_dict(state)
        train(model, optimizer, 6, 12)
        ends.append((bits(model.parameters()), optimizer.constraints()))
    assert_same_bits(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]


def test_a_checkpoint_of_the_plain_optimizer_loads_and_cpr_starts_afresh(base):
    cls, options = base
    model = network()
    plain = cls(param_groups(model), weight_decay=0, **options)
    train(model, plain, 0, 2)
    optimizer = cpr(cls)(model, **options, **SETTINGS)
    optimizer.load_state_dict(round_trip(plain.state_dict()))
    train(model, optimizer, 2, 5)
    assert [row.bounded for row in optimizer.constraints()] == [False, False]
    train(model, optimizer, 5, 6)
    assert [(row.name, row.bounded) for row in optimizer.constraints()] == [("0.weight", True), ("2.weight", True)]
